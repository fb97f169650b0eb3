package jetstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

// The test binary is also the writer that TestWriterKilled kills.
const writerEnv = "RUTTER_TEST_WRITER" // where the log is, credentials, writers, life; with spaces between

// ownServer instead of a file of credentials says that the log is a folder,
// and the writer's process its server.
const ownServer = "-"

// lifeLimit is how long a writer may take until it has written what it is to
// be killed after.
const lifeLimit = time.Minute

// TestWriterKilled kills the process that writes, in the middle of it, again
// and again; the next one goes on with the same objects at once. The log's
// server lives on, or dies with the writer, as that of rutter up does. What was
// acknowledged is where it was told to be, what was refused is nowhere, and what
// was on its way is there once or not at all.
func TestWriterKilled(t *testing.T) {
	t.Parallel()
	t.Run("ServerLivesOn", func(t *testing.T) {
		t.Parallel()
		s := startServer(t, ServerConfig{Listen: "127.0.0.1:0"})
		file := filepath.Join(t.TempDir(), "credentials")
		if err := s.WriteCredentials(file); err != nil {
			t.Fatal(err)
		}
		j := killWriters(t, s.URL(), file, 6, 1)
		j.check(t, openIn(t, s))
	})
	t.Run("ServerDiesToo", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		j := killWriters(t, dir, ownServer, 16, 2)
		j.check(t, openIn(t, startServer(t, ServerConfig{Dir: dir})))
	})
}

// writerJournal is what writers said of their writes, by the writes' IDs.
type writerJournal struct {
	sent    map[string]bool
	acked   map[string]events.Seq
	refused map[string]bool
	kills   int
	within  int // kills that came while a write was on its way
}

// killWriters has one writer after another write to a log, and kills each.
func killWriters(t *testing.T, log, credentials string, writers int, seed uint64) *writerJournal {
	j := &writerJournal{sent: map[string]bool{}, acked: map[string]events.Seq{}, refused: map[string]bool{}}
	rng := rand.New(rand.NewPCG(seed, 0))
	for j.kills < max(10, *kills) {
		before := j.unknown()
		j.life(t, fmt.Sprintf("%s %s %d %d", log, credentials, writers, j.kills), rng)
		if j.kills++; j.unknown() > before {
			j.within++
		}
	}
	return j
}

// unknown is how many writes were sent of which nothing was said after that.
func (j *writerJournal) unknown() int { return len(j.sent) - len(j.acked) - len(j.refused) }

// life runs one writer and kills it a moment after it said so many things, or
// some time after its start, when it may not have begun.
func (j *writerJournal) life(t *testing.T, arguments string, rng *rand.Rand) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), lifeLimit)
	defer cancel()
	c := exec.CommandContext(ctx, self)
	c.Env, c.Stderr = append(os.Environ(), writerEnv+"="+arguments), os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	lines, pause := 1+rng.IntN(200), time.Duration(rng.IntN(3000))*time.Microsecond
	if rng.IntN(8) == 0 {
		lines, pause = 0, time.Duration(rng.IntN(200))*time.Millisecond
	}
	said := bufio.NewScanner(out)
	for ; lines > 0 && said.Scan(); lines-- {
		j.add(t, said.Text())
	}
	werr := wait(ctx, pause)
	if err := c.Process.Kill(); err != nil || werr != nil {
		t.Fatalf("a writer that should have written did not: %v, %v", err, werr)
	}
	for said.Scan() { // what it said before it died
		j.add(t, said.Text())
	}
	if _ = c.Wait(); c.ProcessState.Exited() {
		t.Fatalf("the writer ended by itself: %v", c.ProcessState)
	}
}

// add reads a line of writeUntilKilled.
func (j *writerJournal) add(t *testing.T, line string) {
	t.Helper()
	f := strings.Fields(line)
	switch {
	case len(f) == 2 && f[0] == "sent":
		j.sent[f[1]] = true
	case len(f) == 2 && f[0] == "refused":
		j.refused[f[1]] = true
	case len(f) == 3 && f[0] == "acked":
		seq, err := strconv.ParseUint(f[2], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		j.acked[f[1]] = events.Seq(seq)
	default:
		t.Fatalf("a writer said %q", line)
	}
}

// check compares what the writers said with what the log holds.
func (j *writerJournal) check(t *testing.T, l *Log) {
	t.Helper()
	all := readAll(logtest.Context(t), t, l)
	logtest.CheckOrder(t, all, 0)
	where, last := map[string]events.Seq{}, map[events.Key]events.Seq{}
	landed := 0 // writes that are there though nobody was told so
	for _, r := range all {
		if before, twice := where[r.ID]; twice {
			t.Errorf("%s is there twice, as %d and %d", r.ID, before, r.Seq)
		}
		if !j.sent[r.ID] {
			t.Errorf("event %d is %s, which nobody sent", r.Seq, r.ID)
		}
		if j.refused[r.ID] {
			t.Errorf("event %d is %s, of which its writer was told that it is not there", r.Seq, r.ID)
		}
		if r.Expect != last[r.Key] {
			t.Errorf("event %d of %s expected %d, the one before it is %d", r.Seq, r.Key, r.Expect, last[r.Key])
		}
		if _, ok := j.acked[r.ID]; !ok {
			landed++
		}
		where[r.ID], last[r.Key] = r.Seq, r.Seq
	}
	for id, seq := range j.acked {
		if where[id] != seq {
			t.Errorf("the writer of %s was told %d, the log has it at %d (0: not at all)", id, seq, where[id])
		}
	}
	t.Logf("%d kills, %d of them within a write; %d writes acknowledged, %d refused, %d on their way, of which %d are there",
		j.kills, j.within, len(j.acked), len(j.refused), j.unknown(), landed)
	if j.within < j.kills/2 || len(j.acked) == 0 {
		t.Errorf("of %d kills only %d came within a write", j.kills, j.within)
	}
}

// writeUntilKilled is the process of a writer: it returns only if something is
// wrong. What it writes it says on standard output, which the kernel keeps
// for the reader when the process is gone.
func writeUntilKilled(arguments string) error {
	f := strings.Fields(arguments)
	writers, err := strconv.Atoi(f[2])
	if err != nil {
		return err
	}
	ctx := context.Background()
	var nc *nats.Conn
	if f[1] == ownServer {
		s, err := StartServer(ServerConfig{Dir: f[0], Budget: 1 << 30})
		if err != nil {
			return err
		}
		nc, err = s.Connect()
		if err != nil {
			return err
		}
	} else if nc, err = Connect(ctx, f[0], f[1]); err != nil {
		return err
	}
	l, err := Open(ctx, nc, Options{Budget: 1 << 30})
	if err != nil {
		return err
	}
	w := &mortal{log: l, life: f[3], objects: writers + writers/3, at: map[string]events.Seq{}, moved: make(chan struct{})}
	failed := make(chan error, writers+1)
	go func() { failed <- w.follow(ctx) }()
	if err := w.catchUp(ctx); err != nil {
		return err
	}
	for range writers {
		go func() { failed <- w.write(ctx) }()
	}
	return <-failed
}

// mortal is a writer that will be killed.
type mortal struct {
	log     *Log
	life    string // in the IDs of what it writes
	objects int

	mu    sync.Mutex // protects the following fields
	at    map[string]events.Seq
	upTo  events.Seq    // what the follower has read
	moved chan struct{} // closed and replaced with every event
}

func (w *mortal) follow(ctx context.Context) error {
	for r, err := range w.log.Follow(ctx, 0) {
		if err != nil {
			return err
		}
		w.mu.Lock()
		w.at[r.Key.Name], w.upTo = max(w.at[r.Key.Name], r.Seq), r.Seq
		close(w.moved)
		w.moved = make(chan struct{})
		w.mu.Unlock()
	}
	return errors.New("the follower ended")
}

// catchUp waits until the writer knows all that the log holds now. What the
// one before it had sent may still come.
func (w *mortal) catchUp(ctx context.Context) error {
	end, err := w.log.Last(ctx)
	for err == nil {
		w.mu.Lock()
		upTo, moved := w.upTo, w.moved
		w.mu.Unlock()
		if upTo >= end {
			return nil
		}
		<-moved
	}
	return err
}

// write writes objects by what it knows of them. Others write them too.
func (w *mortal) write(ctx context.Context) error {
	for {
		name := fmt.Sprint("o", rand.IntN(w.objects))
		w.mu.Lock()
		r := logtest.Record(name, w.at[name])
		w.mu.Unlock()
		r.ID += "-" + w.life
		fmt.Fprintf(os.Stdout, "sent %s\n", r.ID)
		seq, err := w.log.Append(ctx, r)
		switch {
		case err == nil:
			fmt.Fprintf(os.Stdout, "acked %s %d\n", r.ID, seq)
			w.mu.Lock()
			w.at[name] = max(w.at[name], seq)
			w.mu.Unlock()
		case errors.Is(err, events.ErrConflict):
			fmt.Fprintf(os.Stdout, "refused %s\n", r.ID)
			if err := w.catchUp(ctx); err != nil {
				return err
			}
		default:
			return err
		}
	}
}
