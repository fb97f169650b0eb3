package podspec

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// Error is something that a pod names and that is not there, in the words of
// kubelet's CreateContainerConfigError.
type Error struct{ Message string }

func (e *Error) Error() string { return e.Message }

func missing(format string, args ...any) error { return &Error{fmt.Sprintf(format, args...)} }

// Facts are what the node knows and the pod's spec may ask for.
type Facts struct {
	PodIPs, HostIPs []string
	Allocatable     corev1.ResourceList // of the node: the limits of who sets none
}

// Env returns the environment of a container, NAME=value, sorted by nothing but
// the order in which the pod gives it: services, envFrom, env.
func Env(v *kernel.View, p *corev1.Pod, c *corev1.Container, f Facts) ([]string, error) {
	e := &env{values: map[string]string{}}
	for _, s := range serviceVars(v, p) {
		e.set(s[0], s[1])
	}
	for _, from := range c.EnvFrom {
		if err := e.from(v, p.Namespace, from); err != nil {
			return nil, err
		}
	}
	for _, one := range c.Env {
		value := one.Value
		if one.ValueFrom != nil {
			got, ok, err := valueFrom(v, p, c, one.ValueFrom, f)
			if err != nil {
				return nil, err
			}
			if !ok {
				continue
			}
			value = got
		} else {
			value = Expand(value, e.values)
		}
		e.set(one.Name, value)
	}
	out := make([]string, len(e.order))
	for i, name := range e.order {
		out[i] = name + "=" + e.values[name]
	}
	return out, nil
}

type env struct {
	order  []string
	values map[string]string
}

func (e *env) set(name, value string) {
	if _, ok := e.values[name]; !ok {
		e.order = append(e.order, name)
	}
	e.values[name] = value
}

// from adds all of a ConfigMap or Secret, in the order of its keys.
func (e *env) from(v *kernel.View, namespace string, s corev1.EnvFromSource) error {
	data := map[string]string{}
	switch {
	case s.ConfigMapRef != nil:
		cm, ok := kinds.ConfigMaps.Get(v, namespace, s.ConfigMapRef.Name)
		if !ok {
			if optional(s.ConfigMapRef.Optional) {
				return nil
			}
			return missing("configmap %q not found", s.ConfigMapRef.Name)
		}
		data = cm.Data
	case s.SecretRef != nil:
		secret, ok := kinds.Secrets.Get(v, namespace, s.SecretRef.Name)
		if !ok {
			if optional(s.SecretRef.Optional) {
				return nil
			}
			return missing("secret %q not found", s.SecretRef.Name)
		}
		for k, b := range secret.Data {
			data[k] = string(b)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(data)) {
		if name := s.Prefix + k; !strings.Contains(name, "=") {
			e.set(name, data[k])
		}
	}
	return nil
}

func optional(b *bool) bool { return b != nil && *b }

// valueFrom resolves one reference; ok is false for an optional one to nothing.
func valueFrom(v *kernel.View, p *corev1.Pod, c *corev1.Container, s *corev1.EnvVarSource, f Facts) (value string, ok bool, err error) {
	switch {
	case s.FieldRef != nil:
		value, err = Field(p, s.FieldRef.FieldPath, f)
		return value, true, err
	case s.ResourceFieldRef != nil:
		value, err = Resource(p, c.Name, s.ResourceFieldRef, f)
		return value, true, err
	case s.ConfigMapKeyRef != nil:
		ref := s.ConfigMapKeyRef
		cm, found := kinds.ConfigMaps.Get(v, p.Namespace, ref.Name)
		if !found {
			return absent(optional(ref.Optional), "configmap %q not found", ref.Name)
		}
		value, found = cm.Data[ref.Key]
		if !found {
			return absent(optional(ref.Optional), "couldn't find key %v in ConfigMap %v/%v", ref.Key, p.Namespace, ref.Name)
		}
		return value, true, nil
	case s.SecretKeyRef != nil:
		ref := s.SecretKeyRef
		secret, found := kinds.Secrets.Get(v, p.Namespace, ref.Name)
		if !found {
			return absent(optional(ref.Optional), "secret %q not found", ref.Name)
		}
		b, found := secret.Data[ref.Key]
		if !found {
			return absent(optional(ref.Optional), "couldn't find key %v in Secret %v/%v", ref.Key, p.Namespace, ref.Name)
		}
		return string(b), true, nil
	}
	return "", false, nil
}

func absent(ok bool, format string, args ...any) (string, bool, error) {
	if ok {
		return "", false, nil
	}
	return "", false, missing(format, args...)
}

// Expand replaces $(NAME) by the value of NAME; a name that is not known stays
// as it is, and $$ is a dollar sign.
func Expand(s string, values map[string]string) string {
	var b strings.Builder
	for {
		before, rest, ok := strings.Cut(s, "$")
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		switch {
		case strings.HasPrefix(rest, "$"):
			b.WriteByte('$')
			s = rest[1:]
			continue
		case strings.HasPrefix(rest, "("):
			if name, after, closed := strings.Cut(rest[1:], ")"); closed {
				if value, known := values[name]; known {
					b.WriteString(value)
				} else {
					b.WriteString("$(" + name + ")")
				}
				s = after
				continue
			}
		}
		b.WriteByte('$')
		s = rest
	}
}

// ExpandAll expands every word with an environment as Env returns it.
func ExpandAll(words, environment []string) []string {
	values := make(map[string]string, len(environment))
	for _, e := range environment {
		name, value, _ := strings.Cut(e, "=")
		values[name] = value
	}
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = Expand(w, values)
	}
	return out
}

// serviceVars are the variables that name the services of a pod's namespace as
// they were when its container starts, and always the API's.
func serviceVars(v *kernel.View, p *corev1.Pod) [][2]string {
	var out [][2]string
	links := p.Spec.EnableServiceLinks == nil || *p.Spec.EnableServiceLinks
	if api, ok := kinds.Services.Get(v, "default", "kubernetes"); ok && (!links || p.Namespace != "default") {
		out = append(out, varsOf(api)...)
	}
	if !links {
		return out
	}
	for _, s := range kinds.Services.List(v, p.Namespace) {
		out = append(out, varsOf(s)...)
	}
	return out
}

// varsOf gives a service in the form of Kubernetes, and in that of old Docker
// links, which Kubernetes still sets.
func varsOf(s *corev1.Service) [][2]string {
	ip := s.Spec.ClusterIP
	if ip == "" || ip == corev1.ClusterIPNone || s.Spec.Type == corev1.ServiceTypeExternalName || len(s.Spec.Ports) == 0 {
		return nil
	}
	name := strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))
	var out [][2]string
	add := func(k, value string) { out = append(out, [2]string{name + k, value}) }
	add("_SERVICE_HOST", ip)
	add("_SERVICE_PORT", strconv.Itoa(int(s.Spec.Ports[0].Port)))
	for _, port := range s.Spec.Ports {
		if port.Name != "" {
			add("_SERVICE_PORT_"+strings.ToUpper(strings.ReplaceAll(port.Name, "-", "_")), strconv.Itoa(int(port.Port)))
		}
	}
	for i, port := range s.Spec.Ports {
		number, proto := strconv.Itoa(int(port.Port)), "tcp"
		if port.Protocol != "" {
			proto = strings.ToLower(string(port.Protocol))
		}
		url := proto + "://" + net.JoinHostPort(ip, number)
		if i == 0 {
			add("_PORT", url)
		}
		prefix := "_PORT_" + number + "_" + strings.ToUpper(proto)
		add(prefix, url)
		add(prefix+"_PROTO", proto)
		add(prefix+"_PORT", number)
		add(prefix+"_ADDR", ip)
	}
	return out
}
