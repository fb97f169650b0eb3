// Command jumpingclock makes a clock that is set again and again, for tests:
//
//	go test -overlay $(go run ./test/jumpingclock DIR) ./test/faults
//
// No namespace has a time of day of its own, and the clock of a machine is not a
// test's to set. So it writes into DIR a copy of package time in which the time
// of day of every process jumps every 300 ms, by up to three hours either way,
// and prints the file that tells go build of it (go help build, -overlay). What
// goes by the monotonic clock, as timers do, goes on as ever.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// reading is where package time reads both clocks.
const reading = "	sec, nsec, mono := runtimeNow()\n"

// jumps is what comes to it.
const jumps = `
// jump is by how many seconds the time of day is wrong at a monotonic time.
func jump(mono int64) int64 {
	x := uint64(mono-startNano)/300e6*0x9e3779b97f4a7c15 + uint64(startNano)
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	if x ^= x >> 31; x%4 == 0 {
		return 0
	}
	return int64(x>>8%(6*3600)) - 3*3600
}
`

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: jumpingclock DIR")
		os.Exit(2)
	}
	overlay, err := write(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(overlay)
}

func write(dir string) (overlay string, err error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOROOT: %w", err)
	}
	original := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	text, err := os.ReadFile(original)
	if err != nil {
		return "", err
	}
	if strings.Count(string(text), reading) != 1 {
		return "", fmt.Errorf("%s reads the clock elsewhere in this version of Go", original)
	}
	source := strings.Replace(string(text), reading, reading+"	sec += jump(mono)\n", 1) + jumps
	changed, overlay := filepath.Join(dir, "time.go.txt"), filepath.Join(dir, "overlay.json") // no package of its own
	list, err := json.Marshal(map[string]map[string]string{"Replace": {original: changed}})
	return overlay, errors.Join(err, os.MkdirAll(dir, 0o755), os.WriteFile(changed, []byte(source), 0o644), os.WriteFile(overlay, list, 0o644))
}
