package jetstream

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// recorder is the disk of a server that will lose its power: it writes down
// what each sync made durable, and keeps what the server removes.
type recorder struct {
	journal *os.File
	shadow  string // folder of links to every file that was durable at some time, by inode
	delay   func() time.Duration

	mu     sync.Mutex // protects the following fields, and that folders are listed in order of serial
	serial uint64
	dieAt  uint64 // the sync in which the power goes; 0: at another time
}

// sync is a syncer. What a line says was so before the sync began, and a line
// is written before anybody is told.
func (r *recorder) sync(f *os.File, folder bool) error {
	line := ""
	r.mu.Lock()
	r.serial++
	serial := r.serial
	var entries map[string]uint64
	var err error
	if folder {
		entries, err = listEntries(f.Name())
	}
	r.mu.Unlock()
	if err != nil {
		return err
	}
	if folder {
		line = fmt.Sprintf("D %s\t%d", f.Name(), serial)
		for name, ino := range entries {
			line += fmt.Sprintf("\t%s\t%d", name, ino)
			if err := r.keep(filepath.Join(f.Name(), name), ino); err != nil {
				return err
			}
		}
	} else {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		ino := inode(info)
		if err := r.keep(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), ino); err != nil {
			return err
		}
		line = fmt.Sprintf("S %d\t%d\t%s", ino, info.Size(), f.Name())
	}
	time.Sleep(r.delay()) // a disk takes its time, and much happens meanwhile
	if serial == r.dieAt {
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	}
	return r.note(line)
}

func (r *recorder) note(line string) error {
	_, err := r.journal.WriteString(line + "\n") // one write: it survives the process
	return err
}

// keep links a file, so that it is still there when its name is not.
func (r *recorder) keep(path string, ino uint64) error {
	err := unix.Linkat(unix.AT_FDCWD, path, unix.AT_FDCWD, filepath.Join(r.shadow, strconv.FormatUint(ino, 10)), unix.AT_SYMLINK_FOLLOW)
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPERM) { // there, gone, or a folder
		return nil
	}
	return err
}

func inode(info fs.FileInfo) uint64 { return info.Sys().(*syscall.Stat_t).Ino }

// listEntries returns a folder's names and their inodes.
func listEntries(dir string) (map[string]uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	out := map[string]uint64{}
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			out[e.Name()] = inode(info)
		}
	}
	return out, nil
}

// platter is what is known to be on disk.
type platter struct {
	store   string
	shadow  string
	lengths map[uint64]int64 // of files, by inode
	// longest is of all files that had a name, in turn. The server replaces a
	// block of keys by one without a key that is as long, which it syncs
	// before: of that the recorder may have seen no more than its name.
	longest map[string]int64
	folders map[string]map[string]uint64 // their entries
	serials map[string]uint64            // of the sync that made a folder's entries durable

	blocks, tails int // of all cuts: files of events but a stream's first, and files that had bytes which were not synced
}

// newPlatter takes all of a store to be on disk, as it is after a power cut.
func newPlatter(t *testing.T, store string) *platter {
	t.Helper()
	p := &platter{store: store, shadow: store + ".shadow", lengths: map[uint64]int64{}, longest: map[string]int64{}, folders: map[string]map[string]uint64{}, serials: map[string]uint64{}}
	if err := os.MkdirAll(p.shadow, 0o700); err != nil {
		t.Fatal(err)
	}
	r := recorder{shadow: p.shadow}
	err := filepath.WalkDir(store, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			p.folders[path], err = listEntries(path)
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		p.lengths[inode(info)], p.longest[path] = info.Size(), info.Size()
		return r.keep(path, inode(info))
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// synced reads a line of the recorder, and tells whether it is one.
func (p *platter) synced(line string) bool {
	kind, rest, _ := strings.Cut(line, " ")
	fields := strings.Split(rest, "\t")
	switch kind {
	case "S":
		ino, _ := strconv.ParseUint(fields[0], 10, 64)
		size, _ := strconv.ParseInt(fields[1], 10, 64)
		p.lengths[ino] = max(p.lengths[ino], size)
		p.longest[fields[2]] = max(p.longest[fields[2]], size)
	case "D":
		serial, _ := strconv.ParseUint(fields[1], 10, 64)
		if serial < p.serials[fields[0]] {
			return true // two syncs of one folder at once
		}
		p.serials[fields[0]] = serial
		entries := map[string]uint64{}
		for i := 2; i+1 < len(fields); i += 2 {
			ino, _ := strconv.ParseUint(fields[i+1], 10, 64)
			entries[fields[i]] = ino
			if path := filepath.Join(fields[0], fields[i]); keysFolder(fields[0]) {
				p.lengths[ino] = max(p.lengths[ino], p.longest[path])
			}
		}
		p.folders[fields[0]] = entries
	default:
		return false
	}
	return true
}

// cut makes a copy of the store as it may be when the power comes back: of what
// was not synced every name and every byte may be there or not.
func (p *platter) cut(t *testing.T, rng *rand.Rand, to string) {
	t.Helper()
	c := cutter{platter: p, rng: rng, made: map[uint64]string{}}
	if err := c.folder(p.store, to); err != nil {
		t.Fatal(err)
	}
}

type cutter struct {
	*platter
	rng  *rand.Rand
	made map[uint64]string // copies by inode: two names of one file stay that
}

func (c *cutter) folder(from, to string) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	now, err := listEntries(from)
	if err != nil {
		return err
	}
	durable := c.folders[from]
	names := map[string]bool{}
	for n := range now {
		names[n] = true
	}
	for n := range durable {
		names[n] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		ino, source := now[name], filepath.Join(from, name)
		if was := durable[name]; was != ino && c.rng.IntN(2) == 0 {
			ino, source = was, filepath.Join(c.shadow, strconv.FormatUint(was, 10))
		}
		if ino == 0 {
			continue
		}
		info, err := os.Stat(source)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a folder that was removed and is not followed
		}
		if err != nil {
			return err
		}
		if strings.HasSuffix(name, ".blk") && name != "1.blk" {
			c.blocks++
		}
		if info.IsDir() {
			err = c.folder(filepath.Join(from, name), filepath.Join(to, name))
		} else {
			least := int64(0)
			if path := filepath.Join(from, name); keysFolder(from) && source == path {
				least = c.longest[path]
			}
			err = c.file(source, filepath.Join(to, name), ino, least)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// file copies a file of which so much is on disk at least.
func (c *cutter) file(from, to string, ino uint64, least int64) error {
	if has, ok := c.made[ino]; ok {
		return os.Link(has, to)
	}
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	size, synced := len(b), min(int(max(c.lengths[ino], least)), len(b))
	if packedHead(b) > 0 {
		synced = size // the server syncs what it packs before it renames it
	}
	if synced < size {
		c.tails++
	}
	switch c.rng.IntN(3) {
	case 0:
		b = b[:synced]
	case 1:
		b = b[:synced+c.rng.IntN(size-synced+1)]
	}
	if lost := len(b) - synced; lost > 0 && c.rng.IntN(3) == 0 {
		// The length came to be on disk before the bytes did.
		at := synced + c.rng.IntN(lost)
		clear(b[at : at+c.rng.IntN(len(b)-at)+1])
	}
	c.made[ino] = to
	return os.WriteFile(to, b, 0o600)
}

// readJournal returns the whole lines of a file.
func readJournal(t *testing.T, path string) []string {
	t.Helper()
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []string
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		out = append(out, s.Text())
	}
	return out
}
