//go:build e2e

package test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/rutterhq/rutter/test/tools"
)

// TestBadInput gives the cluster what it must refuse, and what it must accept
// although it cannot work: both say what is wrong, and where.
func TestBadInput(t *testing.T) {
	c := newCluster(t)
	c.up()
	c.importImages()
	t.Run("Refused", func(t *testing.T) { c.inside(t).refusals() })
	t.Run("Raw", func(t *testing.T) { c.inside(t).rawRefusals() })
	t.Run("Failing", func(t *testing.T) { c.inside(t).failing() })
}

const deploymentHead = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: bad}\n"
const podHead = "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\n"
const template = "{metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}"

// refusals are what kubectl users get wrong, and what they are told.
func (c *cluster) refusals() {
	c.apply(strings.Replace(deploymentHead, "bad", "good", 1) + "spec: {replicas: 0, selector: {matchLabels: {a: b}}, template: " + template + "}\n")
	for _, one := range []struct{ name, manifest, says string }{
		{"malformed YAML", "a: [", "error converting YAML to JSON"},
		{"unknown field", deploymentHead + "spec: {replica: 1, selector: {matchLabels: {a: b}}, template: " + template + "}", `strict decoding error: unknown field "spec.replica"`},
		{"unknown nested field", podHead + "spec: {containers: [{name: c, image: i, prots: []}]}", `unknown field "spec.containers[0].prots"`},
		{"wrong type", deploymentHead + "spec: {replicas: two, selector: {matchLabels: {a: b}}, template: " + template + "}", "spec.replicas of type int32"},
		{"wrong quantity", podHead + "spec: {containers: [{name: c, image: i, resources: {limits: {memory: lots}}}]}", "quantities must match the regular expression"},
		{"invalid name", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Bad_Name}\n", `metadata.name: Invalid value: "Bad_Name": a lowercase RFC 1123 subdomain`},
		{"invalid label", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bad, labels: {a b: c}}\n", `metadata.labels: Invalid value: "a b"`},
		{"invalid port", "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {ports: [{port: 70000}]}", `spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535`},
		{"nothing to run", podHead + "spec: {containers: []}", "spec.containers: Required value"},
		{"image missing", podHead + "spec: {containers: [{name: c}]}", "spec.containers[0].image: Required value"},
		{"two of a name", podHead + "spec: {containers: [{name: c, image: i}, {name: c, image: i}]}", `spec.containers[1].name: Duplicate value: "c"`},
		{"mount of nothing", podHead + "spec: {containers: [{name: c, image: i, volumeMounts: [{name: v, mountPath: /v}]}]}", `spec.containers[0].volumeMounts[0].name: Not found: "v"`},
		{"selector that selects others", deploymentHead + "spec: {selector: {matchLabels: {a: c}}, template: " + template + "}", "spec.template.metadata.labels: Invalid value"},
		{"immutable field", strings.Replace(deploymentHead, "bad", "good", 1) + "spec: {selector: {matchLabels: {a: c}}, template: {metadata: {labels: {a: c}}, spec: {containers: [{name: c, image: i}]}}}", "spec.selector: Invalid value"},
		{"too large", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bad}\ndata: {a: " + strings.Repeat("x", 1_048_577) + "}", "Too long: may not be more than 1048576 bytes"},
		{"no such account", podHead + "spec: {serviceAccountName: nobody, containers: [{name: c, image: i}]}", `serviceaccount "nobody" not found`},
		{"no such priority", podHead + "spec: {priorityClassName: nope, containers: [{name: c, image: i}]}", `no PriorityClass with name nope was found`},
		{"no such namespace", strings.Replace(podHead, "bad", "bad, namespace: nowhere", 1) + "spec: {containers: [{name: c, image: i}]}", `namespaces "nowhere" not found`},
		{"not supported yet", podHead + "spec: {volumes: [{name: v, nfs: {server: s, path: /p}}], containers: [{name: c, image: i}]}", "spec.volumes[0].nfs"},
	} {
		// --server-side: the last-applied annotation would be too large before the data is.
		args := []string{"apply", "-f", "-"}
		if one.name == "too large" {
			args = append(args, "--server-side")
		}
		if said := c.refused(one.manifest, args...); !strings.Contains(said, one.says) {
			c.t.Errorf("%s: kubectl says\n%.600s\nexpected\n%s", one.name, said, one.says)
		}
	}
	for _, one := range []struct {
		args []string
		says string
	}{
		{[]string{"get", "pod", "nope"}, `pods "nope" not found`},
		{[]string{"create", "-f", "testdata/podd.yaml"}, `no matches for kind "Podd" in version "v1"`},
		{[]string{"get", "podd"}, `the server doesn't have a resource type "podd"`},
		{[]string{"get", "pods", "-l", "a=b=c"}, "a=b=c"},
		{[]string{"get", "pods", "--field-selector", "spec.nope=1"}, "field label not supported: spec.nope"},
		{[]string{"delete", "deployment", "nope"}, `deployments.apps "nope" not found`},
		{[]string{"scale", "deployment/good", "--replicas=-1"}, "replicas"},
		{[]string{"label", "deployment/good", "a b=c"}, "a b"},
		{[]string{"patch", "deployment/good", "--type=json", "-p", `[{"op":"replace","path":"/spec/nope/x","value":1}]`}, "invalid"},
		{[]string{"patch", "deployment/good", "-p", `{"spec":{"replicas":-2}}`}, "spec.replicas: Invalid value: -2: must be greater than or equal to 0"},
		{[]string{"logs", "nope"}, `pods "nope" not found`},
		{[]string{"exec", "nope", "--", "true"}, `pods "nope" not found`},
	} {
		if said := c.refused("", one.args...); !strings.Contains(said, one.says) {
			c.t.Errorf("kubectl %s says\n%s\nexpected\n%s", strings.Join(one.args, " "), said, one.says)
		}
	}
}

// raw sends a request that no client library would.
func (c *cluster) raw(method, path, contentType, body string) (int, *metav1.Status) {
	c.t.Helper()
	transport, err := rest.TransportFor(c.rest)
	if err != nil {
		c.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.rest.Host+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	var s metav1.Status
	if err := json.Unmarshal(b, &s); err != nil || s.Kind != "Status" && res.StatusCode >= 400 {
		c.t.Errorf("%s %s: %d, not a Status: %.300s", method, path, res.StatusCode, b)
	}
	return res.StatusCode, &s
}

// rawRefusals are what only bad clients send.
func (c *cluster) rawRefusals() {
	const cms, asJSON = "/api/v1/namespaces/default/configmaps", "application/json"
	for _, one := range []struct {
		name, method, path, contentType, body string
		code                                  int
		reason                                metav1.StatusReason
		says                                  string // in the message or in a cause's field
	}{
		{"half an object", "POST", cms, asJSON, `{"kind":"ConfigMap","metadata":{`, 400, metav1.StatusReasonBadRequest, "unexpected"},
		{"no object", "POST", cms, asJSON, ``, 400, metav1.StatusReasonBadRequest, ""},
		{"a list", "POST", cms, asJSON, `[1,2]`, 400, metav1.StatusReasonBadRequest, ""},
		{"binary", "POST", cms, asJSON, "\x00\xff\xfe", 400, metav1.StatusReasonBadRequest, ""},
		{"protobuf that is none", "POST", cms, "application/vnd.kubernetes.protobuf", "k8s\x00\xff\xff\xff", 400, metav1.StatusReasonBadRequest, ""},
		{"half of YAML", "POST", cms, "application/yaml", "a: [", 400, metav1.StatusReasonBadRequest, ""},
		{"another kind", "POST", cms, asJSON, `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"x"}}`, 400, metav1.StatusReasonBadRequest, "Pod"},
		{"another version", "POST", cms, asJSON, `{"kind":"ConfigMap","apiVersion":"v9","metadata":{"name":"x"}}`, 400, metav1.StatusReasonBadRequest, "v9"},
		{"another namespace", "POST", cms, asJSON, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x","namespace":"kube-system"}}`, 400, metav1.StatusReasonBadRequest, "namespace"},
		{"another name", "PUT", cms + "/kube-root-ca.crt", asJSON, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"y"}}`, 400, metav1.StatusReasonBadRequest, "name"},
		{"no name", "POST", cms, asJSON, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{}}`, 422, metav1.StatusReasonInvalid, "metadata.name"},
		{"unknown field, strict", "POST", cms + "?fieldValidation=Strict", asJSON, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x"},"dat":{}}`, 400, metav1.StatusReasonBadRequest, `unknown field "dat"`},
		{"a field twice, strict", "POST", cms + "?fieldValidation=Strict", asJSON, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x","name":"y"}}`, 400, metav1.StatusReasonBadRequest, "duplicate field"},
		{"a type that nobody speaks", "POST", cms, "text/plain", `hello`, 415, metav1.StatusReasonUnsupportedMediaType, ""},
		{"a patch of no type", "PATCH", cms + "/kube-root-ca.crt", asJSON, `{}`, 415, metav1.StatusReasonUnsupportedMediaType, ""},
		{"four megabytes", "POST", cms, asJSON, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x"},"data":{"a":"` + strings.Repeat("x", 4<<20) + `"}}`, 413, metav1.StatusReasonRequestEntityTooLarge, ""},
		{"a verb that is none", "BREW", cms, asJSON, ``, 405, metav1.StatusReasonMethodNotAllowed, ""},
		{"a selector that is none", "GET", cms + "?labelSelector=%3D%3D", asJSON, ``, 400, metav1.StatusReasonBadRequest, ""},
		{"a limit that is none", "GET", cms + "?limit=many", asJSON, ``, 400, metav1.StatusReasonBadRequest, ""},
		{"a token that is none", "GET", cms + "?limit=1&continue=abc", asJSON, ``, 400, metav1.StatusReasonBadRequest, "continue"},
		{"a version that is none", "GET", cms + "?resourceVersion=yesterday", asJSON, ``, 400, metav1.StatusReasonBadRequest, ""},
		{"a version to come", "GET", cms + "?watch=true&resourceVersion=99999999&timeoutSeconds=1", asJSON, ``, 504, metav1.StatusReasonTimeout, ""},
		{"an old version", "PUT", cms + "/kube-root-ca.crt", asJSON, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"kube-root-ca.crt","resourceVersion":"1"}}`, 409, metav1.StatusReasonConflict, "the object has been modified"},
		{"the uid of another", "DELETE", cms + "/kube-root-ca.crt", asJSON, `{"kind":"DeleteOptions","apiVersion":"v1","preconditions":{"uid":"7"}}`, 409, metav1.StatusReasonConflict, "7"},
		{"a name that exists", "POST", cms, asJSON, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"kube-root-ca.crt"}}`, 409, metav1.StatusReasonAlreadyExists, "kube-root-ca.crt"},
	} {
		code, s := c.raw(one.method, one.path, one.contentType, one.body)
		said := s.Message
		if s.Details != nil {
			for _, cause := range s.Details.Causes {
				said += " " + cause.Field
			}
		}
		if code != one.code || s.Reason != one.reason || int(s.Code) != code || !strings.Contains(said, one.says) {
			c.t.Errorf("%s: %d %s %.300q; expected %d %s with %q", one.name, code, s.Reason, said, one.code, one.reason, one.says)
		}
	}
	code, s := c.raw("POST", "/api/v1/namespaces/default/pods", asJSON, `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"x"},"spec":{"containers":[{"name":"A"}],"restartPolicy":"Sometimes"}}`)
	fields := map[string]bool{}
	if s.Details != nil {
		for _, cause := range s.Details.Causes {
			fields[cause.Field] = true
		}
	}
	for _, f := range []string{"spec.containers[0].name", "spec.containers[0].image", "spec.restartPolicy"} {
		if code != 422 || !fields[f] {
			c.t.Errorf("a pod with three errors: %d, the causes do not name %s: %v", code, f, fields)
		}
	}
}

// failing are pods that are accepted and cannot work: kubectl describe says why.
func (c *cluster) failing() {
	pod := func(name, spec string) string {
		return fmt.Sprintf("---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s, labels: {test: failing}}\nspec: %s\n", name, spec)
	}
	c.apply(pod("missing-image", "{containers: [{name: c, image: 127.0.0.1:1/nothing:v1}]}") +
		pod("never-pull", "{containers: [{name: c, image: 127.0.0.1:1/nothing:v1, imagePullPolicy: Never}]}") +
		pod("crashing", "{containers: [{name: c, image: "+tools.Image+", command: [sh, -c, 'echo about to fail; exit 3']}]}") +
		pod("no-command", "{containers: [{name: c, image: "+tools.Image+", command: [/nothing]}]}") +
		pod("not-ready", "{containers: [{name: c, image: "+tools.Image+", readinessProbe: {httpGet: {path: /nope, port: 9000}, periodSeconds: 1}}]}") +
		pod("not-alive", "{terminationGracePeriodSeconds: 1, containers: [{name: c, image: "+tools.Image+", livenessProbe: {exec: {command: ['false']}, periodSeconds: 1, failureThreshold: 2}}]}") +
		pod("no-config", "{containers: [{name: c, image: "+tools.Image+", envFrom: [{configMapRef: {name: nope}}]}]}") +
		pod("no-volume", "{containers: [{name: c, image: "+tools.Image+", volumeMounts: [{name: v, mountPath: /v}]}], volumes: [{name: v, secret: {secretName: nope}}]}") +
		pod("no-node", "{nodeSelector: {disk: fast}, containers: [{name: c, image: "+tools.Image+"}]}") +
		pod("too-big", "{containers: [{name: c, image: "+tools.Image+", resources: {requests: {cpu: 1k}}}]}"))
	for _, one := range []struct {
		name  string
		until func(*corev1.Pod) bool
		says  []string // in what kubectl describe prints
	}{
		{"missing-image", waitingFor("ErrImagePull", "ImagePullBackOff"), []string{"Failed", "127.0.0.1:1/nothing:v1"}},
		{"never-pull", waitingFor("ErrImageNeverPull"), []string{"ErrImageNeverPull", "127.0.0.1:1/nothing:v1"}},
		{"crashing", waitingFor("CrashLoopBackOff"), []string{"CrashLoopBackOff", "Exit Code:    3", "BackOff", "Back-off restarting failed container"}},
		{"no-command", restarted, []string{"/nothing", "no such file"}},
		{"not-ready", running, []string{"Unhealthy", "Readiness probe failed", "404"}},
		{"not-alive", restarted, []string{"Unhealthy", "Liveness probe failed", "Killing"}},
		{"no-config", waitingFor("CreateContainerConfigError"), []string{"CreateContainerConfigError", `configmap "nope" not found`}},
		{"no-volume", func(p *corev1.Pod) bool { return p.Spec.NodeName != "" }, []string{"FailedMount", `secret "nope" not found`}},
		{"no-node", unschedulable, []string{"FailedScheduling", "0/1 nodes are available", "didn't match Pod's node affinity/selector"}},
		{"too-big", unschedulable, []string{"FailedScheduling", "Insufficient cpu"}},
	} {
		c.pod("default", one.name, "to fail as expected", one.until)
		var said string
		poll(c.t, "kubectl describe pod "+one.name, func() bool {
			said = c.kubectl("describe", "pod", one.name)
			for _, s := range one.says {
				if !strings.Contains(said, s) {
					return c.tooLate(one.name, s, said)
				}
			}
			return true
		})
	}
	if out := c.kubectl("logs", "crashing", "--previous"); out != "about to fail\n" {
		c.t.Errorf("the last words of a container that crashed: %q", out)
	}
}

// tooLate reports what a description lacks, once it had time enough. It
// returns true when there is nothing more to wait for.
func (c *cluster) tooLate(name, lacks, said string) bool {
	if c.patience == nil {
		c.patience = map[string]int{}
	}
	// An Event's message is written anew after ten seconds at the earliest, and
	// the first may say that nobody listens yet.
	if c.patience[name]++; c.patience[name] < 240 {
		return false
	}
	c.t.Errorf("kubectl describe pod %s does not say %q:\n%s", name, lacks, said)
	return true
}

func waitingFor(reasons ...string) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool {
		for _, s := range p.Status.ContainerStatuses {
			for _, r := range reasons {
				if s.State.Waiting != nil && s.State.Waiting.Reason == r {
					return true
				}
			}
		}
		return false
	}
}

func restarted(p *corev1.Pod) bool {
	return len(p.Status.ContainerStatuses) > 0 && (p.Status.ContainerStatuses[0].RestartCount > 0 || p.Status.ContainerStatuses[0].LastTerminationState.Terminated != nil)
}

func running(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning }

func unschedulable(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable {
			return true
		}
	}
	return false
}
