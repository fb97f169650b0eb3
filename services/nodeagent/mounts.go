package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/services/nodeagent/podspec"
	"github.com/rutterhq/rutter/services/nodeagent/volumes"
)

func secret(v *kernel.View, namespace, name string) (*corev1.Secret, bool) {
	return kinds.Secrets.Get(v, namespace, name)
}

// mount makes a pod's volumes hold what they should.
func (a *Agent) mount(ctx context.Context, v *kernel.View, p *pod, g Goal) error {
	refresh, err := a.fillVolumes(ctx, v, p, g.Pod)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	p.update(func(w *World) {
		if err != nil {
			had := w.Volumes.Done
			w.Volumes.fail("FailedMount", err.Error(), a.now(), retryDelayFirst, retryDelayMax)
			w.Volumes.Done = had // what is mounted stays; the old contents serve on
			return
		}
		w.Volumes, w.VolumesAt, w.RefreshAt = Step{Done: true}, g.Sources, refresh
	})
	if err != nil {
		a.events.add(g.Pod, "", corev1.EventTypeWarning, "FailedMount", "MountVolume.SetUp failed: "+err.Error())
	}
	return nil
}

// fillVolumes returns when it should be called again for the sake of a token.
func (a *Agent) fillVolumes(ctx context.Context, v *kernel.View, p *pod, spec *corev1.Pod) (time.Time, error) {
	tokens, refresh, err := a.tokens(ctx, p, spec)
	if err != nil {
		return time.Time{}, err
	}
	facts := a.facts(p)
	for i := range spec.Spec.Volumes {
		vol := &spec.Spec.Volumes[i]
		dir := a.volumeDir(spec, vol.Name)
		files, isFiles, err := podspec.Files(v, spec, vol, facts, tokens, a.cfg.RootCA)
		if err != nil {
			return time.Time{}, fmt.Errorf("volume %q: %w", vol.Name, err)
		}
		switch {
		case isFiles:
			err = fillFiles(dir, spec, vol, files)
		case vol.EmptyDir != nil:
			err = makeEmptyDir(dir, spec, vol.EmptyDir)
		case vol.HostPath != nil:
			kind := corev1.HostPathUnset
			if vol.HostPath.Type != nil {
				kind = *vol.HostPath.Type
			}
			err = volumes.HostPath(vol.HostPath.Path, kind)
		default:
			err = errors.New("this node knows no volume of this type")
		}
		if err != nil {
			return time.Time{}, fmt.Errorf("volume %q: %w", vol.Name, err)
		}
	}
	return refresh, nil
}

func (a *Agent) volumeDir(p *corev1.Pod, name string) string {
	return filepath.Join(a.podDir(p), "volumes", name)
}

func fsGroup(p *corev1.Pod) (int, bool) {
	if s := p.Spec.SecurityContext; s != nil && s.FSGroup != nil {
		return int(*s.FSGroup), true
	}
	return 0, false
}

// makeEmptyDir makes a folder, or memory, that everyone in the pod may write.
func makeEmptyDir(dir string, p *corev1.Pod, e *corev1.EmptyDirVolumeSource) error {
	if _, err := os.Stat(dir); err == nil && e.Medium != corev1.StorageMediumMemory {
		return nil
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	if e.Medium == corev1.StorageMediumMemory {
		var limit int64
		if e.SizeLimit != nil {
			limit = e.SizeLimit.Value()
		}
		if err := volumes.Tmpfs(dir, limit, 0o777); err != nil {
			return err
		}
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		return err
	}
	if gid, ok := fsGroup(p); ok {
		return volumes.Group(dir, gid)
	}
	return nil
}

// fillFiles writes the files of a volume. All but plain ConfigMaps are kept in
// memory.
func fillFiles(dir string, p *corev1.Pod, vol *corev1.Volume, files map[string]podspec.File) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if vol.ConfigMap == nil {
		if err := volumes.Tmpfs(dir, 0, 0o755); err != nil {
			return err
		}
	}
	gid, grouped := fsGroup(p)
	if !grouped {
		gid = -1
	}
	out := make(map[string]volumes.File, len(files))
	for name, f := range files {
		file := volumes.File{Data: f.Data, Mode: os.FileMode(f.Mode), UID: -1, GID: gid}
		if grouped {
			file.Mode |= 0o440
		}
		if uid, one := onlyUser(p); f.Mine && one && !grouped {
			file.UID, file.Mode = int(uid), 0o600
		}
		out[name] = file
	}
	_, err := volumes.WriteFiles(dir, out)
	return err
}

// onlyUser is the user that all containers of a pod run as, if the pod says.
func onlyUser(p *corev1.Pod) (int64, bool) {
	var uid *int64
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			u := runAsUser(p, &list[i])
			if u == nil || uid != nil && *uid != *u {
				return 0, false
			}
			uid = u
		}
	}
	if uid == nil {
		return 0, false
	}
	return *uid, true
}

func runAsUser(p *corev1.Pod, c *corev1.Container) *int64 {
	if c.SecurityContext != nil && c.SecurityContext.RunAsUser != nil {
		return c.SecurityContext.RunAsUser
	}
	if p.Spec.SecurityContext != nil {
		return p.Spec.SecurityContext.RunAsUser
	}
	return nil
}

// mountsOf are the mounts of a container: the pod's own files, its volumes,
// its place for last words.
func (a *Agent) mountsOf(p *corev1.Pod, c *corev1.Container, attempt int, environment []string) ([]specs.Mount, error) {
	dir := a.podDir(p)
	out := []specs.Mount{
		bind(filepath.Join(dir, "etc/hosts"), "/etc/hosts", false),
		bind(filepath.Join(dir, "etc/hostname"), "/etc/hostname", false),
		bind(filepath.Join(dir, "etc/resolv.conf"), "/etc/resolv.conf", false),
	}
	if p.Spec.HostIPC {
		out = append(out, bind("/dev/shm", "/dev/shm", false))
	} else {
		out = append(out, bind(filepath.Join(dir, "shm"), "/dev/shm", false))
	}
	if path := c.TerminationMessagePath; path != "" {
		host := a.terminationPath(p, c.Name, attempt)
		if err := os.MkdirAll(filepath.Dir(host), 0o755); err != nil {
			return nil, err
		}
		f, err := os.OpenFile(host, os.O_CREATE, 0o666)
		if err != nil {
			return nil, err
		}
		f.Close()
		if err := os.Chmod(host, 0o666); err != nil {
			return nil, err
		}
		out = append(out, bind(host, path, false))
	}
	for i := range c.VolumeMounts {
		m, err := a.mountOf(p, c, &c.VolumeMounts[i], i, environment)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return withoutOverlaid(out), nil
}

// withoutOverlaid drops a pod's own file where a volume is mounted in its
// place.
func withoutOverlaid(list []specs.Mount) []specs.Mount {
	last := map[string]int{}
	for i, m := range list {
		last[filepath.Clean(m.Destination)] = i
	}
	var out []specs.Mount
	for i, m := range list {
		if last[filepath.Clean(m.Destination)] == i {
			out = append(out, m)
		}
	}
	return out
}

func bind(source, target string, readOnly bool) specs.Mount {
	m := specs.Mount{Type: "bind", Source: source, Destination: target, Options: []string{"rbind", "rprivate", "rw"}}
	if readOnly {
		m.Options[2] = "ro"
	}
	return m
}

func (a *Agent) mountOf(p *corev1.Pod, c *corev1.Container, vm *corev1.VolumeMount, n int, environment []string) (specs.Mount, error) {
	var vol *corev1.Volume
	for i := range p.Spec.Volumes {
		if p.Spec.Volumes[i].Name == vm.Name {
			vol = &p.Spec.Volumes[i]
		}
	}
	if vol == nil {
		return specs.Mount{}, &podspec.Error{Message: fmt.Sprintf("volume %q is not defined", vm.Name)}
	}
	source := a.volumeDir(p, vol.Name)
	if vol.HostPath != nil {
		source = vol.HostPath.Path
	}
	sub := vm.SubPath
	if vm.SubPathExpr != "" {
		sub = podspec.ExpandAll([]string{vm.SubPathExpr}, environment)[0]
		if strings.Contains(sub, "$(") {
			return specs.Mount{}, &podspec.Error{Message: fmt.Sprintf("subPathExpr %q names a variable that is not set", vm.SubPathExpr)}
		}
	}
	if sub != "" && sub != "." {
		target := filepath.Join(a.podDir(p), "subpaths", c.Name, fmt.Sprint(n))
		if err := volumes.SubPath(source, sub, target); err != nil {
			return specs.Mount{}, &podspec.Error{Message: fmt.Sprintf("failed to prepare subPath for volumeMount %q of container %q: %v", vm.Name, c.Name, err)}
		}
		source = target
	}
	target := vm.MountPath
	if !filepath.IsAbs(target) {
		target = "/" + target
	}
	m := bind(source, target, vm.ReadOnly || vol.ConfigMap != nil || vol.Secret != nil || vol.DownwardAPI != nil || vol.Projected != nil)
	if prop := vm.MountPropagation; prop != nil {
		switch *prop {
		case corev1.MountPropagationHostToContainer:
			m.Options[1] = "rslave"
		case corev1.MountPropagationBidirectional:
			m.Options[1] = "rshared"
		}
	}
	return m, nil
}
