//go:build e2e

package test

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/rutterhq/rutter/internal/pki"
)

// TestAgentIsTheAPIServersAlone: nobody else has a node's agent run commands in
// pods or show their logs, whoever they are to the API: another node, the node
// itself, the administrator, a service account without a certificate.
func TestAgentIsTheAPIServersAlone(t *testing.T) {
	c := newCluster(t)
	c.up()
	ca, err := pki.Open(filepath.Join(c.data, "pki"))
	if err != nil {
		t.Fatal(err)
	}
	certificate := func(r pki.Request) []tls.Certificate {
		t.Helper()
		r.Client = true
		cert, key, err := ca.Issue(r)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return []tls.Certificate{pair}
	}
	admin, err := tls.X509KeyPair(c.rest.CertData, c.rest.KeyData)
	if err != nil {
		t.Fatal(err)
	}
	own, err := tls.LoadX509KeyPair(filepath.Join(c.data, "nodes", nodeName, "node.crt"), filepath.Join(c.data, "nodes", nodeName, "node.key"))
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(filepath.Join(c.data, "nodes", nodeName, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	answers := func(pairs []tls.Certificate, path string) bool {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: pairs}}}
		defer client.CloseIdleConnections()
		res, err := client.Get("https://" + hostAddress + ":10250" + path)
		if err != nil {
			return false
		}
		res.Body.Close()
		return true
	}
	// Whoever has the authority's key is the API server. So the port is there.
	if !answers(certificate(pki.Request{CommonName: pki.APIServerUser}), "/healthz") {
		t.Fatal("the agent does not answer the API server")
	}
	for who, pairs := range map[string][]tls.Certificate{
		"nobody": nil, "the administrator": {admin}, "the node itself": {own},
		"another node":                certificate(pki.Request{CommonName: pki.NodePrefix + "other", Organizations: []string{pki.NodesGroup}}),
		"one who is called a server":  certificate(pki.Request{CommonName: "kubernetes", Organizations: []string{pki.AdminGroup, pki.APIServerUser}, Server: true}),
		"one whose name begins alike": certificate(pki.Request{CommonName: pki.APIServerUser + "x"}),
	} {
		for _, path := range []string{"/healthz", "/containerLogs/default/p/c", "/exec/default/p/c?command=id", "/attach/default/p/c", "/portForward/default/p"} {
			if answers(pairs, path) {
				t.Errorf("the agent answers %s at %s", who, path)
			}
		}
	}
}
