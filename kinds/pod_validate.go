package kinds

import (
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// podCheck is one validation of a pod spec: what is checked, what is known of
// it so far, and the errors found. Its methods are the rules, by subject; the
// fields and types of their errors are those of Kubernetes 1.37 with its
// default feature gates.
type podCheck struct {
	spec    *corev1.PodSpec
	meta    *metav1.ObjectMeta // nil in a template
	pod     bool               // the spec is a pod's, not a template's
	volumes map[string]corev1.VolumeSource
	claims  map[string]bool // names of resource claims
	errs    field.ErrorList
}

func (c *podCheck) add(errs ...*field.Error) { c.errs = append(c.errs, errs...) }

func (c *podCheck) invalid(p *field.Path, value any, detail string) {
	c.add(field.Invalid(p, value, detail))
}
func (c *podCheck) required(p *field.Path, detail string)  { c.add(field.Required(p, detail)) }
func (c *podCheck) forbidden(p *field.Path, detail string) { c.add(field.Forbidden(p, detail)) }
func (c *podCheck) duplicate(p *field.Path, value any)     { c.add(field.Duplicate(p, value)) }

// messages makes an error of each message that a format check gave.
func (c *podCheck) messages(p *field.Path, value any, messages []string) {
	for _, m := range messages {
		c.invalid(p, value, m)
	}
}

// among wants one of the values.
func among[S ~string](c *podCheck, p *field.Path, value S, allowed ...S) {
	if !slices.Contains(allowed, value) {
		slices.Sort(allowed)
		c.add(field.NotSupported(p, value, allowed))
	}
}

// requiredAmong wants one of the values, and calls none given "required".
func requiredAmong[S ~string](c *podCheck, p *field.Path, value S, allowed ...S) {
	if value == "" {
		c.required(p, "")
		return
	}
	among(c, p, value, allowed...)
}

func (c *podCheck) notNegative(p *field.Path, value int64) {
	c.add(apivalidation.ValidateNonnegativeField(value, p)...)
}

func (c *podCheck) dnsLabel(p *field.Path, value string) {
	c.messages(p, value, validation.IsDNS1123Label(value))
}

// objectName wants a name as most objects have one: a DNS subdomain.
func (c *podCheck) objectName(p *field.Path, value string) {
	c.messages(p, value, apivalidation.NameIsDNSSubdomain(value, false))
}

func (c *podCheck) ip(p *field.Path, value string) {
	c.add(validation.IsValidIPForLegacyField(p, value, true, nil)...)
}

// validatePodCreate checks a new pod.
func validatePodCreate(p *corev1.Pod) field.ErrorList {
	c := &podCheck{spec: &p.Spec, meta: &p.ObjectMeta, pod: true}
	c.metadata(p)
	c.podOnly(p)
	path := field.NewPath("spec")
	if len(p.Spec.EphemeralContainers) > 0 {
		c.forbidden(path.Child("ephemeralContainers"), "cannot be set on create")
	}
	if p.Spec.NodeName != "" && len(p.Spec.SchedulingGates) > 0 {
		c.forbidden(path.Child("nodeName"), "cannot be set until all schedulingGates have been cleared")
	}
	c.profilesMatch(p.Annotations, path)
	return c.errs
}

// metadata checks a pod's own metadata.
func (c *podCheck) metadata(p *corev1.Pod) {
	c.add(validateObjectMeta(p, true, apivalidation.NameIsDNSSubdomain)...)
}

// podOnly checks a pod's annotations and spec, with the rules for specs and
// those for pods alone.
func (c *podCheck) podOnly(p *corev1.Pod) {
	c.annotations(p.Annotations, field.NewPath("metadata", "annotations"))
	path := field.NewPath("spec")
	c.podSpec(path)
	if p.Spec.ServiceAccountName == "" {
		for i, v := range p.Spec.Volumes {
			if v.Projected == nil {
				continue
			}
			for j, s := range v.Projected.Sources {
				if s.ServiceAccountToken != nil {
					c.forbidden(path.Child("volumes").Index(i).Child("projected", "sources").Index(j).Child("serviceAccountToken"),
						"must not be specified when serviceAccountName is not set")
				}
			}
		}
	}
	if g := p.Spec.TerminationGracePeriodSeconds; g != nil {
		c.notNegative(path.Child("terminationGracePeriodSeconds"), *g)
	}
	for _, list := range []struct {
		name       string
		containers []corev1.Container
	}{{"containers", p.Spec.Containers}, {"initContainers", p.Spec.InitContainers}} {
		for i := range list.containers {
			c.imageTrimmed(&list.containers[i], path.Child(list.name).Index(i))
		}
	}
}

func (c *podCheck) imageTrimmed(ctr *corev1.Container, path *field.Path) {
	if ctr.Image != strings.TrimSpace(ctr.Image) {
		c.invalid(path.Child("image"), ctr.Image, "must not have leading or trailing whitespace")
	}
}

// podSpec checks what a pod spec says, wherever it stands.
func (c *podCheck) podSpec(path *field.Path) {
	s := c.spec
	if s.TerminationGracePeriodSeconds == nil {
		c.required(path.Child("terminationGracePeriodSeconds"), "")
	}
	c.allVolumes(path.Child("volumes"))
	c.resourceClaims(path.Child("resourceClaims"))
	c.allContainers(path)
	c.podLevelResources(path)
	c.hostNetwork(path.Child("containers"))
	requiredAmong(c, path.Child("restartPolicy"), s.RestartPolicy,
		corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)
	requiredAmong(c, path.Child("dnsPolicy"), s.DNSPolicy,
		corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)
	c.podSecurity(path)
	c.scheduling(path)
	c.dns(path.Child("dnsConfig"))
	c.hostnames(path)
	c.names(path)
	if d := s.ActiveDeadlineSeconds; d != nil && (*d < 1 || *d > math.MaxInt32) {
		c.invalid(path.Child("activeDeadlineSeconds"), *d, validation.InclusiveRangeError(1, math.MaxInt32))
	}
	for i, g := range s.ReadinessGates {
		c.messages(path.Child("readinessGates").Index(i).Child("conditionType"), string(g.ConditionType),
			validation.IsQualifiedName(string(g.ConditionType)))
	}
	if s.Overhead != nil {
		c.resources(&corev1.ResourceRequirements{Limits: s.Overhead}, nil, path.Child("overhead"), c.containerResourceName)
	}
	c.os(path)
	c.fileKeyVolumes(path)
}

// names checks what a spec names that lives elsewhere.
func (c *podCheck) names(path *field.Path) {
	s := c.spec
	if s.ServiceAccountName != "" {
		c.messages(path.Child("serviceAccountName"), s.ServiceAccountName,
			apivalidation.ValidateServiceAccountName(s.ServiceAccountName, false))
	}
	if s.DeprecatedServiceAccount != s.ServiceAccountName {
		c.invalid(path.Child("deprecatedServiceAccount"), s.DeprecatedServiceAccount, "must be the same as serviceAccountName")
	}
	if s.NodeName != "" {
		c.objectName(path.Child("nodeName"), s.NodeName)
	}
	if s.PriorityClassName != "" {
		c.objectName(path.Child("priorityClassName"), s.PriorityClassName)
	}
	if s.RuntimeClassName != nil {
		c.objectName(path.Child("runtimeClassName"), *s.RuntimeClassName)
	}
	if s.PreemptionPolicy != nil {
		requiredAmong(c, path.Child("preemptionPolicy"), *s.PreemptionPolicy, corev1.PreemptLowerPriority, corev1.PreemptNever)
	}
	if g := s.SchedulingGroup; g != nil {
		if g.PodGroupName == nil {
			c.invalid(path.Child("schedulingGroup", "podGroupName"), g.PodGroupName, "must specify one of: `podGroupName`")
		} else {
			c.objectName(path.Child("schedulingGroup", "podGroupName"), *g.PodGroupName)
		}
		if len(s.EvictionResponders) > 0 {
			c.forbidden(path.Child("schedulingGroup"), "may not be set when evictionResponders is set")
		}
	}
}

// hostnames checks what a pod is called on the network.
func (c *podCheck) hostnames(path *field.Path) {
	s := c.spec
	if s.Hostname != "" {
		c.dnsLabel(path.Child("hostname"), s.Hostname)
	}
	if s.Subdomain != "" {
		c.dnsLabel(path.Child("subdomain"), s.Subdomain)
	}
	for i, a := range s.HostAliases {
		at := path.Child("hostAliases").Index(i)
		c.ip(at.Child("ip"), a.IP)
		for j, h := range a.Hostnames {
			c.messages(at.Child("hostnames").Index(j), h, validation.IsDNS1123Subdomain(h))
		}
	}
	if s.HostnameOverride == nil {
		return
	}
	at := path.Child("hostnameOverride")
	if value(s.SetHostnameAsFQDN) {
		c.forbidden(at, "may not be specified when setHostnameAsFQDN is true")
	}
	if s.HostNetwork {
		c.forbidden(at, "may not be specified when hostNetwork is true")
	}
	const maxHostname = 64 // bytes: what Linux takes
	if len(*s.HostnameOverride) > maxHostname {
		c.add(field.TooLong(at, "", maxHostname))
	}
	c.messages(at, *s.HostnameOverride, validation.IsDNS1123Subdomain(*s.HostnameOverride))
}

// Limits of a resolver configuration, as the C library has them.
const (
	maxNameservers   = 3
	maxSearchDomains = 32
	maxSearchBytes   = 2048
)

// dns checks how a pod resolves names.
func (c *podCheck) dns(path *field.Path) {
	d := c.spec.DNSConfig
	if c.spec.DNSPolicy == corev1.DNSNone {
		if d == nil {
			c.required(path, "must provide `dnsConfig` when `dnsPolicy` is None")
			return
		}
		if len(d.Nameservers) == 0 {
			c.required(path.Child("nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None")
			return
		}
	}
	if d == nil {
		return
	}
	if len(d.Nameservers) > maxNameservers {
		c.invalid(path.Child("nameservers"), d.Nameservers, "must not have more than 3 nameservers")
	}
	for i, ns := range d.Nameservers {
		c.ip(path.Child("nameservers").Index(i), ns)
	}
	if len(d.Searches) > maxSearchDomains {
		c.invalid(path.Child("searches"), d.Searches, "must not have more than 32 search paths")
	}
	if len(strings.Join(d.Searches, " ")) > maxSearchBytes {
		c.invalid(path.Child("searches"), d.Searches, "must not have more than 2048 characters (including spaces) in the search list")
	}
	for i, search := range d.Searches {
		if search != "." {
			search = strings.TrimSuffix(search, ".")
			c.messages(path.Child("searches").Index(i), search, validation.IsDNS1123SubdomainWithUnderscore(search))
		}
	}
	for i, o := range d.Options {
		if o.Name == "" {
			c.required(path.Child("options").Index(i), "must not be empty")
		}
	}
}

// hostNetwork wants every host port of a pod on the host's network to be the
// container's own. In a template 0 is fine: the pod will have it filled in.
func (c *podCheck) hostNetwork(path *field.Path) {
	if !c.spec.HostNetwork {
		return
	}
	for i := range c.spec.Containers {
		for j, p := range c.spec.Containers[i].Ports {
			if (c.pod || p.HostPort != 0) && p.HostPort != p.ContainerPort {
				c.invalid(path.Index(i).Child("ports").Index(j).Child("hostPort"), p.HostPort,
					"must match `containerPort` when `hostNetwork` is true")
			}
		}
	}
}

// resourceClaims checks the claims of devices that a pod makes (KEP-4381).
func (c *podCheck) resourceClaims(path *field.Path) {
	c.claims = map[string]bool{}
	seen := map[string]bool{}
	if c.meta != nil {
		if _, mirror := c.meta.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
			for range c.spec.ResourceClaims {
				c.forbidden(field.NewPath(""), "static pods do not support resource claims")
			}
			seen = nil
		}
	}
	for i, claim := range c.spec.ResourceClaims {
		at := path.Index(i)
		if claim.Name != "" {
			c.claims[claim.Name] = true
		}
		if seen == nil {
			continue
		}
		switch {
		case claim.Name == "":
			c.required(at.Child("name"), "")
		case seen[claim.Name]:
			c.duplicate(at.Child("name"), claim.Name)
		default:
			c.dnsLabel(at.Child("name"), claim.Name)
			seen[claim.Name] = true
		}
		switch {
		case claim.ResourceClaimName != nil && claim.ResourceClaimTemplateName != nil:
			c.invalid(at, claim, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified")
		case claim.ResourceClaimName == nil && claim.ResourceClaimTemplateName == nil:
			c.invalid(at, claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`")
		}
		if claim.ResourceClaimName != nil {
			c.objectName(at.Child("resourceClaimName"), *claim.ResourceClaimName)
		}
		if claim.ResourceClaimTemplateName != nil {
			c.objectName(at.Child("resourceClaimTemplateName"), *claim.ResourceClaimTemplateName)
		}
	}
}

// labels wants keys and values as in metadata.labels.
func (c *podCheck) labels(p *field.Path, set map[string]string) {
	c.add(metav1validation.ValidateLabels(set, p)...)
}
