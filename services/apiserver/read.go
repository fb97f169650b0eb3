package apiserver

import (
	"context"
	"errors"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/kernel"
)

// versionWait is how long a read waits for a resourceVersion that the log has
// not reached, as kube-apiserver does.
const versionWait = 3 * time.Second

// get answers with one object.
func (r *request) get() error {
	f, err := r.negotiate(true)
	if err != nil {
		return err
	}
	if err := r.exactly(); err != nil {
		return err
	}
	v, err := r.viewFor(r.query.Get("resourceVersion"))
	if err != nil {
		return err
	}
	e := r.entry(v)
	if e == nil {
		return r.notFound(r.info.Name)
	}
	body, err := r.encodeEntry(f, e)
	if err != nil {
		return err
	}
	r.writeBody(200, f, body)
	return nil
}

// exactly takes ?resourceVersionMatch=Exact for an object as it takes it for
// lists: Kubernetes has it for lists alone.
func (r *request) exactly() error {
	version := r.query.Get("resourceVersion")
	if r.query.Get("resourceVersionMatch") != string(metav1.ResourceVersionMatchExact) || r.past != nil {
		return nil
	}
	seq, err := parseVersion(version)
	if err != nil {
		return err
	}
	if seq == 0 {
		return badRequest(`resourceVersionMatch "Exact" needs a resourceVersion other than "0"`)
	}
	r.past, err = r.s.viewAt(r.Context(), seq)
	return err
}

// entry is the live object that the request names, or nil.
func (r *request) entry(v *kernel.View) *kernel.Entry {
	if e := v.Entry(r.key()); e != nil && !e.Delete {
		return e
	}
	if r.past != nil {
		return nil
	}
	return r.s.project.entry(r.key())
}

// viewFor returns a View for a read at a resourceVersion: "" sees all that was
// acknowledged, "0" whatever is at hand, N at least N.
func (r *request) viewFor(version string) (*kernel.View, error) {
	if r.past != nil {
		return r.past, nil
	}
	switch version {
	case "":
		return r.s.index.view(r.Context())
	case "0":
		return r.s.cfg.Mirror.View(), nil
	}
	seq, err := parseVersion(version)
	if err != nil {
		return nil, err
	}
	return r.s.viewAfter(r.Context(), seq)
}

func parseVersion(version string) (kernel.Seq, error) {
	n, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		return 0, badRequest("Invalid value: %q: resourceVersion must be a number", version)
	}
	return kernel.Seq(n), nil
}

// viewAfter waits a little until the View has seq.
func (s *Server) viewAfter(ctx context.Context, seq kernel.Seq) (*kernel.View, error) {
	if v := s.cfg.Mirror.View(); v.Seq() >= seq {
		return v, nil
	}
	wait, cancel := context.WithTimeout(ctx, versionWait)
	defer cancel()
	v, err := s.cfg.Mirror.At(wait, seq)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return nil, tooNew(uint64(seq), uint64(s.cfg.Mirror.View().Seq()))
	}
	return v, err
}
