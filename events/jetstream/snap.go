package jetstream

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/rutterhq/rutter/events"
)

// SnapName is the object store that holds kept states. A state is there once
// its manifest is:
//
//	state-00000000000000004711     the records, in chunks
//	manifest-00000000000000004711  seq, hash, codec and build; written last
const SnapName = "SNAP"

const (
	stateObject    = "state-"
	manifestObject = "manifest-"
	// stateChunk is the size in bytes of the messages that a state is cut into.
	stateChunk = 1 << 20
	// saveTimeout bounds the writing or the reading of a state.
	saveTimeout = 10 * time.Minute
)

// saved is a manifest.
type saved struct {
	events.Saved
	hash    string // SHA-256 of the state as written, in hexadecimal digits
	codec   string
	records int
}

// Names of a manifest's members.
const (
	metaHash    = "sha256"
	metaCodec   = "codec"
	metaBuild   = "build"
	metaBytes   = "bytes"
	metaRecords = "records"
)

// snaps returns the object store, made if need be and wanted.
func (l *Log) snaps(ctx context.Context) (js.ObjectStore, error) {
	l.past.mu.Lock()
	defer l.past.mu.Unlock()
	if l.past.snaps != nil {
		return l.past.snaps, nil
	}
	s, err := l.past.api.ObjectStore(ctx, SnapName)
	if errors.Is(err, js.ErrBucketNotFound) && l.past.owner {
		s, err = l.past.api.CreateObjectStore(ctx, js.ObjectStoreConfig{
			Bucket: SnapName, Description: "Rutter's kept states: what every object was at a seq",
			Storage: js.FileStorage, Replicas: l.stream.CachedInfo().Config.Replicas,
		})
	}
	if err != nil {
		return nil, fmt.Errorf("object store %s: %w", SnapName, err)
	}
	l.past.snaps = s
	return s, nil
}

// listSaved returns the manifests of all states that were kept, oldest first.
func (l *Log) listSaved(ctx context.Context) ([]saved, error) {
	store, err := l.snaps(ctx)
	if err != nil {
		return nil, err
	}
	infos, err := l.listObjects(ctx, store)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil && l.nc.IsConnected() {
		infos, err = l.listObjects(ctx, store) // the server that was asked may have stopped leading
	}
	if errors.Is(err, js.ErrNoObjectsFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the states kept: %w", err)
	}
	var all []saved
	for _, info := range infos {
		if s, ok := parseManifest(info); ok {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b saved) int { return int(a.Seq) - int(b.Seq) })
	return all, nil
}

func (l *Log) listObjects(ctx context.Context, store js.ObjectStore) ([]*js.ObjectInfo, error) {
	ctx, cancel := l.question(ctx)
	defer cancel()
	return store.List(ctx)
}

// parseManifest reads a manifest. ok is false for what is none, and for a
// codec that this build does not know.
func parseManifest(info *js.ObjectInfo) (s saved, ok bool) {
	name, ok := strings.CutPrefix(info.Name, manifestObject)
	if !ok {
		return s, false
	}
	seq, err := strconv.ParseUint(name, 10, 64)
	size, serr := strconv.ParseInt(info.Metadata[metaBytes], 10, 64)
	n, nerr := strconv.Atoi(info.Metadata[metaRecords])
	if err != nil || serr != nil || nerr != nil || info.Metadata[metaCodec] != stateCodec {
		return s, false
	}
	return saved{
		Saved: events.Saved{Seq: events.Seq(seq), Time: info.ModTime.UTC(), Bytes: size},
		hash:  info.Metadata[metaHash], codec: info.Metadata[metaCodec], records: n,
	}, true
}

func objectName(prefix string, at events.Seq) string { return fmt.Sprintf("%s%020d", prefix, at) }

// Save is events.Archive's. The state is not believed to be kept before it was
// read back as it was written.
func (l *Log) Save(ctx context.Context, at events.Seq, state iter.Seq[events.Record]) error {
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	if err := l.save(ctx, at, state); err != nil {
		return fmt.Errorf("keep the state at %d: %w", at, err)
	}
	return nil
}

func (l *Log) save(ctx context.Context, at events.Seq, state iter.Seq[events.Record]) error {
	all, err := l.listSaved(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(all, func(s saved) bool { return s.Seq == at }) {
		return nil
	}
	if last, err := l.Last(ctx); err != nil || at == 0 || at > last {
		return errors.Join(err, fmt.Errorf("the log ends at %d", last))
	}
	data, n, err := encodeState(at, state)
	if err != nil {
		return err
	}
	store, err := l.snaps(ctx)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	s := saved{hash: hex.EncodeToString(sum[:]), codec: stateCodec, records: n}
	s.Seq = at
	meta := js.ObjectMeta{Name: objectName(stateObject, at), Opts: &js.ObjectMetaOptions{ChunkSize: stateChunk}}
	if _, err := store.Put(ctx, meta, bytes.NewReader(data)); err != nil {
		return fmt.Errorf("write it: %w", err)
	}
	if err := l.syncStore(); err != nil {
		return err
	}
	back, err := l.load(ctx, s)
	for (errors.Is(err, js.ErrObjectNotFound) || errors.Is(err, errParts)) && wait(ctx, retryPause) == nil {
		back, err = l.load(ctx, s) // of three servers one answered that does not have it yet
	}
	if err != nil {
		return fmt.Errorf("read it back: %w", err)
	}
	read := 0
	for _, err := range decodeState(back) {
		if err != nil {
			return fmt.Errorf("read it back: %w", err)
		}
		read++
	}
	if read != n {
		return fmt.Errorf("read it back: %d records of %d", read, n)
	}
	_, err = store.Put(ctx, js.ObjectMeta{Name: objectName(manifestObject, at), Metadata: map[string]string{
		metaHash: s.hash, metaCodec: s.codec, metaBuild: l.past.build, metaBytes: strconv.Itoa(len(data)), metaRecords: strconv.Itoa(n),
	}}, bytes.NewReader(nil))
	if err != nil {
		return fmt.Errorf("write its manifest: %w", err)
	}
	return l.syncStore()
}

// load returns a state as it was written, if it still is what its manifest says.
func (l *Log) load(ctx context.Context, s saved) ([]byte, error) {
	store, err := l.snaps(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	defer l.whenLost(cancel)()
	data, err := l.readObject(ctx, store, objectName(stateObject, s.Seq))
	if err != nil {
		return nil, fmt.Errorf("the state at %d: %w", s.Seq, err)
	}
	return data, s.verify(data)
}

// errParts says that an object's parts are not all there: of three servers one
// may have answered that does not have them yet.
var errParts = errors.New("parts are missing")

// readObject reads an object from the messages that it was cut into. The
// store's own reader waits for the next of them until its context's deadline,
// also when the context ended before, or the connection.
func (l *Log) readObject(ctx context.Context, store js.ObjectStore, name string) ([]byte, error) {
	info, err := store.GetInfo(ctx, name)
	if err != nil {
		return nil, err
	}
	ask, done := l.question(ctx)
	defer done()
	stream, err := l.past.api.Stream(ask, snapStream)
	if err != nil {
		return nil, err
	}
	r := ranger{log: l, stream: stream, subject: snapChunks + info.NUID}
	c, pending, err := r.consumer(ctx)
	if err != nil {
		return nil, err
	}
	defer l.forgetConsumer(ctx, stream, c)
	ms, err := c.Messages(ahead)
	if err != nil {
		return nil, fmt.Errorf("consumer: %w", err)
	}
	defer ms.Stop()
	defer context.AfterFunc(ctx, ms.Stop)()
	data := make([]byte, 0, min(info.Size, 1<<30)) // what it says of itself may be wrong
	for n := range info.Chunks {
		if pending == 0 {
			return nil, fmt.Errorf("it has %d of %d: %w: %w", n, info.Chunks, errParts, errUnreadable)
		}
		m, err := ms.Next(js.NextMaxWait(quiet))
		if err != nil {
			return nil, fmt.Errorf("part %d: %w", n, errors.Join(ctx.Err(), err))
		}
		meta, err := m.Metadata()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errUnreadable, err)
		}
		data, pending = append(data, m.Data()...), meta.NumPending
	}
	return data, nil
}

// verify is an error if a state is not what its manifest says.
func (s saved) verify(data []byte) error {
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != s.hash {
		return fmt.Errorf("the state at %d: its hash is not the manifest's: %w", s.Seq, errUnreadable)
	}
	return nil
}

// discard removes a kept state, its manifest first.
func (l *Log) discard(ctx context.Context, at events.Seq) error {
	store, err := l.snaps(ctx)
	if err != nil {
		return err
	}
	for _, prefix := range []string{manifestObject, stateObject} {
		if err := store.Delete(ctx, objectName(prefix, at)); err != nil && !errors.Is(err, js.ErrObjectNotFound) {
			return fmt.Errorf("remove the state at %d: %w", at, err)
		}
	}
	return nil
}

// Snapshot is events.History's. A state that is not what its manifest says is
// passed over.
func (l *Log) Snapshot(ctx context.Context, at events.Seq) (events.Seq, iter.Seq2[events.Record, error], error) {
	w, last, load, err := l.kept(ctx)
	if err != nil {
		return 0, nil, fmt.Errorf("the state at %d: %w", at, l.unavailable(ctx, ctx, err))
	}
	gone := fmt.Errorf("the state at %d: history holds %d to %d: %w", at, w.begin(), last, events.ErrGone)
	if at > last {
		return 0, nil, gone
	}
	for _, s := range slices.Backward(w.usable()) {
		if s.Seq > at {
			continue
		}
		data, err := load(ctx, s)
		if err == nil {
			return s.Seq, decodeState(data), nil
		}
		if !errors.Is(err, errUnreadable) && !errors.Is(err, js.ErrObjectNotFound) { // it may be there when there is a connection
			return 0, nil, err
		}
		gone = errors.Join(gone, err)
	}
	if w.oldest <= 1 {
		return 0, events.All(nil), nil
	}
	return 0, nil, gone
}

// kept tells what there is of the past, where the log ends, and how a state is
// loaded: a server that is left alone has its own copies.
func (l *Log) kept(ctx context.Context) (e extent, last events.Seq, load func(context.Context, saved) ([]byte, error), err error) {
	e, alone, err := l.loneExtent(ctx)
	if alone {
		return e, events.Seq(e.log.LastSeq), l.loneLoad, err
	}
	if last, err = l.Last(ctx); err == nil {
		e, err = l.extent(ctx)
	}
	return e, last, l.load, err
}

const (
	// keptStates is how many of the newest states are always kept: when one
	// does not verify the next older one is used.
	keptStates = 3
	// stateEvents is how many events may lie between two older states that are
	// kept: what must be read to build a View of the past.
	stateEvents = 200_000
	// stateShare of the age that is kept may lie between two older states.
	stateShare = 14
)

// surplus returns the states that need not be kept: those from which nothing
// can be built any more, because what followed is forgotten, and of the others
// those that lie close to their neighbours.
func surplus(all []saved, oldest events.Seq, age time.Duration) []events.Seq {
	var out []events.Seq
	var before *saved // the last older one that stays
	for i := range max(0, len(all)-keptStates) {
		s := &all[i]
		next := &all[i+1]
		switch {
		case s.Seq+1 < oldest:
		case before != nil && next.Seq-before.Seq <= stateEvents && (age <= 0 || next.Time.Sub(before.Time) <= age/stateShare):
		default:
			before = s
			continue
		}
		out = append(out, s.Seq)
	}
	return out
}
