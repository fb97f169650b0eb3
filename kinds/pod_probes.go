package kinds

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

type probeKind int

const (
	livenessProbe probeKind = iota
	readinessProbe
	startupProbe
)

// probe checks how a container is asked whether it is well.
func (c *podCheck) probe(p *corev1.Probe, kind probeKind, path *field.Path) {
	if p == nil {
		return
	}
	c.handler(handler{Exec: p.Exec, HTTPGet: p.HTTPGet, TCPSocket: p.TCPSocket, GRPC: p.GRPC}, path)
	for _, f := range []struct {
		name  string
		value int32
	}{
		{"initialDelaySeconds", p.InitialDelaySeconds}, {"timeoutSeconds", p.TimeoutSeconds},
		{"periodSeconds", p.PeriodSeconds}, {"successThreshold", p.SuccessThreshold},
		{"failureThreshold", p.FailureThreshold},
	} {
		c.notNegative(path.Child(f.name), int64(f.value))
	}
	grace := path.Child("terminationGracePeriodSeconds")
	if p.TerminationGracePeriodSeconds != nil && *p.TerminationGracePeriodSeconds <= 0 {
		c.invalid(grace, *p.TerminationGracePeriodSeconds, "must be greater than 0")
	}
	switch {
	case kind == readinessProbe && p.TerminationGracePeriodSeconds != nil:
		c.invalid(grace, p.TerminationGracePeriodSeconds, "must not be set for readinessProbes")
	case kind != readinessProbe && p.SuccessThreshold != 1:
		c.invalid(path.Child("successThreshold"), p.SuccessThreshold, "must be 1")
	}
}

// lifecycle checks what is called after a container's start and before its end.
func (c *podCheck) lifecycle(l *corev1.Lifecycle, path *field.Path) {
	if l == nil {
		return
	}
	for _, h := range []struct {
		name string
		hook *corev1.LifecycleHandler
	}{{"postStart", l.PostStart}, {"preStop", l.PreStop}} {
		if h.hook != nil {
			c.handler(handler{
				Exec: h.hook.Exec, HTTPGet: h.hook.HTTPGet, TCPSocket: h.hook.TCPSocket, Sleep: h.hook.Sleep,
			}, path.Child(h.name))
		}
	}
	if l.StopSignal != nil {
		c.stopSignal(*l.StopSignal, path.Child("stopSignal"))
	}
}

// handler is what a probe or a hook does: one of these.
type handler struct {
	Exec      *corev1.ExecAction
	HTTPGet   *corev1.HTTPGetAction
	TCPSocket *corev1.TCPSocketAction
	GRPC      *corev1.GRPCAction
	Sleep     *corev1.SleepAction
}

func (c *podCheck) handler(h handler, path *field.Path) {
	given := 0
	one := func(name string, set bool, check func(*field.Path)) {
		if !set {
			return
		}
		given++
		if given > 1 {
			c.forbidden(path.Child(name), "may not specify more than 1 handler type")
			return
		}
		check(path.Child(name))
	}
	one("exec", h.Exec != nil, func(p *field.Path) {
		if len(h.Exec.Command) == 0 {
			c.required(p.Child("command"), "")
		}
	})
	one("httpGet", h.HTTPGet != nil, func(p *field.Path) { c.httpGet(h.HTTPGet, p) })
	one("tcpSocket", h.TCPSocket != nil, func(p *field.Path) { c.portNumberOrName(h.TCPSocket.Port, p.Child("port")) })
	one("grpc", h.GRPC != nil, func(p *field.Path) {
		c.portNumberOrName(intstr.FromInt32(h.GRPC.Port), p.Child("port"))
		if h.GRPC.Mode != nil {
			among(c, p.Child("mode"), *h.GRPC.Mode, corev1.GRPCProbeModePlaintext, corev1.GRPCProbeModeTLS)
		}
	})
	one("sleep", h.Sleep != nil, func(p *field.Path) {
		grace := c.spec.TerminationGracePeriodSeconds
		if grace != nil && (h.Sleep.Seconds < 0 || h.Sleep.Seconds > *grace) {
			c.invalid(p, h.Sleep.Seconds,
				fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", *grace))
		}
	})
	if given == 0 {
		c.required(path, "must specify a handler type")
	}
}

func (c *podCheck) httpGet(h *corev1.HTTPGetAction, path *field.Path) {
	if h.Path == "" {
		c.required(path.Child("path"), "")
	}
	c.portNumberOrName(h.Port, path.Child("port"))
	among(c, path.Child("scheme"), h.Scheme, corev1.URISchemeHTTP, corev1.URISchemeHTTPS)
	for _, header := range h.HTTPHeaders {
		c.messages(path.Child("httpHeaders"), header.Name, validation.IsHTTPHeaderName(header.Name))
	}
	if h.Protocol == nil {
		return
	}
	switch at := path.Child("protocol"); {
	case *h.Protocol != corev1.HTTPProtocolHTTP1 && *h.Protocol != corev1.HTTPProtocolHTTP2:
		among(c, at, *h.Protocol, corev1.HTTPProtocolHTTP1, corev1.HTTPProtocolHTTP2)
	case *h.Protocol == corev1.HTTPProtocolHTTP1:
	case h.Scheme != corev1.URISchemeHTTP:
		c.invalid(at, *h.Protocol, "is only supported with HTTP (H2C)")
	case h.Host != "":
		c.invalid(path.Child("host"), h.Host, "must be empty when `protocol` is \"HTTP2\"")
	}
}

func (c *podCheck) portNumberOrName(p intstr.IntOrString, path *field.Path) {
	if p.Type == intstr.String {
		c.messages(path, p.StrVal, validation.IsValidPortName(p.StrVal))
		return
	}
	c.messages(path, p.IntValue(), validation.IsValidPortNum(p.IntValue()))
}

// stopSignal checks the signal that asks a container to end (KEP-4960).
func (c *podCheck) stopSignal(s corev1.Signal, path *field.Path) {
	switch os := c.spec.OS; {
	case os == nil:
		c.forbidden(path, "may not be set for containers with empty `spec.os.name`")
	case os.Name == corev1.Windows:
		among(c, path, s, corev1.SIGKILL, corev1.SIGTERM)
	case os.Name == corev1.Linux && !linuxSignal(string(s)):
		c.add(field.NotSupported(path, s, []corev1.Signal{corev1.SIGTERM, corev1.SIGINT, corev1.SIGQUIT, corev1.SIGHUP, corev1.SIGUSR1, corev1.SIGUSR2, corev1.SIGKILL}))
	}
}

// linuxSignal tells whether Linux knows a signal of that name.
func linuxSignal(name string) bool {
	const maxRealtime = 15 // SIGRTMIN+15 and SIGRTMAX-14 meet in the middle
	name, ok := strings.CutPrefix(name, "SIG")
	if !ok {
		return false
	}
	for n := range maxRealtime + 1 {
		if name == fmt.Sprintf("RTMIN+%d", n) && n > 0 || name == fmt.Sprintf("RTMAX-%d", n) && n > 0 && n < maxRealtime {
			return true
		}
	}
	switch name {
	case "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
		"PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
		"USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX":
		return true
	}
	return false
}
