package kinds

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What a container may learn of its pod as a variable, and as a file.
var (
	envFieldPaths = []string{
		"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
	}
	fileFieldPaths = []string{
		"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid",
	}
	// knownFieldPaths are the paths that the API knows at all.
	knownFieldPaths = append([]string{
		"metadata.annotations", "metadata.labels", "spec.restartPolicy", "spec.schedulerName", "status.phase", "spec.host",
	}, envFieldPaths...)
	resourcePaths = []string{
		"limits.cpu", "limits.ephemeral-storage", "limits.memory",
		"requests.cpu", "requests.ephemeral-storage", "requests.memory",
	}
	byteDivisors = []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}
)

// env checks a container's environment.
func (c *podCheck) env(vars []corev1.EnvVar, path *field.Path) {
	for i := range vars {
		at := path.Index(i)
		if vars[i].Name == "" {
			c.required(at.Child("name"), "")
		} else {
			c.messages(at.Child("name"), vars[i].Name, validation.IsRelaxedEnvVarName(vars[i].Name))
		}
		if vars[i].ValueFrom != nil {
			c.envSource(&vars[i], at.Child("valueFrom"))
		}
	}
}

func (c *podCheck) envSource(v *corev1.EnvVar, path *field.Path) {
	sources, from := 0, v.ValueFrom
	if from.FieldRef != nil {
		sources++
		c.fieldRef(from.FieldRef, envFieldPaths, path.Child("fieldRef"))
	}
	if from.ResourceFieldRef != nil {
		sources++
		c.resourceFieldRef(from.ResourceFieldRef, false, path.Child("resourceFieldRef"))
	}
	if from.ConfigMapKeyRef != nil {
		sources++
		c.keyRef(from.ConfigMapKeyRef.Name, from.ConfigMapKeyRef.Key, path.Child("configMapKeyRef"))
	}
	if from.SecretKeyRef != nil {
		sources++
		c.keyRef(from.SecretKeyRef.Name, from.SecretKeyRef.Key, path.Child("secretKeyRef"))
	}
	if from.FileKeyRef != nil {
		sources++
		c.fileKeyRef(from.FileKeyRef, path.Child("fileKeyRef"))
	}
	switch {
	case sources == 0:
		c.invalid(path, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`")
	case v.Value != "":
		c.invalid(path, "", "may not be specified when `value` is not empty")
	case sources > 1:
		c.invalid(path, "", "may not have more than one field specified at a time")
	}
}

// keyRef checks the name of a ConfigMap or Secret and of a key in it.
func (c *podCheck) keyRef(name, key string, path *field.Path) {
	c.objectName(path.Child("name"), name)
	if key == "" {
		c.required(path.Child("key"), "")
		return
	}
	c.messages(path.Child("key"), key, validation.IsConfigMapKey(key))
}

func (c *podCheck) fileKeyRef(r *corev1.FileKeySelector, path *field.Path) {
	if r.Key == "" {
		c.required(path.Child("key"), "")
	} else {
		c.messages(path.Child("key"), r.Key, validation.IsRelaxedEnvVarName(r.Key))
	}
	if r.VolumeName == "" {
		c.required(path.Child("volumeName"), "")
	} else {
		c.dnsLabel(path.Child("volumeName"), r.VolumeName)
	}
	if r.Path == "" {
		c.required(path.Child("path"), "")
	} else {
		c.noDotDot(r.Path, path.Child("path"))
	}
}

// fieldRef checks a reference to a field of the pod. allowed are the paths
// that may be read where it stands.
func (c *podCheck) fieldRef(r *corev1.ObjectFieldSelector, allowed []string, path *field.Path) {
	at := path.Child("fieldPath")
	switch {
	case r.APIVersion == "":
		c.required(path.Child("apiVersion"), "")
		return
	case r.FieldPath == "":
		c.required(at, "")
		return
	case r.APIVersion != "v1":
		c.invalid(at, r.FieldPath, "error converting fieldPath: unsupported pod version: "+r.APIVersion)
		return
	}
	if owner, key, ok := subscript(r.FieldPath); ok {
		switch owner {
		case "metadata.annotations":
			c.messages(path, strings.ToLower(key), validation.IsQualifiedName(strings.ToLower(key)))
		case "metadata.labels":
			c.messages(path, key, validation.IsQualifiedName(key))
		default:
			c.invalid(at, r.FieldPath, "error converting fieldPath: field label does not support subscript: "+r.FieldPath)
		}
		return
	}
	if !slices.Contains(knownFieldPaths, r.FieldPath) {
		c.invalid(at, r.FieldPath, "error converting fieldPath: field label not supported: "+r.FieldPath)
		return
	}
	field := r.FieldPath
	if field == "spec.host" { // what spec.nodeName was called before v1
		field = "spec.nodeName"
	}
	among(c, at, field, slices.Clone(allowed)...)
}

// subscript splits a path such as metadata.labels['app'].
func subscript(path string) (owner, key string, ok bool) {
	rest, ok := strings.CutSuffix(path, "']")
	if !ok {
		return "", "", false
	}
	owner, key, ok = strings.Cut(rest, "['")
	return owner, key, ok && owner != ""
}

// resourceFieldRef checks a reference to a container's resources. A file must
// say which container's.
func (c *podCheck) resourceFieldRef(r *corev1.ResourceFieldSelector, file bool, path *field.Path) {
	huge := strings.HasPrefix(r.Resource, "requests.hugepages-") || strings.HasPrefix(r.Resource, "limits.hugepages-")
	switch {
	case file && r.ContainerName == "":
		c.required(path.Child("containerName"), "")
	case r.Resource == "":
		c.required(path.Child("resource"), "")
	case !huge:
		among(c, path.Child("resource"), r.Resource, slices.Clone(resourcePaths)...)
	}
	if r.Divisor.IsZero() {
		return
	}
	divisors := byteDivisors
	switch {
	case r.Resource == "limits.cpu", r.Resource == "requests.cpu":
		divisors = []string{"1", "1m"}
	case !huge && !slices.Contains(resourcePaths, r.Resource):
		return
	}
	if !slices.Contains(divisors, r.Divisor.String()) {
		c.invalid(path.Child("divisor"), r.Resource, "only divisor's values "+strings.Join(divisors, ", ")+" are supported with the resource")
	}
}

// envFrom checks the ConfigMaps and Secrets that are taken into the environment
// whole.
func (c *podCheck) envFrom(sources []corev1.EnvFromSource, path *field.Path) {
	for i, s := range sources {
		at := path.Index(i)
		if s.Prefix != "" {
			c.messages(at.Child("prefix"), s.Prefix, validation.IsRelaxedEnvVarName(s.Prefix))
		}
		given := 0
		if s.ConfigMapRef != nil {
			given++
			c.prefixName(s.ConfigMapRef.Name, at.Child("configMapRef", "name"))
		}
		if s.SecretRef != nil {
			given++
			c.prefixName(s.SecretRef.Name, at.Child("secretRef", "name"))
		}
		switch given {
		case 0:
			c.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`")
		case 2:
			c.invalid(path, "", "may not have more than one field specified at a time")
		}
	}
}

// prefixName wants a name that may end as the beginning of one does.
func (c *podCheck) prefixName(name string, path *field.Path) {
	if name == "" {
		c.required(path, "")
		return
	}
	c.messages(path, name, apivalidation.NameIsDNSSubdomain(name, true))
}
