package kinds

import (
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Bounds of what is said for Windows. Rutter runs no Windows pods, but the
// templates of those that it will not run are checked as any.
const (
	maxCredentialSpec = 64 * 1024 // bytes
	maxWindowsDomain  = 255       // bytes
	maxWindowsUser    = 104       // bytes
)

var (
	controlCharacter = regexp.MustCompile(`[[:cntrl:]]`)
	netBIOSName      = regexp.MustCompile(`^[^\\/:*?"<>|.][^\\/:*?"<>|]{0,14}$`)
	windowsDomain    = regexp.MustCompile(`^[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$`)
	onlyDotsOrSpaces = regexp.MustCompile(`^[. ]+$`)
)

func (c *podCheck) windowsOptions(o *corev1.WindowsSecurityContextOptions, at *field.Path) {
	if o == nil {
		return
	}
	if o.GMSACredentialSpecName != nil {
		c.messages(at.Child("gmsaCredentialSpecName"), *o.GMSACredentialSpecName, validation.IsDNS1123Subdomain(*o.GMSACredentialSpecName))
	}
	if spec := o.GMSACredentialSpec; spec != nil {
		switch n := len(*spec); {
		case n == 0:
			c.invalid(at.Child("gmsaCredentialSpec"), *spec, "gmsaCredentialSpec cannot be an empty string")
		case n > maxCredentialSpec:
			c.invalid(at.Child("gmsaCredentialSpec"), *spec, "gmsaCredentialSpec size must be under 64 KiB")
		}
	}
	if o.RunAsUserName != nil {
		c.windowsUser(*o.RunAsUserName, at.Child("runAsUserName"))
	}
}

// windowsUser checks a user name, or DOMAIN\user.
func (c *podCheck) windowsUser(name string, at *field.Path) {
	parts := strings.Split(name, `\`)
	switch {
	case name == "":
		c.invalid(at, name, "runAsUserName cannot be an empty string")
		return
	case controlCharacter.MatchString(name):
		c.invalid(at, name, "runAsUserName cannot contain control characters")
		return
	case len(parts) > 2:
		c.invalid(at, name, "runAsUserName cannot contain more than one backslash")
		return
	}
	user := parts[len(parts)-1]
	if len(parts) == 2 {
		domain := parts[0]
		if len(domain) > maxWindowsDomain {
			c.invalid(at, name, "runAsUserName's Domain length must be under 256 characters")
		}
		if !netBIOSName.MatchString(domain) && !windowsDomain.MatchString(domain) {
			c.invalid(at, name, "runAsUserName's Domain doesn't match the NetBios nor the DNS format")
		}
	}
	switch {
	case user == "":
		c.invalid(at, name, "runAsUserName's User cannot be empty")
	case len(user) > maxWindowsUser:
		c.invalid(at, name, "runAsUserName's User length must not be longer than 104 characters")
	}
	if onlyDotsOrSpaces.MatchString(user) {
		c.invalid(at, name, "runAsUserName's User cannot contain only periods or spaces")
	}
	if strings.ContainsAny(user, `"/\:;|=,+*?<>@[]`) {
		c.invalid(at, name, "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]")
	}
}

// hostProcess checks containers that run as processes of a Windows host: all
// of a pod or none, and on the host's network.
func (c *podCheck) hostProcess(path *field.Path) {
	var whole *bool
	if sc := c.spec.SecurityContext; sc != nil && sc.WindowsOptions != nil {
		whole = sc.WindowsOptions.HostProcess
	}
	all, host := 0, 0
	c.eachContainer(path, func(ctr *corev1.Container, at *field.Path) {
		all++
		own := whole
		if ctr.SecurityContext != nil && ctr.SecurityContext.WindowsOptions != nil && ctr.SecurityContext.WindowsOptions.HostProcess != nil {
			own = ctr.SecurityContext.WindowsOptions.HostProcess
			if whole != nil && *whole != *own {
				c.invalid(at.Child("securityContext", "windowsOptions", "hostProcess"), *own, "pod hostProcess value must be identical if both are specified")
			}
		}
		if value(own) {
			host++
		}
	})
	if host == 0 {
		return
	}
	if host != all {
		c.invalid(path, "", "If pod contains any hostProcess containers then all containers must be HostProcess containers")
	}
	if !c.spec.HostNetwork {
		c.invalid(path.Child("hostNetwork"), false, "hostNetwork must be true if pod contains any hostProcess containers")
	}
}

// windowsPod forbids a Windows pod what Windows does not have.
func (c *podCheck) windowsPod(path *field.Path) {
	s := c.spec
	refuse := func(at *field.Path, fields []setField) {
		for _, f := range fields {
			if f.set {
				c.forbidden(at.Child(f.name), "cannot be set for a windows pod")
			}
		}
	}
	if sc := s.SecurityContext; sc != nil {
		refuse(path.Child("securityContext"), []setField{
			{"appArmorProfile", sc.AppArmorProfile != nil}, {"seLinuxOptions", sc.SELinuxOptions != nil},
			{"seccompProfile", sc.SeccompProfile != nil}, {"fsGroup", sc.FSGroup != nil},
			{"fsGroupChangePolicy", sc.FSGroupChangePolicy != nil}, {"sysctls", len(sc.Sysctls) > 0},
			{"runAsUser", sc.RunAsUser != nil}, {"runAsGroup", sc.RunAsGroup != nil},
			{"supplementalGroups", sc.SupplementalGroups != nil}, {"supplementalGroupsPolicy", sc.SupplementalGroupsPolicy != nil},
			{"seLinuxChangePolicy", sc.SELinuxChangePolicy != nil},
		})
	}
	refuse(path, []setField{
		{"hostUsers", s.HostUsers != nil}, {"hostPID", s.HostPID}, {"hostIPC", s.HostIPC},
		{"shareProcessNamespace", s.ShareProcessNamespace != nil},
	})
	c.eachContainer(path, func(ctr *corev1.Container, at *field.Path) {
		sc := ctr.SecurityContext
		if sc == nil {
			return
		}
		refuse(at.Child("securityContext"), []setField{
			{"appArmorProfile", sc.AppArmorProfile != nil}, {"seLinuxOptions", sc.SELinuxOptions != nil},
			{"seccompProfile", sc.SeccompProfile != nil}, {"capabilities", sc.Capabilities != nil},
			{"readOnlyRootFilesystem", sc.ReadOnlyRootFilesystem != nil}, {"privileged", sc.Privileged != nil},
			{"allowPrivilegeEscalation", sc.AllowPrivilegeEscalation != nil}, {"procMount", sc.ProcMount != nil},
			{"runAsUser", sc.RunAsUser != nil}, {"runAsGroup", sc.RunAsGroup != nil},
		})
	})
}

// setField is a field's name in JSON and whether it says anything.
type setField struct {
	name string
	set  bool
}
