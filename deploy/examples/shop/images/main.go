// Command images builds the example's container images without a daemon: the
// shop's own services as static binaries, and Debian's redis-server with the
// libraries that it needs.
package main

import (
	"archive/tar"
	"bytes"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

const (
	registry = "rutter.dev/shop/"
	source   = "github.com/rutterhq/rutter/deploy/examples/shop/"
)

func main() {
	out := flag.String("o", "bin/images", "folder for the archives")
	flag.Parse()
	if err := os.MkdirAll(*out, 0o755); err != nil {
		log.Fatal(err)
	}
	for _, service := range []string{"web", "catalog", "cart", "orders"} {
		for _, version := range []string{"v1", "v2"} {
			if err := build(*out, service, version); err != nil {
				log.Fatalf("%s:%s: %v", service, version, err)
			}
		}
	}
	if err := redis(*out); err != nil {
		log.Fatalf("redis: %v", err)
	}
}

// build makes the image of one of our services.
func build(out, service, version string) error {
	dir, err := os.MkdirTemp("", "shop")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, service)
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X "+source+"internal/serve.Version="+version, "-o", bin, "./deploy/examples/shop/"+service)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, msg)
	}
	return write(out, service, version, map[string]string{"/" + service: bin}, "/"+service)
}

// redis packs Debian's redis-server.
func redis(out string) error {
	server, err := exec.LookPath("redis-server")
	if err != nil {
		return err
	}
	files := map[string]string{"/usr/bin/redis-server": server}
	libs, err := exec.Command("ldd", server).Output()
	if err != nil {
		return fmt.Errorf("ldd: %w", err)
	}
	for _, lib := range regexp.MustCompile(`/\S+`).FindAllString(string(libs), -1) {
		files[lib] = lib
	}
	return write(out, "redis", "7", files, "/usr/bin/redis-server")
}

// write packs files (path in the image → path here) into an image archive that
// containerd imports, unless it stands there already with the same content.
func write(out, image, version string, files map[string]string, entrypoint string) error {
	layer, err := pack(files)
	if err != nil {
		return err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return err
	}
	conf, err := img.ConfigFile()
	if err != nil {
		return err
	}
	conf = conf.DeepCopy()
	conf.OS, conf.Architecture = "linux", goarch()
	conf.Config = v1.Config{Entrypoint: []string{entrypoint}, Env: []string{"PATH=/usr/bin:/bin"}}
	if img, err = mutate.ConfigFile(img, conf); err != nil {
		return err
	}
	tag, err := name.NewTag(registry + image + ":" + version)
	if err != nil {
		return err
	}
	file := filepath.Join(out, image+"-"+version+".tar")
	if err := tarball.WriteToFile(file, tag, img); err != nil {
		return err
	}
	fmt.Printf("%-24s %s\n", tag.Name(), file)
	return nil
}

func goarch() string {
	b, err := exec.Command("go", "env", "GOARCH").Output()
	if err != nil {
		return "amd64"
	}
	return strings.TrimSpace(string(b))
}

// pack makes a layer; folders come before what is in them, times are zero, so
// that equal content gives equal digests.
func pack(files map[string]string) (v1.Layer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	folders := map[string]bool{"/": true, "/tmp": false}
	for p := range files {
		for d := filepath.Dir(p); d != "/"; d = filepath.Dir(d) {
			folders[d] = false
		}
	}
	for _, d := range sorted(folders) {
		mode := int64(0o755)
		if d == "/tmp" {
			mode = 0o1777
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimPrefix(d, "/") + "/", Mode: mode}); err != nil {
			return nil, err
		}
	}
	for _, p := range sorted(files) {
		b, err := os.ReadFile(files[p]) // follows links
		if err != nil {
			return nil, err
		}
		if err := w.WriteHeader(&tar.Header{Name: strings.TrimPrefix(p, "/"), Mode: 0o755, Size: int64(len(b))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(b); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
}

func sorted[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		if k != "/" {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}
