package main

import (
	"crypto/tls"
	"crypto/x509"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rutterhq/rutter/internal/pki"
)

// A second server gets the first one's identity from its join file, once, and
// never another cluster's.
func TestJoinFile(t *testing.T) {
	newServer := func() *folders {
		f := &folders{data: filepath.Join(t.TempDir(), "data")}
		if _, err := f.schema(); err != nil {
			t.Fatal(err)
		}
		if _, err := pki.Open(f.pki()); err != nil {
			t.Fatal(err)
		}
		if err := f.writeJoinFile(); err != nil {
			t.Fatal(err)
		}
		return f
	}
	first, stranger := newServer(), newServer()
	second := &folders{data: filepath.Join(t.TempDir(), "data")}
	for range 2 {
		if err := second.adopt(first.joinFile()); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range identity {
		a, _ := os.ReadFile(filepath.Join(first.data, name))
		b, err := os.ReadFile(filepath.Join(second.data, name))
		if err != nil || string(a) != string(b) {
			t.Errorf("%s: %v, or it differs", name, err)
		}
	}
	if err := second.adopt(stranger.joinFile()); err == nil || !strings.Contains(err.Error(), "another cluster") {
		t.Errorf("another cluster's keys: %v", err)
	}
	if info, err := os.Stat(first.joinFile()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the join file: %v %v", info, err)
	}
	if err := os.Chmod(first.joinFile(), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := (&folders{data: filepath.Join(t.TempDir(), "data")}).adopt(first.joinFile()); err == nil {
		t.Error("a join file that others could read was taken")
	}
	_ = filepath.WalkDir(second.data, func(path string, e fs.DirEntry, err error) error {
		if info, _ := e.Info(); err == nil && !e.IsDir() && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s can be read by others", path)
		}
		return nil
	})
}

// A server keeps its name, and what it was told of the others.
func TestServerRemembers(t *testing.T) {
	f := folders{data: t.TempDir()}
	s := serverFlags{folders: f, name: "s1", join: []string{"192.0.2.2:7422"}}
	if _, err := s.remember(); err != nil {
		t.Fatal(err)
	}
	again := serverFlags{folders: f}
	if m, err := again.remember(); err != nil || m.Name != "s1" || len(m.Join) != 1 || !m.Founder {
		t.Errorf("%+v, %v", m, err)
	}
	other := serverFlags{folders: f, name: "s2"}
	if _, err := other.remember(); err == nil {
		t.Error("a server got another name")
	}
	dotted := serverFlags{folders: folders{data: t.TempDir()}, name: "a.b"}
	if _, err := dotted.remember(); err == nil {
		t.Error("a name with a dot")
	}
}

// Servers speak to servers: a node's and a user's certificate, of the same
// authority, are turned away.
func TestOnlyServersJoin(t *testing.T) {
	ca, err := pki.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := serverTLS(ca, "s1", "192.0.2.1:7422"); err != nil {
		t.Fatal(err)
	}
	for name, ok := range map[string]bool{serverPrefix + "s2": true, pki.NodePrefix + "n1": false, pki.AdminUser: false, pki.APIServerUser: false} {
		crt, key, err := ca.Issue(pki.Request{CommonName: name, Client: true})
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(crt, key)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(pair.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := onlyServers(tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}); (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRights lists what each service may append: what its deciders declare, and
// refusals. A decider that is to write more has to be let here too.
func TestRights(t *testing.T) {
	all := rights()
	for name, want := range map[string]string{
		"scheduler": "pods refusals.rutter.dev",
		"ingress":   "ingressclasses.networking.k8s.io ingresses.networking.k8s.io refusals.rutter.dev",
		"controllers": "clusterrolebindings.rbac.authorization.k8s.io clusterroles.rbac.authorization.k8s.io configmaps deployments.apps " +
			"endpoints endpointslices.discovery.k8s.io events ingressclasses.networking.k8s.io ingresses.networking.k8s.io " +
			"ipaddresses.networking.k8s.io leases.coordination.k8s.io namespaces nodes pods priorityclasses.scheduling.k8s.io " +
			"refusals.rutter.dev replicasets.apps rolebindings.rbac.authorization.k8s.io roles.rbac.authorization.k8s.io secrets " +
			"serviceaccounts services",
	} {
		var writes []string
		for _, w := range all[name].Writes {
			writes = append(writes, w.String())
		}
		slices.Sort(writes)
		if got := strings.Join(slices.Compact(writes), " "); got != want || all[name].All || all[name].Keys != (name == "ingress") {
			t.Errorf("%s: %+v", name, all[name])
		}
	}
	if len(all) != 4 || !all["apiserver"].All {
		t.Errorf("%d services have rights; the apiserver %+v", len(all), all["apiserver"])
	}
}
