package podspec

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Field returns a field of a pod as the downward API names it.
func Field(p *corev1.Pod, path string, f Facts) (string, error) {
	if name, key, ok := strings.Cut(strings.TrimSuffix(path, "']"), "['"); ok {
		switch name {
		case "metadata.labels":
			return p.Labels[key], nil
		case "metadata.annotations":
			return p.Annotations[key], nil
		}
	}
	switch path {
	case "metadata.name":
		return p.Name, nil
	case "metadata.namespace":
		return p.Namespace, nil
	case "metadata.uid":
		return string(p.UID), nil
	case "metadata.labels":
		return pairs(p.Labels), nil
	case "metadata.annotations":
		return pairs(p.Annotations), nil
	case "spec.nodeName":
		return p.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return p.Spec.ServiceAccountName, nil
	case "spec.host":
		return p.Spec.NodeName, nil
	case "status.hostIP":
		return first(f.HostIPs), nil
	case "status.hostIPs":
		return strings.Join(f.HostIPs, ","), nil
	case "status.podIP":
		return first(f.PodIPs), nil
	case "status.podIPs":
		return strings.Join(f.PodIPs, ","), nil
	}
	return "", missing("unsupported fieldPath: %v", path)
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// pairs writes a map one key="value" per line, sorted.
func pairs(m map[string]string) string {
	lines := make([]string, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		lines = append(lines, fmt.Sprintf("%s=%s", k, strconv.Quote(m[k])))
	}
	return strings.Join(lines, "\n")
}

// Resource returns a container's request or limit in units of the divisor,
// rounded up. Without a limit it is what the node has to give.
func Resource(p *corev1.Pod, container string, s *corev1.ResourceFieldSelector, f Facts) (string, error) {
	if s.ContainerName != "" {
		container = s.ContainerName
	}
	c := find(p, container)
	if c == nil {
		return "", missing("container %s not found", container)
	}
	kind, name, ok := strings.Cut(s.Resource, ".")
	if !ok || kind != "limits" && kind != "requests" {
		return "", missing("unsupported container resource: %v", s.Resource)
	}
	res := corev1.ResourceName(name)
	var q resource.Quantity
	if kind == "limits" {
		if q, ok = c.Resources.Limits[res]; !ok {
			q = f.Allocatable[res]
		}
	} else {
		q = c.Resources.Requests[res]
	}
	divisor := s.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if res == corev1.ResourceCPU {
		return ratio(q.MilliValue(), divisor.MilliValue()), nil
	}
	return ratio(q.Value(), divisor.Value()), nil
}

func ratio(n, d int64) string {
	if d == 0 {
		d = 1
	}
	return strconv.FormatInt((n+d-1)/d, 10)
}

func find(p *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}
