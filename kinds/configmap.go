package kinds

import (
	"bytes"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/rutterhq/rutter/kernel"
)

// ConfigMaps hold plain configuration (k8s.io/api/core/v1.ConfigMap).
var ConfigMaps = &Kind[*corev1.ConfigMap]{
	Info: Info{
		Resource: kernel.Resource{Plural: "configmaps"}, Version: "v1", Kind: "ConfigMap",
		Singular: "configmap", ShortNames: []string{"cm"},
	},
	New:      func() *corev1.ConfigMap { return &corev1.ConfigMap{} },
	NewList:  func() runtime.Object { return &corev1.ConfigMapList{} },
	Validate: validateConfigMap,
	Columns: []Column[*corev1.ConfigMap]{
		nameColumn[*corev1.ConfigMap](),
		column("Data", doc(corev1.ConfigMap{}, "data"), func(c *corev1.ConfigMap) any { return int64(len(c.Data) + len(c.BinaryData)) }),
		ageColumn[*corev1.ConfigMap](),
	},
}

// maxDataBytes is how much a ConfigMap or a Secret may hold, in bytes.
const maxDataBytes = 1 << 20

// validateConfigMap checks keys and size, and that an immutable one stays.
func validateConfigMap(now, old *corev1.ConfigMap) field.ErrorList {
	errs := validateObjectMeta(now, true, apivalidation.NameIsDNSSubdomain)
	size := 0
	for k, v := range now.Data {
		path := field.NewPath("data").Key(k)
		errs = append(errs, invalid(path, k, validation.IsConfigMapKey(k))...)
		if _, twice := now.BinaryData[k]; twice {
			errs = append(errs, field.Invalid(path, k, "duplicate of key present in binaryData"))
		}
		size += len(v)
	}
	for k, v := range now.BinaryData {
		errs = append(errs, invalid(field.NewPath("binaryData").Key(k), k, validation.IsConfigMapKey(k))...)
		size += len(v)
	}
	if size > maxDataBytes {
		errs = append(errs, field.TooLong(field.NewPath(""), "", maxDataBytes))
	}
	if old == nil {
		return errs
	}
	errs = append(errs, validateMetaUpdate(now, old)...)
	if value(old.Immutable) {
		if !value(now.Immutable) {
			errs = append(errs, frozen(field.NewPath("immutable")))
		}
		if !maps.Equal(now.Data, old.Data) {
			errs = append(errs, frozen(field.NewPath("data")))
		}
		if !maps.EqualFunc(now.BinaryData, old.BinaryData, bytes.Equal) {
			errs = append(errs, frozen(field.NewPath("binaryData")))
		}
	}
	return errs
}
