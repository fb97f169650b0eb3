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
	// startLimit is what the process may use then, in bytes, until what lives
	// needs more: a log of 10 GB, read after a kill, would take four times that.
	startLimit = 1 << 30
	// startEvery is how often it is looked then: what lives grows fast.
	startEvery = 100 * time.Millisecond
)

// hurry lets the process use more memory and compute less while it reads the
// log, until the function is called.
func hurry() (enough func()) {
	debug.SetGCPercent(startGarbage)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		limitMemory(ctx, startEvery, startLimitFor)
	}()
	return func() {
		cancel()
		<-done
	}
}

// keepMemory keeps the process small, once it is ready and need not hurry any
// more, until ctx ends.
func keepMemory(ctx context.Context, ready <-chan struct{}, enough func()) error {
	select {
	case <-ready:
	case <-ctx.Done():
		return nil
	}
	enough()
	debug.SetGCPercent(100) // Go's own default
	debug.FreeOSMemory()
	limitMemory(ctx, memoryEvery, limitFor)
	return nil
}

// limitMemory sets the runtime's limit to what a function says for the heap
// that lives, until ctx ends. The runtime takes a limit at its word: with little
// room below it, it would collect all the time. So it grows with what lives.
func limitMemory(ctx context.Context, every time.Duration, limitFor func(live int64) int64) {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	limit := limitFor(0)
	debug.SetMemoryLimit(limit)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
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

// limitFor is the memory limit for a heap of which so many bytes live: it
// begins to grow once half of that again does not fit.
func limitFor(live int64) int64 { return max(memoryLimit, live+live/2+memoryBeside) }

// startLimitFor is limitFor while the log is read.
func startLimitFor(live int64) int64 { return max(startLimit, 2*live+memoryBeside) }
