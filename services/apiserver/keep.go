package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
)

const (
	// usageEvery is how often the apiserver looks at how full the log is. At
	// 20 MB/s of writes that is 40 MB, a twenty-fifth of the smallest budget.
	usageEvery = 2 * time.Second
	// fullPercent of the budget is where users can create nothing more: the rest
	// is for deletes, which make room, and for what components must report.
	fullPercent = 90
	// growthOver is how much of the newest past tells how fast it grows.
	growthOver = 24 * time.Hour
	// reasonNoRoom is the Status reason of 507. Kubernetes has none: kubectl
	// shows it as "Error from server (InsufficientStorage)".
	reasonNoRoom metav1.StatusReason = "InsufficientStorage"
)

// noRoom is 507 Insufficient Storage. Neither 403, which client-go's callers
// take for a matter of rights or quota, nor 429 or a Retry-After, on which
// client-go itself would try ten times: it does not get better by waiting.
func noRoom(message string) *metav1.Status {
	return statusError(http.StatusInsufficientStorage, reasonNoRoom, message)
}

// mayCreate refuses what a user creates when the log has little room left.
func (s *Server) mayCreate(source string) error {
	u := s.usage.Load()
	if u == nil || u.Budget <= 0 || u.Used < u.Budget/100*fullPercent || !strings.HasPrefix(source, "user:") {
		return nil
	}
	return &apierrors.StatusError{ErrStatus: *noRoom(fmt.Sprintf("the log takes %d of the %d bytes that it may: at %d %% nothing new can be created. "+
		"Deletes and status updates go on. What makes room: \"rutter history --keep\" with a shorter time, or a larger disk budget", u.Used, u.Budget, fullPercent))}
}

// watchUsage looks at how full the log is, until ctx ends.
func (s *Server) watchUsage(ctx context.Context) error {
	if s.cfg.Keeper == nil {
		return nil
	}
	tick := time.NewTicker(usageEvery)
	defer tick.Stop()
	known := true
	for {
		err := s.lookAtUsage(ctx)
		if err != nil && known && ctx.Err() == nil { // said once, until it is known again
			s.cfg.Logger.Warn().Err(err).Msg("how full the log is is not known")
		}
		known = err == nil
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// lookAtUsage notes how full the log is, and returns why that is not known.
func (s *Server) lookAtUsage(ctx context.Context) error {
	u, err := s.cfg.Keeper.Usage(ctx)
	if err == nil {
		s.usage.Store(&u)
	}
	return err
}

// historyAnswer is what `rutter history` shows.
type historyAnswer struct {
	First     kernel.Seq  `json:"first"` // the oldest event that can be read
	Last      kernel.Seq  `json:"last"`
	Since     metav1.Time `json:"since"` // when First happened
	Bytes     int64       `json:"bytes"` // of history on disk
	PerDay    growth      `json:"perDay"`
	Used      int64       `json:"used,omitempty"`      // bytes on disk of everything
	Budget    int64       `json:"budget,omitempty"`    // bytes that Used may reach
	Keep      *keepAnswer `json:"keep,omitempty"`      // absent if the past has no bounds
	Snapshots []snapshot  `json:"snapshots,omitempty"` // oldest first
}

// growth is how fast history grows, by the newest day of it.
type growth struct {
	Events int64 `json:"events"`
	Bytes  int64 `json:"bytes"`
}

// keepAnswer is what is kept, and in a request what is to be kept: what is
// absent there stays as it is.
type keepAnswer struct {
	Age   *metav1.Duration `json:"age,omitempty"`   // 0: however old
	Bytes *int64           `json:"bytes,omitempty"` // 0: as much as the budget allows
}

type snapshot struct {
	Seq   kernel.Seq  `json:"seq"`
	Time  metav1.Time `json:"time"`
	Bytes int64       `json:"bytes"`
}

// history answers with the window of the past, and what it takes; PUT changes
// what is kept. Both need the right to do so with this very path.
func (d *debug) history(r *request) error {
	if err := r.authorize(Attributes{User: r.user, Verb: strings.ToLower(r.Method), Path: r.URL.Path}); err != nil {
		return err
	}
	if r.Method == http.MethodPut {
		if err := d.setKeep(r); err != nil {
			return err
		}
	}
	w, err := d.s.cfg.History.Window(r.Context())
	if err != nil {
		return err
	}
	a := historyAnswer{First: w.First, Last: w.Last, Since: metav1.NewTime(w.Since), Bytes: w.Bytes}
	if a.PerDay, err = d.growth(r.Context(), w); err != nil {
		return err
	}
	if d.s.cfg.Keeper == nil {
		return d.answer(r, a)
	}
	u, err := d.s.cfg.Keeper.Usage(r.Context())
	if err != nil {
		return err
	}
	a.Used, a.Budget, a.Keep = u.Used, u.Budget, &keepAnswer{Age: &metav1.Duration{Duration: u.Keep.Age}, Bytes: &u.Keep.Bytes}
	for _, s := range u.Saved {
		a.Snapshots = append(a.Snapshots, snapshot{s.Seq, metav1.NewTime(s.Time), s.Bytes})
	}
	return d.answer(r, a)
}

// growth measures how many events the newest day of the window has, or as much
// of a day as there is, and what they take on average.
func (d *debug) growth(ctx context.Context, w events.Window) (growth, error) {
	if w.First == 0 || w.First > w.Last || w.Since.IsZero() {
		return growth{}, nil
	}
	now := time.Now()
	over, from := growthOver, w.First-1
	if age := now.Sub(w.Since); age < over {
		over = max(age, time.Second)
	} else {
		seq, err := d.s.cfg.History.SeqAt(ctx, now.Add(-over))
		if err != nil && !errors.Is(err, events.ErrGone) {
			return growth{}, err
		}
		from = max(from, seq)
	}
	perDay := func(n int64) int64 { return int64(float64(n) * float64(24*time.Hour) / float64(over)) }
	newest, all := int64(w.Last-from), int64(w.Last-w.First+1)
	return growth{Events: perDay(newest), Bytes: perDay(int64(float64(w.Bytes) * float64(newest) / float64(all)))}, nil
}

// setKeep changes what is kept of the past.
func (d *debug) setKeep(r *request) error {
	if d.s.cfg.Keeper == nil {
		return badRequest("this log keeps all of its past")
	}
	body, err := r.body()
	if err != nil {
		return err
	}
	var want keepAnswer
	if err := json.Unmarshal(body, &want); err != nil {
		return badRequest("%v", err)
	}
	u, err := d.s.cfg.Keeper.Usage(r.Context())
	if err != nil {
		return err
	}
	keep := u.Keep
	var errs field.ErrorList
	if want.Age != nil {
		if keep.Age = want.Age.Duration; keep.Age < 0 {
			errs = append(errs, field.Invalid(field.NewPath("age"), want.Age.String(), "must not be negative"))
		}
	}
	if want.Bytes != nil {
		if keep.Bytes = *want.Bytes; keep.Bytes < 0 {
			errs = append(errs, field.Invalid(field.NewPath("bytes"), keep.Bytes, "must not be negative"))
		}
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Kind: "History"}, "", errs)
	}
	if err := d.s.cfg.Keeper.SetKeep(r.Context(), keep); err != nil {
		return err
	}
	d.s.cfg.Logger.Info().Str("actor", "user:"+r.user.Name).Stringer("age", keep.Age).Int64("bytes", keep.Bytes).Msg("what is kept of history was changed")
	return nil
}
