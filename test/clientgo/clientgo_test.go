package clientgo

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/rutterhq/rutter/events/memory"
	"github.com/rutterhq/rutter/internal/pki"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/services/apiserver"
)

const wait = 20 * time.Second // for what takes milliseconds

// start runs an apiserver over a log in memory and returns the administrator's
// configuration for it.
func start(t *testing.T) *rest.Config {
	t.Helper()
	ca, err := pki.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := apiserver.Default()
	cfg.Schema = &kinds.Schema{Cluster: "test", Seal: make([]byte, 32)}
	log := memory.New()
	cfg.Log, cfg.History, cfg.CA, cfg.Listener = log, log, ca, listener
	cfg.Mirror = kernel.NewMirror(log, cfg.Schema, nil)
	s, err := apiserver.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return cfg.Mirror.Run(ctx) })
	g.Go(func() error { return s.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	})
	select {
	case <-s.Started():
	case <-ctx.Done():
		t.Fatal(g.Wait())
	}
	cert, key, err := ca.Issue(pki.Request{CommonName: "admin", Organizations: []string{pki.AdminGroup}, Client: true})
	if err != nil {
		t.Fatal(err)
	}
	return &rest.Config{Host: "https://" + listener.Addr().String(), QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAData: ca.CertPEM(), CertData: cert, KeyData: key}}
}

// forms of the wire: client-go sends protobuf for built-in kinds, others JSON.
var forms = map[string]rest.ContentConfig{
	"json":     {ContentType: "application/json"},
	"protobuf": {ContentType: "application/vnd.kubernetes.protobuf", AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json"},
}

func pod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "image"}}, SchedulerName: "nobody"}}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestObjects(t *testing.T) {
	for name, form := range forms {
		t.Run(name, func(t *testing.T) {
			config := start(t)
			config.ContentConfig = form
			c := must[*kubernetes.Clientset](t)(kubernetes.NewForConfig(config))
			ctx := t.Context()
			must[*corev1.ServiceAccount](t)(c.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}))
			pods := c.CoreV1().Pods("default")
			w, err := pods.Watch(ctx, metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Stop()
			made := must[*corev1.Pod](t)(pods.Create(ctx, pod("one"), metav1.CreateOptions{}))
			got := must[*corev1.Pod](t)(pods.Get(ctx, "one", metav1.GetOptions{}))
			if d := cmp.Diff(made, got); d != "" {
				t.Errorf("get differs from create (-created +got):\n%s", d)
			}
			list := must[*corev1.PodList](t)(pods.List(ctx, metav1.ListOptions{LabelSelector: "app=one"}))
			made.TypeMeta = metav1.TypeMeta{}
			if d := cmp.Diff([]corev1.Pod{*made}, list.Items); d != "" {
				t.Errorf("list differs (-want +got):\n%s", d)
			}
			got.Labels["x"] = "y"
			updated := must[*corev1.Pod](t)(pods.Update(ctx, got, metav1.UpdateOptions{}))
			if _, err := pods.Update(ctx, got, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
				t.Errorf("update of an old version: %v", err)
			}
			updated.Status.Phase = corev1.PodRunning
			must[*corev1.Pod](t)(pods.UpdateStatus(ctx, updated, metav1.UpdateOptions{}))
			must[*corev1.Pod](t)(pods.Patch(ctx, "one", types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"z":"1"}}}`), metav1.PatchOptions{}))
			now := int64(0)
			if err := pods.Delete(ctx, "one", metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
				t.Fatal(err)
			}
			if _, err := pods.Get(ctx, "one", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				t.Errorf("get of a deleted pod: %v", err)
			}
			for _, want := range []string{"ADDED", "MODIFIED", "MODIFIED", "MODIFIED", "DELETED"} {
				select {
				case e := <-w.ResultChan():
					p, ok := e.Object.(*corev1.Pod)
					if string(e.Type) != want || !ok || p.Name != "one" {
						t.Fatalf("watch: %v %v, want %s", e.Type, e.Object, want)
					}
				case <-time.After(wait):
					t.Fatalf("no %s came", want)
				}
			}
		})
	}
}

func TestSubresources(t *testing.T) {
	config := start(t)
	config.ContentConfig = forms["protobuf"]
	c := must[*kubernetes.Clientset](t)(kubernetes.NewForConfig(config))
	ctx := t.Context()
	must[*corev1.ServiceAccount](t)(c.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}))
	pods := c.CoreV1().Pods("default")
	must[*corev1.Pod](t)(pods.Create(ctx, pod("one"), metav1.CreateOptions{}))
	if err := pods.Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "one"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if p := must[*corev1.Pod](t)(pods.Get(ctx, "one", metav1.GetOptions{})); p.Spec.NodeName != "n1" {
		t.Errorf("bound to %q", p.Spec.NodeName)
	}
	if err := pods.Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "one"}, Target: corev1.ObjectReference{Name: "n2"}}, metav1.CreateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("bound twice: %v", err)
	}
	if err := pods.EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "one"}}); err != nil {
		t.Fatal(err)
	}
	if p := must[*corev1.Pod](t)(pods.Get(ctx, "one", metav1.GetOptions{})); p.DeletionTimestamp == nil {
		t.Error("an evicted pod is not going")
	}
	token := must[*authenticationv1.TokenRequest](t)(c.CoreV1().ServiceAccounts("default").CreateToken(ctx, "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{}))
	review := must[*authenticationv1.TokenReview](t)(c.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token.Status.Token}}, metav1.CreateOptions{}))
	if !review.Status.Authenticated || review.Status.User.Username != "system:serviceaccount:default:default" {
		t.Errorf("token review: %+v", review.Status)
	}
	as := rest.AnonymousClientConfig(config)
	as.BearerToken = token.Status.Token
	if _, err := must[*kubernetes.Clientset](t)(kubernetes.NewForConfig(as)).CoreV1().Pods("default").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("list by a service account without rights: %v", err)
	}
}

func TestApplyAndScale(t *testing.T) {
	config := start(t)
	c := must[*kubernetes.Clientset](t)(kubernetes.NewForConfig(config))
	ctx := t.Context()
	maps := c.CoreV1().ConfigMaps("default")
	one := applycorev1.ConfigMap("one", "default").WithData(map[string]string{"a": "1"})
	must[*corev1.ConfigMap](t)(maps.Apply(ctx, one, metav1.ApplyOptions{FieldManager: "first"}))
	other := applycorev1.ConfigMap("one", "default").WithData(map[string]string{"a": "2"})
	if _, err := maps.Apply(ctx, other, metav1.ApplyOptions{FieldManager: "second"}); !apierrors.IsConflict(err) {
		t.Errorf("apply of another's field: %v", err)
	}
	got := must[*corev1.ConfigMap](t)(maps.Apply(ctx, other, metav1.ApplyOptions{FieldManager: "second", Force: true}))
	if got.Data["a"] != "2" || len(got.ManagedFields) != 1 {
		t.Errorf("forced apply: %v %v", got.Data, got.ManagedFields)
	}
	d := must[dynamic.Interface](t)(dynamicFor(config))
	deployment := map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "web"}, "spec": map[string]any{
		"selector": map[string]any{"matchLabels": map[string]any{"a": "b"}},
		"template": map[string]any{"metadata": map[string]any{"labels": map[string]any{"a": "b"}},
			"spec": map[string]any{"containers": []any{map[string]any{"name": "c", "image": "i"}}}}}}
	if _, err := d.Resource(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}).Namespace("default").
		Create(ctx, unstructured(deployment), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	scale := must[*autoscalingv1.Scale](t)(c.AppsV1().Deployments("default").GetScale(ctx, "web", metav1.GetOptions{}))
	if scale.Spec.Replicas != 1 || scale.Status.Selector != "a=b" {
		t.Errorf("scale: %+v", scale)
	}
	scale.Spec.Replicas = 3
	must[*autoscalingv1.Scale](t)(c.AppsV1().Deployments("default").UpdateScale(ctx, "web", scale, metav1.UpdateOptions{}))
}

func TestInformers(t *testing.T) {
	config := start(t)
	config.ContentConfig = forms["protobuf"]
	c := must[*kubernetes.Clientset](t)(kubernetes.NewForConfig(config))
	ctx := t.Context()
	for _, n := range []string{"a", "b"} {
		must[*corev1.ConfigMap](t)(c.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: n}}, metav1.CreateOptions{}))
	}
	f := informers.NewSharedInformerFactoryWithOptions(c, 0, informers.WithNamespace("default"))
	seen := make(chan string, 16)
	inf := f.Core().V1().ConfigMaps().Informer()
	if _, err := inf.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { seen <- "add " + o.(*corev1.ConfigMap).Name },
		DeleteFunc: func(o any) { seen <- "delete " + o.(*corev1.ConfigMap).Name },
	}); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	defer f.Shutdown()
	defer close(stop)
	f.Start(stop)
	if !cache.WaitForCacheSync(t.Context().Done(), inf.HasSynced) {
		t.Fatal("the informer did not sync")
	}
	must[*corev1.ConfigMap](t)(c.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}}, metav1.CreateOptions{}))
	if err := c.CoreV1().ConfigMaps("default").Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{"add a": true, "add b": true, "add c": true, "delete a": true}
	for len(want) > 0 {
		select {
		case s := <-seen:
			if !want[s] {
				t.Fatalf("saw %q, waited for %v", s, want)
			}
			delete(want, s)
		case <-time.After(wait):
			t.Fatalf("never saw %v", want)
		}
	}
	m := must[metadata.Interface](t)(metadata.NewForConfig(config))
	list, err := m.Resource(schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}).Namespace("default").List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 2 {
		t.Errorf("metadata list: %v, %v", list, err)
	}
}

func TestDiscovery(t *testing.T) {
	config := start(t)
	c := must[*kubernetes.Clientset](t)(kubernetes.NewForConfig(config))
	groups, resources, err := c.Discovery().ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	if len(groups) < 5 {
		t.Errorf("groups: %v", groups)
	}
	found := map[string]bool{}
	for _, l := range resources {
		for _, r := range l.APIResources {
			found[l.GroupVersion+" "+r.Name] = true
		}
	}
	for _, want := range []string{"v1 pods", "v1 pods/log", "v1 pods/status", "apps/v1 deployments/scale", "authorization.k8s.io/v1 selfsubjectaccessreviews"} {
		if !found[want] {
			t.Errorf("discovery lacks %s", want)
		}
	}
	v, err := c.Discovery().ServerVersion()
	if err != nil || v.Minor != "37" {
		t.Errorf("version: %v %v", v, err)
	}
	if doc, err := c.Discovery().OpenAPISchema(); err != nil || len(doc.Definitions.AdditionalProperties) == 0 {
		t.Errorf("openapi v2: %v", err)
	}
	paths, err := c.Discovery().OpenAPIV3().Paths()
	if err != nil || paths["apis/apps/v1"] == nil {
		t.Fatalf("openapi v3: %v %v", paths, err)
	}
	if doc, err := paths["apis/apps/v1"].Schema("application/json"); err != nil || len(doc) == 0 {
		t.Errorf("openapi v3 of apps/v1: %v", err)
	}
}
