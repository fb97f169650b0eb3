package apiserver

import (
	"net/http"

	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/rutterhq/rutter/kernel"
)

// subresource names one that is served by hand.
type subresource struct {
	of   kernel.Resource
	name string
}

// served says how a subresource is served.
type served struct {
	gvk   schema.GroupVersionKind // of its body; zero: the object's own
	verbs []string
	serve func(*request) error
}

// subresources are those that only one kind has. It is filled in init, because
// the functions use it by way of discovery.
var subresources map[subresource]served

func init() {
	pods, namespaces, accounts := kernel.Resource{Plural: "pods"}, kernel.Resource{Plural: "namespaces"}, kernel.Resource{Plural: "serviceaccounts"}
	stream := []string{"create", "get"}
	core := corev1.SchemeGroupVersion
	subresources = map[subresource]served{
		{pods, "log"}:            {verbs: []string{"get"}, serve: (*request).podLog},
		{pods, "exec"}:           {gvk: core.WithKind("PodExecOptions"), verbs: stream, serve: (*request).podExec},
		{pods, "attach"}:         {gvk: core.WithKind("PodAttachOptions"), verbs: stream, serve: (*request).podAttach},
		{pods, "portforward"}:    {gvk: core.WithKind("PodPortForwardOptions"), verbs: stream, serve: (*request).podPortForward},
		{pods, "proxy"}:          {gvk: core.WithKind("PodProxyOptions"), verbs: []string{"create", "delete", "get", "patch", "update"}, serve: (*request).podProxy},
		{pods, "binding"}:        {gvk: core.WithKind("Binding"), verbs: []string{"create"}, serve: (*request).podBinding},
		{pods, "eviction"}:       {gvk: policyv1.SchemeGroupVersion.WithKind("Eviction"), verbs: []string{"create"}, serve: (*request).podEviction},
		{namespaces, "finalize"}: {verbs: []string{"update"}, serve: func(r *request) error { return r.update("finalize") }},
		{accounts, "token"}:      {gvk: authenticationv1.SchemeGroupVersion.WithKind("TokenRequest"), verbs: []string{"create"}, serve: (*request).tokenRequest},
	}
}

// serveSubresource routes to what a subresource is for.
func (r *request) serveSubresource() error {
	i := &r.info
	if s, ok := subresources[subresource{r.kind.Resource, i.Subresource}]; ok {
		if !known(i.Verb, s.verbs...) {
			return r.notAllowed()
		}
		return s.serve(r)
	}
	switch {
	case i.Subresource == "status" && r.kind.Status:
		switch i.Verb {
		case "get":
			return r.get()
		case "update":
			return r.update("status")
		case "patch":
			return r.patch("status")
		}
		return r.notAllowed()
	case i.Subresource == "scale" && r.row.HasScale():
		return r.serveScale()
	}
	return errNotFoundPath
}

// podBinding answers POST pods/NAME/binding: what schedulers that are not ours
// do with a pod.
func (r *request) podBinding() error {
	b := &corev1.Binding{}
	if err := r.decodeAPI(b, "Binding"); err != nil {
		return err
	}
	dryRun, err := r.writeOptions()
	if err != nil {
		return err
	}
	if b.Target.Kind != "" && b.Target.Kind != "Node" || b.Target.Name == "" {
		return apierrors.NewInvalid(schema.GroupKind{Kind: "Binding"}, b.Name, field.ErrorList{
			field.Required(field.NewPath("target", "name"), "the node to bind to")})
	}
	_, err = r.s.write(r.Context(), write{row: r.row, key: r.key(), by: r.author(), dryRun: dryRun,
		propose: func(_ *kernel.View, live *kernel.Entry) (kernel.Write, error) {
			if live == nil {
				return kernel.Write{}, r.notFound(r.info.Name)
			}
			pod := live.Object().DeepCopyObject().(*corev1.Pod)
			conflict := func(detail string) error {
				return apierrors.NewConflict(schema.GroupResource{Resource: "pods/binding"}, pod.Name, refusal(409, metav1.StatusReasonConflict, detail))
			}
			switch {
			case b.UID != "" && b.UID != pod.UID:
				return kernel.Write{}, conflict("the pod is another one by the same name")
			case pod.DeletionTimestamp != nil:
				return kernel.Write{}, conflict("pod " + pod.Name + " is being deleted, cannot be assigned to a host")
			case pod.Spec.NodeName != "":
				return kernel.Write{}, conflict("pod " + pod.Name + " is already assigned to node \"" + pod.Spec.NodeName + "\"")
			}
			pod.Spec.NodeName = b.Target.Name
			setScheduled(pod)
			return kernel.Write{Subresource: kernel.Whole, New: pod}, nil
		}})
	if err != nil {
		return err
	}
	return r.writeSuccess(http.StatusCreated)
}

// setScheduled says in the pod's conditions that it has a node.
func setScheduled(pod *corev1.Pod) {
	c := corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now().Rfc3339Copy()}
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == corev1.PodScheduled {
			pod.Status.Conditions[i] = c
			return
		}
	}
	pod.Status.Conditions = append(pod.Status.Conditions, c)
}

func (r *request) writeSuccess(code int) error {
	return r.writeAPI(code, &metav1.Status{Status: metav1.StatusSuccess, Code: int32(code)}, schema.GroupVersionKind{Version: "v1", Kind: "Status"})
}

// podEviction answers POST pods/NAME/eviction: a delete that may be refused
// for the sake of others (kubectl drain).
func (r *request) podEviction() error {
	ev := &policyv1.Eviction{}
	if err := r.decodeAPI(ev, "Eviction"); err != nil {
		return err
	}
	if ev.Name != "" && ev.Name != r.info.Name {
		return badRequest("name in URL does not match name in Eviction object")
	}
	o := ev.DeleteOptions
	if o == nil {
		o = &metav1.DeleteOptions{}
	}
	if _, err := r.dryRun(append(o.DryRun, r.query["dryRun"]...)); err != nil {
		return err
	}
	o.DryRun = append(o.DryRun, r.query["dryRun"]...)
	if err := checkDeleteOptions(o); err != nil {
		return err
	}
	by := r.author()
	by.note = "evicted"
	if _, err := r.s.remove(r.Context(), r.row, r.key(), o, by); err != nil {
		return err
	}
	return r.writeSuccess(http.StatusCreated)
}

var scaleKind = autoscalingv1.SchemeGroupVersion.WithKind("Scale")

// scaleOf shows an object's replicas as the scale subresource does.
func (r *request) scaleOf(o kernel.Object) *autoscalingv1.Scale {
	spec, status, selector := r.row.ScaleOf(o)
	s := &autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: spec}, Status: autoscalingv1.ScaleStatus{Replicas: status, Selector: selector}}
	s.Name, s.Namespace, s.UID = o.GetName(), o.GetNamespace(), o.GetUID()
	s.ResourceVersion, s.CreationTimestamp = o.GetResourceVersion(), o.GetCreationTimestamp()
	s.SetGroupVersionKind(scaleKind)
	return s
}
