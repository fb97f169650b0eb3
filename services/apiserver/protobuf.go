package apiserver

import (
	"container/list"
	"encoding/binary"
	"fmt"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// protoMagic begins every protobuf body; a runtime.Unknown follows.
const protoMagic = "k8s\x00"

// encodedBudget bounds the protobuf forms kept, in bytes.
const encodedBudget = 16 << 20

type protoMarshaler interface{ Marshal() ([]byte, error) }

// encodeProto writes an object as protobuf with its envelope.
func encodeProto(o any, gvk schema.GroupVersionKind) ([]byte, error) {
	m, ok := o.(protoMarshaler)
	if !ok {
		return nil, notAcceptable()
	}
	raw, err := m.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encode %s as protobuf: %w", gvk.Kind, err)
	}
	return wrapProto(raw, gvk)
}

// wrapProto puts the envelope around an object's protobuf.
func wrapProto(raw []byte, gvk schema.GroupVersionKind) ([]byte, error) {
	u := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind}, Raw: raw}
	out := make([]byte, len(protoMagic)+u.Size())
	copy(out, protoMagic)
	if _, err := u.MarshalTo(out[len(protoMagic):]); err != nil {
		return nil, fmt.Errorf("encode the envelope of %s: %w", gvk.Kind, err)
	}
	return out, nil
}

// appendBytesField appends a length-delimited protobuf field.
func appendBytesField(out []byte, number int, value []byte) []byte {
	out = append(out, byte(number<<3|2))
	out = binary.AppendUvarint(out, uint64(len(value)))
	return append(out, value...)
}

// protoList writes a list: its metadata is field 1, its items are field 2 of
// every list type of the API.
func protoList(meta metav1.ListMeta, items [][]byte, gvk schema.GroupVersionKind) ([]byte, error) {
	m, err := meta.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encode list metadata: %w", err)
	}
	size := len(m) + 10
	for _, item := range items {
		size += len(item) + 10
	}
	raw := appendBytesField(make([]byte, 0, size), 1, m)
	for _, item := range items {
		raw = appendBytesField(raw, 2, item)
	}
	return wrapProto(raw, gvk)
}

// protoRaw is an entry's protobuf without envelope, kept for the next who asks
// unless it holds what is secret.
func (s *Server) protoRaw(e *kernel.Entry) ([]byte, error) {
	if raw := s.encoded.get(e); raw != nil {
		return raw, nil
	}
	m, ok := s.at(e, e.Seq).(protoMarshaler)
	if !ok {
		return nil, notAcceptable()
	}
	raw, err := m.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encode %s as protobuf: %w", e.Key, err)
	}
	if !sealed(e) {
		s.encoded.put(e, raw)
	}
	return raw, nil
}

func (s *Server) protoEntry(row kinds.Row, e *kernel.Entry) ([]byte, error) {
	raw, err := s.protoRaw(e)
	if err != nil {
		return nil, err
	}
	return wrapProto(raw, row.Describe().GVK())
}

// encodedCache keeps protobuf forms of entries under one budget, oldest out.
type encodedCache struct {
	mu    sync.Mutex // protects the following
	byKey map[*kernel.Entry]*list.Element
	order list.List // of encodedForm, oldest first
	held  int       // bytes
}

type encodedForm struct {
	entry *kernel.Entry
	raw   []byte
}

func (c *encodedCache) get(e *kernel.Entry) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at, ok := c.byKey[e]; ok {
		return at.Value.(encodedForm).raw
	}
	return nil
}

func (c *encodedCache) put(e *kernel.Entry, raw []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byKey == nil {
		c.byKey = map[*kernel.Entry]*list.Element{}
	}
	if _, ok := c.byKey[e]; ok || len(raw) > encodedBudget/4 {
		return
	}
	c.byKey[e] = c.order.PushBack(encodedForm{e, raw})
	for c.held += len(raw); c.held > encodedBudget; {
		oldest := c.order.Remove(c.order.Front()).(encodedForm)
		delete(c.byKey, oldest.entry)
		c.held -= len(oldest.raw)
	}
}
