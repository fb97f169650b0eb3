package apiserver

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

const (
	// claimTries bounds how many addresses are tried one after the other when
	// others take each of them first.
	claimTries = 64
	// staticMax bounds the lower part of the range that is left to addresses
	// asked for by name as long as the upper has free ones (KEP-3070).
	staticMax = 256
	// claimMark changes whenever a claim is taken over by a service of the
	// same name, so that whoever is about to release it loses the race.
	claimMark = "rutter.dev/claim"
)

var (
	addressesResource = kernel.Resource{Group: "networking.k8s.io", Plural: "ipaddresses"}
	servicesResource  = kernel.Resource{Plural: "services"}
)

// claim gives an object the values that must be unique in the cluster, before
// it is written. o is the writer's own; old is nil for a create.
func (s *Server) claim(ctx context.Context, v *kernel.View, o, old kernel.Object, by author, dryRun bool) error {
	svc, ok := o.(*corev1.Service)
	if !ok {
		return nil
	}
	before, _ := old.(*corev1.Service)
	s.keepServiceValues(svc, before)
	setFamilies(svc, s.cfg.ServiceRange.Addr())
	if !needsAddress(svc) {
		return nil
	}
	asked := svc.Spec.ClusterIP
	if before != nil && asked != "" && asked == before.Spec.ClusterIP {
		return nil // it has had it
	}
	if asked == "" {
		return s.claimAny(ctx, v, svc, before, by, dryRun)
	}
	return s.claimThis(ctx, v, svc, before, by, dryRun)
}

// needsAddress tells whether a service is reached by a cluster IP.
func needsAddress(svc *corev1.Service) bool {
	return svc.Spec.Type != corev1.ServiceTypeExternalName && svc.Spec.ClusterIP != corev1.ClusterIPNone
}

// keepServiceValues puts back what an update leaves out but has been given.
func (s *Server) keepServiceValues(svc, old *corev1.Service) {
	spec := &svc.Spec
	if spec.ClusterIP == "" && len(spec.ClusterIPs) > 0 {
		spec.ClusterIP = spec.ClusterIPs[0]
	}
	if old == nil {
		return
	}
	if needsAddress(old) && needsAddress(svc) && spec.ClusterIP == "" {
		spec.ClusterIP, spec.ClusterIPs = old.Spec.ClusterIP, slices.Clone(old.Spec.ClusterIPs)
	}
}

// setFamilies says of which IP family a service is: the one that the cluster has.
func setFamilies(svc *corev1.Service, of netip.Addr) {
	spec := &svc.Spec
	if spec.Type == corev1.ServiceTypeExternalName {
		return
	}
	if spec.ClusterIP == corev1.ClusterIPNone {
		spec.ClusterIPs = []string{corev1.ClusterIPNone}
	}
	if spec.IPFamilyPolicy == nil {
		policy := corev1.IPFamilyPolicySingleStack
		spec.IPFamilyPolicy = &policy
	}
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = []corev1.IPFamily{familyOf(of)}
	}
}

func setAddress(svc *corev1.Service, ip netip.Addr) {
	svc.Spec.ClusterIP, svc.Spec.ClusterIPs = ip.String(), []string{ip.String()}
}

// claimAny claims a free address of the range.
func (s *Server) claimAny(ctx context.Context, v *kernel.View, svc, old *corev1.Service, by author, dryRun bool) error {
	for range claimTries {
		ip, ok := s.freeAddress(v)
		if !ok {
			return refusal(500, metav1.StatusReasonInternalError,
				fmt.Sprintf("failed to allocate a service IP: no address of %s is free", s.cfg.ServiceRange))
		}
		setAddress(svc, ip)
		if dryRun {
			return nil
		}
		fresh, err := s.tryClaim(ctx, v, svc, old, ip, by)
		if fresh == nil {
			return err
		}
		v = fresh
	}
	return apierrors.NewTooManyRequests("failed to allocate a service IP: others were faster each time", 1)
}

// tryClaim claims an address for a service that would be accepted otherwise. If
// somebody else has it, it returns a View that knows: the one at hand was too
// old.
func (s *Server) tryClaim(ctx context.Context, v *kernel.View, svc, old *corev1.Service, ip netip.Addr, by author) (fresh *kernel.View, err error) {
	if err := s.refusable(v, svc, old, by); err != nil {
		return nil, err
	}
	if err := s.appendClaim(ctx, svc, ip, by); !apierrors.IsAlreadyExists(err) {
		return nil, err
	}
	return s.out.Fresh(ctx)
}

// claimThis claims the address that was asked for by name.
func (s *Server) claimThis(ctx context.Context, v *kernel.View, svc, old *corev1.Service, by author, dryRun bool) error {
	refused := func(detail string) error {
		return apierrors.NewInvalid(schema.GroupKind{Kind: "Service"}, svc.Name, field.ErrorList{
			field.Invalid(field.NewPath("spec", "clusterIPs"), []string{svc.Spec.ClusterIP}, detail)})
	}
	ip, err := netip.ParseAddr(svc.Spec.ClusterIP)
	if err != nil {
		return nil // validation names the field
	}
	if !s.cfg.ServiceRange.Contains(ip) || ip == s.cfg.ServiceRange.Masked().Addr() || ip == lastAddress(s.cfg.ServiceRange) {
		return refused(fmt.Sprintf("failed to allocate IP %s: the provided IP is not in the valid range. The range of valid IPs is %s", ip, s.cfg.ServiceRange))
	}
	setAddress(svc, ip)
	for range claimTries {
		if !dryRun {
			fresh, err := s.tryClaim(ctx, v, svc, old, ip, by)
			if fresh == nil {
				return err
			}
			v = fresh
		}
		e := v.Entry(kernel.Key{Resource: addressesResource, Name: ip.String()})
		switch free := e == nil || e.Delete; {
		case free && dryRun:
			return nil // a dry run claims nothing
		case free: // it was given back since somebody had it: once more
		case !claimedFor(e, svc):
			return refused(fmt.Sprintf("failed to allocate IP %s: provided IP is already allocated", ip))
		case dryRun:
			return nil
		default:
			return s.renewClaim(ctx, e, svc, by)
		}
	}
	return apierrors.NewTooManyRequests("failed to allocate a service IP: others were faster each time", 1)
}

// refusable finds out whether the service would be refused for another
// reason, so that no address is claimed in vain.
func (s *Server) refusable(v *kernel.View, svc, old *corev1.Service, by author) error {
	w := kernel.Write{Key: kernel.Key{Resource: servicesResource, Namespace: svc.Namespace, Name: svc.Name}, Verb: kinds.Create,
		New: svc.DeepCopy(), By: by.source, Groups: by.groups, UID: s.out.ID(), Seen: v.Seq()}
	if old != nil {
		w.Verb, w.Old = kinds.Update, old
	}
	if _, ref := s.cfg.Schema.Finish(v, w, s.out.Now().UTC()); ref != nil {
		return ref
	}
	return nil
}

// appendClaim creates the object that is named after the address.
func (s *Server) appendClaim(ctx context.Context, svc *corev1.Service, ip netip.Addr, by author) error {
	row, ok := kinds.RowFor(addressesResource)
	if !ok {
		panic("ipaddresses are not among the kinds, yet services need them")
	}
	claim := &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: ip.String(), Annotations: map[string]string{claimMark: s.out.ID()},
			Labels: map[string]string{networkingv1.LabelIPAddressFamily: string(familyOf(ip)), networkingv1.LabelManagedBy: "rutter.dev"}},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: svc.Namespace, Name: svc.Name}},
	}
	by.note = "claimed for service " + svc.Namespace + "/" + svc.Name
	_, err := s.write(ctx, write{row: row, key: row.Describe().Key("", claim.Name), by: by, inner: true,
		propose: func(_ *kernel.View, live *kernel.Entry) (kernel.Write, error) {
			if live != nil {
				return kernel.Write{}, apierrors.NewAlreadyExists(groupResource(row), claim.Name)
			}
			return kernel.Write{New: claim.DeepCopy()}, nil
		}})
	return err
}

func claimedFor(e *kernel.Entry, svc *corev1.Service) bool {
	p := e.Object().(*networkingv1.IPAddress).Spec.ParentRef
	return p != nil && p.Resource == "services" && p.Namespace == svc.Namespace && p.Name == svc.Name
}

// renewClaim changes a claim that a former service of the same name has left,
// so that a release of it that was decided before does not happen.
func (s *Server) renewClaim(ctx context.Context, e *kernel.Entry, svc *corev1.Service, by author) error {
	row, _ := kinds.RowFor(addressesResource)
	_, err := s.write(ctx, write{row: row, key: e.Key, by: by, inner: true,
		propose: func(_ *kernel.View, live *kernel.Entry) (kernel.Write, error) {
			if live == nil || !claimedFor(live, svc) {
				return kernel.Write{}, apierrors.NewConflict(groupResource(row), e.Key.Name, fmt.Errorf("the address was just released, please try again"))
			}
			claim := live.Object().DeepCopyObject().(*networkingv1.IPAddress)
			if claim.Annotations == nil {
				claim.Annotations = map[string]string{}
			}
			claim.Annotations[claimMark] = s.out.ID()
			return kernel.Write{New: claim}, nil
		}})
	return err
}

func familyOf(ip netip.Addr) corev1.IPFamily {
	if ip.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// freeAddress picks an address at random that the View shows free, from the
// upper part of the range if there is one.
func (s *Server) freeAddress(v *kernel.View) (netip.Addr, bool) {
	size := rangeSize(s.cfg.ServiceRange)
	static := min(max(16, size/16), staticMax)
	if size <= 16 {
		static = 1
	}
	free := func(from, to uint64) (netip.Addr, bool) { // offsets in the range, to excluded
		if from >= to {
			return netip.Addr{}, false
		}
		n := to - from
		start := s.out.Draw(n)
		for i := range n {
			ip := addressAt(s.cfg.ServiceRange, from+(start+i)%n)
			if ip == s.cfg.ClusterDNS {
				continue
			}
			if e := v.Entry(kernel.Key{Resource: addressesResource, Name: ip.String()}); e == nil || e.Delete {
				return ip, true
			}
		}
		return netip.Addr{}, false
	}
	if ip, ok := free(static, size-1); ok {
		return ip, true
	}
	return free(2, static) // 0 is the network, 1 the API's own
}

// rangeSize is how many addresses a range has, at most 2^20 of them: more are
// never needed.
func rangeSize(p netip.Prefix) uint64 {
	return 1 << min(p.Addr().BitLen()-p.Bits(), 20)
}

// addressAt is the address at an offset in the range.
func addressAt(p netip.Prefix, offset uint64) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	tail := b[len(b)-4:]
	binary.BigEndian.PutUint32(tail, binary.BigEndian.Uint32(tail)+uint32(offset))
	ip, _ := netip.AddrFromSlice(b)
	return ip
}

// firstAddress is that of the API's own service.
func firstAddress(p netip.Prefix) netip.Addr { return addressAt(p, 1) }

// lastAddress is the broadcast address, which is not given.
func lastAddress(p netip.Prefix) netip.Addr { return addressAt(p, rangeSize(p)-1) }
