package jetstream

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// refusedFile is there if the last server ended because the disk refused to
// sync. It need not be on disk itself: a machine that was started anew has
// nothing in memory that it could be taken in by.
const refusedFile = "refused"

// noteRefused leaves refusedFile behind, if it can.
func (c *committer) noteRefused() {
	_ = os.WriteFile(filepath.Join(c.dir, refusedFile), nil, 0o600) // the disk is broken: who could be told has been
}

// readAgain has the next reads of a store come from the disk, if it refused to
// sync before: the kernel takes pages that it could not write for written, and
// goes on showing them, so that a start would take for durable what is in memory
// only (fsync(2), "Errors"; posix_fadvise(2), POSIX_FADV_DONTNEED).
func (c *committer) readAgain() error {
	marker := filepath.Join(c.dir, refusedFile)
	if _, err := os.Stat(marker); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	err := filepath.WalkDir(c.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()        // only read from
		err = c.sync(f, false) // what is not yet written is no longer to be had otherwise
		if err == nil {
			err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("after the disk refused to sync: %w", err)
	}
	return os.Remove(marker)
}
