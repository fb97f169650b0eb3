package jetstream

import (
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	// lookAtMirror is how often the server that leads history sees whether that
	// follows the log.
	lookAtMirror = time.Second
	// mirrorQuiet is how long nothing may come to history though it lacks events.
	mirrorQuiet = 3 * time.Second
	// mirrorPause is how long a server that gave up leading history does not do
	// so again: who is elected next needs a moment, and may be the same one.
	mirrorPause = 5 * time.Second
)

// mirror is how history follows the log, as the server that leads it sees.
type mirror struct {
	at     uint64    // the last event that history has
	since  time.Time // nothing came to it from then on, or it lacked nothing
	leads  bool
	gaveUp time.Time
}

// stands tells whether history stands still: at now, with so many events in the
// log and in history. Who does not lead history does not know.
func (m *mirror) stands(now time.Time, leads bool, log, hist uint64) bool {
	if !leads || !m.leads || hist != m.at || hist >= log {
		m.leads, m.at, m.since = leads, hist, now
		return false
	}
	if now.Sub(m.since) < mirrorQuiet || !m.gaveUp.IsZero() && now.Sub(m.gaveUp) < mirrorPause {
		return false
	}
	m.gaveUp, m.leads = now, false
	return true
}

// tendMirror has another one of several servers lead history when that stands
// still. Who leads it has the log's leader send it all that comes. When the log's
// leader is gone that is noticed after 10 to 20 seconds; and what is asked of the
// log while that has no leader is waited for for half a minute, and asked again
// ten seconds later. Who begins to lead asks at once.
func (s *Server) tendMirror() {
	t := time.NewTicker(lookAtMirror)
	defer t.Stop()
	var m mirror
	for {
		select {
		case <-s.commits.stop:
			return
		case now := <-t.C:
			if !s.server.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, HistName) {
				m.stands(now, false, 0, 0)
				continue
			}
			log, _ := s.copyOf(StreamName)
			hist, _ := s.copyOf(HistName)
			if m.stands(now, true, log.LastSeq, hist.LastSeq) {
				s.commits.log("warn", "history stands still: another server is to lead it")
				// An error is that there is no such stream any more.
				_ = s.server.JetStreamStepdownStream(server.DEFAULT_GLOBAL_ACCOUNT, HistName)
			}
		}
	}
}
