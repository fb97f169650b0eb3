package main

import "testing"

func TestLimitFor(t *testing.T) {
	const mib = 1 << 20
	for live, want := range map[int64]int64{0: 200, 90: 200, 120: 210, 200: 330, 1000: 1530} {
		if got := limitFor(live * mib); got != want*mib {
			t.Errorf("with %d MiB alive the limit is %d MiB, want %d", live, got/mib, want)
		}
	}
}
