package apiserver

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// The priorities of Kubernetes' own classes.
const (
	priorityCluster = 2_000_000_000
	priorityNode    = priorityCluster + 1000
)

// bootstrap makes the objects that every cluster has, as far as they are
// missing, and keeps the API's own endpoints true.
func (s *Server) bootstrap(ctx context.Context) error {
	if _, err := s.out.Fresh(ctx); err != nil {
		return err
	}
	by := author{source: actor, manager: actor, trace: newTrace(), note: "what every cluster has"}
	for _, o := range s.firstObjects() {
		if err := s.ensure(ctx, o, by); err != nil {
			return err
		}
	}
	if s.cfg.Advertise.Addr().IsLoopback() {
		// No pod can reach it, and the API does not allow it in endpoints.
		s.cfg.Logger.Warn().Msg("listening on loopback: pods do not reach the api")
		return nil
	}
	for _, o := range s.ownEndpoints() {
		if err := s.ensureSame(ctx, o, by); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) firstObjects() []kernel.Object {
	var out []kernel.Object
	for _, name := range []string{"default", "kube-system", "kube-public", "kube-node-lease"} {
		out = append(out, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	out = append(out,
		&schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "system-cluster-critical"}, Value: priorityCluster,
			Description: "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."},
		&schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "system-node-critical"}, Value: priorityNode,
			Description: "Used for system critical pods that must not be moved from their current node."})
	out = append(out, bootstrapRoles()...)
	// Where deciders find the authority, to give it to every namespace.
	out = append(out, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: caConfigMap},
		Data: map[string]string{"ca.crt": string(s.cfg.CA.CertPEM())}})
	own := firstAddress(s.cfg.ServiceRange)
	out = append(out,
		&networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: own.String(),
			Labels: map[string]string{networkingv1.LabelIPAddressFamily: string(familyOf(own)), networkingv1.LabelManagedBy: "rutter.dev"}},
			Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: "kubernetes"}}},
		s.ownService())
	return out
}

// caConfigMap is where the authority's certificate stands in every namespace.
// The apiserver writes that of kube-system; a decider copies it.
const caConfigMap = "rutter-ca"

// ownService is how pods reach the API: kubernetes.default.svc.
func (s *Server) ownService() *corev1.Service {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes", Labels: map[string]string{"component": "apiserver", "provider": "kubernetes"}},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, SessionAffinity: corev1.ServiceAffinityNone,
			Ports: []corev1.ServicePort{{Name: "https", Protocol: corev1.ProtocolTCP, Port: 443, TargetPort: intstr.FromInt32(int32(s.cfg.Advertise.Port()))}}},
	}
	setAddress(svc, firstAddress(s.cfg.ServiceRange))
	setFamilies(svc, firstAddress(s.cfg.ServiceRange))
	return svc
}

// ownEndpoints say where this server listens.
func (s *Server) ownEndpoints() []kernel.Object {
	name, port, proto, ready := "https", int32(s.cfg.Advertise.Port()), corev1.ProtocolTCP, true
	address := s.cfg.Advertise.Addr()
	return []kernel.Object{
		&corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes",
			Labels: map[string]string{discoveryv1.LabelSkipMirror: "true"}},
			Subsets: []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: address.String()}},
				Ports: []corev1.EndpointPort{{Name: name, Port: port, Protocol: proto}}}}},
		&discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes",
			Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}},
			AddressType: discoveryv1.AddressType(familyOf(address)),
			Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{address.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
			Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &proto}}},
	}
}

// ensure creates an object unless it exists. One that exists is kept whatever
// it is like, but for rights that this build's own roles have beside it.
func (s *Server) ensure(ctx context.Context, o kernel.Object, by author) error {
	return s.ensureAs(ctx, o, by, func(live kernel.Object) kernel.Object { return withMissingRights(live, o) })
}

// withMissingRights adds to a role or binding of an older build what this one's
// has beside it, unless its owner has turned that off by the annotation
// rbac.authorization.kubernetes.io/autoupdate. nil: nothing is missing.
func withMissingRights(live, own kernel.Object) kernel.Object {
	if live.GetAnnotations()[rbacv1.AutoUpdateAnnotationKey] != "true" {
		return nil
	}
	switch own := own.(type) {
	case *rbacv1.ClusterRole:
		next := live.DeepCopyObject().(*rbacv1.ClusterRole)
		have := next.Rules
		for i := range own.Rules {
			for _, atom := range atoms(&own.Rules[i]) {
				if !slices.ContainsFunc(have, func(r rbacv1.PolicyRule) bool { return covers(&r, &atom) }) {
					next.Rules = append(next.Rules, atom)
				}
			}
		}
		if len(next.Rules) > len(have) {
			return next
		}
	case *rbacv1.ClusterRoleBinding:
		next := live.DeepCopyObject().(*rbacv1.ClusterRoleBinding)
		have := len(next.Subjects)
		for _, subject := range own.Subjects {
			if !slices.Contains(next.Subjects, subject) {
				next.Subjects = append(next.Subjects, subject)
			}
		}
		if len(next.Subjects) > have {
			return next
		}
	}
	return nil
}

// ensureSame creates an object or makes it as given again.
func (s *Server) ensureSame(ctx context.Context, o kernel.Object, by author) error {
	return s.ensureAs(ctx, o, by, func(live kernel.Object) kernel.Object {
		next := o.DeepCopyObject().(kernel.Object)
		next.SetUID(live.GetUID())
		return next
	})
}

// errKept says that a live object is good as it is.
var errKept = fmt.Errorf("the object is kept as it is")

func (s *Server) ensureAs(ctx context.Context, o kernel.Object, by author, change func(live kernel.Object) kernel.Object) error {
	row, ok := kinds.RowOf(o)
	if !ok {
		panic(fmt.Sprintf("%T is to be made at the first start, but is not among the kinds", o))
	}
	key := s.cfg.Schema.KeyOf(o)
	_, err := s.write(ctx, write{row: row, key: key, by: by, propose: func(_ *kernel.View, live *kernel.Entry) (kernel.Write, error) {
		if live == nil {
			return kernel.Write{Subresource: kernel.Whole, New: o.DeepCopyObject().(kernel.Object)}, nil
		}
		next := change(live.Object())
		if next == nil {
			return kernel.Write{}, errKept
		}
		return kernel.Write{New: next}, nil
	}})
	if err == errKept || apierrors.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("make %s: %w", key, err)
	}
	return nil
}
