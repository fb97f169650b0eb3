package runtime

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is what running a container needs to know of one.
type Image struct {
	Name   string // normalised: docker.io/library/busybox:latest
	Digest string // of the manifest or index
	ID     string // of the configuration: sha256:…
	// RepoDigest is where the same bytes can be had again, for an image that
	// was pulled; empty for an imported one.
	RepoDigest string
	Config     ocispec.ImageConfig
	chain      string // the top layer's snapshot
}

// labelPulled marks images that a registry holds under their digest.
const labelPulled = "rutter.dev/pulled"

// Errors that callers branch on.
var (
	ErrNoImage   = errors.New("the image is not on this node")
	ErrImageName = errors.New("the image's name is malformed")
)

// NormalName completes an image's name as users write it.
func NormalName(name string) (string, error) {
	ref, err := reference.ParseDockerRef(name)
	if err != nil {
		return "", fmt.Errorf("%w: %q: %w", ErrImageName, name, err)
	}
	return ref.String(), nil
}

// Present returns an image that is on this node, or ErrNoImage.
func (c *Client) Present(ctx context.Context, name string) (*Image, error) {
	name, err := NormalName(name)
	if err != nil {
		return nil, err
	}
	img, err := c.c.GetImage(ctx, name)
	if errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("%s: %w", name, ErrNoImage)
	}
	if err != nil {
		return nil, fmt.Errorf("look for image %s: %w", name, err)
	}
	return c.describe(ctx, img)
}

// describe reads an image's configuration, once per digest and name.
func (c *Client) describe(ctx context.Context, img containerd.Image) (*Image, error) {
	key := img.Name() + "@" + img.Target().Digest.String()
	c.mu.Lock()
	known := c.images[key]
	c.mu.Unlock()
	if known != nil {
		return known, nil
	}
	if ok, err := img.IsUnpacked(ctx, ""); err != nil || !ok {
		if err := img.Unpack(ctx, ""); err != nil {
			return nil, fmt.Errorf("unpack image %s: %w", img.Name(), err)
		}
	}
	config, err := img.Config(ctx)
	if err != nil {
		return nil, fmt.Errorf("configuration of image %s: %w", img.Name(), err)
	}
	b, err := content.ReadBlob(ctx, img.ContentStore(), config)
	if err != nil {
		return nil, fmt.Errorf("configuration of image %s: %w", img.Name(), err)
	}
	var spec ocispec.Image
	if err := json.Unmarshal(b, &spec); err != nil {
		return nil, fmt.Errorf("configuration of image %s: %w", img.Name(), err)
	}
	i := &Image{Name: img.Name(), Digest: img.Target().Digest.String(), ID: config.Digest.String(), Config: spec.Config,
		chain: identity.ChainID(spec.RootFS.DiffIDs).String()}
	if ref, err := reference.ParseDockerRef(img.Name()); err == nil && img.Labels()[labelPulled] != "" {
		i.RepoDigest = reference.TrimNamed(ref).Name() + "@" + i.Digest
	}
	c.mu.Lock()
	c.images[key] = i
	c.mu.Unlock()
	return i, nil
}

// Credential is a user and a password for the registries of some hosts, as in
// a secret of type kubernetes.io/dockerconfigjson.
type Credential struct {
	Host           string // as the secret writes it: "registry.example:5000", "https://index.docker.io/v1/"
	User, Password string
}

// Pull fetches an image from its registry. Pulls of one name wait for one
// another, so that ten pods fetch an image once; each asks the registry again
// which bytes the name stands for. Loopback registries are spoken to in HTTP.
func (c *Client) Pull(ctx context.Context, name string, credentials []Credential) (*Image, error) {
	name, err := NormalName(name)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	one := c.pulls[name]
	if one == nil {
		one = new(sync.Mutex)
		c.pulls[name] = one
	}
	c.mu.Unlock()
	one.Lock()
	defer one.Unlock()
	authorizer := docker.NewDockerAuthorizer(docker.WithAuthClient(http.DefaultClient), docker.WithAuthCreds(func(host string) (string, string, error) {
		for _, cred := range credentials {
			if hostOf(cred.Host) == hostOf(host) {
				return cred.User, cred.Password, nil
			}
		}
		return "", "", nil
	}))
	resolver := docker.NewResolver(docker.ResolverOptions{
		Hosts: docker.ConfigureDefaultRegistries(docker.WithAuthorizer(authorizer), docker.WithPlainHTTP(docker.MatchLocalhost)),
	})
	img, err := c.c.Pull(ctx, name, containerd.WithPullUnpack, containerd.WithResolver(resolver), containerd.WithPullLabel(labelPulled, "1"))
	if err != nil {
		return nil, fmt.Errorf("failed to pull and unpack image %q: %w", name, err)
	}
	return c.describe(ctx, img)
}

// hostOf reduces the many spellings of a registry in a Docker configuration.
func hostOf(s string) string {
	s = strings.TrimPrefix(strings.TrimPrefix(s, "https://"), "http://")
	s, _, _ = strings.Cut(s, "/")
	switch s {
	case "index.docker.io", "registry-1.docker.io":
		return "docker.io"
	}
	return s
}

// ParseDockerConfig reads the credentials of a .dockerconfigjson or, when
// legacy, of a .dockercfg.
func ParseDockerConfig(b []byte, legacy bool) ([]Credential, error) {
	type auth struct{ Username, Password, Auth string }
	var config struct{ Auths map[string]auth }
	into := any(&config)
	if legacy {
		into = &config.Auths
	}
	if err := json.Unmarshal(b, into); err != nil {
		return nil, fmt.Errorf("image pull secret: %w", err)
	}
	var out []Credential
	for host, a := range config.Auths {
		if a.Auth != "" {
			plain, err := base64.StdEncoding.DecodeString(a.Auth)
			if err != nil {
				return nil, fmt.Errorf("image pull secret: auth of %s: %w", host, err)
			}
			a.Username, a.Password, _ = strings.Cut(string(plain), ":")
		}
		out = append(out, Credential{Host: host, User: a.Username, Password: a.Password})
	}
	return out, nil
}

// Import loads the images of a local tar, made by docker save or of the OCI
// layout, unpacks them and returns their names.
func (c *Client) Import(ctx context.Context, file string) ([]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("import image: %w", err)
	}
	defer f.Close()
	found, err := c.c.Import(ctx, f, containerd.WithImportPlatform(platforms.Default()))
	if err != nil {
		return nil, fmt.Errorf("import image %s: %w", file, err)
	}
	names := make([]string, 0, len(found))
	for _, i := range found {
		if err := c.unpack(ctx, i); err != nil {
			return nil, err
		}
		names = append(names, i.Name)
	}
	return names, nil
}

func (c *Client) unpack(ctx context.Context, i images.Image) error {
	if err := containerd.NewImage(c.c, i).Unpack(ctx, ""); err != nil {
		return fmt.Errorf("unpack image %s: %w", i.Name, err)
	}
	return nil
}

// StoredImage is one image for the node's status.
type StoredImage struct {
	Names []string
	Size  int64 // bytes, compressed
}

// Images lists the images on this node.
func (c *Client) Images(ctx context.Context) ([]StoredImage, error) {
	found, err := c.c.ListImages(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	byDigest := map[string]*StoredImage{}
	var order []string
	for _, img := range found {
		d := img.Target().Digest.String()
		s := byDigest[d]
		if s == nil {
			s = &StoredImage{Size: c.size(ctx, img)}
			byDigest[d] = s
			order = append(order, d)
		}
		s.Names = append(s.Names, img.Name())
	}
	out := make([]StoredImage, 0, len(order))
	for _, d := range order {
		out = append(out, *byDigest[d])
	}
	return out, nil
}

// size is an image's, read once: it means to read every manifest.
func (c *Client) size(ctx context.Context, img containerd.Image) int64 {
	digest := img.Target().Digest.String()
	c.mu.Lock()
	size, ok := c.sizes[digest]
	c.mu.Unlock()
	if ok {
		return size
	}
	size, err := img.Size(ctx)
	if err != nil {
		return 0 // its content is not complete yet; asked again
	}
	c.mu.Lock()
	c.sizes[digest] = size
	c.mu.Unlock()
	return size
}

// Dial connects for images only: without a keeper of logs nothing can be run.
func Dial(socket string) (*Client, error) {
	c, err := containerd.New(socket, containerd.WithDefaultNamespace(Namespace), containerd.WithTimeout(dialTimeout))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd at %s: %w", socket, err)
	}
	return &Client{c: c, images: map[string]*Image{}, sizes: map[string]int64{}, pulls: map[string]*sync.Mutex{}}, nil
}
