package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

const (
	authorityLife   = 10 * 365 * 24 * time.Hour
	certificateLife = 365 * 24 * time.Hour
	// backdated is how far certificates reach into the past: for peers whose
	// clocks are behind, and for a machine whose clock was hours ahead when it
	// made them and has been set right since.
	backdated = 24 * time.Hour
)

// Groups and users that certificates name.
const (
	AdminUser  = "admin"
	AdminGroup = "system:masters"
	NodePrefix = "system:node:"
	NodesGroup = "system:nodes"
	// APIServerUser is who the API server is to the nodes' agents.
	APIServerUser = "system:apiserver"
)

// OnlyAPIServer refuses every peer but the API server. A node's agent sets it as
// VerifyConnection beside RequireAndVerifyClientCert: any user has a
// certificate of the authority, and may not run commands in pods by it.
func OnlyAPIServer(c tls.ConnectionState) error {
	if len(c.PeerCertificates) == 0 || c.PeerCertificates[0].Subject.CommonName != APIServerUser {
		return errors.New("only the API server may connect here")
	}
	return nil
}

// CA is a cluster's certificate authority with its service account key.
type CA struct {
	dir     string
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
	certPEM []byte
	sa      *ecdsa.PrivateKey
}

// Request says what a certificate is for.
type Request struct {
	CommonName    string
	Organizations []string
	DNSNames      []string
	IPs           []net.IP
	Server        bool // may be used by a server
	Client        bool // may be used by a client
}

// Open loads the authority and the service account key of the folder, and
// makes those that are missing.
func Open(dir string) (*CA, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the keys: %w", err)
	}
	ca := &CA{dir: dir}
	if err := ca.openAuthority(); err != nil {
		return nil, err
	}
	var err error
	ca.sa, err = loadKey(ca.path("sa.key"))
	if errors.Is(err, fs.ErrNotExist) {
		ca.sa, _, err = newKey(ca.path("sa.key"))
	}
	if err != nil {
		return nil, fmt.Errorf("service account key: %w", err)
	}
	return ca, nil
}

func (c *CA) path(name string) string { return filepath.Join(c.dir, name) }

func (c *CA) openAuthority() error {
	key, err := loadKey(c.path("ca.key"))
	if errors.Is(err, fs.ErrNotExist) {
		return c.newAuthority()
	}
	if err != nil {
		return fmt.Errorf("authority: %w", err)
	}
	c.key = key
	if c.certPEM, err = os.ReadFile(c.path("ca.crt")); errors.Is(err, fs.ErrNotExist) {
		return c.newAuthority() // the last start ended between the two files: nothing was signed yet
	} else if err != nil {
		return fmt.Errorf("authority: %w", err)
	}
	c.cert, err = parseCertificate(c.certPEM)
	if err != nil {
		return fmt.Errorf("authority %s: %w", c.path("ca.crt"), err)
	}
	return nil
}

func (c *CA) newAuthority() error {
	key, _, err := newKey(c.path("ca.key"))
	if err != nil {
		return fmt.Errorf("make the authority's key: %w", err)
	}
	serial, err := serialNumber()
	if err != nil {
		return err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "rutter-ca"},
		NotBefore:    now.Add(-backdated), NotAfter: now.Add(authorityLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return fmt.Errorf("sign the authority: %w", err)
	}
	c.key = key
	c.certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if c.cert, err = x509.ParseCertificate(der); err != nil {
		return fmt.Errorf("read the authority back: %w", err)
	}
	return writeFile(c.path("ca.crt"), c.certPEM, 0o644)
}

// CertPEM is the authority's certificate, which is public.
func (c *CA) CertPEM() []byte { return c.certPEM }

// Pool holds the authority alone.
func (c *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(c.cert)
	return pool
}

// ServiceAccountKey signs service account tokens.
func (c *CA) ServiceAccountKey() *ecdsa.PrivateKey { return c.sa }

// Issue signs a certificate for a new key and returns both as PEM.
func (c *CA) Issue(r Request) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	certPEM, err = c.Sign(r, key.Public())
	if err != nil {
		return nil, nil, err
	}
	keyPEM, err = encodeKey(key)
	return certPEM, keyPEM, err
}

// Sign signs a certificate for a key that its owner keeps.
func (c *CA) Sign(r Request, public crypto.PublicKey) ([]byte, error) {
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: r.CommonName, Organization: r.Organizations},
		NotBefore:    now.Add(-backdated), NotAfter: now.Add(certificateLife),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		DNSNames: r.DNSNames, IPAddresses: r.IPs,
	}
	if r.Server {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if r.Client {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.cert, public, c.key)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of %s: %w", r.CommonName, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// Ensure returns the certificate and key kept under the name in the
// authority's folder. It issues and keeps them if there are none, if they are
// past two thirds of their life or not yet valid, or if they do not say what r asks for.
func (c *CA) Ensure(name string, r Request) (certPEM, keyPEM []byte, err error) {
	crt, key := c.path(name+".crt"), c.path(name+".key")
	certPEM, err = os.ReadFile(crt)
	if err == nil {
		keyPEM, err = os.ReadFile(key)
	}
	if err == nil && c.serves(certPEM, keyPEM, r) {
		return certPEM, keyPEM, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("certificate %s: %w", name, err)
	}
	if certPEM, keyPEM, err = c.Issue(r); err != nil {
		return nil, nil, err
	}
	if err := writeFile(key, keyPEM, 0o600); err != nil {
		return nil, nil, err
	}
	return certPEM, keyPEM, writeFile(crt, certPEM, 0o644)
}

// serves tells whether a kept pair is still good for the request.
func (c *CA) serves(certPEM, keyPEM []byte, r Request) bool {
	if _, err := tls.X509KeyPair(certPEM, keyPEM); err != nil {
		return false
	}
	cert, err := parseCertificate(certPEM)
	if err != nil || cert.CheckSignatureFrom(c.cert) != nil || cert.Subject.CommonName != r.CommonName {
		return false
	}
	now := time.Now()
	if now.Before(cert.NotBefore) || now.After(cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore)/3*2)) {
		return false
	}
	has := map[string]bool{}
	for _, n := range cert.DNSNames {
		has["dns "+n] = true
	}
	for _, ip := range cert.IPAddresses {
		has["ip "+ip.String()] = true
	}
	for _, o := range cert.Subject.Organization {
		has["o "+o] = true
	}
	for _, n := range r.DNSNames {
		if !has["dns "+n] {
			return false
		}
	}
	for _, ip := range r.IPs {
		if !has["ip "+ip.String()] {
			return false
		}
	}
	for _, o := range r.Organizations {
		if !has["o "+o] {
			return false
		}
	}
	return true
}

func serialNumber() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}

func parseCertificate(data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("holds no PEM certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

func loadKey(path string) (*ecdsa.PrivateKey, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM key", path)
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

func newKey(path string) (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	data, err := encodeKey(key)
	if err != nil {
		return nil, nil, err
	}
	return key, data, writeFile(path, data, 0o600)
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// writeFile makes the file appear whole: a crash leaves the old one or the new.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(f.Name()) // after the rename there is nothing left to remove
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer dir.Close()
	return dir.Sync()
}
