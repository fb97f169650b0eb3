package kinds

import (
	"maps"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Bounds of what volumes hold.
const (
	maxFileMode      int32 = 0o777
	maxFolderMode    int32 = 0o1777
	minTokenSeconds  int64 = 10 * 60
	maxTokenSeconds  int64 = 1 << 32
	minCertSeconds   int32 = 3600
	maxCertSeconds   int32 = 91 * 24 * 3600
	maxOwnCertSecond int32 = 24 * 3600 // from signers of kubernetes.io
)

// allVolumes checks a pod's volumes and remembers those without fault: mounts
// of the others would only be told of the same mistake again.
func (c *podCheck) allVolumes(at *field.Path) {
	c.volumes = map[string]corev1.VolumeSource{}
	made := map[string]bool{} // claims that will be made for ephemeral volumes
	if c.meta != nil && c.meta.Name != "" {
		for _, v := range c.spec.Volumes {
			if v.Ephemeral != nil {
				made[c.meta.Name+"-"+v.Name] = true
			}
		}
	}
	for i := range c.spec.Volumes {
		v, at := &c.spec.Volumes[i], at.Index(i)
		before := len(c.errs)
		c.volume(v, at)
		if v.Name == "" {
			c.required(at.Child("name"), "")
		} else {
			c.dnsLabel(at.Child("name"), v.Name)
		}
		if _, ok := c.volumes[v.Name]; ok {
			c.duplicate(at.Child("name"), v.Name)
		}
		if len(c.errs) == before {
			c.volumes[v.Name] = v.VolumeSource
		}
		if claim := v.PersistentVolumeClaim; claim != nil && made[claim.ClaimName] {
			c.invalid(at.Child("persistentVolumeClaim", "claimName"), claim.ClaimName,
				"must not reference a PVC that gets created for an ephemeral volume")
		}
	}
}

// volumeSources are the sources in the order in which Kubernetes looks at
// them: of several the first is checked, the others are refused. Two names are
// not those of the API, but those that its errors have.
var volumeSources = []string{
	"emptyDir", "hostPath", "gitRepo", "gcePersistentDisk", "awsElasticBlockStore", "secret", "nfs", "iscsi", "glusterfs",
	"flocker", "persistentVolumeClaim", "rbd", "cinder", "cephFS", "quobyte", "downwarAPI", "fc", "flexVolume", "configMap",
	"azureFile", "vsphereVolume", "photonPersistentDisk", "portworxVolume", "azureDisk", "storageos", "projected", "scaleIO",
	"csi", "ephemeral", "image",
}

// sourceCheck offers the check of a source, if a volume has it.
type sourceCheck func(name string, given bool, check func())

// volume checks that a volume has one source, and the first it has.
func (c *podCheck) volume(v *corev1.Volume, at *field.Path) {
	given := map[string]func(){}
	offer := func(name string, is bool, check func()) {
		if is {
			given[name] = check
		}
	}
	c.localVolume(v, at, offer)
	c.foreignVolume(v, at, offer)
	c.cloudVolume(v, at, offer)
	if len(given) == 0 {
		c.required(at, "must specify a volume type")
	}
	first := true
	for _, name := range volumeSources {
		check, ok := given[name]
		switch {
		case !ok:
			continue
		case first || name == "emptyDir":
			check()
		default:
			c.forbidden(at.Child(name), "may not specify more than 1 volume type")
		}
		first = false
	}
	if v.ISCSI != nil && v.ISCSI.InitiatorName != nil && len(v.Name)+len(":")+len(v.ISCSI.TargetPortal) > maxISCSITarget {
		c.invalid(at.Child("name"), v.Name,
			"Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.")
	}
}

// localVolume checks sources that the node itself has or fills from the API.
func (c *podCheck) localVolume(v *corev1.Volume, at *field.Path, one sourceCheck) {
	one("emptyDir", v.EmptyDir != nil, func() { c.emptyDir(v.EmptyDir, at.Child("emptyDir")) })
	one("hostPath", v.HostPath != nil, func() { c.hostPath(v.HostPath, at.Child("hostPath")) })
	one("projected", v.Projected != nil, func() { c.projected(v.Projected, at.Child("projected")) })
	one("image", v.Image != nil, func() {
		c.need(at.Child("image", "reference"), v.Image.Reference)
		c.pullPolicy(v.Image.PullPolicy, at.Child("image", "pullPolicy"))
	})
	one("secret", v.Secret != nil, func() {
		p := at.Child("secret")
		if v.Secret.SecretName == "" {
			c.required(p.Child("secretName"), "")
		}
		c.fileMode(v.Secret.DefaultMode, p.Child("defaultMode"))
		c.userID(v.Secret.DefaultUser, p.Child("defaultUser"))
		c.keysToPaths(v.Secret.Items, p.Child("items"))
	})
	one("persistentVolumeClaim", v.PersistentVolumeClaim != nil, func() {
		if v.PersistentVolumeClaim.ClaimName == "" {
			c.required(at.Child("persistentVolumeClaim", "claimName"), "")
		}
	})
	one("downwarAPI", v.DownwardAPI != nil, func() {
		p := at.Child("downwardAPI")
		c.fileMode(v.DownwardAPI.DefaultMode, p.Child("defaultMode"))
		c.userID(v.DownwardAPI.DefaultUser, p.Child("defaultUser"))
		for i := range v.DownwardAPI.Items {
			c.downwardFile(&v.DownwardAPI.Items[i], p)
		}
	})
	one("configMap", v.ConfigMap != nil, func() {
		p := at.Child("configMap")
		if v.ConfigMap.Name == "" {
			c.required(p.Child("name"), "")
		}
		c.fileMode(v.ConfigMap.DefaultMode, p.Child("defaultMode"))
		c.userID(v.ConfigMap.DefaultUser, p.Child("defaultUser"))
		c.keysToPaths(v.ConfigMap.Items, p.Child("items"))
	})
}

func (c *podCheck) emptyDir(e *corev1.EmptyDirVolumeSource, at *field.Path) {
	if e.SizeLimit != nil && e.SizeLimit.Sign() < 0 {
		c.forbidden(at.Child("sizeLimit"), "SizeLimit field must be a valid resource quantity")
	}
	if e.Mode != nil && (*e.Mode < 0 || *e.Mode > maxFolderMode) {
		c.invalid(at.Child("mode"), *e.Mode, "must be a number between 0 and 01777 (octal), both inclusive")
	}
}

func (c *podCheck) hostPath(h *corev1.HostPathVolumeSource, at *field.Path) {
	if h.Path == "" {
		c.required(at.Child("path"), "")
		return
	}
	c.noDotDot(h.Path, at.Child("path"))
	if h.Type != nil {
		among(c, at.Child("type"), *h.Type, corev1.HostPathUnset, corev1.HostPathDirectoryOrCreate, corev1.HostPathDirectory,
			corev1.HostPathFileOrCreate, corev1.HostPathFile, corev1.HostPathSocket, corev1.HostPathCharDev, corev1.HostPathBlockDev)
	}
}

func (c *podCheck) fileMode(m *int32, at *field.Path) {
	if m != nil && (*m < 0 || *m > maxFileMode) {
		c.invalid(at, *m, "must be a number between 0 and 0777 (octal), both inclusive")
	}
}

func (c *podCheck) userID(u *int64, at *field.Path) {
	if u != nil {
		c.messages(at, *u, validation.IsValidUserID(*u))
	}
}

func (c *podCheck) groupID(g *int64, at *field.Path) {
	if g != nil {
		c.messages(at, *g, validation.IsValidGroupID(*g))
	}
}

// noDotDot keeps a path inside of where it begins.
func (c *podCheck) noDotDot(p string, at *field.Path) {
	if hasDotDot(p) {
		c.invalid(at, p, "must not contain '..'")
	}
}

// relativePath wants a path that goes down from where it begins.
func (c *podCheck) relativePath(p string, at *field.Path) {
	if path.IsAbs(p) {
		c.invalid(at, p, "must be a relative path")
	}
	c.noDotDot(p, at)
}

// filePath wants a name for a file in a volume that is written as a whole:
// what begins with ".." is the volume's own.
func (c *podCheck) filePath(p string, at *field.Path) {
	c.relativePath(p, at)
	if strings.HasPrefix(p, "..") && !strings.HasPrefix(p, "../") {
		c.invalid(at, p, "must not start with '..'")
	}
}

func (c *podCheck) keysToPaths(items []corev1.KeyToPath, at *field.Path) {
	for i := range items {
		k, at := &items[i], at.Index(i)
		if k.Key == "" {
			c.required(at.Child("key"), "")
		}
		if k.Path == "" {
			c.required(at.Child("path"), "")
		}
		c.filePath(k.Path, at.Child("path"))
		c.fileMode(k.Mode, at.Child("mode"))
		c.userID(k.User, at.Child("user"))
	}
}

// downwardFile checks a file that tells of the pod. Its errors stand at the
// volume: Kubernetes does not say which file.
func (c *podCheck) downwardFile(f *corev1.DownwardAPIVolumeFile, at *field.Path) {
	if f.Path == "" {
		c.required(at.Child("path"), "")
	}
	c.filePath(f.Path, at.Child("path"))
	switch {
	case f.FieldRef != nil:
		c.fieldRef(f.FieldRef, fileFieldPaths, at.Child("fieldRef"))
		if f.ResourceFieldRef != nil {
			c.invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
		}
	case f.ResourceFieldRef != nil:
		c.resourceFieldRef(f.ResourceFieldRef, true, at.Child("resourceFieldRef"))
	default:
		c.required(at, "one of fieldRef and resourceFieldRef is required")
	}
	c.fileMode(f.Mode, at.Child("mode"))
	c.userID(f.User, at.Child("user"))
}

// projected checks a volume of files from several sources.
func (c *podCheck) projected(p *corev1.ProjectedVolumeSource, at *field.Path) {
	c.fileMode(p.DefaultMode, at.Child("defaultMode"))
	c.userID(p.DefaultUser, at.Child("defaultUser"))
	taken := map[string]bool{}
	take := func(file string) {
		if taken[file] {
			c.invalid(at, file, "conflicting duplicate paths")
		}
		taken[file] = true
	}
	takeNamed := func(file string) {
		if file != "" {
			take(file)
		}
	}
	for i := range p.Sources {
		s, at, given := &p.Sources[i], at, 0
		src := at.Child("sources").Index(i)
		if s.Secret != nil {
			given++
			c.projectedKeys(s.Secret.Name, s.Secret.Items, src.Child("secret"), takeNamed)
		}
		if s.ConfigMap != nil {
			given++
			c.projectedKeys(s.ConfigMap.Name, s.ConfigMap.Items, src.Child("configMap"), takeNamed)
		}
		if s.DownwardAPI != nil {
			given++
			for j := range s.DownwardAPI.Items {
				c.downwardFile(&s.DownwardAPI.Items[j], src.Child("downwardAPI"))
				takeNamed(s.DownwardAPI.Items[j].Path)
			}
		}
		if s.ServiceAccountToken != nil {
			given++
			c.projectedToken(s.ServiceAccountToken, at, src.Child("serviceAccountToken"))
		}
		if s.ClusterTrustBundle != nil {
			given++
			c.trustBundle(s.ClusterTrustBundle, src.Child("clusterTrustBundle"))
			take(s.ClusterTrustBundle.Path)
		}
		if s.PodCertificate != nil {
			given++
			c.podCertificate(s.PodCertificate, src.Child("podCertificate"), takeNamed)
		}
		if given > 1 {
			c.forbidden(src, "may not specify more than 1 volume type per source")
		}
	}
}

func (c *podCheck) projectedKeys(name string, items []corev1.KeyToPath, at *field.Path, take func(string)) {
	if name == "" {
		c.required(at.Child("name"), "")
	}
	c.keysToPaths(items, at.Child("items"))
	for _, k := range items {
		take(k.Path)
	}
}

func (c *podCheck) projectedToken(t *corev1.ServiceAccountTokenProjection, volume, at *field.Path) {
	switch seconds := t.ExpirationSeconds; {
	case seconds == nil:
		c.required(at.Child("expirationSeconds"), "")
	case *seconds < minTokenSeconds:
		c.invalid(at.Child("expirationSeconds"), *seconds, "may not specify a duration less than 10 minutes")
	case *seconds > maxTokenSeconds:
		c.invalid(at.Child("expirationSeconds"), *seconds, "may not specify a duration larger than 2^32 seconds")
	}
	if t.Path == "" {
		c.required(volume.Child("path"), "")
	} else {
		c.filePath(t.Path, volume.Child("path"))
	}
	c.userID(t.User, at.Child("user"))
}

// trustBundle checks a projection of certificates to trust (KEP-3257).
func (c *podCheck) trustBundle(b *corev1.ClusterTrustBundleProjection, at *field.Path) {
	switch {
	case b.Name != nil && b.SignerName != nil:
		c.invalid(at, b, "only one of name and signerName may be used")
	case b.Name != nil:
		if *b.Name == "" {
			c.required(at.Child("name"), "must be a valid object name")
		}
		name := *b.Name
		if i := strings.LastIndex(name, ":"); i >= 0 {
			name = name[i+1:] // the part before it is the signer's
		}
		c.messages(at.Child("name"), *b.Name, apivalidation.NameIsDNSSubdomain(name, false))
		if b.LabelSelector != nil {
			c.invalid(at.Child("labelSelector"), b.LabelSelector, "labelSelector must be unset if name is specified")
		}
	case b.SignerName != nil:
		if *b.SignerName == "" {
			c.required(at.Child("signerName"), "must be a valid signer name")
		}
		c.signerName(*b.SignerName, at.Child("signerName"))
		c.selector(b.LabelSelector, at.Child("labelSelector"))
	default:
		c.required(at, "either name or signerName must be specified")
	}
	if b.Path == "" {
		c.required(at.Child("path"), "")
	}
	c.userID(b.User, at.Child("user"))
	c.filePath(b.Path, at.Child("path"))
}

// podCertificate checks a projection of a certificate for the pod (KEP-4317).
func (c *podCheck) podCertificate(p *corev1.PodCertificateProjection, at *field.Path, take func(string)) {
	c.signerName(p.SignerName, at.Child("signerName"))
	if p.UserAnnotations != nil {
		c.userAnnotations(p.UserAnnotations, at.Child("userAnnotations"))
	}
	c.userID(p.User, at.Child("user"))
	among(c, at.Child("keyType"), p.KeyType, "RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519")
	if seconds := p.MaxExpirationSeconds; seconds != nil {
		longest := maxCertSeconds
		if host, _, _ := strings.Cut(p.SignerName, "/"); host == "kubernetes.io" || strings.HasSuffix(host, ".kubernetes.io") {
			longest = maxOwnCertSecond
		}
		if *seconds < minCertSeconds {
			c.invalid(at.Child("maxExpirationSeconds"), *seconds, "if provided, maxExpirationSeconds must be >= 3600")
		}
		if *seconds > longest {
			c.invalid(at.Child("maxExpirationSeconds"), *seconds, "is longer than the signer may grant")
		}
	}
	files := 0
	for _, f := range []struct{ name, path string }{
		{"credentialBundlePath", p.CredentialBundlePath}, {"keyPath", p.KeyPath}, {"certificateChainPath", p.CertificateChainPath},
	} {
		if f.path != "" {
			files++
			c.filePath(f.path, at.Child(f.name))
			take(f.path)
		}
	}
	if files == 0 {
		c.required(at, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath")
	}
}

func (c *podCheck) userAnnotations(set map[string]string, at *field.Path) {
	for _, k := range slices.Sorted(maps.Keys(set)) {
		c.add(validation.IsDomainPrefixedKey(at, strings.ToLower(k))...)
	}
	if apivalidation.ValidateAnnotationsSize(set) != nil {
		c.add(field.TooLong(at, "", apivalidation.TotalAnnotationSizeLimitB))
	}
}

// signerName wants "domain/name", the domain of two labels at least.
func (c *podCheck) signerName(name string, at *field.Path) {
	if name == "" {
		c.required(at, "")
		return
	}
	domain, signer, ok := strings.Cut(name, "/")
	if !ok || strings.Contains(signer, "/") {
		c.invalid(at, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")
		return
	}
	if len(domain) > validation.DNS1123SubdomainMaxLength {
		c.add(field.TooLong(at, "", validation.DNS1123SubdomainMaxLength))
	}
	first := func(parts []string, check func(string) []string) {
		for _, part := range parts {
			if messages := check(part); len(messages) > 0 {
				c.messages(at, part, messages)
				return
			}
		}
	}
	first(strings.Split(domain, "."), validation.IsDNS1123Label)
	if !strings.Contains(domain, ".") {
		c.invalid(at, domain, "should be a domain with at least two segments separated by dots")
	}
	first(strings.Split(signer, "."), validation.IsDNS1123Subdomain)
	const longest = validation.DNS1123SubdomainMaxLength + 1 + validation.DNS1123SubdomainMaxLength + 1 + validation.DNS1123LabelMaxLength
	if len(name) > longest {
		c.add(field.TooLong(at, "", longest))
	}
}

// selector checks a label selector.
func (c *podCheck) selector(s *metav1.LabelSelector, at *field.Path) {
	c.add(metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{}, at)...)
}

// mounts checks where a container sees its volumes.
func (c *podCheck) mounts(ctr *corev1.Container, at *field.Path) {
	devices, devicePaths := map[string]bool{}, map[string]bool{}
	lastPath := map[string]string{}
	for _, d := range ctr.VolumeDevices {
		devices[d.Name] = true
		lastPath[d.Name] = d.DevicePath
	}
	for _, p := range lastPath {
		devicePaths[p] = true
	}
	seen := map[string]bool{}
	for i := range ctr.VolumeMounts {
		m, idx := &ctr.VolumeMounts[i], at.Index(i)
		if m.Name == "" {
			c.required(idx.Child("name"), "")
		}
		if _, ok := c.volumes[m.Name]; !ok {
			c.add(field.NotFound(idx.Child("name"), m.Name))
		}
		if m.MountPath == "" {
			c.required(idx.Child("mountPath"), "")
		}
		if seen[m.MountPath] {
			c.invalid(idx.Child("mountPath"), m.MountPath, "must be unique")
		}
		seen[m.MountPath] = true
		if devices[m.Name] {
			c.invalid(idx.Child("name"), m.Name, "must not already exist in volumeDevices")
		}
		if devicePaths[m.MountPath] {
			c.invalid(idx.Child("mountPath"), m.MountPath, "must not already exist as a path in volumeDevices")
		}
		c.mountOptions(ctr, m, at, idx)
	}
}

// mountOptions checks how a volume is mounted. The errors of the older
// options stand at the list, as Kubernetes has them.
func (c *podCheck) mountOptions(ctr *corev1.Container, m *corev1.VolumeMount, at, idx *field.Path) {
	if m.SubPath != "" {
		c.relativePath(m.SubPath, at.Child("subPath"))
	}
	if m.SubPathExpr != "" {
		if m.SubPath != "" {
			c.invalid(idx.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive")
		}
		c.relativePath(m.SubPathExpr, at.Child("subPathExpr"))
	}
	if p := m.MountPropagation; p != nil {
		among(c, at.Child("mountPropagation"), *p,
			corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)
		privileged := ctr.SecurityContext != nil && value(ctr.SecurityContext.Privileged)
		if *p == corev1.MountPropagationBidirectional && !privileged {
			c.forbidden(at.Child("mountPropagation"), "Bidirectional mount propagation is available only to privileged containers")
		}
	}
	if r := m.RecursiveReadOnly; r != nil {
		at := at.Child("recursiveReadOnly")
		among(c, at, *r, corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyIfPossible, corev1.RecursiveReadOnlyEnabled)
		if *r == corev1.RecursiveReadOnlyIfPossible || *r == corev1.RecursiveReadOnlyEnabled {
			if !m.ReadOnly {
				c.forbidden(at, "may only be specified when readOnly is true")
			}
			if m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone {
				c.forbidden(at, "may only be specified when mountPropagation is None or not specified")
			}
		}
	}
	if len(m.BindMountOptions) == 0 {
		return
	}
	options := idx.Child("bindMountOptions")
	for j, o := range m.BindMountOptions {
		among(c, options.Index(j), string(o), string(corev1.BindMountOptionNoExec), string(corev1.BindMountOptionNoDev), string(corev1.BindMountOptionNoSUID))
		if slices.Contains(m.BindMountOptions[:j], o) {
			c.duplicate(options.Index(j), o)
		}
	}
	if v, ok := c.volumes[m.Name]; ok && v.Image != nil {
		c.invalid(options, m.BindMountOptions, "bindMountOptions may not be used with image volumes")
	}
}

// devices checks the raw block devices that a container gets.
func (c *podCheck) devices(ctr *corev1.Container, at *field.Path) {
	lastPath := map[string]string{} // of mounts, by name
	for _, m := range ctr.VolumeMounts {
		lastPath[m.Name] = m.MountPath
	}
	mounted := map[string]bool{}
	for _, p := range lastPath {
		mounted[p] = true
	}
	names, paths := map[string]bool{}, map[string]bool{}
	for i, d := range ctr.VolumeDevices {
		idx := at.Index(i)
		name, devicePath := idx.Child("name"), idx.Child("devicePath")
		if d.Name == "" {
			c.required(name, "")
		} else if names[d.Name] {
			c.invalid(name, d.Name, "must be unique")
		}
		if v, ok := c.volumes[d.Name]; !ok {
			c.add(field.NotFound(name, d.Name))
		} else if v.PersistentVolumeClaim == nil && v.Ephemeral == nil {
			c.invalid(name, d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode")
		}
		if d.DevicePath == "" {
			c.required(devicePath, "")
		}
		if paths[d.DevicePath] {
			c.invalid(devicePath, d.DevicePath, "must be unique")
		}
		if hasDotDot(d.DevicePath) {
			c.invalid(devicePath, d.DevicePath, "can not contain backsteps ('..')")
		} else {
			paths[d.DevicePath] = true
		}
		if _, ok := lastPath[d.Name]; ok {
			c.invalid(name, d.Name, "must not already exist in volumeMounts")
		}
		if mounted[d.DevicePath] {
			c.invalid(devicePath, d.DevicePath, "must not already exist as a path in volumeMounts")
		}
		names[d.Name] = true
	}
}
