package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/rutterhq/rutter/services/nodeagent/probe"
	"github.com/rutterhq/rutter/services/nodeagent/runtime"
)

// probeKind is what a probe is for.
type probeKind string

const (
	startup   probeKind = "Startup"
	liveness  probeKind = "Liveness"
	readiness probeKind = "Readiness"
)

// watchHealth starts the probes of every container that runs and has none yet,
// and ends those of runs that are over.
func (a *Agent) watchHealth(p *pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	current := map[string]bool{}
	for _, list := range [][]corev1.Container{p.spec.Spec.InitContainers, p.spec.Spec.Containers} {
		for i := range list {
			spec := &list[i]
			c := p.world.peek(spec.Name)
			if c.Phase != Running {
				continue
			}
			for kind, pr := range map[probeKind]*corev1.Probe{startup: spec.StartupProbe, liveness: spec.LivenessProbe, readiness: spec.ReadinessProbe} {
				if pr == nil {
					continue
				}
				key := c.ID + string(kind)
				current[key] = true
				if p.probes[key] != nil {
					continue
				}
				ctx, cancel := context.WithCancel(p.ctx)
				p.probes[key] = cancel
				pod, id, at := p.spec, c.ID, c.StartedAt
				a.work.Go(func() error {
					a.probeLoop(ctx, p, pod, spec, kind, pr, id, at)
					return nil
				})
			}
		}
	}
	for key, cancel := range p.probes {
		if !current[key] {
			cancel()
			delete(p.probes, key)
		}
	}
}

func (p *pod) stopProbes() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, cancel := range p.probes {
		cancel()
		delete(p.probes, key)
	}
}

func orDefault(n, d int32) int32 {
	if n <= 0 {
		return d
	}
	return n
}

// probeLoop asks a container how it is until the run is over.
func (a *Agent) probeLoop(ctx context.Context, p *pod, pod *corev1.Pod, spec *corev1.Container, kind probeKind, pr *corev1.Probe, id string, started time.Time) {
	period := time.Duration(orDefault(pr.PeriodSeconds, 10)) * time.Second
	first := firstProbe(time.Since(started), time.Duration(pr.InitialDelaySeconds)*time.Second)
	if first == 0 && time.Since(started) > 2*period {
		// An agent that was restarted must not ask all containers at once.
		first = rand.N(period)
	}
	if !sleep(ctx, first) {
		return
	}
	good, bad := int32(0), int32(0)
	for {
		switch a.mayProbe(p, spec.Name, id, kind) {
		case probeOver:
			return
		case probeNow:
			ok, why := a.probeOnce(ctx, p, pod, spec, pr, id)
			if ctx.Err() != nil {
				return
			}
			if ok {
				good, bad = good+1, 0
			} else {
				good, bad = 0, bad+1
				a.events.add(pod, spec.Name, corev1.EventTypeWarning, "Unhealthy", fmt.Sprintf("%s probe failed: %s", kind, why))
			}
			if good >= orDefault(pr.SuccessThreshold, 1) || bad >= orDefault(pr.FailureThreshold, 3) {
				a.judged(ctx, p, pod, spec, kind, pr, id, ok)
			}
			if kind == startup && good > 0 {
				return
			}
		}
		wait := period
		if kind == readiness && good == 0 && bad == 0 || kind != startup && !p.container(spec.Name).Started {
			wait = min(period, 200*time.Millisecond) // the startup probe is about to let it go
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// firstProbe is how long a container that has run for a while is left alone. A
// container that seems to have started in the future was started before the
// clock was set back.
func firstProbe(ran, delay time.Duration) time.Duration {
	return min(max(delay-ran, 0), delay)
}

type mayProbe int

const (
	probeNow mayProbe = iota
	probeLater
	probeOver
)

// mayProbe tells whether a run is to be asked: not before it has started up,
// and for its life not while it is being ended.
func (a *Agent) mayProbe(p *pod, name, id string, kind probeKind) mayProbe {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.world.peek(name)
	switch {
	case c.ID != id || c.Phase != Running:
		return probeOver
	case kind == startup && c.Started:
		return probeOver
	case kind != startup && !c.Started, kind != readiness && (c.Stop != nil || !p.world.StopSince.IsZero()):
		return probeLater
	}
	return probeNow
}

// judged acts on a probe's verdict.
func (a *Agent) judged(ctx context.Context, p *pod, pod *corev1.Pod, spec *corev1.Container, kind probeKind, pr *corev1.Probe, id string, ok bool) {
	changed := false
	p.update(func(w *World) {
		c := w.container(spec.Name)
		if c.ID != id || c.Phase != Running {
			return
		}
		switch {
		case kind == readiness:
			changed = c.Ready != ok
			c.Ready = ok
		case ok:
			changed = kind == startup && !c.Started
			c.Started = true
		case c.Stop == nil:
			grace := podGrace(pod)
			if pr.TerminationGracePeriodSeconds != nil {
				grace = time.Duration(*pr.TerminationGracePeriodSeconds) * time.Second
			}
			c.Stop = &Stop{Since: a.now(), Grace: grace, Reason: "Unhealthy"}
			changed = true
			a.events.add(pod, spec.Name, corev1.EventTypeNormal, "Killing",
				fmt.Sprintf("Container %s failed %s probe, will be restarted", spec.Name, lower(kind)))
		}
	})
	if changed {
		a.poke(ctx, p.key)
	}
}

func lower(kind probeKind) string {
	switch kind {
	case startup:
		return "startup"
	case liveness:
		return "liveness"
	}
	return "readiness"
}

// outputMax bounds what of a probe's output is kept, in bytes.
const outputMax = 10 << 10

// probeOnce asks once.
func (a *Agent) probeOnce(ctx context.Context, p *pod, pod *corev1.Pod, spec *corev1.Container, pr *corev1.Probe, id string) (ok bool, why string) {
	timeout := time.Duration(orDefault(pr.TimeoutSeconds, 1)) * time.Second
	switch {
	case pr.Exec != nil:
		out, code, err := a.rt.Output(ctx, id, pr.Exec.Command, timeout, outputMax)
		if errors.Is(err, runtime.ErrExecTimeout) {
			return false, fmt.Sprintf("command timed out: %q timed out after %s", pr.Exec.Command, timeout)
		}
		if err != nil {
			return false, err.Error()
		}
		return code == 0, out
	case pr.HTTPGet != nil:
		url, err := probeURL(pr.HTTPGet, spec, a.podIP(p))
		if err != nil {
			return false, err.Error()
		}
		return probe.HTTP(ctx, url, pr.HTTPGet.HTTPHeaders, timeout)
	case pr.TCPSocket != nil:
		port, err := portOf(pr.TCPSocket.Port, spec)
		if err != nil {
			return false, err.Error()
		}
		host := pr.TCPSocket.Host
		if host == "" {
			host = a.podIP(p)
		}
		return probe.TCP(ctx, net.JoinHostPort(host, port), timeout)
	case pr.GRPC != nil:
		service := ""
		if pr.GRPC.Service != nil {
			service = *pr.GRPC.Service
		}
		return probe.GRPC(ctx, net.JoinHostPort(a.podIP(p), strconv.Itoa(int(pr.GRPC.Port))), service, timeout)
	}
	return false, "missing probe handler"
}

func (a *Agent) podIP(p *pod) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.world.IPs) == 0 {
		return "127.0.0.1"
	}
	return p.world.IPs[0]
}

func probeURL(h *corev1.HTTPGetAction, spec *corev1.Container, ip string) (string, error) {
	port, err := portOf(h.Port, spec)
	if err != nil {
		return "", err
	}
	host := h.Host
	if host == "" {
		host = ip
	}
	return probe.URL(string(h.Scheme), host, port, h.Path), nil
}

func portOf(p intstr.IntOrString, spec *corev1.Container) (string, error) {
	if p.Type == intstr.Int {
		return strconv.Itoa(p.IntValue()), nil
	}
	for _, named := range spec.Ports {
		if named.Name == p.StrVal {
			return strconv.Itoa(int(named.ContainerPort)), nil
		}
	}
	if _, err := strconv.ParseUint(p.StrVal, 10, 16); err == nil {
		return p.StrVal, nil
	}
	return "", fmt.Errorf("couldn't find port: %q", p.StrVal)
}

// runHandler runs a lifecycle hook to its end.
func (a *Agent) runHandler(ctx context.Context, p *pod, pod *corev1.Pod, spec *corev1.Container, id string, h *corev1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		out, code, err := a.rt.Output(ctx, id, h.Exec.Command, 0, outputMax)
		if err == nil && code != 0 {
			err = fmt.Errorf("command '%v' exited with %d: %s", h.Exec.Command, code, out)
		}
		return err
	case h.HTTPGet != nil:
		url, err := probeURL(h.HTTPGet, spec, a.podIP(p))
		if err != nil {
			return err
		}
		if ok, why := probe.HTTP(ctx, url, h.HTTPGet.HTTPHeaders, hookTimeout); !ok {
			return errors.New(why)
		}
		return nil
	case h.Sleep != nil:
		sleep(ctx, time.Duration(h.Sleep.Seconds)*time.Second)
		return nil
	}
	return fmt.Errorf("hook of container %s of pod %s has no handler that a node knows", spec.Name, pod.Name)
}

// hookTimeout bounds one HTTP request of a hook.
const hookTimeout = 30 * time.Second
