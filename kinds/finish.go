package kinds

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/rutterhq/rutter/kernel"
)

// Finish turns an intended write into the object
// as it shall stand in the log. In this order:
//
//	create   name and namespace · defaults · managedFields · namespace
//	         lifecycle · Admit · system metadata · Prepare · Validate
//	update   identity · defaults · what the subresource may change ·
//	         managedFields · Admit · Prepare · generation · Validate · no change
//	delete   preconditions · finalizers · grace
//
// It reads nothing but the View and the Write, and may modify Write.New. That
// the writer saw the newest version of the object is the caller's to check: the
// log does it too, by Expect. w.Old and what is in the View stay as they are.
//
// Besides the object's own resource it reads those of FinishReads.
func (s Schema) Finish(v *kernel.View, w kernel.Write, now time.Time) (kernel.Object, *kernel.Refusal) {
	row, ok := RowFor(w.Key.Resource)
	if !ok {
		return nil, apierrors.NewGenericServerResponse(404, w.Verb,
			schema.GroupResource{Group: w.Key.Group, Resource: w.Key.Plural}, w.Key.Name, "", 0, true)
	}
	f := finisher{cluster: s.Cluster, view: v, Write: w, now: now, row: row, info: row.Describe()}
	switch w.Verb {
	case Create:
		return f.create()
	case Update:
		return f.update()
	case Delete:
		return f.delete()
	}
	panic(fmt.Sprintf("a write of %s has the verb %q, which is none of create, update and delete", w.Key, w.Verb))
}

// FinishReads are the resources that Finish and the rows' Admit look at beside
// the object's own. A View on which Finish is called must have them.
func FinishReads() []kernel.Resource {
	return []kernel.Resource{
		{Plural: "namespaces"}, {Plural: "serviceaccounts"},
		{Group: "scheduling.k8s.io", Plural: "priorityclasses"},
		{Group: "networking.k8s.io", Plural: "ingressclasses"},
		{Group: "rutter.dev", Plural: "refusals"}, // Refused's
	}
}

// finisher is one call of Finish.
type finisher struct {
	kernel.Write
	cluster string
	view    *kernel.View
	now     time.Time
	row     Row
	info    *Info
}

func (f *finisher) groupResource() schema.GroupResource {
	return schema.GroupResource{Group: f.info.Resource.Group, Resource: f.info.Resource.Plural}
}

// invalid gives the Status for what validation found, or nil.
func (f *finisher) invalid(o kernel.Object, errs field.ErrorList) *kernel.Refusal {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(f.info.GVK().GroupKind(), o.GetName(), distinct(errs))
}

// distinct drops errors that say the same of the same field: the rows and
// Finish both look at the metadata.
func distinct(errs field.ErrorList) field.ErrorList {
	seen := map[string]bool{}
	return slices.DeleteFunc(errs, func(e *field.Error) bool {
		said := e.Error()
		defer func() { seen[said] = true }()
		return seen[said]
	})
}

// setIdentity makes kind, namespace and, if it is known, name those of the Key.
func (f *finisher) setIdentity(o kernel.Object) *kernel.Refusal {
	SetTypeMeta(o)
	if o.GetNamespace() == "" {
		o.SetNamespace(f.Key.Namespace)
	}
	if o.GetNamespace() != f.Key.Namespace {
		return apierrors.NewBadRequest(fmt.Sprintf(
			"the namespace of the provided object does not match the namespace sent on the request (%s != %s)",
			o.GetNamespace(), f.Key.Namespace))
	}
	if o.GetName() == "" {
		o.SetName(f.Key.Name)
	}
	if f.Key.Name != "" && o.GetName() != f.Key.Name {
		return apierrors.NewBadRequest(fmt.Sprintf(
			"the name of the object (%s) does not match the name on the URL (%s)", o.GetName(), f.Key.Name))
	}
	return nil
}

func (f *finisher) create() (kernel.Object, *kernel.Refusal) {
	o := f.New
	if r := f.setIdentity(o); r != nil {
		return nil, r
	}
	f.row.DefaultObject(o)
	if r := f.manageFields(o, nil); r != nil {
		return nil, r
	}
	if r := f.namespaceOpen(); r != nil {
		return nil, r
	}
	if r := f.admit(o, nil); r != nil {
		return nil, r
	}
	if f.Subresource != kernel.Whole && f.info.Status && !statusAtCreate[f.info.Resource] {
		clearStatus(o)
	}
	f.fillSystemMetadata(o)
	f.row.PrepareObject(o, nil)
	if _, counts := generations[f.info.Resource]; counts {
		o.SetGeneration(1)
	}
	errs := f.row.ValidateObject(o, nil, "")
	if len(errs) == 0 {
		errs = validateCommonMeta(o, nil, f.info)
	}
	if r := f.invalid(o, errs); r != nil {
		return nil, r
	}
	if r := f.nameFree(o); r != nil {
		return nil, r
	}
	return o, nil
}

// statusAtCreate are the kinds that may be created with a status: a node
// registers itself with one.
var statusAtCreate = map[kernel.Resource]bool{{Plural: "nodes"}: true}

// fillSystemMetadata sets what only the server may set.
func (f *finisher) fillSystemMetadata(o kernel.Object) {
	o.SetDeletionTimestamp(nil)
	o.SetDeletionGracePeriodSeconds(nil)
	o.SetSelfLink("")
	o.SetResourceVersion("")
	o.SetGeneration(0)
	o.SetCreationTimestamp(timestamp(f.now))
	uid := f.UID
	if uid == "" {
		uid = deriveUID(f.cluster, f.Key, f.Seen, f.now)
	}
	o.SetUID(types.UID(uid))
	if o.GetName() == "" && o.GetGenerateName() != "" {
		o.SetName(generateName(o.GetGenerateName(), uid))
	}
}

// timestamp gives the time as an object holds it: to the second.
func timestamp(t time.Time) metav1.Time { return metav1.NewTime(t.Truncate(time.Second)) }

// deriveUID gives the uid of an object that a decider makes: the same decision
// made again gives the same uid (UUID version 5, RFC 9562).
func deriveUID(cluster string, k kernel.Key, seen kernel.Seq, now time.Time) string {
	space := uuid.NewSHA1(uuid.NameSpaceURL, []byte("https://rutter.dev/cluster/"+cluster))
	return uuid.NewSHA1(space, fmt.Appendf(nil, "%s\x00%d\x00%d", k, seen, now.UnixNano())).String()
}

// maxGeneratedBase bounds in bytes what a generated name keeps of generateName,
// so that with its suffix it fits a DNS label (63).
const maxGeneratedBase = 63 - suffixLength

const (
	suffixLength = 5
	// suffixLetters are those of Kubernetes: no vowels, so no words.
	suffixLetters = "bcdfghjklmnpqrstvwxz2456789"
)

// generateName appends a suffix that derives from the uid.
func generateName(base, uid string) string {
	if len(base) > maxGeneratedBase {
		base = base[:maxGeneratedBase]
	}
	id := uuid.NewSHA1(uuid.Nil, []byte(uid))
	suffix := make([]byte, suffixLength)
	for i := range suffix {
		// Two bytes per letter keep the letters near evenly likely.
		suffix[i] = suffixLetters[(int(id[2*i])<<8|int(id[2*i+1]))%len(suffixLetters)]
	}
	return base + string(suffix)
}

// nameFree refuses to create what exists.
func (f *finisher) nameFree(o kernel.Object) *kernel.Refusal {
	if _, exists := f.view.Get(f.info.Key(f.Key.Namespace, o.GetName())); !exists {
		return nil
	}
	if o.GetGenerateName() != "" && f.Key.Name == "" {
		return apierrors.NewGenerateNameConflict(f.groupResource(), o.GetName(), 1)
	}
	return apierrors.NewAlreadyExists(f.groupResource(), o.GetName())
}

// systemNamespaces may be written to before they exist, for the apiserver makes
// their content and themselves at its first start, and may not be deleted.
var systemNamespaces = []string{"default", "kube-system", "kube-public", "kube-node-lease"}

// immortalNamespaces may never be deleted.
var immortalNamespaces = []string{"default", "kube-system", "kube-public"}

// namespaceOpen is the namespace lifecycle of Kubernetes: nothing is created in
// a namespace that does not exist or is going.
func (f *finisher) namespaceOpen() *kernel.Refusal {
	if f.info.Cluster {
		return nil
	}
	name := f.Key.Namespace
	o, exists := f.view.Get(kernel.Key{Resource: kernel.Resource{Plural: "namespaces"}, Name: name})
	if !exists {
		if slices.Contains(systemNamespaces, name) || name == "" {
			return nil // an empty one is validation's to name
		}
		return apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, name)
	}
	ns, ok := o.(*corev1.Namespace)
	if !ok || ns.DeletionTimestamp == nil && ns.Status.Phase != corev1.NamespaceTerminating {
		return nil
	}
	r := apierrors.NewForbidden(f.groupResource(), f.New.GetName(), fmt.Errorf(
		"unable to create new content in namespace %s because it is being terminated", name))
	r.ErrStatus.Details.Causes = append(r.ErrStatus.Details.Causes, metav1.StatusCause{
		Type:    corev1.NamespaceTerminatingCause,
		Message: fmt.Sprintf("namespace %s is being terminated", name),
		Field:   "metadata.namespace",
	})
	return r
}

// admit runs the kind's admission. Errors of type Forbidden make a forbidden
// write, in the words of their details, as Kubernetes' admission plugins do. Any
// other makes an invalid object, and so does a field that is not supported yet:
// there each field is to be named.
func (f *finisher) admit(o, old kernel.Object) *kernel.Refusal {
	errs := f.row.AdmitObject(f.view, f.Write, o, old)
	if len(errs) == 0 {
		return nil
	}
	var forbidden []string
	for _, e := range errs {
		if e.Type != field.ErrorTypeForbidden || strings.Contains(e.Detail, "not supported yet") {
			return f.invalid(o, errs)
		}
		forbidden = append(forbidden, e.Detail)
	}
	return apierrors.NewForbidden(f.groupResource(), o.GetName(), errors.New(strings.Join(forbidden, ", ")))
}

// statusOf returns the Status field of the object's struct, settable.
func statusOf(o kernel.Object) reflect.Value {
	return reflect.ValueOf(o).Elem().FieldByName("Status")
}

func clearStatus(o kernel.Object) {
	if s := statusOf(o); s.IsValid() {
		s.SetZero()
	}
}

// keepStatus gives o the status of old.
func keepStatus(o, old kernel.Object) {
	if s := statusOf(o); s.IsValid() {
		s.Set(statusOf(old.DeepCopyObject().(kernel.Object)))
	}
}

// bodyEqual compares all but type, metadata and status: what generation counts.
func bodyEqual(a, b kernel.Object) bool {
	va, vb := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	for i := range va.NumField() {
		switch va.Type().Field(i).Name {
		case "TypeMeta", "ObjectMeta", "Status":
			continue
		}
		if !same(va.Field(i).Interface(), vb.Field(i).Interface()) {
			return false
		}
	}
	return true
}

// same is Kubernetes' semantic equality: nil lists are empty ones, and 1000m is
// 1. What is the same to the last bit is found in a seventh of its time.
func same(a, b any) bool { return reflect.DeepEqual(a, b) || equality.Semantic.DeepEqual(a, b) }
