package logs

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rutterhq/rutter/kernel"
)

// Every decider has a change planted by the end-to-end test, in a recording of
// real life; that is over before this one decides anything.
func TestAPlantInExpiryIsFound(t *testing.T) {
	deciders := Deciders()
	i := slices.IndexFunc(deciders, func(d kernel.Decider) bool { return d.Name == "controllers/events" })
	decide := deciders[i].Decide
	deciders[i].Decide = func(v *kernel.View, k kernel.Key, now time.Time) kernel.Decision {
		return decide(v, k, now.Add(-time.Minute)) // as if the hour were a minute longer
	}
	report, err := Replay("expiry", deciders)
	if err != nil {
		t.Fatal(err)
	}
	if report.Unexplained != 1 || !strings.HasPrefix(report.First, "controllers/events on events/default/web.1") {
		t.Errorf("%d unexplained: %s", report.Unexplained, report.First)
	}
}
