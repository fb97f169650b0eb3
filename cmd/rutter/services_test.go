package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// A service alone folds what its deciders read, what finishing their writes
// looks at, and what they write: without its object's own resource a write
// could not be finished.
func TestServicesAloneSeeEnough(t *testing.T) {
	for _, d := range deciders() {
		reads := readsOf([]kernel.Decider{d})
		for _, want := range slices.Concat(d.Reads, d.Writes, kinds.FinishReads()) {
			if !slices.Contains(reads, want) {
				t.Errorf("%s alone would not see %s", d.Name, want)
			}
		}
	}
}

// Every decider has a name of its own: replay finds it by that.
func TestDecidersHaveNames(t *testing.T) {
	seen := map[string]bool{}
	for _, d := range deciders() {
		if d.Name == "" || seen[d.Name] {
			t.Errorf("the name %q is there twice, or empty", d.Name)
		}
		seen[d.Name] = true
	}
}

// The cluster's identity is made once, and kept from others.
func TestIdentityIsMadeOnce(t *testing.T) {
	f := folders{data: filepath.Join(t.TempDir(), "data")}
	first, err := f.schema()
	if err != nil {
		t.Fatal(err)
	}
	second, err := f.schema()
	if err != nil || first.Cluster != second.Cluster || string(first.Seal) != string(second.Seal) || len(first.Seal) != 32 {
		t.Errorf("%v: %v became %v", err, first, second)
	}
	for _, name := range []string{"cluster", "seal.key"} {
		if info, err := os.Stat(filepath.Join(f.data, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info.Mode(), err)
		}
	}
	if err := os.WriteFile(filepath.Join(f.data, "seal.key"), []byte("short\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.schema(); err == nil || !strings.Contains(err.Error(), "seal.key") {
		t.Errorf("a broken key: %v", err)
	}
}

// Flags may come from the environment; what is said on the command line wins.
func TestFlagsFromTheEnvironment(t *testing.T) {
	t.Setenv("RUTTER_DATA", t.TempDir())
	c := kubeconfigCommand()
	if err := fromEnvironment(c.Flags()); err != nil {
		t.Fatal(err)
	}
	if got := c.Flag("data").Value.String(); got != os.Getenv("RUTTER_DATA") {
		t.Errorf("--data is %s", got)
	}
	c = kubeconfigCommand()
	if err := c.Flags().Parse([]string{"--data", "/elsewhere"}); err != nil {
		t.Fatal(err)
	}
	if err := fromEnvironment(c.Flags()); err != nil || c.Flag("data").Value.String() != "/elsewhere" {
		t.Errorf("%v: --data is %s", err, c.Flag("data").Value)
	}
	t.Setenv("RUTTER_TAIL", "many")
	for _, c := range root().Commands() {
		if c.Name() == "log" {
			if err := fromEnvironment(c.Flags()); err == nil || !strings.Contains(err.Error(), "RUTTER_TAIL") {
				t.Errorf("a bad value: %v", err)
			}
		}
	}
}

// Every command that the documentation names is there, and says what it is for.
func TestCommandsAreThere(t *testing.T) {
	have := map[string]bool{}
	for _, c := range root().Commands() {
		have[c.Name()] = true
		if c.Short == "" && !c.Hidden {
			t.Errorf("rutter %s does not say what it is for", c.Name())
		}
	}
	for _, name := range strings.Fields("up down server nats apiserver scheduler controllers nodeagent ingress kubeconfig image log why get diff history replay record") {
		if !have[name] {
			t.Errorf("there is no rutter %s", name)
		}
	}
	var code exitCode
	if err := error(exitCode(3)); !errors.As(err, &code) || code != 3 {
		t.Errorf("%v", err)
	}
}

func TestKubeconfigIsPrinted(t *testing.T) {
	data := t.TempDir()
	print := func() (string, error) {
		var out strings.Builder
		c := root()
		c.SetOut(&out)
		c.SetArgs([]string{"kubeconfig", "--data", data})
		err := c.ExecuteContext(t.Context())
		return out.String(), err
	}
	if _, err := print(); err == nil || !strings.Contains(err.Error(), "is the cluster up?") {
		t.Errorf("without a cluster: %v", err)
	}
	if err := os.WriteFile(filepath.Join(data, "admin.kubeconfig"), []byte("kind: Config\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := print(); err != nil || out != "kind: Config\n" {
		t.Errorf("%v: %s", err, out)
	}
}
