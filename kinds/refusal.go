package kinds

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds/rutterv1"
)

const (
	// retryRefused is how long a decision waits after its changes were refused
	// for the first time; every further time it waits twice as long, up to
	// retryRefusedMax.
	retryRefused    = time.Second
	retryRefusedMax = 5 * time.Minute
)

// Refusals say whose changes are refused, and why: one object for each decider
// and key whose last decision had changes refused, gone with the next decision
// that has none. So a refusal is an event, deciders see it like any other, and
// tell it in conditions.
var Refusals = &Kind[*rutterv1.Refusal]{
	Info: Info{
		Resource: kernel.Resource{Group: rutterv1.GroupVersion.Group, Plural: "refusals"}, Version: "v1", Kind: "Refusal",
		Singular: "refusal", Cluster: true,
	},
	New:      func() *rutterv1.Refusal { return &rutterv1.Refusal{} },
	NewList:  func() runtime.Object { return &rutterv1.RefusalList{} },
	Validate: validateRefusal,
	Columns: []Column[*rutterv1.Refusal]{
		nameColumn[*rutterv1.Refusal](),
		column("Decider", "The component whose changes are refused.", func(r *rutterv1.Refusal) any { return r.Spec.Decider }),
		column("Key", "What it decided on.", func(r *rutterv1.Refusal) any { return r.Spec.Key }),
		column("Reason", "Why the first change was refused.", func(r *rutterv1.Refusal) any { return string(r.Spec.Reason) }),
		{Name: "Attempts", Type: "integer", Description: "How often the decision was made and refused.",
			Value: func(r *rutterv1.Refusal, _ time.Time) any { return int64(r.Spec.Attempts) }},
		ageColumn[*rutterv1.Refusal](),
		{Name: "Message", Description: "Why the first change was refused.", Wide: true,
			Value: func(r *rutterv1.Refusal, _ time.Time) any { return r.Spec.Message }},
	},
	Type: func(now, old *rutterv1.Refusal) string {
		switch {
		case Gone(now):
			return "refusal.ended"
		case old == nil:
			return "refusal.begun"
		}
		return "refusal.repeated"
	},
}

// validateRefusal wants to know whose it is.
func validateRefusal(now, old *rutterv1.Refusal) field.ErrorList {
	errs := validateObjectMeta(now, false, apivalidation.NameIsDNSSubdomain)
	if old != nil {
		errs = append(errs, validateMetaUpdate(now, old)...)
	}
	if now.Spec.Decider == "" {
		errs = append(errs, field.Required(field.NewPath("spec", "decider"), ""))
	}
	if now.Spec.Key == "" {
		errs = append(errs, field.Required(field.NewPath("spec", "key"), ""))
	}
	return errs
}

// RefusalOf returns what is refused of a decider's decisions on a key, or nil.
func RefusalOf(v *kernel.View, decider string, k kernel.Key) *rutterv1.Refusal {
	r, _ := Refusals.Get(v, "", refusalName(decider, k))
	return r
}

// refusalName names the object of a decider and a key: "controllers.replicaset-"
// and what only this key has.
func refusalName(decider string, k kernel.Key) string {
	sum := sha256.Sum256([]byte(k.String()))
	return strings.ReplaceAll(decider, "/", ".") + "-" + hex.EncodeToString(sum[:8])
}

// Refused implements kernel.Schema: it keeps the Refusal of the decider and the
// key. While that stands and its time has not come, further refusals for the
// same reason are not told: a decision that is made often would tell them often.
func (Schema) Refused(v *kernel.View, decider string, k kernel.Key, why []*kernel.Refusal, now time.Time) (*kernel.Change, time.Time) {
	spec := rutterv1.RefusalSpec{Decider: decider, Key: k.String()}
	for _, r := range why {
		if r == nil {
			continue
		}
		if spec.Refused++; spec.Refused == 1 {
			spec.Reason, spec.Message = r.ErrStatus.Reason, r.ErrStatus.Message
		}
	}
	was := RefusalOf(v, decider, k)
	// A time beyond the longest wait was told by a clock that was ahead.
	waits := was != nil && now.Before(was.Spec.RetryTime.Time) && !was.Spec.RetryTime.After(now.Add(retryRefusedMax))
	switch {
	case spec.Refused == 0 && was == nil:
		return nil, time.Time{}
	case spec.Refused == 0:
		change := Refusals.Remove(was, "", "nothing is refused any longer")
		return &change, time.Time{}
	case waits && was.Spec.Reason == spec.Reason:
		return nil, was.Spec.RetryTime.Time
	}
	told := &rutterv1.Refusal{ObjectMeta: metav1.ObjectMeta{Name: refusalName(decider, k)}, Spec: spec}
	if was != nil {
		told = was.DeepCopy()
		spec.Attempts = was.Spec.Attempts
		told.Spec = spec
	}
	wait := retryRefusedMax
	if n := told.Spec.Attempts; n < 16 { // or the shift would overflow
		wait = min(wait, retryRefused<<n)
	}
	told.Spec.Attempts++
	told.Spec.RetryTime = metav1.NewMicroTime(now.Add(wait).Truncate(time.Microsecond))
	change := Refusals.Put(told, "", fmt.Sprintf("%s: %s", k, spec.Message))
	return &change, told.Spec.RetryTime.Time
}
