package jetstream

import "github.com/nats-io/nats-server/v2/server"

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
