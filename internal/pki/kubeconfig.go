package pki

import (
	"encoding/base64"
	"fmt"
	"io/fs"

	"sigs.k8s.io/yaml"
)

// kubeconfig is the part of kubectl's configuration file (API group v1, kind
// Config) that one user of one cluster needs.
type kubeconfig struct {
	APIVersion     string         `json:"apiVersion"`
	Kind           string         `json:"kind"`
	Clusters       []namedCluster `json:"clusters"`
	Users          []namedUser    `json:"users"`
	Contexts       []namedContext `json:"contexts"`
	CurrentContext string         `json:"current-context"`
}

type namedCluster struct {
	Name    string `json:"name"`
	Cluster struct {
		Server string `json:"server"`
		CA     string `json:"certificate-authority-data"`
	} `json:"cluster"`
}

type namedUser struct {
	Name string `json:"name"`
	User struct {
		Cert string `json:"client-certificate-data"`
		Key  string `json:"client-key-data"`
	} `json:"user"`
}

type namedContext struct {
	Name    string `json:"name"`
	Context struct {
		Cluster string `json:"cluster"`
		User    string `json:"user"`
	} `json:"context"`
}

// Kubeconfig returns a kubectl configuration for the server's URL with the
// given client certificate and key.
func Kubeconfig(server string, ca, cert, key []byte, user string) ([]byte, error) {
	const cluster = "rutter"
	c := kubeconfig{APIVersion: "v1", Kind: "Config", CurrentContext: cluster,
		Clusters: make([]namedCluster, 1), Users: make([]namedUser, 1), Contexts: make([]namedContext, 1)}
	b64 := base64.StdEncoding.EncodeToString
	c.Clusters[0].Name, c.Clusters[0].Cluster.Server, c.Clusters[0].Cluster.CA = cluster, server, b64(ca)
	c.Users[0].Name, c.Users[0].User.Cert, c.Users[0].User.Key = user, b64(cert), b64(key)
	c.Contexts[0].Name, c.Contexts[0].Context.Cluster, c.Contexts[0].Context.User = cluster, cluster, user
	data, err := yaml.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode the kubeconfig: %w", err)
	}
	return data, nil
}

// WriteAdminKubeconfig writes the configuration of the cluster's administrator
// (CN=admin, O=system:masters) to the path, readable by its owner only.
func (c *CA) WriteAdminKubeconfig(path, server string) error {
	cert, key, err := c.Ensure("admin", Request{CommonName: AdminUser, Organizations: []string{AdminGroup}, Client: true})
	if err != nil {
		return err
	}
	data, err := Kubeconfig(server, c.certPEM, cert, key, AdminUser)
	if err != nil {
		return err
	}
	return writeFile(path, data, fs.FileMode(0o600))
}
