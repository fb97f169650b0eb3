package jetstream

import (
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// compactKeysEvery is how long a key that was destroyed may still stand in what
// one of several servers keeps of the writes that it has consented to. The
// server itself removes it from there after two or three minutes.
const compactKeysEvery = time.Second

// compactKeys has this server, one of several, forget how the bucket of keys
// came to be whenever keys were destroyed: erasing a key erases it from the
// bucket, but the write that made it still stands in the log of consents.
func (s *Server) compactKeys() {
	t := time.NewTicker(compactKeysEvery)
	defer t.Stop()
	var done uint64 // so many messages were gone when that was done last
	for {
		select {
		case <-s.commits.stop:
			return
		case <-t.C:
		}
		has, ok := s.copyOf(keysStream)
		gone := has.LastSeq - has.Msgs
		if !ok || gone == done {
			continue
		}
		// It refuses while it still catches up, or has nothing to forget: then
		// again after the next second.
		if err := s.server.JetStreamSnapshotStream(server.DEFAULT_GLOBAL_ACCOUNT, keysStream); err == nil {
			done = gone
		}
	}
}
