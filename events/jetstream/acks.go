package jetstream

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
)

// answer is what the server says to a publish.
type answer struct {
	Seq   uint64 `json:"seq"`
	Error *struct {
		Code        int    `json:"code"`     // as HTTP's
		ErrCode     int    `json:"err_code"` // JetStream's own
		Description string `json:"description"`
	} `json:"error"`
	lost bool // there was nobody to answer, or no answer that can be read
}

// acks leads answers to who waits for them, by one subscription for all.
type acks struct {
	prefix string // of reply subjects; the number of a publish follows

	mu      sync.Mutex // protects the following fields
	serial  uint64
	waiting map[uint64]chan answer
}

func newAcks(nc *nats.Conn) (*acks, error) {
	a := &acks{prefix: nc.NewInbox() + ".", waiting: map[uint64]chan answer{}}
	sub, err := nc.Subscribe(a.prefix+"*", a.take)
	if err != nil {
		return nil, fmt.Errorf("subscribe to answers: %w", err)
	}
	// An answer must never be dropped for being one too many: window bounds
	// how many there can be.
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return nil, fmt.Errorf("subscribe to answers: %w", err)
	}
	return a, nil
}

// expect returns where an answer is to be sent to, and where it then comes
// out. Forget must follow.
func (a *acks) expect() (serial uint64, reply string, ch <-chan answer) {
	c := make(chan answer, 1)
	a.mu.Lock()
	a.serial++
	serial = a.serial
	a.waiting[serial] = c
	a.mu.Unlock()
	return serial, a.prefix + strconv.FormatUint(serial, 36), c
}

func (a *acks) forget(serial uint64) {
	a.mu.Lock()
	delete(a.waiting, serial)
	a.mu.Unlock()
}

// take gets every answer, one after another.
func (a *acks) take(m *nats.Msg) {
	serial, err := strconv.ParseUint(strings.TrimPrefix(m.Subject, a.prefix), 36, 64)
	if err != nil {
		return
	}
	a.mu.Lock()
	ch, ok := a.waiting[serial]
	delete(a.waiting, serial)
	a.mu.Unlock()
	if ok {
		ch <- parseAnswer(m)
	}
}

func parseAnswer(m *nats.Msg) answer {
	var out answer
	if err := json.Unmarshal(m.Data, &out); err != nil || out.Error == nil && out.Seq == 0 {
		return answer{lost: true} // such as NATS' own "503: no responders"
	}
	return out
}
