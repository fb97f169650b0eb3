package sim

import (
	"bytes"
	"context"
	"fmt"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/services/apiserver"
)

// acks: what a client or a node was told of its write is what the log holds
// under that Seq, then and at the end; nothing that was acknowledged is lost.
type acks struct {
	w    *World
	told []ack
}

type ack struct {
	key  kernel.Key
	seq  kernel.Seq
	id   string // of a node's Record
	body []byte // of a client's
	gone bool
}

func (c *acks) toldUser(k kernel.Key, t apiserver.Written) {
	if t.Body != nil {
		c.note(ack{key: k, seq: t.Seq, body: t.Body, gone: t.Deleted})
	}
}

func (c *acks) toldNode(k kernel.Key, id string, seq kernel.Seq) {
	c.note(ack{key: k, seq: seq, id: id})
}

func (c *acks) note(a ack) {
	c.told = append(c.told, a)
	c.w.count("acknowledged write")
	if err := a.check(c.w.records); err != nil {
		c.w.fail(found(c, err))
	}
}

// check compares with what the log holds, of which records are all events.
func (a ack) check(records []kernel.Record) error {
	if a.seq == 0 || int(a.seq) > len(records) {
		return fmt.Errorf("%s was acknowledged as event %d, there are %d", a.key, a.seq, len(records))
	}
	r := records[a.seq-1]
	// A node that reports what is so already is told where that stands.
	if r.Key != a.key || a.body != nil && (!bytes.Equal(r.Body, a.body) || r.Delete != a.gone) {
		return fmt.Errorf("%s was acknowledged as event %d, which is %s %s", a.key, a.seq, r.Type, r.Key)
	}
	return nil
}

func (c *acks) see(kernel.Event) error { return nil }

func (c *acks) end() error {
	var all []kernel.Record
	for r, err := range c.w.log.Read(context.Background(), 0, c.w.end()) {
		if err != nil {
			return err
		}
		all = append(all, r)
	}
	for _, a := range c.told {
		if err := a.check(all); err != nil {
			return err
		}
	}
	return nil
}
