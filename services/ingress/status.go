package ingress

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// className is the IngressClass that every cluster begins with.
const className = "rutter"

// Deciders write what an ingress service has to say: the class that it serves,
// once, and the addresses at which an Ingress is reached.
func Deciders() []kernel.Decider { return []kernel.Decider{class, status} }

var class = kernel.Decider{
	Name:   "ingress/class",
	Reads:  []kernel.Resource{kinds.IngressClasses.Resource, kinds.Namespaces.Resource},
	Writes: []kernel.Resource{kinds.IngressClasses.Resource},
	Wakes: func(_ *kernel.View, e kernel.Event) []kernel.Key {
		if e.Key == kinds.Namespaces.Key("", metav1.NamespaceSystem) {
			return []kernel.Key{kinds.IngressClasses.Key("", className)}
		}
		return nil
	},
	Decide: func(v *kernel.View, k kernel.Key, _ time.Time) kernel.Decision {
		if v.Entry(k) != nil {
			return kernel.Decision{} // it is there, or somebody took it away
		}
		return kernel.Decision{Changes: []kernel.Change{kinds.IngressClasses.Put(&networkingv1.IngressClass{
			ObjectMeta: metav1.ObjectMeta{Name: className, Annotations: map[string]string{networkingv1.AnnotationIsDefaultIngressClass: "true"}},
			Spec:       networkingv1.IngressClassSpec{Controller: Controller},
		}, "", "")}}
	},
}

var status = kernel.Decider{
	Name:   "ingress/status",
	Reads:  []kernel.Resource{kinds.Ingresses.Resource, kinds.IngressClasses.Resource, kinds.Nodes.Resource},
	Writes: []kernel.Resource{kinds.Ingresses.Resource},
	Wakes: func(v *kernel.View, e kernel.Event) []kernel.Key {
		if e.Key.Resource == kinds.Ingresses.Resource {
			return []kernel.Key{e.Key}
		}
		if n, old, ok := kinds.Nodes.Of(e); ok && n != nil && old != nil && addressOf(n) == addressOf(old) {
			return nil
		}
		var all []kernel.Key
		for e := range v.Entries(kinds.Ingresses.Resource, "") {
			all = append(all, e.Key)
		}
		return all
	},
	Decide: func(v *kernel.View, k kernel.Key, _ time.Time) kernel.Decision {
		ing, ok := kinds.Ingresses.Get(v, k.Namespace, k.Name)
		if !ok || ing.DeletionTimestamp != nil {
			return kernel.Decision{}
		}
		var want []networkingv1.IngressLoadBalancerIngress
		if ours(v, ing) {
			for _, n := range kinds.Nodes.List(v, "") {
				if a := addressOf(n); a != "" {
					want = append(want, networkingv1.IngressLoadBalancerIngress{IP: a})
				}
			}
		}
		if slices.EqualFunc(want, ing.Status.LoadBalancer.Ingress, func(a, b networkingv1.IngressLoadBalancerIngress) bool { return a.IP == b.IP }) {
			return kernel.Decision{}
		}
		ing = ing.DeepCopy()
		ing.Status.LoadBalancer.Ingress = want
		return kernel.Decision{Changes: []kernel.Change{kinds.Ingresses.Put(ing, "ingress.addressed", "")}}
	},
}

func addressOf(n *corev1.Node) string {
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			return a.Address
		}
	}
	return ""
}
