package rutterv1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion of the types here.
var GroupVersion = schema.GroupVersion{Group: "rutter.dev", Version: "v1"}

// Refusal says that changes which a decider wanted were refused: by admission,
// validation or quota. It is there for as long as they are.
type Refusal struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object's metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// Spec is what was refused, and why.
	Spec RefusalSpec `json:"spec,omitempty"`
}

// RefusalSpec is what was refused, and why.
type RefusalSpec struct {
	// Decider is the component that wanted the changes, such as controllers/replicaset.
	Decider string `json:"decider"`
	// Key is what it decided on, such as replicasets.apps/default/web.
	Key string `json:"key"`
	// Reason is the machine-readable reason of the first change that was refused, such as Forbidden.
	// +optional
	Reason metav1.StatusReason `json:"reason,omitempty"`
	// Message is why the first change was refused.
	// +optional
	Message string `json:"message,omitempty"`
	// Refused is how many changes of the decision were refused.
	Refused int32 `json:"refused"`
	// Attempts is how often the decision was made and refused.
	Attempts int32 `json:"attempts"`
	// RetryTime is when the decision is made again, should nothing wake it before.
	RetryTime metav1.MicroTime `json:"retryTime"`
}

// RefusalList is a list of Refusals.
type RefusalList struct {
	metav1.TypeMeta `json:",inline"`
	// Standard list metadata.
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`
	// Items is the list of Refusals.
	Items []Refusal `json:"items"`
}

// OpenAPIModelName names the type's schema.
func (Refusal) OpenAPIModelName() string { return "dev.rutter.v1.Refusal" }

// OpenAPIModelName names the type's schema.
func (RefusalSpec) OpenAPIModelName() string { return "dev.rutter.v1.RefusalSpec" }

// OpenAPIModelName names the type's schema.
func (RefusalList) OpenAPIModelName() string { return "dev.rutter.v1.RefusalList" }

// DeepCopy returns a copy that shares nothing with r.
func (r *Refusal) DeepCopy() *Refusal {
	c := &Refusal{TypeMeta: r.TypeMeta, Spec: r.Spec}
	r.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	r.Spec.RetryTime.DeepCopyInto(&c.Spec.RetryTime)
	return c
}

// DeepCopyObject implements runtime.Object.
func (r *Refusal) DeepCopyObject() runtime.Object { return r.DeepCopy() }

// DeepCopyObject implements runtime.Object.
func (l *RefusalList) DeepCopyObject() runtime.Object {
	c := &RefusalList{TypeMeta: l.TypeMeta}
	l.ListMeta.DeepCopyInto(&c.ListMeta)
	for i := range l.Items {
		c.Items = append(c.Items, *l.Items[i].DeepCopy())
	}
	return c
}

// AddToScheme makes the types known to a scheme.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &Refusal{}, &RefusalList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
