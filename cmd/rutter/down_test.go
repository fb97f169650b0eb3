package main

import (
	"errors"
	"os/exec"
	"syscall"
	"testing"
)

// A process is asked to end, and is gone when end returns; one that is gone
// already is none to complain about.
func TestEnd(t *testing.T) {
	c := exec.Command("sleep", "600")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if err := end(c.Process.Pid); err != nil {
		t.Error(err)
	}
	var exit *exec.ExitError
	if err := c.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("it ended by itself: %v", err)
	}
	if err := end(c.Process.Pid); err != nil {
		t.Errorf("of a process that is gone: %v", err)
	}
}
