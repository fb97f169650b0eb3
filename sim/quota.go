package sim

import (
	"fmt"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// quotaName is the ConfigMap that says how many pods a namespace may have.
const quotaName = "quota"

// quota is a Schema with a rule that refuses: deciders may not make a pod more
// than a namespace's ConfigMap allows. So what is refused and when follows from
// the View, as every rule of a write does.
type quota struct{ *kinds.Schema }

// Propose implements kernel.Schema.
func (q quota) Propose(v *kernel.View, w kernel.Write, now time.Time) (*kernel.Record, *kernel.Refusal) {
	if _, exists := v.Get(w.Key); w.New != nil && !exists && w.Key.Resource == kinds.Pods.Resource {
		if c, ok := kinds.ConfigMaps.Get(v, w.Key.Namespace, quotaName); ok {
			most, err := strconv.Atoi(c.Data["pods"])
			if have := len(kinds.Pods.List(v, w.Key.Namespace)); err == nil && have >= most {
				return nil, apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, w.Key.Name, fmt.Errorf("exceeded quota: %d of %d pods", have, most))
			}
		}
	}
	return q.Schema.Propose(v, w, now)
}
