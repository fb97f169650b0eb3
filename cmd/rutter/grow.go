package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/rs/zerolog"

	"github.com/rutterhq/rutter/events/jetstream"
)

// A server that was alone and is to be one of three sets its log aside, and
// brings it to the three once all are there:
//
//	log ──► log.alone ──(brought)──► log of three ──► log.brought ──► removed
//
// Each arrow happens whole or not at all, and the next start goes on from there.

func (f *folders) aloneLog() string   { return filepath.Join(f.data, "log.alone") }
func (f *folders) broughtLog() string { return filepath.Join(f.data, "log.brought") }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// setAside moves the log that this server began alone, if there is one, out of
// the way of that of three.
func (s *serverFlags) setAside(m *membership) error {
	begun, shared := hasLog(s.log())
	switch {
	case len(m.Join) == 0 && exists(s.aloneLog()):
		return fmt.Errorf("%s is to become the log of three servers, so --join is needed; to be alone again, remove %s and rename it to that",
			s.aloneLog(), s.log())
	case len(m.Join) == 0, !begun, shared:
		return nil
	case !m.Founder:
		return fmt.Errorf("%s: this log was begun by one server alone, and the cluster that --join-file is of has another", s.log())
	case exists(s.aloneLog()):
		return fmt.Errorf("%s: this log was begun by one server alone, and so was %s: only one can become that of three", s.log(), s.aloneLog())
	}
	return s.move(s.log(), s.aloneLog())
}

// move renames a folder of the data folder, durably.
func (f *folders) move(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	dir, err := os.Open(f.data)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// grow brings a log that was set aside to three servers, and removes it: the
// keys of what is deleted from now on must not be left in it.
func (s *serverFlags) grow(ctx context.Context, server *jetstream.Server, lg zerolog.Logger) error {
	if exists(s.aloneLog()) {
		size, err := sizeOf(s.aloneLog())
		if err != nil {
			return err
		}
		if room := server.Budget(); size > room {
			return fmt.Errorf("%s: %d MiB are to be copied, and %d MiB may be used of this disk", s.aloneLog(), size>>20, room>>20)
		}
		old, err := jetstream.StartServer(jetstream.ServerConfig{Dir: s.aloneLog()})
		if err != nil {
			return err
		}
		lg.Info().Int64("bytes", size).Msg("the log of this server alone is brought to three, once all are there; nothing is served until then")
		if err := errors.Join(jetstream.Grow(ctx, old, server), old.Close()); err != nil {
			return err
		}
		lg.Info().Msg("all three servers have the log")
		if err := errors.Join(os.RemoveAll(s.broughtLog()), s.move(s.aloneLog(), s.broughtLog())); err != nil {
			return err
		}
	}
	return os.RemoveAll(s.broughtLog())
}

// sizeOf returns how many bytes a folder's files are.
func sizeOf(dir string) (int64, error) {
	total := int64(0)
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return total, err
}
