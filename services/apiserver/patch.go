package apiserver

import (
	"mime"
	"net/http"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// The content types of patches.
const (
	patchJSON      = "application/json-patch+json"
	patchMerge     = "application/merge-patch+json"
	patchStrategic = "application/strategic-merge-patch+json"
	patchApply     = "application/apply-patch+yaml"
)

const patchTypes = patchJSON + ", " + patchMerge + ", " + patchStrategic + ", " + patchApply

// patcher makes a new object of a live one by a patch.
type patcher func(row kinds.Row, live kernel.Object, patch []byte, directive string) (kernel.Object, []string, *kernel.Refusal)

// patchers of the content types; apply is not among them.
var patchers = map[string]patcher{
	patchJSON:      kinds.PatchJSON,
	patchMerge:     kinds.PatchMerge,
	patchStrategic: kinds.PatchStrategic,
}

// patch answers PATCH of an object or of a subresource of it.
func (r *request) patch(subresource string) error {
	dryRun, err := r.writeOptions()
	if err != nil {
		return err
	}
	directive, err := r.fieldValidation()
	if err != nil {
		return err
	}
	data, err := r.body()
	if err != nil {
		return err
	}
	t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return unsupportedMedia(patchTypes)
	}
	if t == patchApply {
		return r.apply(data, subresource, directive, dryRun)
	}
	p, ok := patchers[t]
	if !ok {
		return unsupportedMedia(patchTypes)
	}
	if r.query.Has("force") {
		return badRequest("force may only be set for apply patches")
	}
	var warnings []string
	res, err := r.replace(subresource, dryRun, r.patched(p, data, directive, &warnings))
	if err != nil {
		return err
	}
	r.warn(warnings...)
	return r.writeWritten(http.StatusOK, res)
}

// patched makes what a patch does of the live object. It may be called more than
// once; the warnings are the last call's.
func (r *request) patched(p patcher, data []byte, directive string, warnings *[]string) func(*kernel.View, *kernel.Entry) (kernel.Object, error) {
	return func(_ *kernel.View, live *kernel.Entry) (kernel.Object, error) {
		o, said, ref := p(r.row, live.Object(), data, directive)
		if ref != nil {
			return nil, named(ref, r)
		}
		if warnings != nil {
			*warnings = said
		}
		return o, nil
	}
}

// named fills in whose patch was refused where the refusal does not say it.
func named(ref *kernel.Refusal, r *request) error {
	if d := ref.ErrStatus.Details; d != nil && d.Name == "" {
		d.Name, d.Group, d.Kind = r.info.Name, r.kind.Resource.Group, r.kind.Kind
	}
	return ref
}
