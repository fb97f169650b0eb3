package events

import (
	"strings"
	"testing"
)

func TestSubject(t *testing.T) {
	t.Parallel()
	for want, k := range map[string]Key{
		"ev.core.pods.default.web-1":      {Resource: Resource{Plural: "pods"}, Namespace: "default", Name: "web-1"},
		"ev.core.nodes._.n1=2Eexample":    {Resource: Resource{Plural: "nodes"}, Name: "n1.example"},
		"ev.apps.deployments.kube.a":      {Resource: Resource{Group: "apps", Plural: "deployments"}, Namespace: "kube", Name: "a"},
		"ev.a=2Eb.clusterroles._.system:": {Resource: Resource{Group: "a.b", Plural: "clusterroles"}, Name: "system:"},
		"ev.=63ore.x.=5F.=2A=3E=3D=20=0A": {Resource: Resource{Group: "core", Plural: "x"}, Namespace: "_", Name: "*>= \n"},
		"ev.core.x._.core":                {Resource: Resource{Plural: "x"}, Name: "core"},
		"ev._.x._._a":                     {Resource: Resource{Group: "_", Plural: "x"}, Name: "_a"},
		"ev.core.x._.=C3=BC":              {Resource: Resource{Plural: "x"}, Name: "ü"},
	} {
		if got := k.Subject(); got != want {
			t.Errorf("%q: got %s, want %s", k, got, want)
		}
		if back, err := KeyOfSubject(want); err != nil || back != k {
			t.Errorf("%s: got %+v, %v, want %+v", want, back, err, k)
		}
	}
}

func TestKeyOfSubjectRefuses(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"", "ev", "ev.core.pods.default", "ev.core.pods.default.a.b", "xx.core.pods.default.a",
		"ev..pods.default.a", "ev.core.pods.default.=2e", "ev.core.pods.default.=2", "ev.core.pods.default.=ZZ",
		"ev.core.pods.default.=41", "ev.core.pods.default.a b", "ev.core.pods.*.a", "ev.core.pods.default.>",
	} {
		if k, err := KeyOfSubject(s); err == nil {
			t.Errorf("%q was read as %+v", s, k)
		}
	}
}

func FuzzSubject(f *testing.F) {
	f.Add("", "pods", "default", "web")
	f.Add("core", "_", "_", "=2E. *>\x00\xff")
	f.Fuzz(func(t *testing.T, group, plural, namespace, name string) {
		k := Key{Resource: Resource{Group: group, Plural: plural}, Namespace: namespace, Name: name}
		s := k.Subject()
		if strings.Count(s, ".") != 4 || strings.ContainsAny(s, "*> \t\r\n\x00") {
			t.Fatalf("%+v gives the subject %q", k, s)
		}
		back, err := KeyOfSubject(s)
		if err != nil || back != k {
			t.Fatalf("%+v gives %q gives %+v, %v", k, s, back, err)
		}
	})
}

func FuzzKeyOfSubject(f *testing.F) {
	f.Add("ev.core.pods.default.web")
	f.Add("ev.=63ore.=5F._.=2E")
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := KeyOfSubject(s); err == nil && k.Subject() != s {
			t.Fatalf("%q gives %+v gives %q", s, k, k.Subject())
		}
	})
}
