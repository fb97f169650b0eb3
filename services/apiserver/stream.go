package apiserver

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/rutterhq/rutter/internal/pki"
	"github.com/rutterhq/rutter/kernel"
)

// nodeDialTimeout bounds how long a node may take to be reached.
const nodeDialTimeout = 10 * time.Second

// nodeProxy carries streams to node agents and pods: logs, exec, attach,
// port-forward. They hold no state, so they are no events.
type nodeProxy struct {
	nodes *http.Transport // with the apiserver's client certificate
	pods  *http.Transport
}

func newNodeProxy(ca *pki.CA) (*nodeProxy, error) {
	cert, key, err := ca.Ensure("apiserver-node-client", pki.Request{CommonName: pki.APIServerUser, Client: true})
	if err != nil {
		return nil, fmt.Errorf("apiserver's client certificate: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("apiserver's client certificate: %w", err)
	}
	dial := (&net.Dialer{Timeout: nodeDialTimeout}).DialContext
	return &nodeProxy{
		// HTTP/1.1 only: an upgraded connection is one connection.
		nodes: &http.Transport{DialContext: dial, TLSHandshakeTimeout: nodeDialTimeout,
			TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: ca.Pool(), MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}},
		pods: &http.Transport{DialContext: dial, DisableCompression: true},
	}, nil
}

// podOn returns the pod of the request and where its node's agent listens.
func (r *request) podOn() (*corev1.Pod, *url.URL, error) {
	v, err := r.viewFor("")
	if err != nil {
		return nil, nil, err
	}
	o, ok := v.Get(r.key())
	if !ok {
		return nil, nil, r.notFound(r.info.Name)
	}
	pod := o.(*corev1.Pod)
	if pod.Spec.NodeName == "" {
		return nil, nil, badRequest("pod %s does not have a host assigned", pod.Name)
	}
	n, ok := v.Get(kernel.Key{Resource: kernel.Resource{Plural: "nodes"}, Name: pod.Spec.NodeName})
	if !ok {
		return nil, nil, apierrors.NewInternalError(fmt.Errorf("the node %s of pod %s does not exist", pod.Spec.NodeName, pod.Name))
	}
	at, err := agentURL(n.(*corev1.Node))
	return pod, at, err
}

// agentURL is where a node's agent listens, by the node's own word.
func agentURL(n *corev1.Node) (*url.URL, error) {
	port := n.Status.DaemonEndpoints.KubeletEndpoint.Port
	for _, want := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeHostName} {
		for _, a := range n.Status.Addresses {
			if a.Type == want && a.Address != "" && port > 0 {
				return &url.URL{Scheme: "https", Host: net.JoinHostPort(a.Address, strconv.Itoa(int(port)))}, nil
			}
		}
	}
	return nil, apierrors.NewInternalError(fmt.Errorf("node %s does not say where its agent listens", n.Name))
}

// containerOf picks the container that a stream is about: the one named, or
// the annotated default, or the only one.
func containerOf(pod *corev1.Pod, name string) (string, error) {
	var all, inits []string
	for i := range pod.Spec.Containers {
		all = append(all, pod.Spec.Containers[i].Name)
	}
	for i := range pod.Spec.InitContainers {
		inits = append(inits, pod.Spec.InitContainers[i].Name)
	}
	for i := range pod.Spec.EphemeralContainers {
		inits = append(inits, pod.Spec.EphemeralContainers[i].Name)
	}
	if name == "" {
		if d := pod.Annotations["kubectl.kubernetes.io/default-container"]; slices.Contains(all, d) {
			return d, nil
		}
		if len(all) == 1 {
			return all[0], nil
		}
		return "", badRequest("a container name must be specified for pod %s, choose one of: %v", pod.Name, all)
	}
	if slices.Contains(all, name) || slices.Contains(inits, name) {
		return name, nil
	}
	return "", badRequest("container %s is not valid for pod %s", name, pod.Name)
}

// podLog copies a container's log.
func (r *request) podLog() error {
	pod, at, err := r.podOn()
	if err != nil {
		return err
	}
	c, err := containerOf(pod, r.query.Get("container"))
	if err != nil {
		return err
	}
	at.Path = "/containerLogs/" + pod.Namespace + "/" + pod.Name + "/" + c
	q := r.cloneQuery("container", "insecureSkipTLSVerifyBackend", "pretty")
	at.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, at.String(), nil)
	if err != nil {
		return fmt.Errorf("log of %s: %w", pod.Name, err)
	}
	res, err := r.s.nodes.nodes.RoundTrip(req)
	if err != nil {
		return unreachable(pod.Spec.NodeName, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(res.Body, 4096)) // what there is of it
		return &statusErr{*statusError(int32(res.StatusCode), reasonFor(res.StatusCode), strings.TrimSpace(string(said)))}
	}
	r.w.Header().Set("Content-Type", "text/plain")
	r.w.WriteHeader(http.StatusOK)
	copyFlushing(r.w, res.Body)
	return nil
}

// copyFlushing copies a stream and sends every piece at once.
func copyFlushing(w http.ResponseWriter, from io.Reader) {
	c := http.NewResponseController(w)
	if c.Flush() != nil {
		return
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil || c.Flush() != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (r *request) cloneQuery(without ...string) url.Values {
	q := url.Values{}
	for k, v := range r.query {
		if !slices.Contains(without, k) {
			q[k] = v
		}
	}
	return q
}

func (r *request) podExec() error   { return r.podStream("exec", true) }
func (r *request) podAttach() error { return r.podStream("attach", true) }
func (r *request) podPortForward() error {
	return r.podStream("portForward", false)
}

// podStream hands an upgraded connection through to the node's agent. Running
// something in a pod is a create, also where a WebSocket asks by GET.
func (r *request) podStream(path string, container bool) error {
	if r.info.Verb != "create" {
		a := r.attributes()
		a.Verb = "create"
		if err := r.authorize(a); err != nil {
			return err
		}
	}
	pod, at, err := r.podOn()
	if err != nil {
		return err
	}
	at.Path = "/" + path + "/" + pod.Namespace + "/" + pod.Name
	q := r.cloneQuery("container")
	if container {
		if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			return badRequest("cannot %s a container in a completed pod; current phase is %s", path, pod.Status.Phase)
		}
		c, err := containerOf(pod, r.query.Get("container"))
		if err != nil {
			return err
		}
		at.Path += "/" + c
	}
	at.RawQuery = q.Encode()
	r.forward(r.s.nodes.nodes, at, pod.Spec.NodeName)
	return nil
}

// forward lets an HTTP request, or what it upgrades to, go on to another server.
func (r *request) forward(t *http.Transport, to *url.URL, node string) {
	p := &httputil.ReverseProxy{
		Transport:     t,
		FlushInterval: -1,
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL, pr.Out.Host = to, to.Host
			pr.Out.Header.Del("Authorization")
		},
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) { r.writeError(unreachable(node, err)) },
		ErrorLog:     quietLog(r.s.cfg.Logger),
	}
	p.ServeHTTP(r.w, r.Request)
}

// podProxy speaks HTTP with a port of a pod: pods/[SCHEME:]NAME[:PORT]/proxy.
func (r *request) podProxy() error {
	scheme, name, port := splitProxyName(r.info.Name)
	v, err := r.viewFor("")
	if err != nil {
		return err
	}
	o, ok := v.Get(r.kind.Key(r.info.Namespace, name))
	if !ok {
		return r.notFound(name)
	}
	pod := o.(*corev1.Pod)
	// A pod's address is its node's word: it must not lead to this host's own.
	ip, err := netip.ParseAddr(pod.Status.PodIP)
	if err != nil || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() {
		return badRequest("address not allowed: pod %s has the address %q", pod.Name, pod.Status.PodIP)
	}
	if port == "" {
		for i := range pod.Spec.Containers {
			if ports := pod.Spec.Containers[i].Ports; len(ports) > 0 {
				port = strconv.Itoa(int(ports[0].ContainerPort))
				break
			}
		}
	}
	to := &url.URL{Scheme: scheme, Host: pod.Status.PodIP, Path: r.info.Rest, RawQuery: r.URL.RawQuery}
	if port != "" {
		to.Host = net.JoinHostPort(pod.Status.PodIP, port)
	}
	if to.Path == "" || strings.HasSuffix(r.URL.Path, "/") && !strings.HasSuffix(to.Path, "/") {
		to.Path += "/"
	}
	r.forward(r.s.nodes.pods, to, pod.Spec.NodeName)
	return nil
}

// splitProxyName reads "https:web:8443", "web:http" or "web".
func splitProxyName(s string) (scheme, name, port string) {
	parts := strings.Split(s, ":")
	switch len(parts) {
	case 1:
		return "http", parts[0], ""
	case 2:
		return "http", parts[0], parts[1]
	}
	if parts[0] == "https" {
		return "https", parts[1], parts[2]
	}
	return "http", parts[1], parts[2]
}

// unreachable is the answer when a node's agent cannot be spoken to.
func unreachable(node string, err error) error {
	if err == context.Canceled {
		return err
	}
	return refusal(http.StatusServiceUnavailable, "ServiceUnavailable", fmt.Sprintf("node %s: error dialing its agent: %v", node, err))
}
