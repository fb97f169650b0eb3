package runtime

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestArgv(t *testing.T) {
	image := ocispec.ImageConfig{Entrypoint: []string{"/entry"}, Cmd: []string{"cmd"}}
	for _, c := range []struct {
		command, args, want []string
	}{
		{nil, nil, []string{"/entry", "cmd"}}, {[]string{"/mine"}, nil, []string{"/mine"}}, {nil, []string{"a"}, []string{"/entry", "a"}},
		{[]string{"/mine"}, []string{"a"}, []string{"/mine", "a"}},
	} {
		got := argv(Container{Image: &Image{Config: image}, Command: c.command, Args: c.args})
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("command %q, args %q (-want +got):\n%s", c.command, c.args, d)
		}
	}
}

func TestEnvironment(t *testing.T) {
	k := Container{Image: &Image{Config: ocispec.ImageConfig{Env: []string{"A=image", "B=image"}}}, Env: []string{"B=pod", "C=pod", "PATH=/x"}}
	if d := cmp.Diff([]string{"PATH=/x", "A=image", "B=pod", "C=pod"}, environment(k)); d != "" {
		t.Errorf("environment (-want +got):\n%s", d)
	}
}

func TestNormalName(t *testing.T) {
	for in, want := range map[string]string{
		"busybox": "docker.io/library/busybox:latest", "a/b:1": "docker.io/a/b:1", "localhost:5000/x": "localhost:5000/x:latest", "127.0.0.1:5000/x:2": "127.0.0.1:5000/x:2",
	} {
		if got, err := NormalName(in); err != nil || got != want {
			t.Errorf("%q: %q %v, want %q", in, got, err, want)
		}
	}
	if _, err := NormalName("Bad Name"); err == nil {
		t.Error("a malformed name was accepted")
	}
}

func TestParseDockerConfig(t *testing.T) {
	got, err := ParseDockerConfig([]byte(`{"auths":{"https://index.docker.io/v1/":{"auth":"dTpwOnc="}}}`), false)
	if err != nil || len(got) != 1 || got[0].User != "u" || got[0].Password != "p:w" || hostOf(got[0].Host) != "docker.io" {
		t.Errorf("dockerconfigjson: %v %v", got, err)
	}
	got, err = ParseDockerConfig([]byte(`{"r.example":{"username":"u","password":"p"}}`), true)
	if err != nil || len(got) != 1 || got[0].User != "u" || hostOf(got[0].Host) != "r.example" {
		t.Errorf("dockercfg: %v %v", got, err)
	}
}

func TestExitSurvivesItsLabel(t *testing.T) {
	x := Exit{Code: 3, OOM: true, Message: string(make([]byte, 5000))}
	got := parseExit(x.String())
	if got == nil || got.Code != 3 || !got.OOM || len(x.String()) > labelMax {
		t.Errorf("exit: %+v", got)
	}
}
