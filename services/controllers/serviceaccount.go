package controllers

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// What every namespace has.
const (
	defaultAccount = "default"
	rootConfigMap  = "kube-root-ca.crt"
	rootKey        = "ca.crt"
	rootNote       = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."
)

// rootSource is where the apiserver puts its CA when it first starts.
var rootSource = kinds.ConfigMaps.Key("kube-system", "rutter-ca")

// serviceAccount gives every namespace what a pod needs to talk to the
// apiserver: the account "default" and the CA's certificate.
var serviceAccount = kernel.Decider{
	Name:   "controllers/serviceaccount",
	Reads:  []kernel.Resource{kinds.Namespaces.Resource, kinds.ServiceAccounts.Resource, kinds.ConfigMaps.Resource},
	Writes: []kernel.Resource{kinds.ServiceAccounts.Resource, kinds.ConfigMaps.Resource},
	Wakes: func(v *kernel.View, e kernel.Event) []kernel.Key {
		switch {
		case e.Key.Resource == kinds.Namespaces.Resource:
			return []kernel.Key{e.Key}
		case e.Key == rootSource:
			var keys []kernel.Key
			for _, ns := range kinds.Namespaces.List(v, "") {
				keys = append(keys, kinds.Namespaces.Key("", ns.Name))
			}
			return keys
		case e.Key.Resource == kinds.ServiceAccounts.Resource && e.Key.Name == defaultAccount && e.Delete,
			e.Key.Resource == kinds.ConfigMaps.Resource && e.Key.Name == rootConfigMap:
			return []kernel.Key{kinds.Namespaces.Key("", e.Key.Namespace)}
		}
		return nil
	},
	Decide: decideServiceAccount,
}

func decideServiceAccount(v *kernel.View, k kernel.Key, _ time.Time) kernel.Decision {
	ns, ok := kinds.Namespaces.Get(v, "", k.Name)
	if !ok || ns.DeletionTimestamp != nil {
		return kernel.Decision{}
	}
	var d kernel.Decision
	if _, ok := kinds.ServiceAccounts.Get(v, ns.Name, defaultAccount); !ok {
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: defaultAccount, Namespace: ns.Name}}
		d.Changes = append(d.Changes, kinds.ServiceAccounts.Put(account, "", ""))
	}
	source, ok := kinds.ConfigMaps.Get(v, rootSource.Namespace, rootSource.Name)
	if !ok {
		return d
	}
	root := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Name: rootConfigMap, Namespace: ns.Name, Annotations: map[string]string{"kubernetes.io/description": rootNote},
	}}
	old, ok := kinds.ConfigMaps.Get(v, ns.Name, rootConfigMap)
	if ok {
		root = old.DeepCopy()
	}
	root.Data = map[string]string{rootKey: source.Data[rootKey]}
	if !ok || !same(old.Data, root.Data) {
		d.Changes = append(d.Changes, kinds.ConfigMaps.Put(root, "", ""))
	}
	return d
}
