package kinds

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/rutterhq/rutter/kernel"
)

// Words that kubectl users know for what is missing.
const (
	none    = "<none>"
	unknown = "<unknown>"
)

// listed is how many addresses or ports a cell names before it says "+ n more...".
const listed = 3

// documented is any generated API type: it knows its own field descriptions.
type documented interface{ SwaggerDoc() map[string]string }

// doc is the API's own description of a field, named as in JSON.
func doc(of documented, field string) string { return of.SwaggerDoc()[field] }

// nameColumn is the first column of every kind.
func nameColumn[T kernel.Object]() Column[T] {
	return Column[T]{
		Name: "Name", Format: "name", Description: doc(metav1.ObjectMeta{}, "name"),
		Value: func(o T, _ time.Time) any { return o.GetName() },
	}
}

// ageColumn says for how long the object has existed, in Kubernetes' human
// form, such as "5d3h".
func ageColumn[T kernel.Object]() Column[T] {
	return Column[T]{
		Name: "Age", Description: doc(metav1.ObjectMeta{}, "creationTimestamp"),
		Value: func(o T, now time.Time) any { return since(o.GetCreationTimestamp().Time, now) },
	}
}

// column is a column of text that does not depend on the time.
func column[T kernel.Object](name, description string, value func(T) any) Column[T] {
	return Column[T]{Name: name, Description: description, Value: func(o T, _ time.Time) any { return value(o) }}
}

// number is a column of type integer. The value must be an int64: it travels as JSON.
func number[T kernel.Object](name, description string, value func(T) int64) Column[T] {
	return Column[T]{Name: name, Type: "integer", Description: description, Value: func(o T, _ time.Time) any { return value(o) }}
}

// wide makes a column one that only kubectl get -o wide shows.
func wide[T kernel.Object](c Column[T]) Column[T] {
	c.Wide = true
	return c
}

// templateColumns are the wide columns of everything that makes pods.
func templateColumns[T kernel.Object](template func(T) *corev1.PodTemplateSpec) []Column[T] {
	join := func(o T, part func(c *corev1.Container) string) string {
		var parts []string
		for i := range template(o).Spec.Containers {
			parts = append(parts, part(&template(o).Spec.Containers[i]))
		}
		return strings.Join(parts, ",")
	}
	return []Column[T]{
		wide(column("Containers", "Names of the containers in the pod template.", func(o T) any {
			return join(o, func(c *corev1.Container) string { return c.Name })
		})),
		wide(column("Images", "Images that the containers in the pod template run.", func(o T) any {
			return join(o, func(c *corev1.Container) string { return c.Image })
		})),
	}
}

// since is the time from then until now as people say it; "<unknown>" if there
// is no then.
func since(then, now time.Time) string {
	if then.IsZero() {
		return unknown
	}
	return duration.HumanDuration(now.Sub(then))
}

// orNone is s, or "<none>" if it is empty.
func orNone(s string) string {
	if s == "" {
		return none
	}
	return s
}

// selectorText is a selector as kubectl prints it: "<none>" if it is empty.
func selectorText(set map[string]string) string { return labels.FormatLabels(set) }

// value is what p points to, or the zero value.
func value[V any](p *V) V {
	if p == nil {
		var zero V
		return zero
	}
	return *p
}

// pointer returns a pointer to a copy of v.
func pointer[V any](v V) *V { return &v }

// withType gives a column an OpenAPI type other than string.
func withType[T kernel.Object](t string, c Column[T]) Column[T] {
	c.Type = t
	return c
}

// createdColumn is the exact time of creation, which kubectl shows instead of
// the age for kinds that have no columns of their own.
func createdColumn[T kernel.Object]() Column[T] {
	return withType("date", column("Created At", doc(metav1.ObjectMeta{}, "creationTimestamp"), func(o T) any {
		return o.GetCreationTimestamp().UTC().Format(time.RFC3339)
	}))
}
