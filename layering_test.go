package rutter

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/rutterhq/rutter/"

// layer says what the packages below a folder may import of this module, and
// what they may not import of others. The first layer that matches counts.
type layer struct {
	folder string
	ours   []string // folders of this module that may be imported, beside its own
	never  []string // other packages, with all below them
	why    string
}

// pure is what deciders must not reach: nothing in them may depend on where
// and when they run.
var pure = []string{"net", "os", "sync", "math/rand", "crypto/rand", "github.com/nats-io", "github.com/rs/zerolog"}

var layers = []layer{
	{"events/jetstream", []string{"events"}, []string{"k8s.io"}, "the log over NATS knows no Kubernetes type either"},
	{"events", nil, []string{"k8s.io", "github.com/nats-io"}, "events are bytes; they know no Kubernetes type"},
	{"kernel", []string{"events", "internal/history"}, []string{"k8s.io/api", "net", "os", "github.com/nats-io"}, "the kernel knows no kind and no I/O"},
	{"internal/history", []string{"events", "kernel"}, []string{"k8s.io/api", "net", "os"}, "reading the past is pure"},
	{"kinds", []string{"events", "kernel", "internal/history"}, pure, "kinds are pure"},
	{"services/scheduler", []string{"events", "kernel", "kinds"}, pure, "deciders are pure"},
	{"services/controllers", []string{"events", "kernel", "kinds", "services/scheduler"}, pure, "deciders are pure"},
	{"services/nodeagent", []string{"events", "kernel", "kinds", "bpf", "internal"}, nil, ""},
	{"services/apiserver", []string{"events", "kernel", "kinds", "internal"}, nil, ""},
	{"services/ingress", []string{"events", "kernel", "kinds", "internal"}, nil, ""},
	{"bpf", nil, []string{"k8s.io"}, "the datapath knows addresses, not objects"},
	{"internal/openapigen", []string{"kinds/rutterv1"}, nil, "a generator, in a module of its own"},
	{"internal", []string{"internal", "events", "kernel"}, nil, ""},
	{"sim", []string{"events", "kernel", "kinds", "services", "internal"}, []string{"net", "os/exec"}, "one thread, no world"},
	{"deploy", []string{"internal"}, nil, "examples are programs of their own"},
	{"cmd", []string{""}, nil, ""},
	{"test", []string{""}, nil, ""},
}

// data are packages below a forbidden one that only hold values, and caches
// that no decision can see.
var data = map[string][]string{
	"net/netip":   {"kinds", "services"},
	"sync/atomic": {"kinds/openapi"}, // parsed on first use
}

// onlyIn names packages of others that have one home.
var onlyIn = map[string][]string{
	"github.com/nats-io":             {"events/jetstream", "cmd/rutter"},
	"k8s.io/client-go":               {"test", "cmd/kubectl"},
	"k8s.io/kubernetes":              {"test"},
	"k8s.io/apiserver":               {"services/apiserver/crd", "test"},
	"github.com/containerd":          {"services/nodeagent", "test"},
	"github.com/cilium/ebpf":         {"bpf", "test"},
	"github.com/vishvananda/netlink": {"services/nodeagent", "bpf", "test"},
	"github.com/spf13/cobra":         {"cmd/rutter", "internal/cli"},
}

// TestLayering holds imports to the design: events ← kernel ← kinds ←
// services ← cmd, services apart from one another.
func TestLayering(t *testing.T) {
	for _, f := range sources(t) {
		dir := path.Dir(f.path)
		i := slices.IndexFunc(layers, func(l layer) bool { return within(dir, l.folder) })
		if i < 0 && dir != "." {
			t.Errorf("%s: its folder is not in the design", f.path)
			continue
		}
		for _, imported := range f.imports {
			ours, isOurs := strings.CutPrefix(imported, module)
			if isOurs && dir != "." && !mayImport(layers[i], ours) && !(f.test && within(ours, "kernel/kerneltest")) && !(f.test && within(ours, "events")) {
				t.Errorf("%s imports %s: %s may import only %v", f.path, imported, layers[i].folder, layers[i].ours)
			}
			if !f.test && dir != "." && !within(dir, "kernel/kerneltest") && !isData(dir, imported) &&
				slices.ContainsFunc(layers[i].never, func(n string) bool { return within(imported, n) }) {
				t.Errorf("%s imports %s: %s", f.path, imported, layers[i].why)
			}
			for pkg, homes := range onlyIn {
				if within(imported, pkg) && !slices.ContainsFunc(homes, func(h string) bool { return within(dir, h) }) {
					t.Errorf("%s imports %s, which belongs in %v only", f.path, imported, homes)
				}
			}
		}
	}
}

func isData(dir, imported string) bool {
	return slices.ContainsFunc(data[imported], func(home string) bool { return within(dir, home) })
}

func mayImport(l layer, ours string) bool {
	return within(ours, l.folder) || slices.ContainsFunc(l.ours, func(o string) bool { return o == "" || within(ours, o) })
}

// within tells whether p is the folder or package, or below it.
func within(p, folder string) bool { return p == folder || strings.HasPrefix(p, folder+"/") }

// source is a Go file of this module, or of a module nested in it.
type source struct {
	path      string // relative, with slashes
	imports   []string
	test      bool // *_test.go
	command   bool // package main
	generated bool
}

func sources(t *testing.T) []source {
	t.Helper()
	var out []source
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "bin" || d.Name() == "testdata" || d.Name() == "generated" || strings.HasPrefix(d.Name(), ".") && p != ".") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		s := source{path: filepath.ToSlash(p), test: strings.HasSuffix(p, "_test.go"), command: parsed.Name.Name == "main"}
		for _, i := range parsed.Imports {
			imported, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			s.imports = append(s.imports, imported)
		}
		for _, c := range parsed.Comments {
			s.generated = s.generated || c.Pos() < parsed.Package && strings.Contains(c.Text(), "Code generated")
		}
		out = append(out, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
