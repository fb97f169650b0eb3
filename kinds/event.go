package kinds

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/rutterhq/rutter/kernel"
)

// Events are remarks about objects, for people (k8s.io/api/core/v1.Event). They
// are not the log's events, though most of them are made of those.
var Events = &Kind[*corev1.Event]{
	Info: Info{
		Resource: kernel.Resource{Plural: "events"}, Version: "v1", Kind: "Event",
		Singular: "event", ShortNames: []string{"ev"},
	},
	New:      func() *corev1.Event { return &corev1.Event{} },
	NewList:  func() runtime.Object { return &corev1.EventList{} },
	Validate: validateEvent,
	Columns: []Column[*corev1.Event]{
		{Name: "Last Seen", Description: doc(corev1.Event{}, "lastTimestamp"), Value: func(e *corev1.Event, now time.Time) any {
			_, last := eventTimes(e)
			return since(last, now)
		}},
		column("Type", doc(corev1.Event{}, "type"), func(e *corev1.Event) any { return e.Type }),
		column("Reason", doc(corev1.Event{}, "reason"), func(e *corev1.Event) any { return e.Reason }),
		column("Object", doc(corev1.Event{}, "involvedObject"), func(e *corev1.Event) any {
			kind := strings.ToLower(e.InvolvedObject.Kind)
			if e.InvolvedObject.Name == "" {
				return kind
			}
			return kind + "/" + e.InvolvedObject.Name
		}),
		wide(column("Subobject", doc(corev1.ObjectReference{}, "fieldPath"), func(e *corev1.Event) any { return e.InvolvedObject.FieldPath })),
		wide(column("Source", doc(corev1.Event{}, "source"), func(e *corev1.Event) any { return eventSource(e) })),
		column("Message", doc(corev1.Event{}, "message"), func(e *corev1.Event) any { return strings.TrimSpace(e.Message) }),
		wide(Column[*corev1.Event]{Name: "First Seen", Description: doc(corev1.Event{}, "firstTimestamp"), Value: func(e *corev1.Event, now time.Time) any {
			first, _ := eventTimes(e)
			return since(first, now)
		}}),
		wide(column("Count", doc(corev1.Event{}, "count"), func(e *corev1.Event) any {
			switch {
			case e.Series != nil:
				return int64(e.Series.Count)
			case e.Count == 0:
				return int64(1)
			}
			return int64(e.Count)
		})),
		wide(nameColumn[*corev1.Event]()),
	},
	Fields: func(e *corev1.Event) fields.Set {
		source := e.Source.Component
		if source == "" {
			source = e.ReportingController
		}
		return fields.Set{
			"involvedObject.kind":            e.InvolvedObject.Kind,
			"involvedObject.namespace":       e.InvolvedObject.Namespace,
			"involvedObject.name":            e.InvolvedObject.Name,
			"involvedObject.uid":             string(e.InvolvedObject.UID),
			"involvedObject.apiVersion":      e.InvolvedObject.APIVersion,
			"involvedObject.resourceVersion": e.InvolvedObject.ResourceVersion,
			"involvedObject.fieldPath":       e.InvolvedObject.FieldPath,
			"reason":                         e.Reason,
			"reportingComponent":             e.ReportingController,
			"source":                         source,
			"type":                           e.Type,
		}
	},
}

// eventTimes are when the remark was true first and last, whichever of the old
// and the new fields say so.
func eventTimes(e *corev1.Event) (first, last time.Time) {
	first = e.FirstTimestamp.Time
	if first.IsZero() {
		first = e.EventTime.Time
	}
	last = e.LastTimestamp.Time
	if last.IsZero() {
		last = first
	}
	if e.Series != nil {
		last = e.Series.LastObservedTime.Time
	}
	return first, last
}

// eventSource is the Source cell: who said it, and from where.
func eventSource(e *corev1.Event) string {
	component, instance := e.Source.Component, e.Source.Host
	if component == "" {
		component = e.ReportingController
	}
	if instance == "" {
		instance = e.ReportingInstance
	}
	if instance == "" {
		return component
	}
	return component + ", " + instance
}

// What an Event may say at most, in bytes.
const (
	maxEventInstance = 128
	maxEventAction   = 128
	maxEventReason   = 128
	maxEventMessage  = 1024
)

// validateEvent checks an Event by the rules of core/v1: those without an
// eventTime are old ones and need little. Of the metadata only the rules of
// all kinds hold, which are not the row's.
func validateEvent(now, _ *corev1.Event) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("involvedObject", "namespace")
	of := now.InvolvedObject.Namespace
	mismatch := field.Invalid(path, of, "does not match event.namespace")
	switch {
	case now.EventTime.IsZero() && of == "" && now.Namespace != "" && now.Namespace != metav1.NamespaceDefault,
		now.EventTime.IsZero() && of != "" && of != now.Namespace,
		!now.EventTime.IsZero() && of == "" && now.Namespace != metav1.NamespaceDefault && now.Namespace != metav1.NamespaceSystem:
		errs = append(errs, mismatch)
	}
	if !now.EventTime.IsZero() {
		errs = append(errs, validateNewEvent(now)...)
	}
	return errs
}

// validateNewEvent checks what Events with an eventTime must have.
func validateNewEvent(e *corev1.Event) field.ErrorList {
	var errs field.ErrorList
	check := func(name, v string, limit int, required bool) {
		if required && v == "" {
			errs = append(errs, field.Required(field.NewPath(name), ""))
		}
		if len(v) > limit {
			errs = append(errs, field.Invalid(field.NewPath(name), "", fmt.Sprintf("can have at most %d characters", limit)))
		}
	}
	controller := field.NewPath("reportingComponent")
	if e.ReportingController == "" {
		errs = append(errs, field.Required(controller, ""))
	}
	errs = append(errs, validateQualifiedName(e.ReportingController, controller)...)
	check("reportingInstance", e.ReportingInstance, maxEventInstance, true)
	check("action", e.Action, maxEventAction, true)
	check("reason", e.Reason, maxEventReason, true)
	check("message", e.Message, maxEventMessage, false)
	return errs
}
