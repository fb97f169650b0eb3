package sim

import (
	"slices"
	"time"

	"github.com/rutterhq/rutter/services/apiserver"
)

const (
	// deafFor bounds how long words are lost of a server that is not cut off.
	deafFor = 2 * time.Second
	// cutFor bounds how long a server is cut off.
	cutFor = 30 * time.Second
)

// link is what an apiserver has of the log and the others.
type link struct {
	cutAt   time.Time // since when it has neither; zero: it has both
	cutTill time.Time
	knows   bool      // that it is cut off
	deaf    time.Time // until when words to and from it are lost
	told    time.Time // when it told the others last
	since   time.Time // when it came back
}

func (l *link) cut() bool { return !l.cutAt.IsZero() }

// cutServer takes the log and the others away from an apiserver. Its clients
// and nodes stay, until it knows.
func (w *World) cutServer(d *dice) {
	if len(w.servers) < 2 || w.servers[0].link.cut() || w.servers[1].link.cut() {
		return
	}
	w.count("apiserver cut off")
	s := w.servers[d.below(len(w.servers))]
	s.link.cutAt, s.link.cutTill = w.now, w.now.Add(d.between(0, cutFor))
	w.watchPresence()
	w.present = s.link.cutTill.Add(presenceFor)
}

// deafen loses the words between an apiserver and the others, never for longer
// than deafFor in a row.
func (w *World) deafen(d *dice) {
	if len(w.servers) < 2 || slices.ContainsFunc(w.servers, func(s *server) bool { return w.now.Before(s.link.deaf.Add(2 * apiserver.TellEvery)) }) {
		return
	}
	w.count("words lost")
	w.servers[d.below(len(w.servers))].link.deaf = w.now.Add(d.between(0, deafFor))
	w.watchPresence()
}

// heal gives a server back what it lacked.
func (s *server) heal() {
	if s.link.cut() {
		s.writer.CutOff(false)
	}
	s.link = link{told: s.link.told, since: s.w.now}
	s.w.watchPresence()
}

// talk has the apiservers say what is due, and notice what there is to notice.
func (w *World) talk() {
	for _, s := range w.servers {
		switch l := &s.link; {
		case l.cut() && !w.now.Before(l.cutTill):
			s.heal()
		case l.cut() && !l.knows && w.now.Sub(l.cutAt) >= apiserver.NoticeCut:
			s.writer.CutOff(true)
			l.knows = true
			w.count("apiserver let its nodes go")
			for _, one := range s.streams {
				one.broken = true
			}
		}
	}
	for _, s := range w.servers {
		if !s.link.cut() {
			s.writer.Answered()
		}
		if !s.reached() || w.now.Sub(s.link.told) < apiserver.TellEvery {
			continue
		}
		s.link.told = w.now
		words := s.writer.Words()
		for _, o := range w.servers {
			if o == s || !o.reached() {
				continue
			}
			if err := o.writer.Told(words); err != nil {
				w.fail(err)
			}
		}
	}
}

// reached tells whether words come from and to it.
func (s *server) reached() bool { return !s.link.cut() && !s.w.now.Before(s.link.deaf) }

// serverFor is an apiserver that does not refuse, chosen by a number.
func (w *World) serverFor(n uint64) *server {
	s := w.servers[n%uint64(len(w.servers))]
	if s.link.knows {
		s = w.servers[(n+1)%uint64(len(w.servers))]
	}
	return s
}
