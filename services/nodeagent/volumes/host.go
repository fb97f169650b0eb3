package volumes

import (
	"errors"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
)

// HostPath checks, and where its type says so makes, a path of the node.
func HostPath(path string, kind corev1.HostPathType) error {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return makeHostPath(path, kind)
	case err != nil:
		return fmt.Errorf("hostPath: %w", err)
	}
	m := st.Mode()
	is := func(ok bool, what string) error {
		if !ok {
			return fmt.Errorf("hostPath type check failed: %s is not %s", path, what)
		}
		return nil
	}
	switch kind {
	case corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
		return is(m.IsDir(), "a directory")
	case corev1.HostPathFile, corev1.HostPathFileOrCreate:
		return is(m.IsRegular(), "a file")
	case corev1.HostPathSocket:
		return is(m&os.ModeSocket != 0, "a socket file")
	case corev1.HostPathCharDev:
		return is(m&os.ModeCharDevice != 0, "a character device")
	case corev1.HostPathBlockDev:
		return is(m&os.ModeDevice != 0 && m&os.ModeCharDevice == 0, "a block device")
	}
	return nil
}

func makeHostPath(path string, kind corev1.HostPathType) error {
	switch kind {
	case corev1.HostPathUnset, corev1.HostPathDirectoryOrCreate:
		if err := os.MkdirAll(path, 0o755); err != nil {
			return fmt.Errorf("hostPath: %w", err)
		}
		return nil
	case corev1.HostPathFileOrCreate:
		f, err := os.OpenFile(path, os.O_CREATE, 0o644)
		if err != nil {
			return fmt.Errorf("hostPath: %w", err)
		}
		return f.Close()
	}
	return fmt.Errorf("hostPath type check failed: %s does not exist", path)
}
