package logtest

import (
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"testing"
)

// PeakMemory gives what tells, in MiB, the most memory that this process has had
// since. Where the kernel cannot forget what was before, that counts too.
func PeakMemory(t testing.TB) (peak func() float64) {
	debug.FreeOSMemory() // of what ran before
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)
	return func() float64 {
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(status), "VmHWM:")
		var kib float64
		if _, err := fmt.Sscan(rest, &kib); err != nil {
			t.Fatal(err)
		}
		return kib / 1024
	}
}
