package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/rutterhq/rutter/events"
)

// errNotFoundPath is the answer to a path that names nothing the API has:
// plain text, as kube-apiserver gives it.
var errNotFoundPath = errors.New("404 page not found")

// statusOf says what went wrong in the API's own terms.
func statusOf(err error) *metav1.Status {
	var api apierrors.APIStatus
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &api):
		s := api.Status()
		return &s
	case errors.As(err, &tooLarge):
		return statusError(http.StatusRequestEntityTooLarge, metav1.StatusReasonRequestEntityTooLarge,
			fmt.Sprintf("Request entity too large: limit is %d", tooLarge.Limit))
	case errors.Is(err, events.ErrTooLarge):
		return statusError(http.StatusRequestEntityTooLarge, metav1.StatusReasonRequestEntityTooLarge,
			fmt.Sprintf("Request entity too large: an object may have at most %d bytes", events.MaxRecord))
	case errors.Is(err, events.ErrConflict):
		return statusError(http.StatusConflict, metav1.StatusReasonConflict,
			"the object has been modified; please apply your changes to the latest version and try again")
	case errors.Is(err, events.ErrGone):
		s := apierrors.NewResourceExpired("The provided resourceVersion is too old: the log no longer holds it.").Status()
		return &s
	case errors.Is(err, events.ErrFull):
		return noRoom("the log is full: nothing was written. What makes room: \"rutter history --keep\" with a shorter time, or a larger disk budget")
	case errors.Is(err, events.ErrUnavailable):
		return statusError(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable,
			"too few of the log's servers can be reached: this cannot be read up to date, and whether it was written is not known")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return statusError(http.StatusGatewayTimeout, metav1.StatusReasonTimeout, "the request timed out before it could be answered")
	}
	s := apierrors.NewInternalError(err).Status()
	return &s
}

func statusError(code int32, reason metav1.StatusReason, message string) *metav1.Status {
	return &metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message}
}

// refusal makes a Status an error.
func refusal(code int32, reason metav1.StatusReason, message string) error {
	return &apierrors.StatusError{ErrStatus: *statusError(code, reason, message)}
}

func badRequest(format string, args ...any) error {
	return apierrors.NewBadRequest(fmt.Sprintf(format, args...))
}

// notAcceptable is 406: none of the media types is served here.
func notAcceptable() error {
	return refusal(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable,
		"only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf")
}

// unsupportedMedia is 415: the body is in a form that is not read here.
func unsupportedMedia(supported string) error {
	return refusal(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType,
		"the body of the request was in an unknown format - accepted media types include: "+supported)
}

// tooNew is the answer to a resourceVersion that the log has not reached: the
// client comes back in a second.
func tooNew(asked, have uint64) error {
	e := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", asked, have), 1)
	e.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version"}}
	return e
}

// notFound is 404 for an object.
func (r *request) notFound(name string) error {
	return apierrors.NewNotFound(schema.GroupResource{Group: r.info.Group, Resource: r.info.Resource}, name)
}

// writeError answers with a Status in the form that the client accepts.
func (r *request) writeError(err error) {
	if errors.Is(err, errNotFoundPath) {
		http.Error(r.w, errNotFoundPath.Error(), http.StatusNotFound)
		return
	}
	if w, ok := r.w.(*response); ok && w.code != 0 {
		// The answer has begun: all that is left is to break it off, so that
		// the client does not take it for whole.
		panic(http.ErrAbortHandler)
	}
	s := statusOf(err)
	if s.Code == http.StatusInternalServerError {
		r.s.cfg.Logger.Error().Err(err).Str("method", r.Method).Str("path", r.URL.Path).Msg("request failed")
	}
	r.writeStatus(s)
}

func (r *request) writeStatus(s *metav1.Status) {
	if s.Details != nil && s.Details.RetryAfterSeconds > 0 {
		r.w.Header().Set("Retry-After", strconv.Itoa(int(s.Details.RetryAfterSeconds)))
	}
	code := int(s.Code)
	if code == 0 {
		code = http.StatusInternalServerError
	}
	s.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	form, err := negotiate(r.Request, false)
	if err != nil {
		form = form0
	}
	form.shape = shapeWhole
	body, err := form.encode(s, schema.GroupVersionKind{Version: "v1", Kind: "Status"})
	if err != nil {
		body, _ = json.Marshal(s) // a Status of strings and numbers always encodes
		form = form0
	}
	r.writeBody(code, form, body)
}

// reasonFor is the reason that belongs to a code.
func reasonFor(code int) metav1.StatusReason {
	switch code {
	case http.StatusBadRequest:
		return metav1.StatusReasonBadRequest
	case http.StatusForbidden:
		return metav1.StatusReasonForbidden
	case http.StatusNotFound:
		return metav1.StatusReasonNotFound
	case http.StatusServiceUnavailable:
		return metav1.StatusReasonServiceUnavailable
	}
	return metav1.StatusReasonInternalError
}
