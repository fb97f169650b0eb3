package jetstream

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

// A log that is kept is one whose states are saved, whose horizon is told, and
// whose beginning is purged, as the cluster's keeper does it. What its users
// are told is written down with what it takes to fold it:
//
//	acked, shown  SEQ ID NAME HOW     HOW: + written, - deleted, or the horizon
//	saved         SEQ                 a state was kept
//	made          UID WRAPPED         a key was made
//	destroying    UID                 it is to be destroyed
//	destroyed     UID                 it was
const (
	keptAlive   = "+"
	keptDeleted = "-"
	// keptRoom is how many events the log holds before writers wait for a purge:
	// it is small, and the horizon must always find room.
	keptRoom = 60
	// keptObjects and keptSecrets are how many objects there are.
	keptObjects, keptSecrets = 10, 4
)

// fact is what is known of an event.
type fact struct{ id, name, how string }

func factOf(r events.Record) fact {
	f := fact{id: r.ID, name: r.Key.Name, how: keptAlive}
	if h, ok := events.HorizonOf(r); ok {
		f.how = strconv.FormatUint(uint64(h), 10)
	} else if r.Delete {
		f.how = keptDeleted
	}
	return f
}

func (f fact) String() string { return fmt.Sprintf("%s %s %s", f.id, f.name, f.how) }

// keeping is what a server told who kept its log.
type keeping struct {
	facts                 map[events.Seq]fact
	saved                 events.Seq
	made                  map[string]string // wrapped keys by uid, in hexadecimal digits
	destroying, destroyed map[string]bool
}

func newKeeping() keeping {
	return keeping{facts: map[events.Seq]fact{}, made: map[string]string{}, destroying: map[string]bool{}, destroyed: map[string]bool{}}
}

// add reads a line, and tells whether it is one of these.
func (k *keeping) add(f []string, total *cutTotals) bool {
	switch {
	case (f[0] == "acked" || f[0] == "shown") && len(f) == 5:
		seq, err := strconv.ParseUint(f[1], 10, 64)
		k.facts[events.Seq(seq)] = fact{f[2], f[3], f[4]}
		return err == nil
	case f[0] == "saved":
		total.saved++
		seq, err := strconv.ParseUint(f[1], 10, 64)
		k.saved = max(k.saved, events.Seq(seq))
		return err == nil
	case f[0] == "made" && len(f) == 3:
		total.made++
		k.made[f[1]] = f[2]
	case f[0] == "destroying":
		k.destroying[f[1]] = true
	case f[0] == "destroyed":
		total.destroyed++
		k.destroyed[f[1]] = true
	default:
		return false
	}
	return true
}

// keep runs who keeps the log and who writes to it.
func (u *cutUser) keep(ctx context.Context) error {
	keys, err := u.log.Keys(ctx, secret)
	if err != nil {
		return err
	}
	last, err := u.log.Last(ctx)
	if err != nil {
		return err
	}
	u.state = events.State{}
	failed := make(chan error, 1)
	caughtUp := make(chan struct{})
	go func() { failed <- u.record(ctx, last, caughtUp) }()
	select {
	case <-caughtUp:
	case err := <-failed:
		return err
	}
	for i := range keptObjects {
		go func() { failed <- u.change(ctx, fmt.Sprintf("o%d", i)) }()
	}
	for i := range keptSecrets {
		go func() { failed <- u.hide(ctx, keys, fmt.Sprintf("s%d", i)) }()
	}
	go func() { failed <- u.keeper(ctx) }()
	return <-failed
}

// record folds the log. A log without events is caught up with at once.
func (u *cutUser) record(ctx context.Context, last events.Seq, caughtUp chan struct{}) error {
	if last == 0 {
		close(caughtUp)
	}
	for r, err := range u.log.Follow(ctx, 0) {
		if err != nil {
			return err
		}
		if r.Key != (events.Key{}) {
			if err := u.disk.note(fmt.Sprintf("shown %d %s", r.Seq, factOf(r))); err != nil {
				return err
			}
		}
		u.mu.Lock()
		before := u.upTo
		u.state.Fold(r)
		u.upTo = r.Seq
		u.mu.Unlock()
		if before < last && r.Seq >= last {
			close(caughtUp)
		}
	}
	return nil
}

// append waits for room, and writes down what it is told.
func (u *cutUser) append(ctx context.Context, r events.Record) (events.Seq, error) {
	for {
		var err error
		if r.Seen, err = u.log.Last(ctx); err != nil {
			return 0, err
		}
		room := r.Key == events.HorizonKey || r.Seen < events.Seq(u.log.first.Load())+keptRoom
		if room {
			seq, err := u.log.Append(ctx, r)
			if err == nil {
				return seq, u.disk.note(fmt.Sprintf("acked %d %s", seq, factOf(r)))
			}
			if !errors.Is(err, events.ErrFull) && !errors.Is(err, events.ErrGone) {
				return 0, err
			}
		}
		time.Sleep(time.Millisecond)
	}
}

// last returns an object's last event, as the recorder has it.
func (u *cutUser) last(name string) events.Record {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.state[logtest.Record(name, 0).Key]
}

// change creates, updates and deletes an object.
func (u *cutUser) change(ctx context.Context, name string) error {
	for has := u.last(name); ; {
		r := logtest.Record(name, has.Seq)
		r.ID += fmt.Sprintf("-%d", os.Getpid())
		r.Body = []byte(strings.Repeat("x", u.random(u.body)))
		r.Delete = has.Seq != 0 && !has.Delete && u.random(4) == 0
		seq, err := u.append(ctx, r)
		if err != nil {
			return err
		}
		r.Seq = seq
		has = r
	}
}

// mac is what only who has the key can have written.
func mac(key []byte, uid string) string {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(uid))
	return hex.EncodeToString(m.Sum(nil))
}

// hide creates and deletes an object that has a key: which is made before, and
// destroyed after.
func (u *cutUser) hide(ctx context.Context, keys *Keys, name string) error {
	has := u.last(name)
	for n := 0; ; n++ {
		uid, _, _ := strings.Cut(string(has.Body), " ")
		if has.Seq == 0 || has.Delete {
			uid = fmt.Sprintf("%s-%d-%d", name, os.Getpid(), n)
			if err := keys.Make(ctx, uid); err != nil {
				return err
			}
			m, err := keys.stream.GetLastMsgForSubject(ctx, keysSubject+uid)
			if err != nil {
				return err
			}
			if err := u.disk.note(fmt.Sprintf("made %s %x", uid, m.Data)); err != nil {
				return err
			}
		}
		r := logtest.Record(name, has.Seq)
		r.ID += fmt.Sprintf("-%d", os.Getpid())
		r.Delete = has.Seq != 0 && !has.Delete && u.random(2) == 0
		r.Body = []byte(uid + " " + mac(keys.Key(uid), uid))
		seq, err := u.append(ctx, r)
		if err != nil {
			return err
		}
		r.Seq = seq
		has = r
		if !r.Delete {
			continue
		}
		if err := u.disk.note("destroying " + uid); err != nil {
			return err
		}
		if err := keys.Destroy(ctx, uid); err != nil {
			return err
		}
		if err := u.disk.note("destroyed " + uid); err != nil {
			return err
		}
	}
}

// keeper keeps states, tells the horizon, and has the log forget.
func (u *cutUser) keeper(ctx context.Context) error {
	for n := 0; ; n++ {
		u.mu.Lock()
		at, state := u.upTo, u.state.Records()
		expect := u.state[events.HorizonKey].Seq
		u.mu.Unlock()
		if at < keptRoom/2 {
			time.Sleep(time.Millisecond)
			continue
		}
		if err := u.log.Save(ctx, at, slices.Values(state)); err != nil {
			return err
		}
		if err := u.disk.note(fmt.Sprintf("saved %d", at)); err != nil {
			return err
		}
		h := at - events.Seq(u.random(10))
		r := events.HorizonRecord(h, expect, at, "history", time.Unix(1_790_000_000, 0))
		r.ID = fmt.Sprintf("horizon-%d-%d", os.Getpid(), n)
		since, err := u.append(ctx, r)
		if err != nil {
			return err
		}
		if err := u.disk.note(fmt.Sprintf("purge %d", h)); err != nil {
			return err
		}
		if _, err := u.log.Forget(ctx, h); err != nil {
			return err
		}
		if u.random(3) == 0 {
			if err := u.log.Tend(ctx); err != nil {
				return err
			}
		}
		for u.told() < since { // or it would expect another horizon
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Duration(u.random(int(u.pause))))
	}
}

// told returns up to where the recorder has read.
func (u *cutUser) told() events.Seq {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.upTo
}

// check compares a log that was started again with what was told of it.
func (k *keeping) check(t *testing.T, ctx context.Context, l *Log, store string) error {
	last, err := l.Last(ctx)
	if err != nil {
		return err
	}
	facts, err := k.complete(ctx, l, last)
	if err != nil {
		return err
	}
	state, err := followed(ctx, l, last)
	if err != nil {
		return err
	}
	if err := sameState(facts, state, last); err != nil {
		return fmt.Errorf("who follows from the beginning has another state at %d: %w", last, err)
	}
	if err := k.checkWindow(ctx, l, facts, last); err != nil {
		return err
	}
	if err := k.checkKeys(t, ctx, l, state, store); err != nil {
		return err
	}
	return saveAgain(ctx, l, state, last)
}

// complete returns all facts up to last. What was stored, and nobody was told
// of, is what the log holds now.
func (k *keeping) complete(ctx context.Context, l *Log, last events.Seq) (map[events.Seq]fact, error) {
	facts := maps.Clone(k.facts)
	for seq := range facts {
		if seq > last {
			return nil, fmt.Errorf("event %d was told of, the log ends at %d", seq, last)
		}
	}
	for seq := events.Seq(1); seq <= last; seq++ {
		if _, ok := facts[seq]; ok {
			continue
		}
		for r, err := range l.Read(ctx, seq-1, seq) {
			if err != nil {
				return nil, fmt.Errorf("nobody was told of event %d: %w", seq, err)
			}
			facts[seq] = factOf(r)
		}
	}
	return facts, nil
}

// followed folds the log from its beginning.
func followed(ctx context.Context, l *Log, last events.Seq) (events.State, error) {
	state := events.State{}
	if last == 0 {
		return state, nil
	}
	for r, err := range l.Follow(ctx, 0) {
		if err != nil {
			return nil, fmt.Errorf("the log cannot be followed: %w", err)
		}
		if state.Fold(r); r.Seq >= last {
			break
		}
	}
	return state, nil
}

// sameState folds facts, and compares.
func sameState(facts map[events.Seq]fact, state events.State, last events.Seq) error {
	type entry struct {
		seq events.Seq
		fact
	}
	want := map[string]entry{}
	for seq := events.Seq(1); seq <= last; seq++ {
		f := facts[seq]
		if h, err := strconv.ParseUint(f.how, 10, 64); err == nil {
			maps.DeleteFunc(want, func(_ string, e entry) bool { return e.how == keptDeleted && e.seq < events.Seq(h) })
		}
		want[f.name] = entry{seq, f}
	}
	for k, r := range state {
		if w, ok := want[k.Name]; !ok || w.seq != r.Seq || w.fact != factOf(r) {
			return fmt.Errorf("%s is event %d (%s), and was %d (%s)", k.Name, r.Seq, factOf(r), w.seq, w.fact)
		}
		delete(want, k.Name)
	}
	for name, w := range want {
		return fmt.Errorf("%s is gone, and was event %d (%s)", name, w.seq, w.fact)
	}
	return nil
}

// checkWindow reads all of the past that there is said to be. History's own
// limits may move its beginning meanwhile.
func (k *keeping) checkWindow(ctx context.Context, l *Log, facts map[events.Seq]fact, last events.Seq) error {
	u, err := l.Usage(ctx)
	if err != nil {
		return err
	}
	if k.saved > 0 && !slices.ContainsFunc(u.Saved, func(s events.Saved) bool { return s.Seq == k.saved }) {
		return fmt.Errorf("of the states kept, of which %d is the newest, there are %v", k.saved, u.Saved)
	}
	for {
		w, err := l.Window(ctx)
		if err != nil {
			return err
		}
		if w.Last != last || w.First < 1 || w.First > last+1 || k.saved > 0 && w.First > k.saved+1 {
			return fmt.Errorf("the window is %d to %d, the log ends at %d, a state is kept at %d", w.First, w.Last, last, k.saved)
		}
		err = readWindow(ctx, l, facts, w)
		if now, werr := l.Window(ctx); werr != nil || !errors.Is(err, events.ErrGone) || now.First == w.First {
			return errors.Join(err, werr)
		}
	}
}

func readWindow(ctx context.Context, l *Log, facts map[events.Seq]fact, w events.Window) error {
	for r, err := range l.Read(ctx, w.First-1, w.Last) {
		if err != nil {
			return fmt.Errorf("the window is %d to %d: %w", w.First, w.Last, err)
		}
		if factOf(r) != facts[r.Seq] {
			return fmt.Errorf("event %d is %s in history, and was %s", r.Seq, factOf(r), facts[r.Seq])
		}
	}
	for _, at := range []events.Seq{w.First - 1, (w.First - 1 + w.Last) / 2} {
		from, records, err := l.Snapshot(ctx, at)
		if err != nil {
			return fmt.Errorf("the state at %d, in a window from %d: %w", at, w.First, err)
		}
		state := events.State{}
		for r, err := range records {
			if err != nil {
				return fmt.Errorf("the state at %d: %w", from, err)
			}
			state.Fold(r)
		}
		if err := sameState(facts, state, from); err != nil {
			return fmt.Errorf("the state that is kept at %d: %w", from, err)
		}
	}
	return nil
}

// checkKeys opens what can be, and looks for what must be gone.
func (k *keeping) checkKeys(t *testing.T, ctx context.Context, l *Log, state events.State, store string) error {
	keys, err := l.Keys(ctx, secret)
	if err != nil {
		return err
	}
	all, err := keys.All(ctx)
	if err != nil {
		return err
	}
	for uid, wrapped := range k.made {
		listed := slices.Contains(all, uid)
		switch has := keys.Key(uid) != nil; {
		case !k.destroying[uid] && (!has || !listed):
			return fmt.Errorf("the key of %s was made and is gone (listed %t)", uid, listed)
		case k.destroyed[uid] && (has || listed):
			return fmt.Errorf("the key of %s was destroyed and is there (listed %t)", uid, listed)
		}
		if b, err := hex.DecodeString(wrapped); err != nil || k.destroyed[uid] && inFiles(t, store, b) {
			return fmt.Errorf("the key of %s was destroyed and is in a file, %v", uid, err)
		}
	}
	for key, r := range state {
		uid, sum, sealed := strings.Cut(string(r.Body), " ")
		if !sealed || r.Delete || k.destroying[uid] {
			continue
		}
		if has := keys.Key(uid); has == nil || sum != mac(has, uid) {
			return fmt.Errorf("%s, which is event %d, cannot be opened: its key is there: %t", key, r.Seq, has != nil)
		}
	}
	// It goes on.
	if err := errors.Join(keys.Make(ctx, "after-the-cut"), keys.Destroy(ctx, "after-the-cut")); err != nil {
		return err
	}
	return nil
}

// saveAgain does what the keeper does.
func saveAgain(ctx context.Context, l *Log, state events.State, last events.Seq) error {
	if last == 0 {
		return nil
	}
	if err := l.Save(ctx, last, slices.Values(state.Records())); err != nil {
		return err
	}
	r := events.HorizonRecord(last, state[events.HorizonKey].Seq, last, "history", time.Unix(1_790_000_000, 0))
	r.ID = "after-the-cut"
	since, err := l.Append(ctx, r)
	if err != nil {
		return err
	}
	if _, err := l.Forget(ctx, last); err != nil {
		return err
	}
	r.Seq = since
	state.Fold(r)
	again, err := followed(ctx, l, since)
	if err != nil {
		return err
	}
	for k, r := range again {
		if has, ok := state[k]; !ok || has.Seq != r.Seq {
			return fmt.Errorf("after another purge %s is event %d, and was %d", k, r.Seq, has.Seq)
		}
	}
	if len(again) != len(state) {
		return fmt.Errorf("after another purge there are %d objects, and were %d", len(again), len(state))
	}
	return nil
}

// keysFolder tells whether a folder is that of the keys' blocks.
func keysFolder(dir string) bool {
	return filepath.Base(filepath.Dir(dir)) == keysStream && filepath.Base(dir) == "msgs"
}
