package podspec

import (
	"maps"
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// File is one file of a volume.
type File struct {
	Data []byte
	Mode int32
	Mine bool // for the pod's user only: a token
}

// Token says that a file holds a token of the pod's service account.
type Token struct {
	Volume, Path, Audience string
	Seconds                int64
}

// Files returns the files of a volume of type configMap, secret, downwardAPI or
// projected, by their paths within it. tokens are the service account tokens
// it asks for, as Tokens lists them; ca is what kube-root-ca.crt says where
// there is no such ConfigMap. isFiles is false for volumes of another type.
func Files(v *kernel.View, p *corev1.Pod, vol *corev1.Volume, f Facts, tokens map[Token]string, ca []byte) (files map[string]File, isFiles bool, err error) {
	b := &builder{v: v, p: p, f: f, ca: ca, files: map[string]File{}}
	switch {
	case vol.ConfigMap != nil:
		s := vol.ConfigMap
		b.mode = mode(s.DefaultMode)
		err = b.configMap(s.Name, s.Items, s.Optional)
	case vol.Secret != nil:
		s := vol.Secret
		b.mode = mode(s.DefaultMode)
		err = b.secret(s.SecretName, s.Items, s.Optional)
	case vol.DownwardAPI != nil:
		b.mode = mode(vol.DownwardAPI.DefaultMode)
		err = b.downward(vol.DownwardAPI.Items)
	case vol.Projected != nil:
		b.mode = mode(vol.Projected.DefaultMode)
		for i := range vol.Projected.Sources {
			if err = b.project(vol.Name, &vol.Projected.Sources[i], tokens); err != nil {
				break
			}
		}
	default:
		return nil, false, nil
	}
	return b.files, true, err
}

func mode(m *int32) int32 {
	if m == nil {
		return corev1.ConfigMapVolumeSourceDefaultMode
	}
	return *m
}

// Tokens lists the service account tokens that a pod's volumes hold.
func Tokens(p *corev1.Pod) []Token {
	var out []Token
	for _, vol := range p.Spec.Volumes {
		if vol.Projected == nil {
			continue
		}
		for _, s := range vol.Projected.Sources {
			if t := s.ServiceAccountToken; t != nil {
				out = append(out, tokenOf(vol.Name, t))
			}
		}
	}
	return out
}

// tokenSeconds is how long a token is valid when the volume does not say.
const tokenSeconds = 3600

func tokenOf(volume string, t *corev1.ServiceAccountTokenProjection) Token {
	seconds := int64(tokenSeconds)
	if t.ExpirationSeconds != nil {
		seconds = *t.ExpirationSeconds
	}
	return Token{Volume: volume, Path: t.Path, Audience: t.Audience, Seconds: seconds}
}

// Sources are the objects whose contents a pod's volumes hold.
func Sources(p *corev1.Pod) []kernel.Key {
	var out []kernel.Key
	config := func(name string) { out = append(out, kinds.ConfigMaps.Key(p.Namespace, name)) }
	secret := func(name string) { out = append(out, kinds.Secrets.Key(p.Namespace, name)) }
	for _, vol := range p.Spec.Volumes {
		switch {
		case vol.ConfigMap != nil:
			config(vol.ConfigMap.Name)
		case vol.Secret != nil:
			secret(vol.Secret.SecretName)
		case vol.Projected != nil:
			for _, s := range vol.Projected.Sources {
				if s.ConfigMap != nil {
					config(s.ConfigMap.Name)
				}
				if s.Secret != nil {
					secret(s.Secret.Name)
				}
			}
		}
	}
	return out
}

// References are all objects that a pod's volumes and environments name.
func References(p *corev1.Pod) []kernel.Key {
	out := Sources(p)
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			for _, from := range list[i].EnvFrom {
				if from.ConfigMapRef != nil {
					out = append(out, kinds.ConfigMaps.Key(p.Namespace, from.ConfigMapRef.Name))
				}
				if from.SecretRef != nil {
					out = append(out, kinds.Secrets.Key(p.Namespace, from.SecretRef.Name))
				}
			}
			for _, e := range list[i].Env {
				if s := e.ValueFrom; s != nil && s.ConfigMapKeyRef != nil {
					out = append(out, kinds.ConfigMaps.Key(p.Namespace, s.ConfigMapKeyRef.Name))
				} else if s != nil && s.SecretKeyRef != nil {
					out = append(out, kinds.Secrets.Key(p.Namespace, s.SecretKeyRef.Name))
				}
			}
		}
	}
	return out
}

type builder struct {
	v     *kernel.View
	p     *corev1.Pod
	f     Facts
	ca    []byte
	mode  int32
	files map[string]File
}

// rootCA is the ConfigMap with the certificate of the cluster that every
// namespace has.
const rootCA = "kube-root-ca.crt"

func (b *builder) configMap(name string, items []corev1.KeyToPath, opt *bool) error {
	data := map[string][]byte{}
	cm, ok := kinds.ConfigMaps.Get(b.v, b.p.Namespace, name)
	switch {
	case ok:
		maps.Copy(data, cm.BinaryData)
		for k, s := range cm.Data {
			data[k] = []byte(s)
		}
	case name == rootCA && len(b.ca) > 0:
		data["ca.crt"] = b.ca
	case !optional(opt):
		return missing("configmap %q not found", name)
	}
	return b.add(data, items, opt, "configmap", name)
}

func (b *builder) secret(name string, items []corev1.KeyToPath, opt *bool) error {
	secret, ok := kinds.Secrets.Get(b.v, b.p.Namespace, name)
	if !ok {
		if optional(opt) {
			return nil
		}
		return missing("secret %q not found", name)
	}
	return b.add(secret.Data, items, opt, "secret", name)
}

func (b *builder) add(data map[string][]byte, items []corev1.KeyToPath, opt *bool, kind, name string) error {
	if len(items) == 0 {
		for _, k := range slices.Sorted(maps.Keys(data)) {
			b.files[k] = File{Data: data[k], Mode: b.mode}
		}
		return nil
	}
	for _, item := range items {
		content, ok := data[item.Key]
		if !ok {
			if optional(opt) {
				continue
			}
			return missing("%s references non-existent %s key: %s", name, kind, item.Key)
		}
		m := b.mode
		if item.Mode != nil {
			m = *item.Mode
		}
		b.files[path.Clean(item.Path)] = File{Data: content, Mode: m}
	}
	return nil
}

func (b *builder) downward(items []corev1.DownwardAPIVolumeFile) error {
	for _, item := range items {
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = Field(b.p, item.FieldRef.FieldPath, b.f)
		case item.ResourceFieldRef != nil:
			value, err = Resource(b.p, "", item.ResourceFieldRef, b.f)
		}
		if err != nil {
			return err
		}
		m := b.mode
		if item.Mode != nil {
			m = *item.Mode
		}
		b.files[path.Clean(item.Path)] = File{Data: []byte(value), Mode: m}
	}
	return nil
}

func (b *builder) project(volume string, s *corev1.VolumeProjection, tokens map[Token]string) error {
	switch {
	case s.ConfigMap != nil:
		return b.configMap(s.ConfigMap.Name, s.ConfigMap.Items, s.ConfigMap.Optional)
	case s.Secret != nil:
		return b.secret(s.Secret.Name, s.Secret.Items, s.Secret.Optional)
	case s.DownwardAPI != nil:
		return b.downward(s.DownwardAPI.Items)
	case s.ServiceAccountToken != nil:
		t := tokenOf(volume, s.ServiceAccountToken)
		token, ok := tokens[t]
		if !ok {
			return missing("no token for service account %q", b.p.Spec.ServiceAccountName)
		}
		b.files[path.Clean(t.Path)] = File{Data: []byte(token), Mode: b.mode, Mine: true}
	}
	return nil
}
