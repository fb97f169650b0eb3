package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// Client talks to an apiserver as the user of a kubeconfig.
type Client struct {
	base      string
	token     string
	Namespace string // of the kubeconfig's context; "default" if it names none
	http      *http.Client
}

// kubeconfig holds the fields of a kubeconfig file that are used here
// (k8s.io/client-go/tools/clientcmd/api/v1.Config).
type kubeconfig struct {
	CurrentContext string `json:"current-context"`
	Contexts       []struct {
		Name    string
		Context struct{ Cluster, User, Namespace string }
	}
	Clusters []struct {
		Name    string
		Cluster struct {
			Server      string
			CAData      string `json:"certificate-authority-data"`
			CAFile      string `json:"certificate-authority"`
			ServerName  string `json:"tls-server-name"`
			InsecureTLS bool   `json:"insecure-skip-tls-verify"`
		}
	}
	Users []struct {
		Name string
		User struct {
			CertData string `json:"client-certificate-data"`
			CertFile string `json:"client-certificate"`
			KeyData  string `json:"client-key-data"`
			KeyFile  string `json:"client-key"`
			Token    string
		}
	}
}

// Open reads a kubeconfig file.
func Open(file string) (*Client, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	var k kubeconfig
	if err := yaml.Unmarshal(b, &k); err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", file, err)
	}
	c, err := k.client(filepath.Dir(file))
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", file, err)
	}
	return c, nil
}

// client is who the current context says, at the cluster that it says. Files
// that the kubeconfig names are found from its folder.
func (k *kubeconfig) client(folder string) (*Client, error) {
	ci := slices.IndexFunc(k.Contexts, func(c struct {
		Name    string
		Context struct{ Cluster, User, Namespace string }
	}) bool {
		return c.Name == k.CurrentContext
	})
	if ci < 0 {
		return nil, fmt.Errorf("current-context %q is not among contexts", k.CurrentContext)
	}
	use := k.Contexts[ci].Context
	c := &Client{Namespace: use.Namespace}
	if c.Namespace == "" {
		c.Namespace = metav1.NamespaceDefault
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	for _, cl := range k.Clusters {
		if cl.Name != use.Cluster {
			continue
		}
		c.base = cl.Cluster.Server
		conf.ServerName, conf.InsecureSkipVerify = cl.Cluster.ServerName, cl.Cluster.InsecureTLS
		ca, err := data(folder, cl.Cluster.CAData, cl.Cluster.CAFile)
		if err != nil {
			return nil, err
		}
		if ca != nil {
			conf.RootCAs = x509.NewCertPool()
			if !conf.RootCAs.AppendCertsFromPEM(ca) {
				return nil, fmt.Errorf("cluster %q: no certificate in its certificate authority", cl.Name)
			}
		}
	}
	for _, u := range k.Users {
		if u.Name != use.User {
			continue
		}
		c.token = u.User.Token
		cert, err := data(folder, u.User.CertData, u.User.CertFile)
		if err != nil {
			return nil, err
		}
		key, err := data(folder, u.User.KeyData, u.User.KeyFile)
		if err != nil {
			return nil, err
		}
		if cert != nil {
			pair, err := tls.X509KeyPair(cert, key)
			if err != nil {
				return nil, fmt.Errorf("user %q: %w", u.Name, err)
			}
			conf.Certificates = []tls.Certificate{pair}
		}
	}
	if c.base == "" {
		return nil, fmt.Errorf("cluster %q is not among clusters, or has no server", use.Cluster)
	}
	c.http = &http.Client{Transport: &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true}}
	return c, nil
}

// data is what stands in the file itself (base64), or in another that it names.
func data(folder, inline, file string) ([]byte, error) {
	if inline != "" {
		return base64.StdEncoding.DecodeString(inline)
	}
	if file == "" {
		return nil, nil
	}
	if !filepath.IsAbs(file) {
		file = filepath.Join(folder, file)
	}
	return os.ReadFile(file)
}

// Get asks for a path and returns the body, which the caller closes. What the
// server refuses is an error with the server's own message.
func (c *Client) Get(ctx context.Context, path string, query url.Values, accept string) (io.ReadCloser, error) {
	return c.do(ctx, http.MethodGet, path, query, accept, nil)
}

func (c *Client) do(ctx context.Context, method, path string, query url.Values, accept string, send io.Reader) (io.ReadCloser, error) {
	target := c.base + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, send)
	if err != nil {
		return nil, err
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the apiserver: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	var s metav1.Status
	if json.Unmarshal(b, &s) == nil && s.Message != "" {
		return nil, errors.New(s.Message)
	}
	return nil, fmt.Errorf("the apiserver answered %s: %s", resp.Status, b)
}

// JSON asks for a path and decodes the answer.
func (c *Client) JSON(ctx context.Context, path string, query url.Values, into any) error {
	body, err := c.Get(ctx, path, query, "application/json")
	if err != nil {
		return err
	}
	defer body.Close()
	return json.NewDecoder(body).Decode(into)
}
