package faults

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

// finder is a test that a checker reports to, and which keeps what it found.
type finder struct {
	testing.TB
	found []string
}

func (f *finder) Errorf(format string, v ...any) {
	f.found = append(f.found, fmt.Sprintf(format, v...))
}

// TestAPICheckFinds gives checkAPI made histories of one object, which is
// created and that clients want to delete, and says what it must find.
func TestAPICheckFinds(t *testing.T) {
	t.Parallel()
	const notTrue, twice = "whoever asked for that was told that it did not happen", "two clients were told"
	for name, c := range map[string]struct {
		told []int // the answers to deletes of it, one after another
		tomb bool  // whether the log has its tombstone
		want string
	}{
		"Deleted":                {[]int{200}, true, ""},
		"DeletedByOne":           {[]int{200, 409}, true, ""},
		"OutcomeUnknownDeleted":  {[]int{0}, true, ""},
		"OutcomeUnknownThere":    {[]int{504}, false, ""},
		"OneUnknownOneRefused":   {[]int{409, 500}, true, ""},
		"RefusedThere":           {[]int{409}, false, ""},
		"RefusedYetDeleted":      {[]int{409}, true, notTrue},
		"NotFoundYetDeleted":     {[]int{404}, true, notTrue},
		"BothRefusedYetDeleted":  {[]int{409, 409}, true, notTrue},
		"NobodyAskedYetDeleted":  {nil, true, notTrue},
		"DeletedByTwo":           {[]int{200, 200}, true, twice},
		"ToldDeletedAndIsThere":  {[]int{200}, false, "which is not deleted"},
		"RefusedThenToldDeleted": {[]int{409, 200}, false, "which is not deleted"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &finder{TB: t}
			checkAPI(f, madeRequests(c.told), madeLog(c.tomb))
			found := slices.ContainsFunc(f.found, func(s string) bool { return strings.Contains(s, c.want) })
			if c.want == "" && len(f.found) > 0 || c.want != "" && !found {
				t.Errorf("it found %q, want %q", f.found, c.want)
			}
		})
	}
}

// madeRequests creates an object and deletes it as often as there are answers.
func madeRequests(told []int) []request {
	create := request{method: "POST", marker: "made", code: http.StatusCreated}
	create.record.Key, create.seq, create.begun, create.end = logtest.Record("o", 0).Key, 1, 1, 2
	all := []request{create}
	for i, code := range told {
		r := request{method: "DELETE", marker: fmt.Sprint("delete-", i), uid: "u", code: code}
		r.client, r.record.Key = i+1, create.record.Key
		r.begun, r.end = 3, int64(4+i) // they are all on their way at once
		all = append(all, r)
	}
	return all
}

// madeLog has the object created, and maybe deleted.
func madeLog(tomb bool) []events.Record {
	made := logtest.Record("o", 0)
	made.Seq, made.Body = 1, []byte(`{"metadata":{"uid":"u"},"data":{"marker":"made"}}`)
	if !tomb {
		return []events.Record{made}
	}
	gone := logtest.Record("o", 1)
	gone.Seq, gone.Delete, gone.Body = 2, true, made.Body
	return []events.Record{made, gone}
}
