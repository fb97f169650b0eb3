package pki

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

func open(t *testing.T, dir string) *CA {
	t.Helper()
	ca, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func TestIdentityIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	first := open(t, dir)
	again := open(t, dir)
	if !bytes.Equal(first.CertPEM(), again.CertPEM()) || !first.ServiceAccountKey().Equal(again.ServiceAccountKey()) {
		t.Error("a second start made other keys")
	}
	req := Request{CommonName: "apiserver", Server: true, DNSNames: []string{"localhost"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}
	cert, _, err := first.Ensure("apiserver", req)
	if err != nil {
		t.Fatal(err)
	}
	same, _, err := again.Ensure("apiserver", req)
	if err != nil || !bytes.Equal(cert, same) {
		t.Errorf("a certificate that serves was issued anew: %v", err)
	}
	req.DNSNames = append(req.DNSNames, "api.example")
	other, _, err := again.Ensure("apiserver", req)
	if err != nil || bytes.Equal(cert, other) {
		t.Errorf("a certificate without the name that is asked for was kept: %v", err)
	}
	for _, name := range []string{"ca.key", "sa.key", "apiserver.key"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info.Mode(), err)
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder: %v %v", info.Mode(), err)
	}
}

// A start that ended between the two files of the authority is begun anew.
func TestHalfAnAuthority(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	if err := os.Remove(filepath.Join(dir, "ca.crt")); err != nil {
		t.Fatal(err)
	}
	ca := open(t, dir)
	if cert, _, err := ca.Issue(Request{CommonName: "x", Client: true}); err != nil || cert == nil {
		t.Errorf("issue: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.key"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil {
		t.Error("a broken key was taken, or replaced")
	}
}

func TestIssuedCertificates(t *testing.T) {
	ca := open(t, t.TempDir())
	cert, key, err := ca.Issue(Request{CommonName: NodePrefix + "n1", Organizations: []string{NodesGroup}, Client: true})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	usage := func(u x509.ExtKeyUsage) error {
		_, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: ca.Pool(), KeyUsages: []x509.ExtKeyUsage{u}})
		return err
	}
	if err := usage(x509.ExtKeyUsageClientAuth); err != nil {
		t.Errorf("as a client: %v", err)
	}
	if usage(x509.ExtKeyUsageServerAuth) == nil {
		t.Error("a client's certificate serves a server")
	}
	if s := pair.Leaf.Subject; s.CommonName != "system:node:n1" || len(s.Organization) != 1 || s.Organization[0] != "system:nodes" {
		t.Errorf("subject: %v", s)
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: open(t, t.TempDir()).Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
		t.Error("another authority vouches for it")
	}
}

func TestAdminKubeconfig(t *testing.T) {
	ca := open(t, t.TempDir())
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := ca.WriteAdminKubeconfig(path, "https://127.0.0.1:6443"); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var c kubeconfig
	if err := yaml.Unmarshal(data, &c); err != nil {
		t.Fatal(err)
	}
	cert, err := base64.StdEncoding.DecodeString(c.Users[0].User.Cert)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := parseCertificate(cert)
	if err != nil || leaf.Subject.CommonName != AdminUser || leaf.Subject.Organization[0] != AdminGroup || c.Clusters[0].Cluster.Server != "https://127.0.0.1:6443" {
		t.Errorf("kubeconfig: %v %s", err, data)
	}
}

// TestClockSetBack has the clock set right that was ahead when certificates
// were made: they must serve on, and those from too far in the future be made
// anew.
func TestClockSetBack(t *testing.T) {
	dir := t.TempDir()
	ca := open(t, dir)
	cert, key, err := ca.Ensure("server", Request{CommonName: "server", Server: true})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	then := time.Now().Add(-12 * time.Hour)
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: ca.Pool(), CurrentTime: then}); err != nil {
		t.Errorf("twelve hours earlier: %v", err)
	}
	future := *pair.Leaf
	future.NotBefore, future.NotAfter = time.Now().Add(time.Hour), time.Now().Add(certificateLife)
	der, err := x509.CreateCertificate(rand.Reader, &future, ca.cert, pair.Leaf.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "server.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		t.Fatal(err)
	}
	again, key, err := ca.Ensure("server", Request{CommonName: "server", Server: true})
	if err != nil {
		t.Fatal(err)
	}
	if pair, err = tls.X509KeyPair(again, key); err != nil || pair.Leaf.NotBefore.After(time.Now()) {
		t.Errorf("a certificate that is not valid yet was kept: %v", err)
	}
}
