package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// memoryLimit is what the garbage collector tries to stay below, in bytes,
	// while what lives leaves it room.
	memoryLimit = 200 << 20
	// memoryBeside is what the runtime needs beside the heap, in bytes:
	// stacks, its own tables, and what it has not given back yet.
	memoryBeside = 30 << 20
	// memoryEvery is how often keepMemory looks.
	memoryEvery = 2 * time.Second
	// startGarbage is how much garbage there may be, in hundredths of what
	// lives, while the log is read: nearly all that is made then stays.
	startGarbage = 300
)

// hurry lets the process use more memory and compute less, until keepMemory.
func hurry() { debug.SetGCPercent(startGarbage) }

// keepMemory keeps the process small, once it is ready, until ctx ends. The
// runtime takes a limit at its word: with little room below it, it would
// collect all the time. So the limit grows with what lives, once half of that
// again does not fit.
func keepMemory(ctx context.Context, ready <-chan struct{}) error {
	select {
	case <-ready:
	case <-ctx.Done():
		return nil
	}
	debug.SetGCPercent(100) // Go's own default
	debug.FreeOSMemory()
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	limit := int64(memoryLimit)
	debug.SetMemoryLimit(limit)
	tick := time.NewTicker(memoryEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		metrics.Read(live)
		want := limitFor(int64(live[0].Value.Uint64()))
		// Setting it stops the world: small steps down are not worth that.
		if want > limit || want < limit-limit/8 {
			limit = want
			debug.SetMemoryLimit(limit)
		}
	}
}

// limitFor is the memory limit for a heap of which so many bytes live.
func limitFor(live int64) int64 { return max(memoryLimit, live+live/2+memoryBeside) }
