package jetstream

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats-server/v2/server"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/rutterhq/rutter/events"
)

// MetaName is what the group is called in which several servers agree on which
// streams there are. It has a leader of its own.
const MetaName = "_meta_"

// OwnCopy is what one of several servers says of its own copy of a stream,
// without asking the others.
type OwnCopy struct {
	Stream string
	// Leads says that the others write what this server has them write. Who was
	// cut off from them believes it for some ten seconds more.
	Leads bool
	Last  uint64 // message that it has itself
}

// OwnCopies returns this server's own copies of all streams that each of several
// servers has, and, without a Last, whether it leads the group of MetaName.
func (s *Server) OwnCopies() []OwnCopy {
	all := []OwnCopy{{Stream: MetaName, Leads: s.server.JetStreamIsLeader()}}
	for _, name := range copied {
		if state, ok := s.copyOf(name); ok {
			leads := s.server.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, name)
			all = append(all, OwnCopy{Stream: name, Leads: leads, Last: state.LastSeq})
		}
	}
	return all
}

// errStale says that who answered is not known to lead: it led, was cut off
// from the others, and has not noticed yet.
var errStale = errors.New("a server answered that no longer leads")

// view is how one of several servers sees the group of them that keeps a stream.
type view struct {
	group  string
	term   uint64
	self   string // this server's name
	leader string // the name of who leads; "" if this server knows of nobody
	sent   uint64 // number of the last write that this server has, agreed on or not
	agreed uint64 // number of the last one that it knows a majority to have
}

// view asks nobody. Of a group that it does not have the server knows of no leader.
func (s *Server) view(group string) view {
	v := view{group: group, self: s.server.Name()}
	all := s.server.Raftz(&server.RaftzOptions{AccountFilter: server.DEFAULT_GLOBAL_ACCOUNT, GroupFilter: group})
	if all == nil {
		return v
	}
	g := (*all)[server.DEFAULT_GLOBAL_ACCOUNT][group]
	v.term, v.sent, v.agreed = g.Term, g.PIndex, g.Committed
	if v.leader = g.Peers[g.Leader].Name; g.Leader == g.ID && g.ID != "" {
		v.leader = v.self
	}
	return v
}

// led returns errStale unless the server that answered as the leader, after the
// first view and before the second, was it when it answered.
//
// Two of three make a majority. Another server comes to lead while this one
// follows only by this one's vote, and with its vote this one forgets whom it
// followed. If this one leads, it must have got consent to a write that it sent
// since the first view.
func led(before, after view, answered string) error {
	switch {
	case answered == "" || before.leader != answered || after.leader != answered || before.group != after.group || before.term != after.term:
		return fmt.Errorf("%w: %q did; for %s %q led, and now %q", errStale, answered, after.self, before.leader, after.leader)
	case answered == after.self && after.agreed <= before.sent:
		return fmt.Errorf("%w: nobody has agreed with %s", errStale, answered)
	}
	return nil
}

// end returns the last Seq of the stream: that of every event that anybody has
// been told of before, or a later one. errStale says that it cannot be sure.
func (l *Log) end(ctx context.Context) (events.Seq, error) {
	if !l.several || l.server == nil {
		return l.readState(ctx)
	}
	group, _ := keptBy(l.stream.CachedInfo())
	before := l.server.view(group)
	if err := l.confirm(ctx); err != nil {
		return 0, err
	}
	info, err := l.readInfo(ctx)
	if err != nil {
		return 0, err
	}
	group, answered := keptBy(info)
	return events.Seq(info.State.LastSeq), led(before, l.server.view(group), answered)
}

// keptBy returns the name of the group of servers that keep a stream, and of
// the one of them that says so because it leads.
func keptBy(info *js.StreamInfo) (group, answered string) {
	if info.Cluster == nil {
		return "", ""
	}
	return info.Cluster.RaftGroup, info.Cluster.Leader
}
