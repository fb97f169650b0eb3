package kinds

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Names without a domain that the API knows as resources: those that a
// container has, and beside them those that quotas count.
var (
	containerResources = []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage}
	countedResources   = []corev1.ResourceName{
		corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers,
		corev1.ResourceSecrets, corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims,
		corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers,
	}
	quotaResources = append([]corev1.ResourceName{
		corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage,
		corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage,
		corev1.ResourceStorage, corev1.ResourceRequestsStorage,
	}, countedResources...)
)

// standardResource tells whether the API knows the name without a domain.
func standardResource(name corev1.ResourceName) bool {
	return slices.Contains(containerResources, name) || slices.Contains(quotaResources, name) || hugePages(name) ||
		strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix)
}

// extendedResource tells whether a name is that of a resource that is not
// Kubernetes' own, such as example.com/gpu.
func extendedResource(name corev1.ResourceName) bool {
	const quotaPrefix = corev1.DefaultResourceRequestsPrefix
	return !nativeResource(name) && !strings.HasPrefix(string(name), quotaPrefix) &&
		len(validation.IsQualifiedName(quotaPrefix+string(name))) == 0
}

// resourceName checks the form of a resource's name, and tells whether it is right.
func (c *podCheck) resourceName(name corev1.ResourceName, at *field.Path) bool {
	if messages := validation.IsQualifiedName(string(name)); len(messages) > 0 {
		c.messages(at, name, messages)
		return false
	}
	if !strings.Contains(string(name), "/") && !standardResource(name) {
		c.invalid(at, name, "must be a standard resource type or fully qualified")
		return false
	}
	return true
}

// containerResourceName wants a resource that a container can have.
func (c *podCheck) containerResourceName(name corev1.ResourceName, at *field.Path) {
	c.resourceName(name, at)
	switch {
	case !strings.Contains(string(name), "/"):
		if !slices.Contains(containerResources, name) && !hugePages(name) {
			c.invalid(at, name, "must be a standard resource for containers")
		}
	case !nativeResource(name) && !extendedResource(name):
		c.invalid(at, name, "doesn't follow extended resource name standard")
	}
}

// podResourceName wants a resource that a pod as a whole can have.
func (c *podCheck) podResourceName(name corev1.ResourceName, at *field.Path) {
	if c.resourceName(name, at) && !podLevelResource(name) {
		c.add(field.NotSupported(at, name, []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceHugePagesPrefix, corev1.ResourceMemory}))
	}
}

// resources checks what is asked for and what is the limit of it.
func (c *podCheck) resources(r *corev1.ResourceRequirements, claims map[string]bool, at *field.Path, name func(corev1.ResourceName, *field.Path)) {
	limits, requests := at.Child("limits"), at.Child("requests")
	huge, computes := false, false
	each := func(n corev1.ResourceName, q resource.Quantity, at *field.Path) {
		name(n, at)
		c.quantity(n, q, at)
		huge = huge || hugePages(n)
		computes = computes || n == corev1.ResourceCPU || n == corev1.ResourceMemory
	}
	for _, n := range slices.Sorted(maps.Keys(r.Limits)) {
		each(n, r.Limits[n], limits.Key(string(n)))
	}
	for _, n := range slices.Sorted(maps.Keys(r.Requests)) {
		q := r.Requests[n]
		each(n, q, requests.Key(string(n)))
		limit, ok := r.Limits[n]
		switch {
		case !ok && !overcommittable(n):
			c.required(limits, "Limit must be set for non overcommitable resources")
		case !ok:
		case q.Cmp(limit) != 0 && !overcommittable(n):
			c.invalid(requests, q.String(), "must be equal to "+string(n)+" limit of "+limit.String())
		case q.Cmp(limit) > 0:
			c.invalid(requests, q.String(), "must be less than or equal to "+string(n)+" limit of "+limit.String())
		}
	}
	if huge && !computes {
		c.forbidden(at, "HugePages require cpu or memory")
	}
	c.claimsUsed(r.Claims, claims, at.Child("claims"))
}

// quantity wants an amount that there can be: not negative, whole where the
// resource comes in pieces, and whole pages of memory pages.
func (c *podCheck) quantity(name corev1.ResourceName, q resource.Quantity, at *field.Path) {
	if q.Sign() < 0 {
		c.invalid(at, q.String(), "must be greater than or equal to 0")
	}
	const milli = 1000
	if (slices.Contains(countedResources, name) || extendedResource(name)) && q.MilliValue()%milli != 0 {
		c.invalid(at, q, "must be an integer")
	}
	if hugePages(name) && !wholePages(name, q) {
		c.invalid(at, q.String(), q.String()+" is not positive integer multiple of "+string(name))
	}
}

// wholePages tells whether the quantity is a multiple of the page size that
// the name of the resource says.
func wholePages(name corev1.ResourceName, q resource.Quantity) bool {
	page, err := resource.ParseQuantity(strings.TrimPrefix(string(name), corev1.ResourceHugePagesPrefix))
	const milli = 1000
	return err == nil && page.Sign() > 0 && page.MilliValue()%milli == 0 && q.Value()%page.Value() == 0
}

// claimsUsed checks which of the pod's claims of devices a container uses:
// each whole or by requests, and nothing twice.
func (c *podCheck) claimsUsed(uses []corev1.ResourceClaim, known map[string]bool, at *field.Path) {
	whole, parts := map[string]bool{}, map[string]map[string]bool{}
	for i, u := range uses {
		at := at.Index(i)
		if u.Name == "" {
			c.required(at, "")
			continue
		}
		switch {
		case whole[u.Name]:
			c.duplicate(at, u.Name)
		case u.Request == "":
			for range parts[u.Name] {
				c.duplicate(at, u.Name)
			}
			whole[u.Name] = true
		default:
			c.dnsLabel(at.Child("request"), u.Request)
			if parts[u.Name] == nil {
				parts[u.Name] = map[string]bool{}
			}
			if parts[u.Name][u.Request] {
				c.duplicate(at, u.Name+"/"+u.Request)
			}
			parts[u.Name][u.Request] = true
		}
		if !known[u.Name] {
			e := field.NotFound(at, u.Name)
			e.Detail = "must be one of the names in pod.spec.resourceClaims"
			c.add(e)
		}
	}
}

// podLevelResources checks the resources of the pod as a whole, and that its
// containers' fit in (KEP-2837).
func (c *podCheck) podLevelResources(path *field.Path) {
	r, at := c.spec.Resources, path.Child("resources")
	if r == nil {
		return
	}
	if c.spec.OS != nil && c.spec.OS.Name == corev1.Windows {
		c.forbidden(at, "may not be set for a windows pod")
		return
	}
	if r.Claims != nil {
		c.forbidden(at.Child("claims"), "claims may not be set for Resources at pod-level")
	}
	c.resources(r, c.claims, at, c.podResourceName)
	requests, limits := podUses(c.spec, containerRequests), podUses(c.spec, containerLimits)
	for _, n := range slices.Sorted(maps.Keys(requests)) {
		uses := requests[n]
		if q, ok := r.Requests[n]; ok && uses.Cmp(q) > 0 {
			c.invalid(at.Child("requests").Key(string(n)), q.String(), "must be greater than or equal to aggregate container requests of "+uses.String())
		}
	}
	for _, n := range slices.Sorted(maps.Keys(limits)) {
		uses := limits[n]
		if q, ok := r.Limits[n]; ok && hugePages(n) && uses.Cmp(q) > 0 {
			c.invalid(at.Child("limits").Key(string(n)), q.String(), "must be greater than or equal to aggregate container limits of "+uses.String())
		}
	}
	for i := range c.spec.Containers {
		own := c.spec.Containers[i].Resources.Limits
		for _, n := range slices.Sorted(maps.Keys(own)) {
			limit := own[n]
			if q, ok := r.Limits[n]; ok && limit.Cmp(q) > 0 {
				c.invalid(at.Child("containers").Index(i).Key(string(n)).Child("limits"), limit.String(), "must be less than or equal to pod limits of "+q.String())
			}
		}
	}
}
