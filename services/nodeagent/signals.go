package nodeagent

import (
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// signals maps names as images write them, "SIGQUIT", "QUIT" or "3", to
// signals.
var signals = func() map[string]syscall.Signal {
	m := map[string]syscall.Signal{}
	for n := 1; n <= 64; n++ {
		s := syscall.Signal(n)
		m[strconv.Itoa(n)] = s
		if name := unix.SignalName(s); name != "" {
			m[name] = s
			m[strings.TrimPrefix(name, "SIG")] = s
		}
	}
	return m
}()
