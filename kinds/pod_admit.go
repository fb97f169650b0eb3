package kinds

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/rutterhq/rutter/kernel"
)

// What every pod that does not say otherwise gets from the cluster.
const (
	defaultServiceAccount = "default"
	tokenVolumePrefix     = "kube-api-access-"
	tokenMountPath        = "/var/run/secrets/kubernetes.io/serviceaccount"
	rootCAConfigMap       = "kube-root-ca.crt"
	// mountedTokenSeconds is how long a mounted token is valid: an hour and
	// seven seconds, by which Kubernetes' clients tell such tokens.
	mountedTokenSeconds int64 = 60*60 + 7
	// lostNodeSeconds is how long a pod stays on a node that is not ready or
	// not heard of.
	lostNodeSeconds int64 = 300
)

// admitPod is what Kubernetes' admission does to pods: who may bind, service
// account, priority, pod security, tolerations; and Rutter's own refusal of what no part of
// it acts on yet.
func admitPod(v *kernel.View, w kernel.Write, now, old *corev1.Pod) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec")
	if old == nil {
		errs = append(errs, admitServiceAccount(v, w, now)...)
		errs = append(errs, admitPriority(v, now)...)
		errs = append(errs, admitPodSecurity(v, w.Key.Namespace, now)...)
	} else {
		if now.Spec.NodeName != old.Spec.NodeName && w.Subresource != kernel.Whole && w.Subresource != "binding" {
			errs = append(errs, field.Invalid(path.Child("nodeName"), now.Spec.NodeName, "a pod is bound through its binding subresource alone"))
		}
		now.Spec.Priority = keep(now.Spec.Priority, old.Spec.Priority)
		now.Spec.PreemptionPolicy = keep(now.Spec.PreemptionPolicy, old.Spec.PreemptionPolicy)
	}
	tolerateLostNodes(&now.Spec)
	if _, mirror := now.Annotations[corev1.MirrorPodAnnotationKey]; mirror && old == nil {
		errs = append(errs, notSupportedYet(field.NewPath("metadata", "annotations").Key(corev1.MirrorPodAnnotationKey)))
	}
	if old == nil || !sameSpec(now, old) {
		errs = append(errs, unsupportedPodFields(&now.Spec, path)...)
	}
	return errs
}

// keep returns a copy of the old value where an update has left it out.
func keep[V any](now, old *V) *V {
	if now == nil && old != nil {
		return pointer(*old)
	}
	return now
}

// admitServiceAccount gives the pod its identity: the account must exist, and
// its token is mounted unless pod or account say no.
func admitServiceAccount(v *kernel.View, w kernel.Write, p *corev1.Pod) field.ErrorList {
	s := &p.Spec
	s.ServiceAccountName = or(s.ServiceAccountName, defaultServiceAccount)
	s.DeprecatedServiceAccount = s.ServiceAccountName
	account, ok := ServiceAccounts.Get(v, w.Key.Namespace, s.ServiceAccountName)
	if !ok {
		return field.ErrorList{field.Forbidden(field.NewPath("spec", "serviceAccountName"),
			fmt.Sprintf("error looking up service account %s/%s: serviceaccount %q not found", w.Key.Namespace, s.ServiceAccountName, s.ServiceAccountName))}
	}
	if errs := mountableSecrets(account, s); len(errs) > 0 {
		return errs
	}
	mount := s.AutomountServiceAccountToken
	if mount == nil {
		mount = account.AutomountServiceAccountToken
	}
	if mount == nil || *mount {
		// The uid of an object that a decider makes is not settled here. What
		// it derives from is, and serves as well to make the name its own.
		identity := or(w.UID, fmt.Sprintf("%s/%s@%d", w.Key.Namespace, p.Name, w.Seen))
		mountToken(s, generateName(tokenVolumePrefix, identity))
	}
	if len(s.ImagePullSecrets) == 0 {
		for _, r := range account.ImagePullSecrets {
			s.ImagePullSecrets = append(s.ImagePullSecrets, corev1.LocalObjectReference{Name: r.Name})
		}
	}
	return nil
}

// mountableSecrets holds the pods of an account that says so to the secrets
// that the account lists.
func mountableSecrets(account *corev1.ServiceAccount, s *corev1.PodSpec) field.ErrorList {
	if enforced, err := strconv.ParseBool(account.Annotations["kubernetes.io/enforce-mountable-secrets"]); err != nil || !enforced {
		return nil
	}
	var errs field.ErrorList
	path := field.NewPath("spec")
	check := func(name string, at *field.Path) {
		if !slices.ContainsFunc(account.Secrets, func(r corev1.ObjectReference) bool { return r.Name == name }) {
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("%s: secret %q is not allowed because service account %s does not reference that secret",
				at, name, account.Name)))
		}
	}
	for i, v := range s.Volumes {
		if v.Secret != nil {
			check(v.Secret.SecretName, path.Child("volumes").Index(i).Child("secret", "secretName"))
		}
	}
	c := &podCheck{spec: s}
	c.eachContainer(path, func(ctr *corev1.Container, at *field.Path) {
		for i, e := range ctr.Env {
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
				check(e.ValueFrom.SecretKeyRef.Name, at.Child("env").Index(i).Child("valueFrom", "secretKeyRef", "name"))
			}
		}
		for i, e := range ctr.EnvFrom {
			if e.SecretRef != nil {
				check(e.SecretRef.Name, at.Child("envFrom").Index(i).Child("secretRef", "name"))
			}
		}
	})
	for i, r := range s.ImagePullSecrets {
		if !slices.Contains(account.ImagePullSecrets, r) {
			errs = append(errs, field.Forbidden(path.Child("imagePullSecrets").Index(i), fmt.Sprintf(
				`imagePullSecrets[%d].name="%s" is not allowed because service account %s does not reference that imagePullSecret`, i, r.Name, account.Name)))
		}
	}
	return errs
}

// mountToken mounts token, CA and namespace into every container that has
// nothing in that place.
func mountToken(s *corev1.PodSpec, volume string) {
	present := false
	for i := range s.Volumes {
		if strings.HasPrefix(s.Volumes[i].Name, tokenVolumePrefix) {
			volume, present = s.Volumes[i].Name, true
			break
		}
	}
	needed := false
	for _, containers := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for i := range containers {
			if !mountsAt(&containers[i], tokenMountPath) {
				containers[i].VolumeMounts = append(containers[i].VolumeMounts,
					corev1.VolumeMount{Name: volume, ReadOnly: true, MountPath: tokenMountPath})
				needed = true
			}
		}
	}
	if needed && !present {
		s.Volumes = append(s.Volumes, tokenVolume(volume))
	}
}

func mountsAt(c *corev1.Container, path string) bool {
	for _, m := range c.VolumeMounts {
		if m.MountPath == path {
			return true
		}
	}
	return false
}

func tokenVolume(name string) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		DefaultMode: pointer(defaultFileMode),
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: pointer(mountedTokenSeconds)}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: rootCAConfigMap},
				Items:                []corev1.KeyToPath{{Key: corev1.ServiceAccountRootCAKey, Path: corev1.ServiceAccountRootCAKey}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}},
			}}},
		},
	}}}
}

// admitPriority resolves the priority class that the pod names, or the
// cluster's default; without one, priority 0.
func admitPriority(v *kernel.View, p *corev1.Pod) field.ErrorList {
	path, s := field.NewPath("spec"), &p.Spec
	var class *schedulingv1.PriorityClass
	if s.PriorityClassName != "" {
		var ok bool
		if class, ok = PriorityClasses.Get(v, "", s.PriorityClassName); !ok {
			return field.ErrorList{field.Forbidden(path.Child("priorityClassName"),
				fmt.Sprintf("no PriorityClass with name %v was found", s.PriorityClassName))}
		}
	} else if class = globalPriorityClass(v); class != nil {
		s.PriorityClassName = class.Name
	}
	priority, preemption := int32(0), corev1.PreemptLowerPriority
	if class != nil {
		priority = class.Value
		if class.PreemptionPolicy != nil {
			preemption = *class.PreemptionPolicy
		}
	}
	var errs field.ErrorList
	if s.Priority != nil && *s.Priority != priority {
		errs = append(errs, field.Forbidden(path.Child("priority"), fmt.Sprintf(
			"the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name",
			*s.Priority, priority)))
	}
	if s.PreemptionPolicy != nil && *s.PreemptionPolicy != preemption {
		errs = append(errs, field.Forbidden(path.Child("preemptionPolicy"), fmt.Sprintf(
			"the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name",
			*s.PreemptionPolicy, preemption)))
	}
	s.Priority, s.PreemptionPolicy = &priority, &preemption
	return errs
}

// globalPriorityClass is the class that pods get which name none: of several
// that say so, the one of the lowest priority. nil if there is none.
func globalPriorityClass(v *kernel.View) *schedulingv1.PriorityClass {
	var lowest *schedulingv1.PriorityClass
	for _, c := range PriorityClasses.List(v, "") {
		if c.GlobalDefault && (lowest == nil || c.Value < lowest.Value) {
			lowest = c
		}
	}
	return lowest
}

// tolerateLostNodes lets a pod stay for a while on a node that is lost, unless
// it says itself for how long.
func tolerateLostNodes(s *corev1.PodSpec) {
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		tolerated := false
		for _, t := range s.Tolerations {
			tolerated = tolerated || (t.Key == key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "")
		}
		if !tolerated {
			s.Tolerations = append(s.Tolerations, corev1.Toleration{
				Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: pointer(lostNodeSeconds),
			})
		}
	}
}
