package controllers

import (
	"cmp"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// endpointsActor is the decider's name in the log.
const endpointsActor = "controllers/endpoints"

const (
	// endpointsEvery is the least time between two writes of one Endpoints
	// object: it holds all of a service's addresses, and only old clients read it.
	endpointsEvery = time.Second
	// maxAddresses bounds the addresses of one Endpoints object, as in Kubernetes.
	maxAddresses = 1000
	// endpointsManagedBy marks the objects that are kept here.
	endpointsManagedBy = "endpoints.kubernetes.io/managed-by"
	endpointsManager   = "endpoint-controller"
)

// endpoints keeps for each Service the object that clients from before
// EndpointSlices read.
var endpoints = kernel.Decider{
	Name:   endpointsActor,
	Reads:  []kernel.Resource{kinds.Services.Resource, kinds.Pods.Resource, kinds.Endpoints.Resource},
	Writes: []kernel.Resource{kinds.Endpoints.Resource},
	Wakes: func(v *kernel.View, e kernel.Event) []kernel.Key {
		if e.Key.Resource != kinds.Endpoints.Resource {
			return wakeServices(v, e)
		}
		if e.Source == endpointsActor {
			return nil
		}
		return []kernel.Key{kinds.Services.Key(e.Key.Namespace, e.Key.Name)}
	},
	Decide: decideEndpoints,
}

func decideEndpoints(v *kernel.View, k kernel.Key, now time.Time) kernel.Decision {
	s, exists := kinds.Services.Get(v, k.Namespace, k.Name)
	old, ok := kinds.Endpoints.Get(v, k.Namespace, k.Name)
	if !exists || s.DeletionTimestamp != nil {
		if ok && old.Labels[endpointsManagedBy] == endpointsManager {
			return kernel.Decision{Changes: []kernel.Change{kinds.Endpoints.Remove(old, "", "its service is gone")}}
		}
		return kernel.Decision{}
	}
	if !selecting(s) {
		return kernel.Decision{}
	}
	e := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: s.Name, Namespace: s.Namespace}}
	if ok {
		e = old.DeepCopy()
	}
	e.Labels = labelsFor(s, map[string]string{endpointsManagedBy: endpointsManager})
	var truncated bool
	e.Subsets, truncated = subsets(s, backendsOf(v, s))
	if e.Annotations == nil {
		e.Annotations = map[string]string{}
	}
	delete(e.Annotations, corev1.EndpointsOverCapacity)
	if truncated {
		e.Annotations[corev1.EndpointsOverCapacity] = "truncated"
	}
	if ok && same(old.Subsets, e.Subsets) && same(old.Labels, e.Labels) && same(old.Annotations, e.Annotations) {
		return kernel.Decision{}
	}
	if at := mayWriteAt(v, kinds.Endpoints.Key(k.Namespace, k.Name), endpointsActor, endpointsEvery, now); at.After(now) {
		return kernel.Decision{Revisit: at}
	}
	e.Annotations[corev1.EndpointsLastChangeTriggerTime] = now.UTC().Format(time.RFC3339Nano)
	return kernel.Decision{Changes: []kernel.Change{kinds.Endpoints.Put(e, "", "")}}
}

// subsets groups the addresses by their ports, in the order of the addresses.
// If there are too many, the ready ones stay; truncated says so.
func subsets(s *corev1.Service, backends []backend) (out []corev1.EndpointSubset, truncated bool) {
	family := corev1.IPv4Protocol
	if len(s.Spec.IPFamilies) > 0 {
		family = s.Spec.IPFamilies[0]
	}
	groups := map[string]*corev1.EndpointSubset{}
	left := maxAddresses
	for _, readyOnes := range []bool{true, false} { // the ready ones first: they stay if there are too many
		for _, b := range backends {
			ips := addresses(b.Pod, family)
			isReady := ready(b.Pod) && b.DeletionTimestamp == nil || s.Spec.PublishNotReadyAddresses
			gone := b.DeletionTimestamp != nil && !s.Spec.PublishNotReadyAddresses
			if ips == nil || isReady != readyOnes || gone || len(b.ports) == 0 && len(s.Spec.Ports) > 0 {
				continue
			}
			if left--; left < 0 {
				truncated = true
				break
			}
			group := groups[b.portsKey()]
			if group == nil {
				group = &corev1.EndpointSubset{Ports: subsetPorts(b.ports)}
				groups[b.portsKey()] = group
			}
			a := corev1.EndpointAddress{
				IP: ips[0], Hostname: hostnameFor(b.Pod, s),
				TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: b.Namespace, Name: b.Name, UID: b.UID},
			}
			if b.Spec.NodeName != "" {
				a.NodeName = &b.Spec.NodeName
			}
			if readyOnes {
				group.Addresses = append(group.Addresses, a)
			} else {
				group.NotReadyAddresses = append(group.NotReadyAddresses, a)
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		slices.SortFunc(groups[key].Addresses, compareAddresses)
		slices.SortFunc(groups[key].NotReadyAddresses, compareAddresses)
		out = append(out, *groups[key])
	}
	return out, truncated
}

func compareAddresses(a, b corev1.EndpointAddress) int {
	return cmp.Or(cmp.Compare(a.IP, b.IP), cmp.Compare(a.TargetRef.UID, b.TargetRef.UID))
}

func subsetPorts(ports []backendPort) []corev1.EndpointPort {
	var out []corev1.EndpointPort
	for _, p := range ports {
		out = append(out, corev1.EndpointPort{Name: p.name, Port: p.number, Protocol: p.protocol, AppProtocol: p.appProtocol})
	}
	return out
}
