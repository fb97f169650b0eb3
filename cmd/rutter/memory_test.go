package main

import "testing"

func TestLimitFor(t *testing.T) {
	const mib = 1 << 20
	for live, want := range map[int64][2]int64{0: {200, 1024}, 90: {200, 1024}, 120: {210, 1024}, 200: {330, 1024}, 1000: {1530, 2030}} {
		if got := limitFor(live * mib); got != want[0]*mib {
			t.Errorf("with %d MiB alive the limit is %d MiB, want %d", live, got/mib, want[0])
		}
		if got := startLimitFor(live * mib); got != want[1]*mib {
			t.Errorf("with %d MiB alive the limit is %d MiB at the start, want %d", live, got/mib, want[1])
		}
	}
}
