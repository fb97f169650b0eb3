package jetstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	js "github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// LeaseBucket is the key-value bucket of the leases that Hold holds.
const LeaseBucket = "LEASE"

const (
	// leaseRenew is how often who holds a lease says so.
	leaseRenew = time.Second
	// leaseLimit is how long a holder trusts its last renewal. It is well below
	// leaseTakeover, so that it has stopped before another one begins.
	leaseLimit = 3 * time.Second
	// leaseTakeover is how long another one must have seen a lease unrenewed, by
	// its own clock. A clock that is set therefore moves no lease.
	leaseTakeover = 5 * time.Second
	// leasePoll is how often others look at a lease.
	leasePoll = 500 * time.Millisecond
)

// What ends a lease.
var (
	errLeaseLost = errors.New("the lease is lost")
	errRunEnded  = errors.New("what ran under the lease has ended")
)

// Hold runs a function whenever this process holds the named lease, until ctx
// ends, or the function returns while the lease is held: then Hold returns what
// it did. The function's context ends when the lease is lost. holder names this
// process; two must not have the same.
//
// A lease saves work and nothing more: for moments two may hold it, one that is
// just finding out that it lost it. What must not happen twice is guarded by
// what Append expects.
func (l *Log) Hold(ctx context.Context, name, holder string, run func(ctx context.Context) error) error {
	for {
		h, err := l.acquire(ctx, name, holder)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("lease %s: %w", name, err)
		}
		if err := h.keep(ctx, run); !errors.Is(err, errLeaseLost) || ctx.Err() != nil {
			return err
		}
	}
}

// lease is one that was acquired.
type lease struct {
	kv           js.KeyValue
	name, holder string
	revision     uint64
	until        time.Time // this process may trust it so long, by its monotonic clock
}

// acquire waits until the lease is free, or was not renewed for long enough,
// and takes it.
func (l *Log) acquire(ctx context.Context, name, holder string) (*lease, error) {
	var kv js.KeyValue
	seen, since := uint64(0), time.Now()
	for {
		h, err := func() (*lease, error) {
			q, cancel := l.question(ctx)
			defer cancel()
			var err error
			if kv == nil {
				if kv, err = l.api.KeyValue(q, LeaseBucket); err != nil {
					return nil, err
				}
			}
			now, revision := time.Now(), uint64(0)
			e, err := kv.Get(q, name)
			switch {
			case errors.Is(err, js.ErrKeyNotFound):
				revision, err = kv.Create(q, name, []byte(holder))
			case err != nil:
			case e.Revision() != seen:
				seen, since = e.Revision(), now
			case now.Sub(since) > leaseTakeover:
				revision, err = kv.Update(q, name, []byte(holder), seen)
			}
			if err != nil || revision == 0 {
				return nil, err
			}
			return &lease{kv: kv, name: name, holder: holder, revision: revision, until: now.Add(leaseLimit)}, nil
		}()
		if h != nil {
			return h, nil
		}
		if l.nc.IsClosed() {
			return nil, err
		}
		if err := wait(ctx, leasePoll); err != nil { // errors, too, are waited out
			return nil, err
		}
	}
}

// keep runs the function under the lease, and gives the lease back.
func (h *lease) keep(ctx context.Context, run func(ctx context.Context) error) error {
	g, held := errgroup.WithContext(ctx)
	g.Go(func() error { return h.renew(held) })
	g.Go(func() error {
		err := run(held)
		if err == nil || held.Err() != nil {
			return errRunEnded // held has ended: what it says of that does not matter
		}
		return err
	})
	err := g.Wait()
	if errors.Is(err, errRunEnded) || ctx.Err() != nil {
		err = nil
	}
	q, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	// Whoever waits need not wait for long; if this fails, a little longer.
	_ = h.kv.Delete(q, h.name, js.LastRevision(h.revision))
	return err
}

// renew returns errLeaseLost once the lease is somebody else's, or may be.
func (h *lease) renew(ctx context.Context) error {
	for {
		if err := wait(ctx, leaseRenew); err != nil {
			return errLeaseLost
		}
		begun := time.Now()
		q, cancel := context.WithDeadline(ctx, h.until)
		revision, err := h.kv.Update(q, h.name, []byte(h.holder), h.revision)
		if isWrongRevision(err) {
			// It may have been renewed by an update whose answer was lost.
			var e js.KeyValueEntry
			if e, err = h.kv.Get(q, h.name); err == nil && string(e.Value()) == h.holder {
				revision = e.Revision()
			} else if err == nil || errors.Is(err, js.ErrKeyNotFound) {
				cancel()
				return errLeaseLost
			}
		}
		cancel()
		if err == nil {
			h.revision, h.until = revision, begun.Add(leaseLimit)
		}
		if !time.Now().Before(h.until) {
			return errLeaseLost
		}
	}
}

func isWrongRevision(err error) bool {
	var ae *js.APIError
	return errors.As(err, &ae) && (ae.ErrorCode == codeWrongLast || ae.ErrorCode == codeWrongLastBusy)
}

// makeBuckets makes what Hold, Post and several servers' budgets need. They are on disk, although nothing
// in them matters for long: in memory a bucket is lost for good once two of
// three servers have been restarted, and nobody could hold a lease any more.
func (l *Log) makeBuckets(ctx context.Context) error {
	replicas := l.stream.CachedInfo().Config.Replicas
	for _, c := range []js.KeyValueConfig{
		// The server does not forget leases: it would by its wall clock, at once
		// when that is set forward.
		{Bucket: LeaseBucket, Description: "who decides"},
		{Bucket: SumBucket, Description: "what the servers folded", TTL: sumTTL},
		{Bucket: DiskBucket, Description: "what the servers' disks may take"},
	} {
		c.Storage, c.Replicas, c.MaxBytes = js.FileStorage, replicas, maxBucket
		if _, err := l.api.CreateOrUpdateKeyValue(ctx, c); err != nil {
			return fmt.Errorf("bucket %s: %w", c.Bucket, err)
		}
	}
	return nil
}
