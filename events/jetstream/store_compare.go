package jetstream

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"github.com/rutterhq/rutter/events"
)

// maxDifferences bounds how many events are named that copies do not agree on:
// one is enough to look for the cause.
const maxDifferences = 20

// Copy is what one server has of one stream in its own files.
type Copy struct {
	Store       string // the server's folder
	Stream      string // StreamName or HistName
	First, Last events.Seq
	sums        [][sha256.Size]byte // of each from First to Last
}

func (c *Copy) String() string {
	return fmt.Sprintf("%s's %s (%d to %d)", c.Store, c.Stream, c.First, c.Last)
}

// sum returns what there is of an event, if there is something.
func (c *Copy) sum(seq events.Seq) (sum [sha256.Size]byte, ok bool) {
	if seq < c.First || seq > c.Last || len(c.sums) == 0 {
		return sum, false
	}
	return c.sums[seq-c.First], true
}

// CompareStores reads the folders of servers that kept one log and do not run,
// each on its own: its error names every event that is not the same in all
// copies of it, and every store that lacks one of those from first to last, for
// what is purged from the log must be in history. visit, unless it is nil, is
// called with each event of the first store from first to last, in order.
func CompareStores(stores []string, first, last events.Seq, visit func(events.Record)) ([]*Copy, error) {
	var all []*Copy
	var errs []error
	for i, store := range stores {
		v := visit
		if i > 0 {
			v = nil
		}
		own, err := readCopies(store, first, last, v)
		if err != nil { // what follows is not read: that it is lacking says nothing new
			errs = append(errs, err)
		} else if gap := firstGap(own, first, last); gap != 0 {
			errs = append(errs, fmt.Errorf("%s lacks event %d, of %d to %d", store, gap, first, last))
		}
		all = append(all, own...)
	}
	return all, errors.Join(append(errs, differences(all)...)...)
}

// readCopies reads one store. It visits each event once, though the log and
// history may both have it.
func readCopies(store string, first, last events.Seq, visit func(events.Record)) ([]*Copy, error) {
	var own []*Copy
	for e, err := range ReadStore(store) {
		if err != nil {
			return own, err
		}
		if len(own) == 0 || own[len(own)-1].Stream != e.Stream {
			own = append(own, &Copy{Store: store, Stream: e.Stream, First: e.Seq})
		}
		c := own[len(own)-1]
		c.Last, c.sums = e.Seq, append(c.sums, e.Sum)
		if visit != nil && e.Seq >= first && e.Seq <= last {
			if visit(e.Record); e.Seq == last {
				visit = nil
			}
			first = e.Seq + 1
		}
	}
	return own, nil
}

// firstGap returns the first event that none of a server's copies has; 0: all
// are there.
func firstGap(own []*Copy, first, last events.Seq) events.Seq {
	for moved := true; moved && first <= last; {
		moved = false
		for _, c := range own {
			if _, ok := c.sum(first); ok {
				first, moved = c.Last+1, true
			}
		}
	}
	if first > last {
		return 0
	}
	return first
}

// differences names the events of which not all copies are the same, and the
// copies that most do not agree with: all of them, if there are no most.
func differences(all []*Copy) (errs []error) {
	end := events.Seq(0)
	for _, c := range all {
		end = max(end, c.Last)
	}
	for seq := events.Seq(1); seq <= end && len(errs) < maxDifferences; seq++ {
		if same(all, seq) {
			continue
		}
		by, n := map[[sha256.Size]byte]int{}, 0
		for _, c := range all {
			if sum, ok := c.sum(seq); ok {
				by[sum]++
				n++
			}
		}
		var odd []string
		for _, c := range all {
			if sum, ok := c.sum(seq); ok && 2*by[sum] <= n {
				odd = append(odd, c.String())
			}
		}
		errs = append(errs, fmt.Errorf("event %d is not the same in all %d copies; not what most have: %s", seq, n, strings.Join(odd, ", ")))
	}
	return errs
}

// same tells whether all who have an event have the same one.
func same(all []*Copy, seq events.Seq) bool {
	var has [sha256.Size]byte
	found := false
	for _, c := range all {
		sum, ok := c.sum(seq)
		if ok && found && sum != has {
			return false
		}
		if ok {
			has, found = sum, true
		}
	}
	return true
}
