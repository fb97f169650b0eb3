package apiserver

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"github.com/rutterhq/rutter/kernel"
)

// serveScale answers for the scale subresource of any kind that has replicas.
func (r *request) serveScale() error {
	switch r.info.Verb {
	case "get":
		v, err := r.viewFor(r.query.Get("resourceVersion"))
		if err != nil {
			return err
		}
		e := r.entry(v)
		if e == nil {
			return r.notFound(r.info.Name)
		}
		return r.writeAPI(http.StatusOK, r.scaleOf(e.Object()), scaleKind)
	case "update":
		in := &autoscalingv1.Scale{}
		if err := r.decodeAPI(in, "Scale"); err != nil {
			return err
		}
		return r.setScale(func(*autoscalingv1.Scale) (*autoscalingv1.Scale, error) { return in, nil })
	case "patch":
		data, err := r.body()
		if err != nil {
			return err
		}
		t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if err != nil || !known(t, patchJSON, patchMerge, patchStrategic, patchApply) {
			return unsupportedMedia(patchTypes)
		}
		return r.setScale(func(live *autoscalingv1.Scale) (*autoscalingv1.Scale, error) { return patchScale(live, t, data) })
	}
	return r.notAllowed()
}

// patchScale applies any of the patches: a Scale has no lists, so that they
// differ only in their notation.
func patchScale(live *autoscalingv1.Scale, t string, patch []byte) (*autoscalingv1.Scale, error) {
	doc, err := json.Marshal(live)
	if err != nil {
		return nil, fmt.Errorf("encode scale: %w", err)
	}
	if t == patchJSON {
		ops, err := jsonpatch.DecodePatch(patch)
		if err != nil {
			return nil, badRequest("%v", err)
		}
		if doc, err = ops.Apply(doc); err != nil {
			return nil, refusal(http.StatusUnprocessableEntity, "Invalid", err.Error())
		}
	} else {
		if patch, err = yaml.YAMLToJSON(patch); err != nil {
			return nil, badRequest("error decoding patch: %v", err)
		}
		if doc, err = jsonpatch.MergePatch(doc, patch); err != nil {
			return nil, badRequest("%v", err)
		}
	}
	out := &autoscalingv1.Scale{}
	if err := json.Unmarshal(doc, out); err != nil {
		return nil, badRequest("the patched scale does not decode: %v", err)
	}
	return out, nil
}

// setScale writes the replicas that next wants, and nothing else.
func (r *request) setScale(next func(live *autoscalingv1.Scale) (*autoscalingv1.Scale, error)) error {
	dryRun, err := r.writeOptions()
	if err != nil {
		return err
	}
	res, err := r.replace("scale", dryRun, func(_ *kernel.View, live *kernel.Entry) (kernel.Object, error) {
		want, err := next(r.scaleOf(live.Object()))
		if err != nil {
			return nil, err
		}
		if want.Name != "" && want.Name != r.info.Name {
			return nil, badRequest("the name of the object (%s) does not match the name on the URL (%s)", want.Name, r.info.Name)
		}
		if want.Spec.Replicas < 0 {
			return nil, apierrors.NewInvalid(scaleKind.GroupKind(), r.info.Name, field.ErrorList{
				field.Invalid(field.NewPath("spec", "replicas"), want.Spec.Replicas, "must be greater than or equal to 0")})
		}
		o := live.Object().DeepCopyObject().(kernel.Object)
		r.row.SetScale(o, want.Spec.Replicas)
		o.SetResourceVersion(want.ResourceVersion)
		return o, nil
	})
	if err != nil {
		return err
	}
	return r.writeAPI(http.StatusOK, r.scaleOf(res.object), scaleKind)
}
