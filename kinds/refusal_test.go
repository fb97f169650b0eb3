package kinds

import (
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/rutterhq/rutter/kernel"
)

// TestARefusalByAClockThatWasAhead: what was told for a time that is hours away
// once the clock is right again is told anew, for a time that is near.
func TestARefusalByAClockThatWasAhead(t *testing.T) {
	noon := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	k := Pods.Key("default", "a")
	why := []*kernel.Refusal{apierrors.NewBadRequest("not so")}
	refuse := func(v *kernel.View, now time.Time) (*kernel.View, bool, time.Time) {
		told, again := Schema{}.Refused(v, "test", k, why, now)
		if told == nil {
			return v, false, again
		}
		return v.With(told.Object), true, again
	}
	v, _, _ := refuse(kernel.NewView(Schema{}), noon.Add(3*time.Hour))
	for n := range 4 { // it is told, then waits, and so on
		var told bool
		var again time.Time
		v, told, again = refuse(v, noon.Add(time.Duration(n)*time.Millisecond))
		if told != (n == 0) || again.Sub(noon) > 5*time.Minute || !again.After(noon) {
			t.Errorf("refusal %d, the clock being right again: told %t, to be tried again at %v", n, told, again)
		}
	}
}
