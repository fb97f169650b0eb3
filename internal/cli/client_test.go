package cli

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/internal/pki"
	"github.com/rutterhq/rutter/kernel"
)

// server answers as an apiserver of few words does: from a table of paths, with
// what was asked kept.
type server struct {
	*httptest.Server
	t       *testing.T
	answers map[string]string // by path, or path?query; ndjson and JSON alike
	asked   []string          // paths with their queries, of all but discovery
	sent    string            // the newest method and body
	auth    string            // the newest Authorization
	user    string            // the newest client certificate's name

	replayer Replayer // what replay has; an honest one
}

// discovery is what the server says about its resources.
var discovery = map[string]any{
	"/apis": metav1.APIGroupList{Groups: []metav1.APIGroup{{Name: "apps", PreferredVersion: metav1.GroupVersionForDiscovery{GroupVersion: "apps/v1", Version: "v1"}}}},
	"/api/v1": metav1.APIResourceList{GroupVersion: "v1", APIResources: []metav1.APIResource{
		{Name: "pods", SingularName: "pod", Kind: "Pod", Namespaced: true, ShortNames: []string{"po"}},
		{Name: "pods/log", Kind: "Pod", Namespaced: true},
		{Name: "nodes", SingularName: "node", Kind: "Node", ShortNames: []string{"no"}}}},
	"/apis/apps/v1": metav1.APIResourceList{GroupVersion: "apps/v1", APIResources: []metav1.APIResource{
		{Name: "replicasets", SingularName: "replicaset", Kind: "ReplicaSet", Namespaced: true, ShortNames: []string{"rs"}}}},
}

func newServer(t *testing.T, answers map[string]string) *server {
	s := &server{t: t, answers: answers, replayer: planted("")}
	s.Server = httptest.NewUnstartedServer(s)
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// ServeHTTP implements http.Handler.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.auth, s.user = r.Header.Get("Authorization"), ""
	if len(r.TLS.PeerCertificates) > 0 {
		s.user = r.TLS.PeerCertificates[0].Subject.CommonName
	}
	if d, ok := discovery[r.URL.Path]; ok {
		if err := json.NewEncoder(w).Encode(d); err != nil {
			s.t.Error(err)
		}
		return
	}
	s.asked = append(s.asked, r.URL.RequestURI())
	body, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Error(err)
	}
	s.sent = r.Method + " " + string(body)
	answer, ok := s.answers[r.URL.RequestURI()]
	if !ok {
		answer, ok = s.answers[r.URL.Path]
	}
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		answer = `{"kind":"Status","message":"there is nothing at ` + r.URL.Path + `"}`
	}
	fmt.Fprintln(w, answer)
}

// caPEM is the certificate that the server's own is checked against.
func (s *server) caPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

// kubeconfig writes a kubeconfig for the server, with more about the user.
func (s *server) kubeconfig(context, user string) string {
	return s.write(fmt.Sprintf(`
apiVersion: v1
kind: Config
current-context: here
contexts:
- {name: elsewhere, context: {cluster: other, user: other}}
- {name: here, context: {cluster: c, user: u%s}}
clusters:
- {name: c, cluster: {server: %q, certificate-authority-data: %s}}
users:
- {name: other, user: {token: wrong}}
- {name: u, user: {%s}}
`, context, s.URL, base64.StdEncoding.EncodeToString(s.caPEM()), user))
}

func (s *server) write(text string) string {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return file
}

func (s *server) open(file string) *Client {
	s.t.Helper()
	c, err := Open(file)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func TestKubeconfigOfATokensOwner(t *testing.T) {
	s := newServer(t, map[string]string{"/x": "{}"})
	c := s.open(s.kubeconfig(", namespace: shop", "token: secret"))
	if err := c.JSON(t.Context(), "/x", nil, &struct{}{}); err != nil || s.auth != "Bearer secret" || c.Namespace != "shop" {
		t.Errorf("%v; authorization %q, namespace %q", err, s.auth, c.Namespace)
	}
	if c := s.open(s.kubeconfig("", "token: secret")); c.Namespace != "default" {
		t.Errorf("without a namespace it is %q", c.Namespace)
	}
}

// A certificate may stand in the kubeconfig, or in files that it names from
// its own folder.
func TestKubeconfigOfACertificatesOwner(t *testing.T) {
	s := newServer(t, map[string]string{"/x": "{}"})
	ca, err := pki.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Issue(pki.Request{CommonName: "ann", Client: true})
	if err != nil {
		t.Fatal(err)
	}
	inline, err := pki.Kubeconfig(s.URL, s.caPEM(), cert, key, "ann")
	if err != nil {
		t.Fatal(err)
	}
	named := s.write(fmt.Sprintf(`{current-context: x, contexts: [{name: x, context: {cluster: c, user: u}}],
clusters: [{name: c, cluster: {server: %q, certificate-authority: ca.crt}}],
users: [{name: u, user: {client-certificate: tls/u.crt, client-key: tls/u.key}}]}`, s.URL))
	folder := filepath.Dir(named)
	if err := os.Mkdir(filepath.Join(folder, "tls"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"ca.crt": s.caPEM(), "tls/u.crt": cert, "tls/u.key": key} {
		if err := os.WriteFile(filepath.Join(folder, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{s.write(string(inline)), named} {
		s.user = ""
		if err := s.open(file).JSON(t.Context(), "/x", nil, &struct{}{}); err != nil || s.user != "ann" {
			t.Errorf("%v; the server saw %q", err, s.user)
		}
	}
}

func TestKubeconfigsThatSayTooLittle(t *testing.T) {
	s := newServer(t, nil)
	const rest = `contexts: [{name: x, context: {cluster: c, user: u}}]`
	for text, want := range map[string]string{
		"{":                           "kubeconfig",
		"current-context: nowhere":    `current-context "nowhere" is not among contexts`,
		"current-context: x\n" + rest: `cluster "c" is not among clusters, or has no server`,
		"current-context: x\n" + rest + "\nclusters: [{name: c, cluster: {server: 'https://h', certificate-authority-data: AAAA}}]":                                                 "no certificate in its certificate authority",
		"current-context: x\n" + rest + "\nclusters: [{name: c, cluster: {server: 'https://h', certificate-authority: gone.crt}}]":                                                  "gone.crt",
		"current-context: x\n" + rest + "\nclusters: [{name: c, cluster: {server: 'https://h'}}]\nusers: [{name: u, user: {client-certificate-data: AAAA, client-key-data: AAAA}}]": `user "u"`,
		"current-context: x\n" + rest + "\nclusters: [{name: c, cluster: {server: 'https://h'}}]\nusers: [{name: u, user: {client-certificate-data: '!', client-key-data: AAAA}}]":  "base64",
	} {
		if _, err := Open(s.write(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s:\n%v, want %q", text, err, want)
		}
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none")); err == nil || !strings.Contains(err.Error(), "kubeconfig") {
		t.Errorf("no file: %v", err)
	}
}

func TestRefusalsAreTheServersWords(t *testing.T) {
	s := newServer(t, nil)
	c := s.open(s.kubeconfig("", "token: t"))
	if err := c.JSON(t.Context(), "/y", nil, nil); err == nil || err.Error() != "there is nothing at /y" {
		t.Errorf("%v", err)
	}
	s.Close()
	if err := c.JSON(t.Context(), "/y", nil, nil); err == nil || !strings.HasPrefix(err.Error(), "ask the apiserver: ") {
		t.Errorf("%v", err)
	}
}

func TestObjectsByAllTheirNames(t *testing.T) {
	s := newServer(t, nil)
	c := s.open(s.kubeconfig(", namespace: shop", "token: t"))
	pods, sets := kernel.Resource{Plural: "pods"}, kernel.Resource{Group: "apps", Plural: "replicasets"}
	for arg, want := range map[string]struct {
		key  kernel.Key
		path string
	}{
		"pods/web":           {kernel.Key{Resource: pods, Namespace: "shop", Name: "web"}, "/api/v1/namespaces/shop/pods/web"},
		"Po/web":             {kernel.Key{Resource: pods, Namespace: "shop", Name: "web"}, "/api/v1/namespaces/shop/pods/web"},
		"pod/other/web":      {kernel.Key{Resource: pods, Namespace: "other", Name: "web"}, "/api/v1/namespaces/other/pods/web"},
		"rs/w":               {kernel.Key{Resource: sets, Namespace: "shop", Name: "w"}, "/apis/apps/v1/namespaces/shop/replicasets/w"},
		"replicasets.apps/w": {kernel.Key{Resource: sets, Namespace: "shop", Name: "w"}, "/apis/apps/v1/namespaces/shop/replicasets/w"},
		"nodes/n1":           {kernel.Key{Resource: kernel.Resource{Plural: "nodes"}, Name: "n1"}, "/api/v1/nodes/n1"},
	} {
		r, k, err := c.object(t.Context(), arg)
		if err != nil {
			t.Errorf("%s: %v", arg, err)
			continue
		}
		if diff := cmp.Diff(want.key, k); diff != "" || r.path(k.Namespace, k.Name) != want.path {
			t.Errorf("%s: path %s, key (-want +got):\n%s", arg, r.path(k.Namespace, k.Name), diff)
		}
	}
	for arg, want := range map[string]string{
		"pods": "expected RESOURCE/NAME", "nodes/default/n1": "expected RESOURCE/NAME", "a/b/c/d": `no resource "a"`,
		"pods.apps/x": `no resource "pods.apps"`, "pods/a/b/c": "expected RESOURCE/NAME",
	} {
		if _, _, err := c.object(t.Context(), arg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", arg, err, want)
		}
	}
}
