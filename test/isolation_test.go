package test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/memory"
	"github.com/rutterhq/rutter/internal/pki"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/services/apiserver"
)

const (
	// canary stands in every object that is not the node's business.
	canary = "canary-4711"
	// canaryData is canary as Secrets hold it.
	canaryData = "Y2FuYXJ5LTQ3MTE="
)

// open lists what every node may read, whosever it is: where services are, and
// where other nodes are (through the door only).
var open = map[string]bool{"services": true, "endpointslices.discovery.k8s.io": true}

// samples is one object of every kind, made by somebody else than the node.
// Pods run on the other node, and everything else belongs to it or to nobody.
var samples = map[string]string{
	"Namespace":          `{}`,
	"Node":               `{"spec":{"taints":[{"key":"k","effect":"NoSchedule"}]}}`,
	"Pod":                `{"spec":{"nodeName":"other","serviceAccountName":"default","containers":[{"name":"c","image":"i","envFrom":[{"secretRef":{"name":"canary"}}],"volumeMounts":[{"name":"v","mountPath":"/v"}]}],"volumes":[{"name":"v","configMap":{"name":"canary"}}]}}`,
	"ReplicaSet":         `{"spec":{"replicas":0,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`,
	"Deployment":         `{"spec":{"replicas":0,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`,
	"Service":            `{"spec":{"ports":[{"port":80}]}}`,
	"Endpoints":          `{"subsets":[{"addresses":[{"ip":"10.42.9.9"}],"ports":[{"port":80}]}]}`,
	"EndpointSlice":      `{"addressType":"IPv4","endpoints":[{"addresses":["10.42.9.9"]}],"ports":[{"port":80}]}`,
	"ConfigMap":          `{"data":{"k":"canary-4711"}}`,
	"Secret":             `{"data":{"k":"Y2FuYXJ5LTQ3MTE="}}`,
	"ServiceAccount":     `{}`,
	"Ingress":            `{"spec":{"defaultBackend":{"service":{"name":"s","port":{"number":80}}}}}`,
	"IngressClass":       `{"spec":{"controller":"example.com/c"}}`,
	"IPAddress":          `{"spec":{"parentRef":{"resource":"services","namespace":"default","name":"s"}}}`,
	"Event":              `{"involvedObject":{"kind":"Pod","namespace":"default","name":"canary"},"reason":"R","message":"canary-4711","type":"Normal","source":{"host":"other"}}`,
	"Lease":              `{"spec":{"holderIdentity":"other"}}`,
	"PriorityClass":      `{"value":7}`,
	"Refusal":            `{"spec":{"decider":"controllers/replicaset","key":"replicasets.apps/default/canary"}}`,
	"Role":               `{"rules":[{"apiGroups":[""],"resources":["pods"],"verbs":["get"]}]}`,
	"RoleBinding":        `{"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"canary"},"subjects":[]}`,
	"ClusterRole":        `{"rules":[{"apiGroups":[""],"resources":["pods"],"verbs":["get"]}]}`,
	"ClusterRoleBinding": `{"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"canary"},"subjects":[]}`,
}

// nameOf is what the sample of a kind is called.
func nameOf(i *kinds.Info) string {
	switch i.Kind {
	case "Node":
		return "other"
	case "Lease":
		return "other"
	case "IPAddress":
		return "10.43.99.99"
	}
	return "canary"
}

func namespaceOf(i *kinds.Info) string {
	switch {
	case i.Cluster:
		return ""
	case i.Kind == "Lease":
		return "kube-node-lease"
	}
	return "default"
}

// path is where the API has objects of a kind; name "" is all of them.
func pathOf(i *kinds.Info, namespace, name string) string {
	p := "/api/" + i.Version
	if i.Resource.Group != "" {
		p = "/apis/" + i.Resource.Group + "/" + i.Version
	}
	if namespace != "" {
		p += "/namespaces/" + namespace
	}
	p += "/" + i.Resource.Plural
	if name != "" {
		p += "/" + name
	}
	return p
}

// body is the sample of a kind as an object.
func body(t *testing.T, i *kinds.Info, namespace, name string) string {
	t.Helper()
	var o map[string]any
	if err := json.Unmarshal([]byte(samples[i.Kind]), &o); err != nil {
		t.Fatalf("the sample of %s: %v: a new kind needs one, so that it is tested too", i.Kind, err)
	}
	o["apiVersion"], o["kind"] = i.GVK().GroupVersion().String(), i.Kind
	meta := map[string]any{"name": name, "annotations": map[string]string{"example.com/about": canary}}
	if namespace != "" {
		meta["namespace"] = namespace
	}
	o["metadata"] = meta
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// world is an apiserver over a log in memory, the administrator, and a node
// that is up to no good.
type world struct {
	t     *testing.T
	log   *memory.Log
	url   string
	admin *http.Client
	node  *http.Client // of node "mine"
	tries int

	keeper keeper
}

// keeper is of a log that keeps as much of the past as it is told.
type keeper struct{ set int }

func (k *keeper) Usage(context.Context) (events.Usage, error) { return events.Usage{}, nil }

func (k *keeper) SetKeep(context.Context, events.Keep) error {
	k.set++
	return nil
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ca, err := pki.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, log: memory.New(), url: "https://" + listener.Addr().String()}
	schema := &kinds.Schema{Cluster: "test", Seal: []byte("0123456789abcdef0123456789abcdef"), Keys: new(memory.Keys)}
	cfg := apiserver.Default()
	cfg.Log, cfg.History, cfg.Schema, cfg.CA, cfg.Listener, cfg.Logger = w.log, w.log, schema, ca, listener, zerolog.Nop()
	cfg.Mirror, cfg.Keeper = kernel.NewMirror(w.log, schema, nil), &w.keeper
	server, err := apiserver.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var g errgroup.Group
	g.Go(func() error { return cfg.Mirror.Run(ctx) })
	g.Go(func() error { return server.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	})
	<-server.Started()
	client := func(r pki.Request) *http.Client {
		r.Client = true
		cert, key, err := ca.Issue(r)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{ForceAttemptHTTP2: true,
			TLSClientConfig: &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{pair}}}}
	}
	w.admin = client(pki.Request{CommonName: "admin", Organizations: []string{"system:masters"}})
	w.node = client(pki.Request{CommonName: pki.NodePrefix + "mine", Organizations: []string{pki.NodesGroup}})
	w.fill()
	return w
}

// fill makes one object of every kind, and what the node may see.
func (w *world) fill() {
	post := func(path, body string) {
		w.t.Helper()
		if code, out := w.send(w.admin, "POST", path, "application/json", body, 0); code != http.StatusCreated {
			w.t.Fatalf("POST %s: %d %s", path, code, out)
		}
	}
	post("/api/v1/namespaces/default/serviceaccounts", `{"kind":"ServiceAccount","apiVersion":"v1","metadata":{"name":"default"}}`)
	post("/api/v1/nodes", `{"kind":"Node","apiVersion":"v1","metadata":{"name":"mine"}}`)
	for _, row := range kinds.All {
		i := row.Describe()
		post(pathOf(i, namespaceOf(i), ""), body(w.t, i, namespaceOf(i), nameOf(i)))
	}
	post("/api/v1/namespaces/default/configmaps", `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"mounted"},"data":{"k":"mine to read"}}`)
	post("/api/v1/namespaces/default/pods", `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"mine"},"spec":{"nodeName":"mine",
		"containers":[{"name":"c","image":"i","env":[{"name":"A","valueFrom":{"configMapKeyRef":{"name":"mounted","key":"k"}}}]}]}}`)
}

// send sends one request. Of a stream it reads for as long as stream says.
func (w *world) send(as *http.Client, method, path, contentType, body string, stream time.Duration) (int, string) {
	w.t.Helper()
	w.tries++
	ctx := context.Background()
	if stream > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, stream)
		defer cancel()
	}
	req, err := http.NewRequestWithContext(ctx, method, w.url+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	res, err := as.Do(req)
	if err != nil {
		if stream > 0 {
			return 0, ""
		}
		w.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	out, err := io.ReadAll(res.Body)
	if err != nil && stream == 0 {
		w.t.Fatalf("%s %s: %v", method, path, err)
	}
	return res.StatusCode, string(out)
}

// shows tells whether an answer holds what the node must not see.
func shows(answer string) bool {
	return strings.Contains(answer, canary) || strings.Contains(answer, canaryData)
}

// TestIsolation has one node's certificate try every path, verb and Key of what
// is another node's or nobody's: nothing is read, nothing is written.
func TestIsolation(t *testing.T) {
	w := newWorld(t)
	before, err := w.log.Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Run("API", func(t *testing.T) { w.t = t; w.tryAPI() })
	t.Run("Door", func(t *testing.T) { w.t = t; w.tryDoor() })
	t.Run("Debug", func(t *testing.T) { w.t = t; w.tryDebug() })
	t.Run("Reviews", func(t *testing.T) { w.t = t; w.tryReviews() })
	t.Run("Tokens", func(t *testing.T) { w.t = t; w.tryTokens() })
	t.Run("Complete", func(t *testing.T) { w.t = t; w.complete() })
	w.t = t
	if w.keeper.set > 0 {
		t.Errorf("what is kept of the past was changed %d times", w.keeper.set)
	}
	last, err := w.log.Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for r, err := range w.log.Follow(t.Context(), before) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Source != "door" { // it observes that nobody hears the nodes
			t.Errorf("written: event %d %s of %s by %s", r.Seq, r.Type, r.Key, r.Source)
		}
		if r.Seq >= last {
			break
		}
	}
	t.Logf("%d requests", w.tries)
	w.allowed()
}

// subresources are all that there are, and more. Of those whose body is not the
// object it is here, so that it is not the body for which they are refused.
var subresources = map[string]string{"": "", "/status": "", "/log": "", "/exec?command=id": "", "/attach": "", "/portforward": "", "/proxy": "", "/proxy/x": "",
	"/binding":  `{"apiVersion":"v1","kind":"Binding","metadata":{"name":%q},"target":{"kind":"Node","name":"mine"}}`,
	"/eviction": `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":%q}}`,
	"/scale":    `{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":%q},"spec":{"replicas":3}}`,
	"/token":    `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","metadata":{"name":%q},"spec":{"expirationSeconds":600}}`,
	"/finalize": "", "/ephemeralcontainers": "", "/resize": "", "/approval": ""}

var patches = []string{"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"}

// denied tells whether an answer says that one may not, or that there is no such
// thing: of every other error it would not be known what had come without it.
func denied(code int) bool {
	return code == http.StatusForbidden || code == http.StatusNotFound || code == http.StatusMethodNotAllowed
}

// watching is for how long a stream is read that was not refused.
const watching = 300 * time.Millisecond

// tryAPI comes as a client of the API.
func (w *world) tryAPI() {
	for _, row := range kinds.All {
		i := row.Describe()
		ns, name := namespaceOf(i), nameOf(i)
		mayRead := false
		try := func(method, path, contentType, body string, stream time.Duration) {
			w.t.Helper()
			reading := mayRead && (method == "GET" || method == "HEAD")
			if !reading && stream > 0 {
				stream = 10 * time.Second // it is refused at once
			}
			code, out := w.send(w.node, method, path, contentType, body, stream)
			switch {
			case reading:
			case shows(out):
				w.t.Errorf("%s %s: read: %d %.200s", method, path, code, out)
			case !denied(code):
				w.t.Errorf("%s %s: not refused: %d %.200s", method, path, code, out)
			}
		}
		for sub, object := range subresources {
			if object == "" {
				object = body(w.t, i, ns, name)
			} else {
				object = fmt.Sprintf(object, name)
			}
			mayRead = open[i.Resource.String()] && sub == ""
			at := pathOf(i, ns, name) + sub
			and := "?"
			if strings.Contains(sub, "?") {
				and = "&"
			}
			for _, method := range []string{"GET", "HEAD"} {
				try(method, at, "", "", 0)
				try(method, at+and+"watch=true&timeoutSeconds=1", "", "", watching)
			}
			for _, method := range []string{"POST", "PUT"} {
				try(method, at, "application/json", object, 0)
				try(method, at+and+"dryRun=All", "application/json", object, 0)
			}
			for _, p := range patches {
				patch, how := `{"metadata":{"labels":{"evil":"yes"}}}`, "fieldManager=evil"
				switch {
				case strings.HasPrefix(p, "application/json-patch"):
					patch = `[{"op":"add","path":"/metadata/labels","value":{"evil":"yes"}}]`
				case strings.HasPrefix(p, "application/apply"):
					patch, how = object, how+"&force=true"
				}
				try("PATCH", at+and+how, p, patch, 0)
			}
			try("DELETE", at, "", "", 0)
			try("OPTIONS", at, "", "", 0)
		}
		for _, in := range []string{ns, ""} {
			mayRead = open[i.Resource.String()]
			all := pathOf(i, in, "")
			for _, method := range []string{"GET", "HEAD"} {
				try(method, all, "", "", 0)
				try(method, all+"?fieldSelector=metadata.name%3D"+name, "", "", 0)
				try(method, all+"?watch=true&timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", "", "", watching)
			}
			try("DELETE", all, "", "", 0)
			try("OPTIONS", all, "", "", 0)
		}
		try("POST", pathOf(i, ns, ""), "application/json", body(w.t, i, ns, "evil"), 0)
		try("GET", strings.Replace(pathOf(i, ns, name), "/"+i.Version+"/", "/"+i.Version+"/watch/", 1), "", "", watching)
	}
	// Another's rights do not help.
	for header, value := range map[string]string{"Impersonate-User": "admin", "Impersonate-Group": "system:masters"} {
		req, err := http.NewRequestWithContext(context.Background(), "GET", w.url+"/api/v1/namespaces/default/secrets/canary", nil)
		if err != nil {
			w.t.Fatal(err)
		}
		req.Header.Set("Impersonate-User", "system:node:other")
		req.Header.Set(header, value)
		res, err := w.node.Do(req)
		if err != nil {
			w.t.Fatal(err)
		}
		out, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if !denied(res.StatusCode) || shows(string(out)) {
			w.t.Errorf("as %s: %s: %d %.200s", header, value, res.StatusCode, out)
		}
	}
	for _, path := range []string{"/", "/api", "/apis", "/metrics", "/openapi/v2", "/logs/", "/debug/pprof/", "/configz", "/../api/v1/namespaces/default/secrets/canary",
		"/api/v1/namespaces/default/secrets/canary/", "/api/v1/namespaces/default/configmaps/mounted/../../secrets/canary", "/api/v1/namespaces/default/configmaps%2f..%2fsecrets/canary"} {
		for _, method := range []string{"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"} {
			if code, out := w.send(w.node, method, path, "application/json", "{}", 0); shows(out) || method != "GET" && method != "HEAD" && !denied(code) {
				w.t.Errorf("%s %s: %d %.200s", method, path, code, out)
			}
		}
	}
}

// tryDoor comes through the door: through another's, and through its own with
// what is another's.
func (w *world) tryDoor() {
	for _, of := range []string{"other", "mine%2f..%2fother", "MINE", ""} {
		for _, what := range []string{"/log?after=0", "/log?after=1", "/log", "/append", ""} {
			for _, method := range []string{"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"} {
				if code, out := w.send(w.node, method, "/rutter/v1/nodes/"+of+what, "application/json", "{}", 10*time.Second); !denied(code) || shows(out) {
					w.t.Errorf("%s the %s of node %q: %d %.200s", method, what, of, code, out)
				}
			}
		}
	}
	// What it may see at a position depends on what came before: it begins at 0.
	last, err := w.log.Last(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, after := range []string{"1", fmt.Sprint(last - 1), fmt.Sprint(last), fmt.Sprint(last + 1000), "-1", "18446744073709551615", "x", "00"} {
		if code, out := w.send(w.node, "GET", "/rutter/v1/nodes/mine/log?after="+after, "", "", 10*time.Second); code != http.StatusGone || shows(out) {
			w.t.Errorf("its own stream after %s: %d %.200s", after, code, out)
		}
	}
	for line := range w.stream("/rutter/v1/nodes/mine/log?after=0") {
		var r events.Record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			w.t.Fatalf("%v: %s", err, line)
		}
		if shows(line) && !open[r.Key.Resource.String()] && r.Key.Resource != kinds.Nodes.Resource {
			w.t.Errorf("its own stream shows %s", r.Key)
		}
	}
	for _, row := range kinds.All {
		i := row.Describe()
		ns := namespaceOf(i)
		for _, name := range []string{nameOf(i), "evil", "mine"} {
			if i.Kind == "Node" && name == "mine" || i.Kind == "Lease" && name == "mine" || i.Kind == "Pod" && name == "mine" {
				continue // its own
			}
			if i.Kind == "Namespace" && name == "mine" {
				name = "default"
			}
			w.appendAll(i.Key(ns, name), body(w.t, i, ns, name))
		}
	}
	w.appendAll(kinds.Leases.Key("default", "mine"), body(w.t, kinds.Leases.Describe(), "default", "mine"))
	w.appendAll(kinds.Pods.Key("default", "static"), strings.Replace(body(w.t, kinds.Pods.Describe(), "default", "static"), `"other"`, `"mine"`, 1))
}

// appendAll tries to write and to delete a Key, through both doors, with every
// Expect that could be taken for right.
func (w *world) appendAll(k kernel.Key, object string) {
	w.t.Helper()
	var live kernel.Seq
	last, err := w.log.Last(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for r, err := range w.log.Follow(w.t.Context(), 0) {
		if err != nil {
			w.t.Fatal(err)
		}
		if r.Key == k {
			live = r.Seq
		}
		if r.Seq >= last {
			break
		}
	}
	for _, door := range []string{"mine", "other"} {
		for _, expect := range []kernel.Seq{0, live, last} {
			for _, gone := range []bool{false, true} {
				r := events.Record{Key: k, Expect: expect, Delete: gone, Body: []byte(object),
					Envelope: events.Envelope{ID: uuid.NewString(), Source: "user:admin", Type: "pod.started", Seen: last, Time: time.Now()}}
				b, err := json.Marshal(r)
				if err != nil {
					w.t.Fatal(err)
				}
				code, out := w.send(w.node, "POST", "/rutter/v1/nodes/"+door+"/append", "application/json", string(b), 0)
				stale := door == "mine" && expect != live && code == http.StatusConflict
				if !denied(code) && !stale || shows(out) {
					w.t.Errorf("append of %s (delete %t) through the door of %s: %d %.200s", k, gone, door, code, out)
				}
			}
		}
	}
}

// stream reads a door's lines until its first bookmark.
func (w *world) stream(path string) map[string]bool {
	w.t.Helper()
	w.tries++
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", w.url+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	res, err := w.node.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	all := map[string]bool{}
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		var r events.Record
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			w.t.Fatal(err)
		}
		if r.Key == (kernel.Key{}) {
			return all
		}
		all[lines.Text()] = true
	}
	w.t.Fatalf("the stream ended before its first bookmark, after %d lines", len(all))
	return nil
}

// tryDebug asks what the debugging commands ask.
func (w *world) tryDebug() {
	last, err := w.log.Last(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	paths := []string{"log", "log?tail=1000", "replay", "record", "cluster", "history", "at/" + fmt.Sprint(last) + "/rutter/v1/log", "at/" + fmt.Sprint(last) + "/rutter/v1/nodes/other/log"}
	for _, row := range kinds.All {
		i := row.Describe()
		if open[i.Resource.String()] {
			continue
		}
		k := i.Key(namespaceOf(i), nameOf(i))
		key := url.QueryEscape(k.String())
		paths = append(paths, "log?key="+key, "log?resource="+i.Resource.String(), "why?key="+key, "diff?key="+key,
			"at/"+fmt.Sprint(last)+pathOf(i, k.Namespace, k.Name), "at/"+fmt.Sprint(last)+pathOf(i, k.Namespace, ""), "at/-1s"+pathOf(i, "", ""))
	}
	for _, path := range paths {
		for _, method := range []string{"HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"} {
			if code, out := w.send(w.node, method, "/rutter/v1/"+path, "application/json", `{"age":"1s","bytes":1}`, 0); !denied(code) || shows(out) {
				w.t.Errorf("%s /rutter/v1/%s: %d %.200s", method, path, code, out)
			}
		}
		code, out := w.send(w.node, "GET", "/rutter/v1/"+path, "", "", 2*time.Second)
		for line := range strings.Lines(out) {
			var r events.Record
			if shows(line) && !(json.Unmarshal([]byte(line), &r) == nil && open[r.Key.Resource.String()]) {
				w.t.Errorf("GET /rutter/v1/%s: read: %d %.200s", path, code, line)
			}
		}
		if !denied(code) && !(code == http.StatusOK && filtered(path)) {
			w.t.Errorf("GET /rutter/v1/%s: not refused: %d %.200s", path, code, out)
		}
	}
}

// filtered tells whether a question is answered with what one may read.
func filtered(path string) bool {
	return strings.HasPrefix(path, "log") || strings.HasSuffix(path, "/rutter/v1/log") || path == "cluster"
}

// allowed is the other side: what the node needs, it gets.
func (w *world) allowed() {
	for _, path := range []string{"/api/v1/namespaces/default/pods/mine", "/api/v1/namespaces/default/configmaps/mounted", "/api/v1/nodes/mine", "/api/v1/services"} {
		if code, out := w.send(w.node, "GET", path, "", "", 0); code != http.StatusOK {
			w.t.Errorf("GET %s: %d %s", path, code, out)
		}
	}
	seen := map[string]bool{}
	for line := range w.stream("/rutter/v1/nodes/mine/log?after=0") {
		var r events.Record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			w.t.Fatal(err)
		}
		seen[r.Key.String()] = true
	}
	for _, k := range []string{"pods/default/mine", "configmaps/default/mounted", "services/default/canary", "nodes/mine"} {
		if !seen[k] {
			w.t.Errorf("its stream lacks %s", k)
		}
	}
}
