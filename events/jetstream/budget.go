package jetstream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"strconv"
	"time"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/rutterhq/rutter/events"
)

// Names in streams' metadata, where all who use the log see them.
const (
	metaBudget    = "rutter-budget"     // of EV: bytes that everything may take
	metaKeepBytes = "rutter-keep-bytes" // of HIST: events.Keep.Bytes
)

// snapStream is the stream behind the object store of states.
const snapStream = "OBJ_" + SnapName

// DiskBucket is the key-value bucket in which each of several servers says how
// many bytes of its disk the log may take.
const DiskBucket = "DISK"

const (
	// usageAge is for how long a measured usage is good.
	usageAge = time.Second
	// histShare of the budget is what history takes at most, unless it is said.
	histShare = 2
	// tuneSlack of the budget may a limit differ from what it should be: each
	// change writes the stream's configuration.
	tuneSlack = 32
	// horizonRoom is by how many bytes a log that is full may exceed its limit,
	// for the event without which it can never forget anything.
	horizonRoom = 64 << 10
)

// cachedUsage is the last one measured.
type cachedUsage struct {
	at    time.Time
	usage events.Usage
}

var (
	_ events.Archive   = (*Log)(nil)
	_ events.Keeper    = (*Log)(nil)
	_ events.KeyReader = (*Log)(nil)
)

// diskBytes returns what a stream takes on this process' disk; without one it
// is what the server says, which does not know of compression.
func (l *Log) diskBytes(stream string, said uint64) int64 {
	if l.server == nil {
		return int64(said)
	}
	total := int64(0)
	root := filepath.Join(l.server.dir(), "jetstream")
	_ = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		// What vanishes meanwhile takes nothing.
		if err != nil || e.IsDir() {
			if err == nil && filepath.Base(filepath.Dir(path)) == "streams" && e.Name() != stream {
				return filepath.SkipDir
			}
			return nil
		}
		if info, err := e.Info(); err == nil {
			total += info.Size()
		}
		return nil
	})
	return total
}

// Usage is events.Keeper's. It is measured at most once per second.
func (l *Log) Usage(ctx context.Context) (events.Usage, error) {
	l.past.mu.Lock()
	c := l.past.usage
	l.past.mu.Unlock()
	if time.Since(c.at) < usageAge {
		return c.usage, nil
	}
	u, err := l.measure(ctx)
	if err != nil {
		return events.Usage{}, fmt.Errorf("what the log takes of the disk: %w", err)
	}
	l.past.mu.Lock()
	defer l.past.mu.Unlock()
	l.past.usage = cachedUsage{time.Now(), u}
	return u, nil
}

func (l *Log) measure(ctx context.Context) (events.Usage, error) {
	var u events.Usage
	hist, err := l.history(ctx)
	if err != nil {
		return u, err
	}
	all, err := l.listSaved(ctx)
	if err != nil {
		return u, err
	}
	kept := int64(0)
	for _, s := range all {
		u.Saved = append(u.Saved, s.Saved)
		kept += s.Bytes
	}
	ask, cancel := l.question(ctx)
	defer cancel()
	ev, err := l.stream.Info(ask)
	if err != nil {
		return u, fmt.Errorf("state of stream %s: %w", StreamName, err)
	}
	h, err := hist.Info(ask)
	if err != nil {
		return u, fmt.Errorf("state of stream %s: %w", HistName, err)
	}
	u.Keep = keepOf(h.Config)
	// What EV takes counts as the server counts it: that is what it refuses by.
	u.Used = int64(ev.State.Bytes) + l.diskBytes(HistName, h.State.Bytes) + l.diskBytes(snapStream, uint64(kept))
	u.Budget = budgetIn(ev.Config)
	return u, nil
}

// budgetIn reads the budget of everything from the log's configuration.
func budgetIn(c js.StreamConfig) int64 {
	if n, err := strconv.ParseInt(c.Metadata[metaBudget], 10, 64); err == nil {
		return n
	}
	return max(0, c.MaxBytes)
}

// keepOf reads what is kept from history's configuration.
func keepOf(c js.StreamConfig) events.Keep {
	n, _ := strconv.ParseInt(c.Metadata[metaKeepBytes], 10, 64) // none: no bound
	return events.Keep{Age: c.MaxAge, Bytes: n}
}

// SetKeep is events.Keeper's.
func (l *Log) SetKeep(ctx context.Context, k events.Keep) error {
	if k.Age < 0 || k.Bytes < 0 {
		return fmt.Errorf("keep history for %s and %d bytes: neither can be negative", k.Age, k.Bytes)
	}
	if err := l.setKeep(ctx, &k); err != nil {
		return fmt.Errorf("keep history for %s and %d bytes: %w", k.Age, k.Bytes, err)
	}
	return l.thin(ctx)
}

// setKeep gives history's stream the bounds that make it keep k, or what it
// has been told to if k is nil. The server counts bytes before compression;
// what is kept is said in bytes on disk.
func (l *Log) setKeep(ctx context.Context, k *events.Keep) error {
	hist, err := l.history(ctx)
	if err != nil {
		return err
	}
	ask, cancel := l.question(ctx)
	defer cancel()
	info, err := hist.Info(ask)
	if err != nil {
		return fmt.Errorf("state of stream %s: %w", HistName, err)
	}
	ev, err := l.stream.Info(ask)
	if err != nil {
		return fmt.Errorf("state of stream %s: %w", StreamName, err)
	}
	c, now := info.Config, keepOf(info.Config)
	if k == nil {
		k = &now
	}
	bound := k.Bytes
	if most := budgetIn(ev.Config) / histShare; bound == 0 || most > 0 && bound > most {
		bound = most
	}
	if disk := l.diskBytes(HistName, info.State.Bytes); disk > 0 && info.State.Bytes > uint64(disk) {
		bound = int64(float64(bound) * float64(info.State.Bytes) / float64(disk))
	}
	if now == *k && near(c.MaxBytes, bound, bound/8) {
		return nil
	}
	c.MaxBytes, c.MaxAge, c.Metadata = bound, k.Age, withKeep(c.Metadata, *k)
	if c.MaxAge > 0 && c.Duplicates > c.MaxAge {
		c.Duplicates = c.MaxAge
	}
	s, err := l.past.api.UpdateStream(ask, c)
	if err != nil {
		return fmt.Errorf("stream %s: %w", HistName, err)
	}
	l.past.mu.Lock()
	l.past.hist, l.past.usage = s, cachedUsage{}
	l.past.mu.Unlock()
	return l.syncStore()
}

// near tells whether a differs from b by no more than slack.
func near(a, b, slack int64) bool { return a-b <= slack && b-a <= slack }

// Tend keeps the log, its history and the states within their bounds: what one
// of them does not take is there for the others. To be called now and then by
// the one who keeps history.
func (l *Log) Tend(ctx context.Context) error {
	ask, cancel := l.question(ctx)
	info, err := l.stream.Info(ask)
	cancel()
	budget := int64(0)
	if err == nil {
		budget, err = l.leastBudget(ctx, budgetIn(info.Config))
	}
	if err == nil {
		err = errors.Join(l.setKeep(ctx, nil), l.tuneBudget(ctx, budget), l.thin(ctx))
	}
	if err != nil {
		return fmt.Errorf("tend the log's bounds: %w", err)
	}
	return nil
}

// tuneBudget gives the log what history and states leave of the budget.
func (l *Log) tuneBudget(ctx context.Context, budget int64) error {
	if budget <= 0 {
		return nil
	}
	ask, cancel := l.question(ctx)
	defer cancel()
	others := int64(0)
	for _, name := range []string{HistName, snapStream} {
		said := uint64(0)
		if l.server == nil {
			s, err := l.past.api.Stream(ask, name)
			if err != nil {
				return fmt.Errorf("stream %s: %w", name, err)
			}
			said = s.CachedInfo().State.Bytes
		}
		others += l.diskBytes(name, said)
	}
	info, err := l.stream.Info(ask)
	if err != nil {
		return fmt.Errorf("state of stream %s: %w", StreamName, err)
	}
	c, want := info.Config, max(budget-others, budget/8)
	if c.Metadata[metaBudget] == strconv.FormatInt(budget, 10) && near(c.MaxBytes, want, budget/tuneSlack) {
		return nil
	}
	c.MaxBytes = want
	if c.Metadata == nil {
		c.Metadata = map[string]string{}
	}
	c.Metadata[metaBudget] = strconv.FormatInt(budget, 10)
	s, err := l.past.api.UpdateStream(ask, c)
	if err != nil {
		return fmt.Errorf("stream %s: set its budget: %w", StreamName, err)
	}
	_ = s
	return l.syncStore()
}

// makeRoom lifts the limit of a log that is full, so that the horizon can be
// told. Tend sets it back once there is room again.
func (l *Log) makeRoom(ctx context.Context) error {
	ask, cancel := l.question(ctx)
	defer cancel()
	info, err := l.stream.Info(ask)
	if err != nil {
		return fmt.Errorf("state of stream %s: %w", StreamName, err)
	}
	c := info.Config
	c.MaxBytes = max(c.MaxBytes, int64(info.State.Bytes)) + horizonRoom
	if _, err := l.api.UpdateStream(ask, c); err != nil {
		return fmt.Errorf("stream %s: make room for the horizon: %w", StreamName, err)
	}
	return l.syncStore()
}

// shareBudget tells the other servers what this one's disk may take, and returns
// what all of them can.
func (l *Log) shareBudget(ctx context.Context, budget int64) (int64, error) {
	if !l.several || l.server == nil {
		return budget, nil
	}
	ask, cancel := l.question(ctx)
	defer cancel()
	kv, err := l.api.KeyValue(ask, DiskBucket)
	if err == nil {
		_, err = kv.PutString(ask, l.server.server.Name(), strconv.FormatInt(budget, 10))
	}
	if err != nil {
		return 0, fmt.Errorf("say what this disk may take: %w", err)
	}
	return l.leastBudget(ctx, budget)
}

// leastBudget returns the least of what the servers' disks may take, also of
// those that are down; if none has said it, what is the budget now.
func (l *Log) leastBudget(ctx context.Context, now int64) (int64, error) {
	if !l.several || l.server == nil {
		return now, nil
	}
	ask, cancel := l.question(ctx)
	defer cancel()
	kv, err := l.api.KeyValue(ask, DiskBucket)
	if err != nil {
		return 0, fmt.Errorf("what the disks may take: %w", err)
	}
	servers, err := kv.Keys(ask)
	if err != nil && !errors.Is(err, js.ErrNoKeysFound) {
		return 0, fmt.Errorf("what the disks may take: %w", err)
	}
	least := int64(math.MaxInt64)
	for _, s := range servers {
		e, err := kv.Get(ask, s)
		if err != nil {
			return 0, fmt.Errorf("what the disk of %s may take: %w", s, err)
		}
		n, err := strconv.ParseInt(string(e.Value()), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("what the disk of %s may take: %w", s, err)
		}
		least = min(least, n)
	}
	if len(servers) == 0 {
		least = now
	}
	return least, nil
}

// thin removes the states that need not be kept.
func (l *Log) thin(ctx context.Context) error {
	e, err := l.extent(ctx)
	if err != nil {
		return err
	}
	gone := surplus(e.saved, e.oldest, l.past.hist.CachedInfo().Config.MaxAge)
	for _, at := range gone {
		if err := l.discard(ctx, at); err != nil {
			return err
		}
	}
	if len(gone) == 0 {
		return nil
	}
	return l.syncStore() // the server may have written anew what is left of a block
}
