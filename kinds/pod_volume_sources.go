package kinds

import (
	"maps"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// foreignVolume checks the sources that some other storage system serves.
// They are not served yet, but who names one wrongly is told so.
func (c *podCheck) foreignVolume(v *corev1.Volume, at *field.Path, one sourceCheck) {
	one("gitRepo", v.GitRepo != nil, func() {
		c.need(at.Child("gitRepo", "repository"), v.GitRepo.Repository)
		c.relativePath(v.GitRepo.Directory, at.Child("gitRepo", "directory"))
	})
	// Kubernetes names this one otherwise in its errors.
	one("gcePersistentDisk", v.GCEPersistentDisk != nil, func() {
		c.need(at.Child("persistentDisk", "pdName"), v.GCEPersistentDisk.PDName)
		c.byteSized(int64(v.GCEPersistentDisk.Partition), at.Child("persistentDisk", "partition"))
	})
	one("awsElasticBlockStore", v.AWSElasticBlockStore != nil, func() {
		c.need(at.Child("awsElasticBlockStore", "volumeID"), v.AWSElasticBlockStore.VolumeID)
		c.byteSized(int64(v.AWSElasticBlockStore.Partition), at.Child("awsElasticBlockStore", "partition"))
	})
	one("nfs", v.NFS != nil, func() {
		c.need(at.Child("nfs", "server"), v.NFS.Server)
		c.need(at.Child("nfs", "path"), v.NFS.Path)
		if !path.IsAbs(v.NFS.Path) {
			c.invalid(at.Child("nfs", "path"), v.NFS.Path, "must be an absolute path")
		}
	})
	one("iscsi", v.ISCSI != nil, func() { c.iscsi(v.ISCSI, at.Child("iscsi")) })
	one("glusterfs", v.Glusterfs != nil, func() {
		c.need(at.Child("glusterfs", "endpoints"), v.Glusterfs.EndpointsName)
		c.need(at.Child("glusterfs", "path"), v.Glusterfs.Path)
	})
	one("flocker", v.Flocker != nil, func() { c.flocker(v.Flocker, at.Child("flocker")) })
	one("rbd", v.RBD != nil, func() {
		if len(v.RBD.CephMonitors) == 0 {
			c.required(at.Child("rbd", "monitors"), "")
		}
		c.need(at.Child("rbd", "image"), v.RBD.RBDImage)
	})
	one("cinder", v.Cinder != nil, func() {
		c.need(at.Child("cinder", "volumeID"), v.Cinder.VolumeID)
		c.secretRef(v.Cinder.SecretRef, at.Child("cinder"))
	})
	one("cephFS", v.CephFS != nil, func() {
		if len(v.CephFS.Monitors) == 0 {
			c.required(at.Child("cephfs", "monitors"), "")
		}
	})
	one("quobyte", v.Quobyte != nil, func() { c.quobyte(v.Quobyte, at.Child("quobyte")) })
	one("fc", v.FC != nil, func() { c.fibreChannel(v.FC, at.Child("fc")) })
	one("flexVolume", v.FlexVolume != nil, func() { c.flexVolume(v.FlexVolume, at.Child("flexVolume")) })
	one("csi", v.CSI != nil, func() { c.csi(v.CSI, at.Child("csi")) })
	one("ephemeral", v.Ephemeral != nil, func() { c.ephemeral(v, at) })
}

// cloudVolume checks the sources of clouds and appliances.
func (c *podCheck) cloudVolume(v *corev1.Volume, at *field.Path, one sourceCheck) {
	one("azureFile", v.AzureFile != nil, func() {
		c.need(at.Child("azureFile", "secretName"), v.AzureFile.SecretName)
		c.need(at.Child("azureFile", "shareName"), v.AzureFile.ShareName)
	})
	one("vsphereVolume", v.VsphereVolume != nil, func() {
		c.need(at.Child("vsphereVolume", "volumePath"), v.VsphereVolume.VolumePath)
	})
	one("photonPersistentDisk", v.PhotonPersistentDisk != nil, func() {
		c.need(at.Child("photonPersistentDisk", "pdID"), v.PhotonPersistentDisk.PdID)
	})
	one("portworxVolume", v.PortworxVolume != nil, func() {
		c.need(at.Child("portworxVolume", "volumeID"), v.PortworxVolume.VolumeID)
	})
	one("azureDisk", v.AzureDisk != nil, func() { c.azureDisk(v.AzureDisk, at.Child("azureDisk")) })
	one("storageos", v.StorageOS != nil, func() {
		s, at := v.StorageOS, at.Child("storageos")
		if s.VolumeName == "" {
			c.required(at.Child("volumeName"), "")
		} else {
			c.dnsLabel(at.Child("volumeName"), s.VolumeName)
		}
		if s.VolumeNamespace != "" {
			c.dnsLabel(at.Child("volumeNamespace"), s.VolumeNamespace)
		}
		c.secretRef(s.SecretRef, at)
	})
	one("scaleIO", v.ScaleIO != nil, func() {
		c.need(at.Child("scaleIO", "gateway"), v.ScaleIO.Gateway)
		c.need(at.Child("scaleIO", "system"), v.ScaleIO.System)
		c.need(at.Child("scaleIO", "volumeName"), v.ScaleIO.VolumeName)
	})
}

// need wants something said.
func (c *podCheck) need(at *field.Path, value string) {
	if value == "" {
		c.required(at, "")
	}
}

// byteSized wants a number from 0 to 255.
func (c *podCheck) byteSized(n int64, at *field.Path) {
	if n < 0 || n > 255 {
		c.invalid(at, n, validation.InclusiveRangeError(0, 255))
	}
}

// secretRef wants the name of a secret that is referred to.
func (c *podCheck) secretRef(r *corev1.LocalObjectReference, at *field.Path) {
	if r != nil {
		c.need(at.Child("secretRef", "name"), r.Name)
	}
}

const maxISCSITarget = 64 // bytes of "volume:portal"

// The three forms of an iSCSI name (RFC 3720 section 3.2.6, RFC 3980).
var iscsiNames = map[string]*regexp.Regexp{
	"iqn": regexp.MustCompile(`iqn\.[0-9]{4}-[0-9]{2}\.[[:alnum:].-]+:[^,;*&$|\s]+$`),
	"eui": regexp.MustCompile(`^eui.[[:alnum:]]{16}$`),
	"naa": regexp.MustCompile(`^naa.[[:alnum:]]{32}$`),
}

func (c *podCheck) iscsi(s *corev1.ISCSIVolumeSource, at *field.Path) {
	c.need(at.Child("targetPortal"), s.TargetPortal)
	if s.IQN == "" {
		c.required(at.Child("iqn"), "")
	} else {
		c.iscsiName(s.IQN, at.Child("iqn"))
	}
	c.byteSized(int64(s.Lun), at.Child("lun"))
	if (s.DiscoveryCHAPAuth || s.SessionCHAPAuth) && s.SecretRef == nil {
		c.required(at.Child("secretRef"), "")
	}
	if s.InitiatorName != nil {
		c.iscsiName(*s.InitiatorName, at.Child("initiatorname"))
	}
}

func (c *podCheck) iscsiName(name string, at *field.Path) {
	if form, ok := iscsiNames[name[:min(len(name), len("iqn"))]]; !ok {
		c.invalid(at, name, "must be valid format starting with iqn, eui, or naa")
	} else if !form.MatchString(name) {
		c.invalid(at, name, "must be valid format")
	}
}

func (c *podCheck) flocker(f *corev1.FlockerVolumeSource, at *field.Path) {
	switch {
	case f.DatasetName == "" && f.DatasetUUID == "":
		c.required(at, "one of datasetName and datasetUUID is required")
	case f.DatasetName != "" && f.DatasetUUID != "":
		c.invalid(at, "resource", "datasetName and datasetUUID can not be specified simultaneously")
	}
	if strings.Contains(f.DatasetName, "/") {
		c.invalid(at.Child("datasetName"), f.DatasetName, "must not contain '/'")
	}
}

func (c *podCheck) quobyte(q *corev1.QuobyteVolumeSource, at *field.Path) {
	const maxTenant = 64 // bytes
	const detail = "must be a host:port pair or multiple pairs separated by commas"
	switch {
	case q.Registry == "":
		c.required(at.Child("registry"), detail)
	case len(q.Tenant) > maxTenant:
		c.required(at.Child("tenant"), "must be a UUID and may not exceed a length of 64 characters")
	default:
		for _, pair := range strings.Split(q.Registry, ",") {
			if !hostPort(pair) {
				c.invalid(at.Child("registry"), q.Registry, detail)
			}
		}
	}
	c.need(at.Child("volume"), q.Volume)
}

// hostPort tells whether s is "host:port" or "[host]:port"; either may be empty.
func hostPort(s string) bool {
	colon := strings.LastIndexByte(s, ':')
	if colon < 0 {
		return false
	}
	host := s[:colon]
	if strings.HasPrefix(host, "[") {
		end := strings.IndexByte(host, ']')
		return end == len(host)-1 && !strings.ContainsAny(host[1:end], "[") && !strings.ContainsAny(s[colon:], "[]")
	}
	return !strings.ContainsAny(host, ":[]") && !strings.ContainsAny(s[colon:], "[]")
}

func (c *podCheck) fibreChannel(f *corev1.FCVolumeSource, at *field.Path) {
	switch {
	case len(f.TargetWWNs) == 0 && len(f.WWIDs) == 0:
		c.required(at.Child("targetWWNs"), "must specify either targetWWNs or wwids, but not both")
	case len(f.TargetWWNs) > 0 && len(f.WWIDs) > 0:
		c.invalid(at.Child("targetWWNs"), f.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously")
	}
	if len(f.TargetWWNs) == 0 {
		return
	}
	if f.Lun == nil {
		c.required(at.Child("lun"), "lun is required if targetWWNs is specified")
	} else {
		c.byteSized(int64(*f.Lun), at.Child("lun"))
	}
}

func (c *podCheck) flexVolume(f *corev1.FlexVolumeSource, at *field.Path) {
	c.need(at.Child("driver"), f.Driver)
	for _, k := range slices.Sorted(maps.Keys(f.Options)) {
		domain := k
		if d, _, ok := strings.Cut(k, "/"); ok {
			domain = d
		}
		domain = "." + strings.ToLower(domain)
		if strings.HasSuffix(domain, ".kubernetes.io") || strings.HasSuffix(domain, ".k8s.io") {
			c.invalid(at.Child("options").Key(k), k, "kubernetes.io and k8s.io namespaces are reserved")
		}
	}
}

func (c *podCheck) azureDisk(a *corev1.AzureDiskVolumeSource, at *field.Path) {
	c.need(at.Child("diskName"), a.DiskName)
	c.need(at.Child("diskURI"), a.DataDiskURI)
	if a.CachingMode != nil {
		among(c, at.Child("cachingMode"), *a.CachingMode, corev1.AzureDataDiskCachingNone,
			corev1.AzureDataDiskCachingReadOnly, corev1.AzureDataDiskCachingReadWrite)
	}
	if a.Kind == nil {
		return
	}
	among(c, at.Child("kind"), *a.Kind, corev1.AzureSharedBlobDisk, corev1.AzureDedicatedBlobDisk, corev1.AzureManagedDisk)
	managed := *a.Kind == corev1.AzureManagedDisk
	switch {
	case managed && !strings.HasPrefix(a.DataDiskURI, "/subscriptions/"):
		c.add(field.NotSupported(at.Child("diskURI"), a.DataDiskURI, []string{
			"/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"}))
	case !managed && !strings.HasPrefix(a.DataDiskURI, "https://"):
		c.add(field.NotSupported(at.Child("diskURI"), a.DataDiskURI, []string{
			"https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"}))
	}
}

const maxCSIDriver = 63 // bytes

func (c *podCheck) csi(s *corev1.CSIVolumeSource, at *field.Path) {
	if s.Driver == "" {
		c.required(at.Child("driver"), "")
	} else {
		if len(s.Driver) > maxCSIDriver {
			c.add(field.TooLong(at.Child("driver"), "", maxCSIDriver))
		}
		c.messages(at.Child("driver"), s.Driver, validation.IsDNS1123Subdomain(strings.ToLower(s.Driver)))
	}
	if r := s.NodePublishSecretRef; r != nil {
		if r.Name == "" {
			c.required(at.Child("nodePublishSecretRef", "name"), "")
		} else {
			c.objectName(at.Child("name"), r.Name)
		}
	}
}

// ephemeral checks a volume for which a claim is made with the pod (KEP-1698).
func (c *podCheck) ephemeral(v *corev1.Volume, at *field.Path) {
	template := at.Child("ephemeral", "volumeClaimTemplate")
	if t := v.Ephemeral.VolumeClaimTemplate; t == nil {
		c.required(template, "")
	} else {
		c.claimTemplateMeta(&t.ObjectMeta, template)
		c.claimSpec(&t.Spec, template.Child("spec"))
	}
	if c.meta != nil && c.meta.Name != "" && v.Name != "" {
		c.messages(at.Child("name"), v.Name, apivalidation.NameIsDNSSubdomain(c.meta.Name+"-"+v.Name, false))
	}
}

// claimTemplateMeta allows a template labels and annotations alone.
func (c *podCheck) claimTemplateMeta(m *metav1.ObjectMeta, at *field.Path) {
	c.add(apivalidation.ValidateAnnotations(m.Annotations, at.Child("metadata", "annotations"))...)
	c.labels(at.Child("metadata", "labels"), m.Labels)
	v := reflect.ValueOf(*m)
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if name == "Labels" || name == "Annotations" || v.Field(i).IsZero() {
			continue
		}
		lower := string(unicode.ToLower(rune(name[0]))) + name[1:]
		c.forbidden(at.Child("metadata", lower), "cannot be set")
	}
}

func (c *podCheck) claimSpec(s *corev1.PersistentVolumeClaimSpec, at *field.Path) {
	modes := at.Child("accessModes")
	if len(s.AccessModes) == 0 {
		c.required(modes, "at least 1 access mode is required")
	}
	supported := []corev1.PersistentVolumeAccessMode{
		corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod,
	}
	others := false
	for _, m := range s.AccessModes {
		among(c, modes, m, supported...)
		others = others || (m != corev1.ReadWriteOncePod && slices.Contains(supported, m))
	}
	if others && slices.Contains(s.AccessModes, corev1.ReadWriteOncePod) {
		c.forbidden(modes, "may not use ReadWriteOncePod with other access modes")
	}
	if s.Selector != nil {
		c.selector(s.Selector, at.Child("selector"))
	}
	size := at.Child("resources").Key(string(corev1.ResourceStorage))
	if q, ok := s.Resources.Requests[corev1.ResourceStorage]; !ok {
		c.required(size, "")
	} else if q.Cmp(resource.Quantity{}) <= 0 {
		c.invalid(size, q.String(), "must be greater than zero")
	}
	if value(s.StorageClassName) != "" {
		c.objectName(at.Child("storageClassName"), *s.StorageClassName)
	}
	if s.VolumeMode != nil {
		among(c, at.Child("volumeMode"), *s.VolumeMode, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)
	}
	if value(s.VolumeAttributesClassName) != "" {
		c.objectName(at.Child("volumeAttributesClassName"), *s.VolumeAttributesClassName)
	}
	c.claimSource(s, at)
}

// claimSource checks what a claim is to be filled from.
func (c *podCheck) claimSource(s *corev1.PersistentVolumeClaimSpec, at *field.Path) {
	check := func(group *string, kind, name string, at *field.Path) {
		c.need(at.Child("name"), name)
		c.need(at.Child("kind"), kind)
		if value(group) == "" && kind != "PersistentVolumeClaim" {
			c.invalid(at, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup")
		}
		if value(group) != "" {
			c.messages(at.Child("apiGroup"), *group, validation.IsDNS1123Subdomain(*group))
		}
	}
	from, ref := s.DataSource, s.DataSourceRef
	if from != nil {
		check(from.APIGroup, from.Kind, from.Name, at.Child("dataSource"))
	}
	if ref == nil {
		return
	}
	check(ref.APIGroup, ref.Kind, ref.Name, at.Child("dataSourceRef"))
	if value(ref.Namespace) != "" {
		c.messages(at.Child("dataSourceRef", "namespace"), *ref.Namespace, apivalidation.ValidateNamespaceName(*ref.Namespace, false))
		if from != nil {
			c.invalid(at, at.Child("dataSource"), "may not be specified when dataSourceRef.namespace is specified")
		}
		return
	}
	if from != nil && (value(from.APIGroup) != value(ref.APIGroup) || (from.APIGroup == nil) != (ref.APIGroup == nil) ||
		from.Kind != ref.Kind || from.Name != ref.Name) {
		c.invalid(at, at.Child("dataSource"), "must match dataSourceRef")
	}
}
