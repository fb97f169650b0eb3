package nodeagent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
)

const (
	// silence is how long the door may say nothing before the stream counts as
	// lost: it sends a bookmark every 5 s.
	silence = 15 * time.Second
	// appendTimeout bounds one append.
	appendTimeout = 20 * time.Second
	// lineMax bounds one line of the stream, in bytes: a Record with its body.
	lineMax = 2*events.MaxRecord + 64<<10
	// answerMax bounds the answer to an append, in bytes.
	answerMax = 64 << 10
)

// door is the log as a node sees it: its own part, through the API server.
type door struct {
	servers *Servers
	base    string
	c       *http.Client

	mu      sync.Mutex // protects the following field
	pending *stream    // opened by Last, for the Follow that comes next
}

// DialDoor returns the log of a node behind the door of the API servers.
// Nothing is dialled yet.
//
// Follow yields what the node may see, each object as it is and then as it
// changes; it begins at 0 only, and when the stream breaks, it ends in ErrGone:
// what the node may see now depends on all that came before. Records of that log
// do not always come in the order of their Seqs.
func DialDoor(s *Servers, node string) events.Log {
	return &door{servers: s, base: s.URL() + "/rutter/v1/nodes/" + url.PathEscape(node), c: &http.Client{Transport: s}}
}

// stream is one open GET of the log.
type stream struct {
	leave  func() // the server that it comes from
	body   io.ReadCloser
	cancel context.CancelFunc
	in     *bufio.Scanner
	timer  *time.Timer     // cancels the request when the door is silent
	first  []kernel.Record // read ahead, up to the first bookmark
	last   kernel.Seq      // of the newest line
}

// prevMember ends each line of a stream: the Seq of the line before it.
var prevMember = []byte(`,"prev":`)

// open opens a stream at the first server that lets it in.
func (d *door) open(ctx context.Context) (*stream, error) {
	for tries := len(d.servers.hosts); ; tries-- {
		s, err := d.openOnce(ctx)
		if err == nil || tries == 1 || ctx.Err() != nil || !another(err) {
			return s, err
		}
	}
}

// another tells whether another server may do what this one did not.
func another(err error) bool {
	var status *apierrors.StatusError
	return !errors.As(err, &status) || status.ErrStatus.Code == http.StatusServiceUnavailable
}

func (d *door) openOnce(ctx context.Context) (*stream, error) {
	host := d.servers.Current()
	leave := func() { d.servers.leave(host) }
	// The stream outlives the call that opens it: it ends by its own cancel.
	sctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	defer stop()
	req, err := http.NewRequestWithContext(sctx, http.MethodGet, d.base+"/log?after=0", nil)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("door: %w", err)
	}
	timer := time.AfterFunc(silence, func() { leave(); cancel() })
	res, err := d.c.Do(req)
	if err != nil {
		timer.Stop()
		cancel()
		return nil, fmt.Errorf("door: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(res.Body, answerMax))
		res.Body.Close()
		timer.Stop()
		cancel()
		return nil, fmt.Errorf("door: %w", statusError(res.StatusCode, b))
	}
	s := &stream{leave: leave, body: res.Body, cancel: cancel, in: bufio.NewScanner(res.Body), timer: timer}
	s.in.Buffer(make([]byte, 0, 64<<10), lineMax)
	return s, nil
}

func (s *stream) close() {
	s.timer.Stop()
	s.cancel()
	s.body.Close()
}

// broke leaves the server if the stream did not end in order.
func (s *stream) broke(ctx context.Context, err error) {
	if ctx.Err() == nil && !errors.Is(err, io.EOF) {
		s.leave()
	}
}

// next reads one line.
func (s *stream) next() (kernel.Record, error) {
	if !s.in.Scan() {
		if err := s.in.Err(); err != nil {
			return kernel.Record{}, err
		}
		return kernel.Record{}, io.EOF // in order: the same server may go on
	}
	s.timer.Reset(silence)
	var r kernel.Record
	if err := json.Unmarshal(s.in.Bytes(), &r); err != nil {
		return kernel.Record{}, fmt.Errorf("a line that is no record: %w", err)
	}
	text := s.in.Bytes()
	at := bytes.LastIndex(text, prevMember)
	if at < 0 || string(text[at:]) != fmt.Sprintf("%s%d}", prevMember, s.last) {
		return kernel.Record{}, fmt.Errorf("a line is missing between event %d and event %d", s.last, r.Seq)
	}
	s.last = r.Seq
	return r, nil
}

// Last implements events.Log: it opens the stream and reads all that there is
// so far. The Follow that comes next goes on with the same stream.
func (d *door) Last(ctx context.Context) (events.Seq, error) {
	s, err := d.open(ctx)
	if err != nil {
		return 0, err
	}
	stop := context.AfterFunc(ctx, s.cancel)
	defer stop()
	for {
		r, err := s.next()
		if err != nil {
			s.broke(ctx, err)
			s.close()
			return 0, fmt.Errorf("door: %w", err)
		}
		s.first = append(s.first, r)
		if r.Key == (kernel.Key{}) {
			d.mu.Lock()
			if d.pending != nil {
				d.pending.close()
			}
			d.pending = s
			d.mu.Unlock()
			return r.Seq, nil
		}
	}
}

// Follow implements events.Log.
func (d *door) Follow(ctx context.Context, after events.Seq) iter.Seq2[events.Record, error] {
	return func(yield func(events.Record, error) bool) {
		if after != 0 {
			yield(events.Record{}, fmt.Errorf("door: a stream begins at 0, not at %d: %w", after, events.ErrGone))
			return
		}
		d.mu.Lock()
		s := d.pending
		d.pending = nil
		d.mu.Unlock()
		if s == nil {
			var err error
			if s, err = d.open(ctx); err != nil {
				yield(events.Record{}, err)
				return
			}
		}
		defer s.close()
		stop := context.AfterFunc(ctx, s.cancel)
		defer stop()
		for _, r := range s.first {
			if !yield(r, nil) {
				return
			}
		}
		s.first = nil
		for {
			r, err := s.next()
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				s.broke(ctx, err)
				yield(events.Record{}, fmt.Errorf("door: the stream broke (%w): %w", err, events.ErrGone))
				return
			}
			if !yield(r, nil) {
				return
			}
		}
	}
}

// Append implements events.Log. If the answer is lost it asks again, at the
// next server if there is one: the door knows a Record by its ID.
func (d *door) Append(ctx context.Context, r events.Record) (events.Seq, error) {
	if len(r.Body) > events.MaxRecord {
		return 0, fmt.Errorf("append %s: %w", r.Key, events.ErrTooLarge)
	}
	body, err := json.Marshal(r)
	if err != nil {
		return 0, fmt.Errorf("append %s: %w", r.Key, err)
	}
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	for tries := max(2, len(d.servers.hosts)); ; tries-- {
		seq, err := d.post(ctx, body)
		var status *apierrors.StatusError
		refused := errors.As(err, &status) && (!another(err) || len(d.servers.hosts) == 1)
		if err == nil || refused || tries == 1 || ctx.Err() != nil {
			if err != nil {
				err = fmt.Errorf("append %s: %w", r.Key, err)
			}
			return seq, err
		}
	}
}

func (d *door) post(ctx context.Context, body []byte) (events.Seq, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.base+"/append", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := d.c.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, answerMax))
	if err != nil {
		return 0, err
	}
	if res.StatusCode != http.StatusOK {
		return 0, statusError(res.StatusCode, answer)
	}
	var ok struct{ Seq events.Seq }
	if err := json.Unmarshal(answer, &ok); err != nil {
		return 0, fmt.Errorf("the answer is no seq: %w", err)
	}
	return ok.Seq, nil
}

// statusError is what the API server said, as the log's own errors where it
// has one for it.
func statusError(code int, answer []byte) error {
	status := &apierrors.StatusError{}
	if json.Unmarshal(answer, &status.ErrStatus) != nil || status.ErrStatus.Code == 0 {
		status.ErrStatus = metav1.Status{Status: metav1.StatusFailure, Code: int32(code), Message: http.StatusText(code)}
	}
	switch code {
	case http.StatusConflict:
		return fmt.Errorf("%w: %w", events.ErrConflict, status)
	case http.StatusGone:
		return fmt.Errorf("%w: %w", events.ErrGone, status)
	case http.StatusRequestEntityTooLarge:
		return fmt.Errorf("%w: %w", events.ErrTooLarge, status)
	case http.StatusInsufficientStorage:
		return fmt.Errorf("%w: %w", events.ErrFull, status)
	}
	return status
}
