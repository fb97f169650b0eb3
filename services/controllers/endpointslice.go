package controllers

import (
	"cmp"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// endpointSliceActor is the decider's name in the log.
const endpointSliceActor = "controllers/endpointslice"

// slicesManager is who keeps the slice, as clients of Kubernetes know it.
const slicesManager = "endpointslice-controller.k8s.io"

// maxEndpoints bounds the endpoints of one slice, so that a change of one is a
// small event even of a large service (Kubernetes' default).
const maxEndpoints = 100

// endpointSlice keeps for each Service the addresses of the pods behind it.
// The zone of an endpoint is the node's label as it was when the endpoint last
// changed: zones do not move.
var endpointSlice = kernel.Decider{
	Name:   endpointSliceActor,
	Reads:  []kernel.Resource{kinds.Services.Resource, kinds.Pods.Resource, kinds.Nodes.Resource, kinds.EndpointSlices.Resource},
	Writes: []kernel.Resource{kinds.EndpointSlices.Resource},
	Wakes: func(v *kernel.View, e kernel.Event) []kernel.Key {
		s, old, ok := kinds.EndpointSlices.Of(e)
		if !ok {
			return wakeServices(v, e)
		}
		var keys []kernel.Key
		for _, one := range []*discoveryv1.EndpointSlice{s, old} {
			if one != nil && one.Labels[discoveryv1.LabelManagedBy] == slicesManager && e.Source != endpointSliceActor {
				keys = append(keys, kinds.Services.Key(one.Namespace, one.Labels[discoveryv1.LabelServiceName]))
			}
		}
		return keys
	},
	Decide: decideEndpointSlices,
}

func decideEndpointSlices(v *kernel.View, k kernel.Key, now time.Time) kernel.Decision {
	s, ok := kinds.Services.Get(v, k.Namespace, k.Name)
	if !ok || s.DeletionTimestamp != nil || !selecting(s) {
		return kernel.Decision{} // what belonged to a service that is gone is the garbage collector's
	}
	backends := backendsOf(v, s)
	families := s.Spec.IPFamilies
	if len(families) == 0 {
		families = []corev1.IPFamily{corev1.IPv4Protocol}
	}
	var d kernel.Decision
	for _, family := range families {
		p := newPacking(v, s, family)
		p.pack(v, backends)
		p.changes(v, &d, now)
	}
	return d
}

// packing distributes the endpoints of one service and family over slices. An
// endpoint stays in the slice where it is, so that as few slices as possible
// change.
type packing struct {
	service *corev1.Service
	family  corev1.IPFamily
	have    []*discoveryv1.EndpointSlice // as they are, by name
	spare   []*discoveryv1.EndpointSlice // copies that no group of ports uses
	want    []*discoveryv1.EndpointSlice // as they shall be
	next    int                          // where the search for a free name goes on
}

func newPacking(v *kernel.View, s *corev1.Service, family corev1.IPFamily) *packing {
	p := &packing{service: s, family: family}
	for _, one := range kinds.EndpointSlices.List(v, s.Namespace) {
		if one.Labels[discoveryv1.LabelServiceName] == s.Name && one.Labels[discoveryv1.LabelManagedBy] == slicesManager &&
			one.AddressType == discoveryv1.AddressType(family) && one.DeletionTimestamp == nil {
			p.have = append(p.have, one)
			p.spare = append(p.spare, one.DeepCopy())
		}
	}
	return p
}

func (p *packing) pack(v *kernel.View, backends []backend) {
	groups := map[string][]backend{}
	for _, b := range backends {
		if addresses(b.Pod, p.family) != nil {
			groups[b.portsKey()] = append(groups[b.portsKey()], b)
		}
	}
	keys := slices.Sorted(maps.Keys(groups))
	used := map[string][]*discoveryv1.EndpointSlice{}
	for _, key := range keys { // first those that stay, so that no group takes another's
		p.spare = slices.DeleteFunc(p.spare, func(s *discoveryv1.EndpointSlice) bool {
			if sliceKey(s) != key {
				return false
			}
			used[key] = append(used[key], s)
			return true
		})
	}
	for _, key := range keys {
		p.packGroup(v, used[key], groups[key])
	}
	if len(p.want) > 0 {
		return
	}
	// A service without endpoints has an empty slice that says so.
	s := p.take(v)
	s.Endpoints = nil
	p.want = append(p.want, s)
}

// packGroup distributes the backends that have the same ports.
func (p *packing) packGroup(v *kernel.View, used []*discoveryv1.EndpointSlice, group []backend) {
	left := map[types.UID]backend{}
	for _, b := range group {
		left[b.UID] = b
	}
	for _, s := range used {
		kept := s.Endpoints[:0]
		for _, e := range s.Endpoints {
			if e.TargetRef == nil {
				continue
			}
			if b, ok := left[e.TargetRef.UID]; ok {
				delete(left, e.TargetRef.UID)
				kept = append(kept, p.endpoint(v, b, e.Zone))
			}
		}
		s.Endpoints = kept
	}
	for _, b := range group {
		if _, ok := left[b.UID]; !ok {
			continue
		}
		i := slices.IndexFunc(used, func(s *discoveryv1.EndpointSlice) bool { return len(s.Endpoints) < maxEndpoints })
		if i < 0 {
			s := p.take(v)
			s.Endpoints, s.Ports = nil, slicePorts(b.ports)
			used, i = append(used, s), len(used)
		}
		used[i].Endpoints = append(used[i].Endpoints, p.endpoint(v, b, nil))
	}
	for _, s := range used {
		if len(s.Endpoints) > 0 {
			p.want = append(p.want, s)
		} else {
			p.spare = append(p.spare, s)
		}
	}
}

// take returns a slice that nobody uses, or a new one.
func (p *packing) take(v *kernel.View) *discoveryv1.EndpointSlice {
	if len(p.spare) > 0 {
		s := p.spare[0]
		p.spare = p.spare[1:]
		return s
	}
	var name string
	name, p.next = freeName(v, kinds.EndpointSlices.Resource, p.service.Namespace, p.service.Name+"-", string(p.service.UID)+string(p.family), p.next)
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, GenerateName: p.service.Name + "-", Namespace: p.service.Namespace,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(p.service, kinds.Services.GVK())},
		},
		AddressType: discoveryv1.AddressType(p.family),
	}
}

// endpoint is how a slice tells of a pod. It is ready if clients should use it,
// serving if it answers although it may be terminating.
func (p *packing) endpoint(v *kernel.View, b backend, zone *string) discoveryv1.Endpoint {
	serving, terminating := ready(b.Pod), b.DeletionTimestamp != nil
	e := discoveryv1.Endpoint{
		Addresses: addresses(b.Pod, p.family),
		Conditions: discoveryv1.EndpointConditions{
			Ready:   new(serving && !terminating || p.service.Spec.PublishNotReadyAddresses),
			Serving: &serving, Terminating: &terminating,
		},
		TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: b.Namespace, Name: b.Name, UID: b.UID},
		Zone:      zone,
	}
	if b.Spec.NodeName != "" {
		e.NodeName = &b.Spec.NodeName
		if n, ok := kinds.Nodes.Get(v, "", b.Spec.NodeName); ok && zone == nil {
			if z := n.Labels[corev1.LabelTopologyZone]; z != "" {
				e.Zone = &z
			}
		}
	}
	if name := hostnameFor(b.Pod, p.service); name != "" {
		e.Hostname = &name
	}
	return e
}

func slicePorts(ports []backendPort) []discoveryv1.EndpointPort {
	var out []discoveryv1.EndpointPort
	for _, p := range ports {
		out = append(out, discoveryv1.EndpointPort{Name: &p.name, Port: &p.number, Protocol: &p.protocol, AppProtocol: p.appProtocol})
	}
	return out
}

// sliceKey is the portsKey of a slice's ports.
func sliceKey(s *discoveryv1.EndpointSlice) string {
	var ports []backendPort
	for _, p := range s.Ports {
		var one backendPort
		if p.Name != nil {
			one.name = *p.Name
		}
		if p.Port != nil {
			one.number = *p.Port
		}
		if p.Protocol != nil {
			one.protocol = *p.Protocol
		}
		one.appProtocol = p.AppProtocol
		ports = append(ports, one)
	}
	slices.SortFunc(ports, comparePorts)
	return portsKey(ports)
}

// changes compares what shall be with what is.
func (p *packing) changes(v *kernel.View, d *kernel.Decision, now time.Time) {
	ours := map[string]string{discoveryv1.LabelServiceName: p.service.Name, discoveryv1.LabelManagedBy: slicesManager}
	slices.SortFunc(p.want, func(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(a.Name, b.Name) })
	for _, s := range p.want {
		s.Labels = labelsFor(p.service, ours)
		i := slices.IndexFunc(p.have, func(h *discoveryv1.EndpointSlice) bool { return h.Name == s.Name })
		if i >= 0 && same(p.have[i], s) {
			continue
		}
		at := mayWriteAt(v, kinds.EndpointSlices.Key(s.Namespace, s.Name), endpointSliceActor, summaryEvery, now)
		if at.After(now) {
			d.Revisit = earlier(d.Revisit, at)
			continue
		}
		d.Changes = append(d.Changes, kinds.EndpointSlices.Put(s, "", ""))
	}
	for _, s := range p.spare {
		d.Changes = append(d.Changes, kinds.EndpointSlices.Remove(s, "", "no endpoint is left in it"))
	}
}
