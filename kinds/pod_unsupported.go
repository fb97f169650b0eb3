package kinds

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// notSupportedYet refuses a field that is right, but that no part of Rutter
// acts on: to accept it would be to ignore it.
func notSupportedYet(at *field.Path) *field.Error {
	return field.Forbidden(at, "not supported yet")
}

func sameSpec(a, b *corev1.Pod) bool { return same(a.Spec, b.Spec) }

// unsupportedPodFields names every field of a pod spec that is valid, says
// something, and is not acted on yet. What is missing here is acted on.
func unsupportedPodFields(s *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	refuse := func(at *field.Path, fields ...setField) {
		for _, f := range fields {
			if f.set {
				errs = append(errs, notSupportedYet(at.Child(f.name)))
			}
		}
	}
	refuse(path,
		setField{"ephemeralContainers", len(s.EphemeralContainers) > 0},
		setField{"activeDeadlineSeconds", s.ActiveDeadlineSeconds != nil},
		setField{"shareProcessNamespace", value(s.ShareProcessNamespace)},
		setField{"runtimeClassName", s.RuntimeClassName != nil},
		setField{"overhead", len(s.Overhead) > 0},
		setField{"setHostnameAsFQDN", value(s.SetHostnameAsFQDN)},
		setField{"hostUsers", s.HostUsers != nil && !*s.HostUsers},
		setField{"resourceClaims", len(s.ResourceClaims) > 0},
		setField{"resources", podLevelResourcesSet(s.Resources)},
		setField{"hostnameOverride", s.HostnameOverride != nil},
		setField{"schedulingGroup", s.SchedulingGroup != nil},
		setField{"evictionResponders", len(s.EvictionResponders) > 0},
	)
	if s.OS != nil && s.OS.Name != corev1.Linux {
		refuse(path, setField{"os", true})
	}
	if sc := s.SecurityContext; sc != nil {
		at := path.Child("securityContext")
		refuse(at,
			setField{"seLinuxOptions", sc.SELinuxOptions != nil},
			setField{"seLinuxChangePolicy", sc.SELinuxChangePolicy != nil},
			setField{"windowsOptions", sc.WindowsOptions != nil},
			setField{"sysctls", len(sc.Sysctls) > 0},
			setField{"fsGroupChangePolicy", sc.FSGroupChangePolicy != nil && *sc.FSGroupChangePolicy != corev1.FSGroupChangeAlways},
			setField{"supplementalGroupsPolicy", sc.SupplementalGroupsPolicy != nil && *sc.SupplementalGroupsPolicy != corev1.SupplementalGroupsPolicyMerge},
			setField{"seccompProfile", sc.SeccompProfile != nil && sc.SeccompProfile.Type != corev1.SeccompProfileTypeUnconfined},
			setField{"appArmorProfile", sc.AppArmorProfile != nil && sc.AppArmorProfile.Type != corev1.AppArmorProfileTypeUnconfined},
		)
	}
	for i := range s.Volumes {
		errs = append(errs, unsupportedVolume(&s.Volumes[i].VolumeSource, path.Child("volumes").Index(i))...)
	}
	for i := range s.InitContainers {
		errs = append(errs, unsupportedContainer(&s.InitContainers[i], path.Child("initContainers").Index(i))...)
	}
	for i := range s.Containers {
		errs = append(errs, unsupportedContainer(&s.Containers[i], path.Child("containers").Index(i))...)
	}
	return errs
}

// unsupportedVolume names the source of a volume if it is not one of those that
// the node agent makes: emptyDir, hostPath, configMap, secret, downwardAPI and
// projected.
func unsupportedVolume(v *corev1.VolumeSource, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, f := range []setField{
		{"gcePersistentDisk", v.GCEPersistentDisk != nil}, {"awsElasticBlockStore", v.AWSElasticBlockStore != nil},
		{"gitRepo", v.GitRepo != nil}, {"nfs", v.NFS != nil}, {"iscsi", v.ISCSI != nil}, {"glusterfs", v.Glusterfs != nil},
		{"persistentVolumeClaim", v.PersistentVolumeClaim != nil}, {"rbd", v.RBD != nil}, {"flexVolume", v.FlexVolume != nil},
		{"cinder", v.Cinder != nil}, {"cephfs", v.CephFS != nil}, {"flocker", v.Flocker != nil}, {"fc", v.FC != nil},
		{"azureFile", v.AzureFile != nil}, {"vsphereVolume", v.VsphereVolume != nil}, {"quobyte", v.Quobyte != nil},
		{"azureDisk", v.AzureDisk != nil}, {"photonPersistentDisk", v.PhotonPersistentDisk != nil},
		{"portworxVolume", v.PortworxVolume != nil}, {"scaleIO", v.ScaleIO != nil}, {"storageos", v.StorageOS != nil},
		{"csi", v.CSI != nil}, {"ephemeral", v.Ephemeral != nil}, {"image", v.Image != nil},
	} {
		if f.set {
			errs = append(errs, notSupportedYet(at.Child(f.name)))
		}
	}
	if p := v.Projected; p != nil {
		for i := range p.Sources {
			at := at.Child("projected", "sources").Index(i)
			if p.Sources[i].ClusterTrustBundle != nil {
				errs = append(errs, notSupportedYet(at.Child("clusterTrustBundle")))
			}
			if p.Sources[i].PodCertificate != nil {
				errs = append(errs, notSupportedYet(at.Child("podCertificate")))
			}
		}
	}
	switch e := v.EmptyDir; {
	case e == nil, e.Medium == corev1.StorageMediumMemory:
	case e.Medium != corev1.StorageMediumDefault:
		errs = append(errs, notSupportedYet(at.Child("emptyDir", "medium")))
	case e.SizeLimit != nil: // on disk nothing holds it
		errs = append(errs, notSupportedYet(at.Child("emptyDir", "sizeLimit")))
	}
	return errs
}

// limited are the resources that a container can be held to.
var limited = []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory}

// unsupportedContainer names what of a container is not acted on.
func unsupportedContainer(c *corev1.Container, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	refuse := func(at *field.Path, fields ...setField) {
		for _, f := range fields {
			if f.set {
				errs = append(errs, notSupportedYet(at.Child(f.name)))
			}
		}
	}
	refuse(at,
		setField{"restartPolicy", c.RestartPolicy != nil},
		setField{"restartPolicyRules", len(c.RestartPolicyRules) > 0},
		setField{"resizePolicy", len(c.ResizePolicy) > 0},
		setField{"volumeDevices", len(c.VolumeDevices) > 0},
	)
	for _, name := range slices.Sorted(maps.Keys(c.Resources.Limits)) {
		if !slices.Contains(limited, name) {
			errs = append(errs, notSupportedYet(at.Child("resources", "limits").Key(string(name))))
		}
	}
	refuse(at.Child("resources"), setField{"claims", len(c.Resources.Claims) > 0})
	for i, e := range c.Env {
		if e.ValueFrom != nil && e.ValueFrom.FileKeyRef != nil {
			refuse(at.Child("env").Index(i).Child("valueFrom"), setField{"fileKeyRef", true})
		}
	}
	for i, m := range c.VolumeMounts {
		refuse(at.Child("volumeMounts").Index(i),
			setField{"recursiveReadOnly", m.RecursiveReadOnly != nil && *m.RecursiveReadOnly != corev1.RecursiveReadOnlyDisabled},
			setField{"bindMountOptions", len(m.BindMountOptions) > 0},
		)
	}
	if sc := c.SecurityContext; sc != nil {
		refuse(at.Child("securityContext"),
			setField{"seLinuxOptions", sc.SELinuxOptions != nil},
			setField{"windowsOptions", sc.WindowsOptions != nil},
			setField{"procMount", sc.ProcMount != nil && *sc.ProcMount != corev1.DefaultProcMount},
			setField{"seccompProfile", sc.SeccompProfile != nil && sc.SeccompProfile.Type != corev1.SeccompProfileTypeUnconfined},
			setField{"appArmorProfile", sc.AppArmorProfile != nil && sc.AppArmorProfile.Type != corev1.AppArmorProfileTypeUnconfined},
		)
	}
	return errs
}
