package apiserver

import (
	"context"
	"errors"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// apply answers a server-side apply (KEP-555): it makes the object as the
// manager wants it as far as the manager says, and creates it if need be.
func (r *request) apply(patch []byte, subresource, directive string, dryRun bool) error {
	manager := r.query.Get("fieldManager")
	if manager == "" {
		return apierrors.NewInvalid(schema.GroupKind{Group: metaGroup, Kind: "PatchOptions"}, "", field.ErrorList{
			field.Required(field.NewPath("fieldManager"), "is required for apply patch")})
	}
	if err := r.checkApplied(patch); err != nil {
		return err
	}
	if directive != metav1.FieldValidationIgnore {
		if err := kinds.ApplyStrict(patch); err != nil {
			if directive == metav1.FieldValidationStrict {
				return badRequest("%v", err)
			}
			r.warn(strings.ReplaceAll(err.Error(), "\n", " "))
		}
	}
	force := flag(r.query, "force")
	by := r.author()
	by.manager = manager
	res, err := r.s.write(r.Context(), write{row: r.row, key: r.key(), by: by, dryRun: dryRun,
		propose: r.proposeApply(r.Context(), patch, subresource, force, dryRun, by, r.mayCreate)})
	if err != nil {
		return err
	}
	code := http.StatusOK
	if res.created {
		code = http.StatusCreated
	}
	return r.writeWritten(code, res)
}

// proposeApply is what an apply proposes. mayCreate is asked before anything is
// made of nothing.
func (r *request) proposeApply(ctx context.Context, patch []byte, subresource string, force, dryRun bool, by author, mayCreate func(live kernel.Object) error) func(*kernel.View, *kernel.Entry) (kernel.Write, error) {
	return func(v *kernel.View, live *kernel.Entry) (kernel.Write, error) {
		w := kernel.Write{Subresource: subresource, Apply: true}
		var before kernel.Object
		if live != nil {
			w.Verb, before = kinds.Update, live.Object()
		} else if subresource != "" {
			return w, r.notFound(r.info.Name)
		}
		o, err := kinds.ApplySubresource(r.row, before, patch, subresource, by.manager, force, r.s.out.Now().UTC())
		if err != nil {
			return w, err
		}
		r.place(o)
		if live != nil {
			if err := r.checkVersion(o, live); err != nil {
				return w, err
			}
		}
		if subresource == "" {
			err = errors.Join(mayCreate(before), r.s.mayGrant(ctx, r.user, o, before))
			if err == nil {
				err = r.s.claim(ctx, v, o, before, by, dryRun)
			}
		}
		w.New = o
		return w, err
	}
}

// mayCreate checks the right to create where an apply will do so: it is asked
// for as a patch.
func (r *request) mayCreate(live kernel.Object) error {
	if live != nil {
		return nil
	}
	a := r.attributes()
	a.Verb = "create"
	return r.authorize(a)
}

// checkApplied wants the applied object to name itself as the path does.
func (r *request) checkApplied(patch []byte) error {
	var head struct {
		metav1.TypeMeta `json:",inline"`
		Metadata        struct {
			Name          string `json:"name"`
			Namespace     string `json:"namespace"`
			ManagedFields []any  `json:"managedFields"`
		} `json:"metadata"`
	}
	if err := kinds.ReadApplied(patch, &head); err != nil {
		return badRequest("error decoding YAML: %v", err)
	}
	gvk := r.kind.GVK()
	have := schema.FromAPIVersionAndKind(head.APIVersion, head.Kind)
	switch {
	case have != gvk:
		return badRequest("the applied object must be of type %s, it is %q of %q", gvk.Kind, head.Kind, head.APIVersion)
	case head.Metadata.Name != "" && head.Metadata.Name != r.info.Name:
		return badRequest("the name of the object (%s) does not match the name on the URL (%s)", head.Metadata.Name, r.info.Name)
	case head.Metadata.Namespace != "" && head.Metadata.Namespace != r.info.Namespace:
		return badRequest("the namespace of the provided object does not match the namespace sent on the request")
	case len(head.Metadata.ManagedFields) > 0:
		return badRequest("metadata.managedFields must be nil")
	}
	return nil
}
