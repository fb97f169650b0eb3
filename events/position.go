package events

// Position is where a reader of Follow stands in the log. It begins with the
// Seq after which is followed.
type Position struct {
	Seq Seq // of the newest Record
	// Part says that what has been read up to here is no state that there ever
	// was, but a part of one: it is whole at the next bookmark.
	Part bool
}

// Pass notes the Record that Follow yields next. A log has no gaps, so one that
// does not come right after the Record before it is of a state that was kept.
func (p *Position) Pass(r Record) {
	p.Part = r.Key != (Key{}) && (p.Part || r.Seq != p.Seq+1)
	p.Seq = r.Seq
}
