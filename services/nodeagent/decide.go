package nodeagent

import (
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Verb is one thing that can be done for a pod.
type Verb string

// The verbs. Each is one call of the world, short, or the start of a long one.
const (
	Wait      Verb = "wait"      // for something to happen, or until Until
	Admit     Verb = "admit"     // ask whether the node has room
	Sandbox   Verb = "sandbox"   // make namespaces, network, folders
	Mount     Verb = "mount"     // write and mount the volumes
	Pull      Verb = "pull"      // find the container's image or begin to fetch it
	Start     Verb = "start"     // run the container
	PostStart Verb = "poststart" // begin its hook
	Stopping  Verb = "stop"      // note that the container shall end
	PreStop   Verb = "prestop"   // begin its hook
	Term      Verb = "term"      // send the stop signal
	Kill      Verb = "kill"      // send SIGKILL
	Reap      Verb = "reap"      // take the exit of a container that ended
	Finish    Verb = "finish"    // write the last status
	Teardown  Verb = "teardown"  // remove containers, network, mounts, folders
	Delete    Verb = "delete"    // remove the pod from the log
	Forget    Verb = "forget"    // nothing is left: drop the state
)

// Action is what Decide wants done.
type Action struct {
	Do        Verb
	Container string
	Reason    string        // of Stopping: why
	Grace     time.Duration // of Stopping
	Until     time.Time     // of Wait; zero: until something happens
}

// Decide compares a pod's goal with what there is and returns the next single
// thing to do. It is pure, and looks at everything each time: it does not
// matter what was done before or by whom.
func Decide(g Goal, w *World, now time.Time) Action {
	if a, ok := reap(g, w); ok {
		return a
	}
	switch {
	case w.TornDown && g.Gone:
		return Action{Do: Forget}
	case g.Gone, g.Stopping:
		return decideStop(g, w, now)
	case w.Refused != nil:
		return Action{Do: Wait}
	case w.Ended:
		return decideEnded(g, w, now)
	case !w.Admitted:
		return Action{Do: Admit}
	}
	run := planRun(g.Pod, w)
	if run.over {
		return decideOver(g, w, now)
	}
	if w.TornDown {
		return Action{Do: Forget} // it was ended by mistake, and begins again
	}
	unwell := stopUnwell(g, w, now)
	if unwell.Do != Wait {
		return unwell
	}
	a := decideUp(g, w, run, now)
	if a.Do == Wait {
		a.Until = earlier(a.Until, unwell.Until)
	}
	return a
}

// decideUp makes what the containers need, then starts them.
func decideUp(g Goal, w *World, run run, now time.Time) Action {
	if a, ok := ready(&w.Sandbox, Sandbox, now); !ok {
		return a
	}
	stale := !w.RefreshAt.IsZero() && !now.Before(w.RefreshAt)
	if stale || w.VolumesAt != g.Sources || !w.Volumes.Done {
		switch {
		case !now.Before(w.Volumes.RetryAt):
			return Action{Do: Mount}
		case !w.Volumes.Done:
			return Action{Do: Wait, Until: w.Volumes.RetryAt}
		}
		a := decideStarts(g, w, run, now)
		if a.Do == Wait {
			a.Until = earlier(a.Until, w.Volumes.RetryAt)
		}
		return a
	}
	return decideStarts(g, w, run, now)
}

// ready tells whether a step is done, and else what to do about it.
func ready(s *Step, do Verb, now time.Time) (Action, bool) {
	switch {
	case s.Done:
		return Action{}, true
	case now.Before(s.RetryAt):
		return Action{Do: Wait, Until: s.RetryAt}, false
	}
	return Action{Do: do}, false
}

// reap finds a container whose process ended.
func reap(g Goal, w *World) (Action, bool) {
	for _, list := range [][]corev1.Container{g.Pod.Spec.InitContainers, g.Pod.Spec.Containers} {
		for i := range list {
			if c := w.Containers[list[i].Name]; c != nil && c.Phase == Ended {
				return Action{Do: Reap, Container: list[i].Name}, true
			}
		}
	}
	return Action{}, false
}

// run is which containers of a pod should be up.
type run struct {
	up   []*corev1.Container // in the order of their start; a later one waits for the earlier
	over bool                // all that was to run has run, or an init container failed for good
	fail bool                // of over: the pod failed
}

// planRun walks through a pod's containers as the life of a pod goes: init
// containers one after another, sidecars on the way, then the app containers.
func planRun(p *corev1.Pod, w *World) run {
	var r run
	inits, apps := containersOf(p)
	for i := range inits {
		spec := &inits[i]
		c := w.peek(spec.Name)
		if sidecar(spec) {
			r.up = append(r.up, spec)
			if !w.Initialized && (c.Phase != Running || !c.Started) {
				return r
			}
			continue
		}
		if w.Initialized || c.Phase == Exited && c.Last.ExitCode == 0 {
			continue
		}
		if c.Phase == Exited && restartPolicy(p, spec) == corev1.RestartPolicyNever {
			return run{over: true, fail: true}
		}
		r.up = append(r.up, spec)
		return r
	}
	r.over = true
	for i := range apps {
		spec := &apps[i]
		c := w.peek(spec.Name)
		if c.Phase == Exited && !restarts(p, spec, c) {
			r.fail = r.fail || c.Last.ExitCode != 0
			continue
		}
		r.over = false
		r.up = append(r.up, spec)
	}
	return r
}

// restarts tells whether a container that exited is run again.
func restarts(p *corev1.Pod, spec *corev1.Container, c *Container) bool {
	switch restartPolicy(p, spec) {
	case corev1.RestartPolicyAlways:
		return true
	case corev1.RestartPolicyOnFailure:
		return c.Last.ExitCode != 0
	}
	return false
}

// decideStarts starts what should be up, in order, and waits for what is in
// the way. A container that waits for its image or its back-off does not hold
// up the others, except that the order of init containers holds.
func decideStarts(g Goal, w *World, r run, now time.Time) Action {
	wait := Action{Do: Wait, Until: w.RefreshAt}
	later := func(t time.Time) {
		if wait.Until.IsZero() || t.Before(wait.Until) {
			wait.Until = t
		}
	}
	for _, spec := range r.up {
		c := w.peek(spec.Name)
		if c.Phase == Running {
			if c.PostStart == HookNone && !hasPostStart(spec) {
				continue
			}
			switch c.PostStart {
			case HookNone:
				return Action{Do: PostStart, Container: spec.Name}
			case HookRunning:
				return wait // the next container starts when the hook is over
			}
			continue
		}
		if c.Phase == Exited {
			if at := restartAt(c, now); now.Before(at) {
				later(at)
				continue
			}
		}
		if c.Pulling {
			continue
		}
		if a, ok := ready(&c.Image, Pull, now); !ok {
			if a.Do == Wait {
				if !c.Image.backingOff(now) {
					later(c.Image.Failed.Add(pullSettle)) // the status says otherwise from then on
				}
				later(a.Until)
				continue
			}
			a.Container = spec.Name
			return a
		}
		if now.Before(c.Create.RetryAt) {
			later(c.Create.RetryAt)
			continue
		}
		return Action{Do: Start, Container: spec.Name}
	}
	return wait
}

// restartAt is when a container that exited may run again. One that has not
// exited yet exited by a clock that was ahead: it has waited for long enough.
func restartAt(c *Container, now time.Time) time.Time {
	if held := heldBack(c); held > 0 && !c.Last.FinishedAt.After(now) {
		return c.Last.FinishedAt.Add(held)
	}
	return time.Time{}
}

// heldBack is how long after its end a container waits for its next run: not
// at all after its first run, or after one that was long.
func heldBack(c *Container) time.Duration {
	if c.Last == nil || c.Last.FinishedAt.Sub(c.Restarted) > crashForget {
		return 0
	}
	return c.Delay
}

// nextDelay is the back-off for the restart after the one that is about to be:
// it doubles.
func nextDelay(c *Container) time.Duration {
	held := heldBack(c)
	if held == 0 {
		return crashDelayFirst
	}
	return min(held*2, crashDelayMax)
}

func hasPostStart(c *corev1.Container) bool {
	return c.Lifecycle != nil && c.Lifecycle.PostStart != nil
}
func hasPreStop(c *corev1.Container) bool { return c.Lifecycle != nil && c.Lifecycle.PreStop != nil }

// stopUnwell drives the end of single containers of a pod that goes on: a
// probe or a hook has failed.
func stopUnwell(g Goal, w *World, now time.Time) Action {
	wait := Action{Do: Wait}
	inits, apps := containersOf(g.Pod)
	for _, list := range [][]corev1.Container{inits, apps} {
		for i := range list {
			c := w.peek(list[i].Name)
			if c.Phase != Running || c.Stop == nil {
				continue
			}
			a := stopContainer(&list[i], c, false, now)
			if a.Do != Wait {
				return a
			}
			wait.Until = earlier(wait.Until, a.Until)
		}
	}
	return wait
}

// stopContainer takes a container one step towards its end.
func stopContainer(spec *corev1.Container, c *Container, routed bool, now time.Time) Action {
	s := c.Stop
	deadline := s.Since.Add(s.Grace)
	if s.PreStop == HookNone && hasPreStop(spec) && s.Grace > 0 && s.Termed.IsZero() {
		return Action{Do: PreStop, Container: spec.Name}
	}
	if s.Termed.IsZero() {
		if s.PreStop == HookRunning && now.Before(deadline) {
			return Action{Do: Wait, Until: deadline}
		}
		if until := s.Since.Add(min(routedMax, s.Grace)); routed && now.Before(until) {
			return Action{Do: Wait, Until: earlier(until, now.Add(routedLook))}
		}
		return Action{Do: Term, Container: spec.Name}
	}
	if least := s.Termed.Add(termMin); s.Grace > 0 && deadline.Before(least) {
		deadline = least
	}
	if !s.Killed.IsZero() {
		deadline = s.Killed.Add(killAgain)
	}
	if now.Before(deadline) {
		return Action{Do: Wait, Until: deadline}
	}
	return Action{Do: Kill, Container: spec.Name}
}

// decideStop ends a whole pod: the app containers at once, then sidecars from
// the last to the first; then what it used is freed, and it leaves the log.
func decideStop(g Goal, w *World, now time.Time) Action {
	if a, busy := stopAll(g, w, now); busy {
		return a
	}
	switch {
	case !g.Gone && !w.Final:
		return Action{Do: Finish}
	case !w.TornDown:
		return Action{Do: Teardown}
	case g.Gone:
		return Action{Do: Forget}
	}
	return Action{Do: Delete}
}

// stopAll takes every container of a pod one step towards its end; busy is
// false when none runs.
func stopAll(g Goal, w *World, now time.Time) (a Action, busy bool) {
	inits, apps := containersOf(g.Pod)
	a = Action{Do: Wait}
	grace := g.Grace
	if g.Gone {
		grace = 0
	}
	step := func(spec *corev1.Container) (Action, bool) {
		c := w.Containers[spec.Name]
		if c == nil || c.Phase != Running {
			return Action{}, false
		}
		busy = true
		// A later, shorter grace counts: someone grew impatient.
		if c.Stop == nil || c.Stop.Grace > grace {
			return Action{Do: Stopping, Container: spec.Name, Grace: grace, Reason: "Killing"}, true
		}
		one := stopContainer(spec, c, g.Routed, now)
		if one.Do != Wait {
			return one, true
		}
		a.Until = earlier(a.Until, one.Until)
		return Action{}, false
	}
	for i := range apps {
		if one, ok := step(&apps[i]); ok {
			return one, true
		}
	}
	for i := len(inits) - 1; i >= 0; i-- {
		if busy && sidecar(&inits[i]) {
			break // sidecars serve the app containers to their end
		}
		if one, ok := step(&inits[i]); ok {
			return one, true
		}
	}
	return a, busy
}

// decideEnded frees what an agent before this one did not.
func decideEnded(g Goal, w *World, now time.Time) Action {
	if a, busy := stopAll(g, w, now); busy {
		return a
	}
	if !w.TornDown {
		return Action{Do: Teardown}
	}
	return Action{Do: Wait}
}

// decideOver frees what a pod used that has run to its end: sidecars, network,
// mounts. Its containers' records and logs stay until it is deleted.
func decideOver(g Goal, w *World, now time.Time) Action {
	over := g
	over.Grace = 30 * time.Second
	if s := g.Pod.Spec.TerminationGracePeriodSeconds; s != nil {
		over.Grace = time.Duration(*s) * time.Second
	}
	if a, busy := stopAll(over, w, now); busy {
		return a
	}
	if !w.Final {
		return Action{Do: Finish}
	}
	if w.Sandbox.Done {
		return Action{Do: Teardown}
	}
	return Action{Do: Wait}
}

// stopSignal is what ends a container politely: its image's, or SIGTERM.
func stopSignal(name string) syscall.Signal {
	if s, ok := signals[name]; ok {
		return s
	}
	return syscall.SIGTERM
}
