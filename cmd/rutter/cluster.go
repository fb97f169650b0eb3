package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/pflag"

	"github.com/rutterhq/rutter/internal/history"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/services/controllers"
	"github.com/rutterhq/rutter/services/ingress"
	"github.com/rutterhq/rutter/services/scheduler"
)

// The networks of a cluster.
var (
	podRange     = netip.MustParsePrefix("10.42.0.0/16")
	serviceRange = netip.MustParsePrefix("10.43.0.0/16")
	clusterDNS   = netip.MustParseAddr("10.43.0.10")
)

const clusterDomain = "cluster.local"

// folders are where a cluster's processes keep things.
type folders struct {
	data string // survives the machine's restart: keys, log, pods' volumes
	run  string // does not: sockets, pids, pinned namespaces
}

func (f *folders) flags(fs *pflag.FlagSet) {
	fs.StringVar(&f.data, "data", "/var/lib/rutter", "folder for keys, log and volumes")
	fs.StringVar(&f.run, "run", "/run/rutter", "folder for sockets and what a restart of the machine may take")
}

func (f *folders) pki() string             { return filepath.Join(f.data, "pki") }
func (f *folders) log() string             { return filepath.Join(f.data, "log") }
func (f *folders) kubeconfig() string      { return filepath.Join(f.data, "admin.kubeconfig") }
func (f *folders) pid() string             { return filepath.Join(f.run, "up.pid") }
func (f *folders) node(name string) string { return filepath.Join(f.data, "nodes", name) }
func (f *folders) nodeRun(name string) string {
	return filepath.Join(f.run, "nodes", name)
}

// schema reads the cluster's identity, made at the first start: its uid, from
// which the uids of objects derive, and the key that seals Secrets in the log.
func (f *folders) schema() (*kinds.Schema, error) {
	cluster, err := f.once("cluster", uuid.NewString)
	if err != nil {
		return nil, err
	}
	key, err := f.once("seal.key", func() string {
		return hex.EncodeToString(random(32))
	})
	if err != nil {
		return nil, err
	}
	seal, err := hex.DecodeString(key)
	if err != nil || len(seal) != 32 {
		return nil, fmt.Errorf("%s: expected 64 hexadecimal digits", filepath.Join(f.data, "seal.key"))
	}
	return &kinds.Schema{Cluster: cluster, Seal: seal}, nil
}

// once reads a small file of the data folder, or makes it.
func (f *folders) once(name string, make func() string) (string, error) {
	if err := os.MkdirAll(f.data, 0o700); err != nil {
		return "", err
	}
	file := filepath.Join(f.data, name)
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		b = []byte(make() + "\n")
		err = writeWhole(file, b)
	}
	return strings.TrimSpace(string(b)), err
}

// writeWhole writes a file so that it is there whole or not at all, even when
// the power fails.
func writeWhole(file string, b []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(file), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // fails when all went well
	if _, err := tmp.Write(b); err != nil {
		return errors.Join(err, tmp.Close())
	}
	if err := errors.Join(tmp.Chmod(0o600), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), file); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// deciders are all of this build: what runs, and what replay runs again.
func deciders() []kernel.Decider {
	all := scheduler.Deciders()
	all = append(all, controllers.Deciders(controllers.Default())...)
	return append(all, ingress.Deciders()...)
}

// instance makes a name that no other writer of the log has.
func instance(service string) string {
	return service + "." + hex.EncodeToString(random(6))
}

// random gives bytes that nobody can guess.
func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: the process would have crashed
	return b
}

// replayer is for commands that replay a recording without a cluster. Its
// Secrets are hashes, so no key is needed.
func replayer(cluster string) *history.Replayer {
	return &history.Replayer{Schema: &kinds.Schema{Cluster: cluster}, Deciders: deciders(), Build: build}
}
