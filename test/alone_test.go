//go:build e2e

package test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/rutterhq/rutter/test/load"
	"github.com/rutterhq/rutter/test/tools"
)

const natsAddress = "127.0.0.1:4222"

// alone are the services that have a process of their own, in the order in
// which they are killed.
var alone = []string{"scheduler", "controllers", "apiserver", "ingress", "nodeagent", "nats"}

// TestServicesAlone runs the shop with every service of the cluster in a process
// of its own, then kills each in turn with SIGKILL: the shop sells while any but
// the ingress and the node's agent is away, and after each is back; the cluster
// goes on from the log, and what runs in containers runs on.
func TestServicesAlone(t *testing.T) {
	s := &story{cluster: newCluster(t)}
	services := s.startAlone()
	s.importImages("*.tar")
	s.applyShop()
	s.apply(scaledManifest)
	s.pods("the pods that will be scaled", "default", "app=scaled", allReady(2))
	echo := s.kubectl("-n", "client", "get", "service", "echo", "-o", "jsonpath={.spec.clusterIP}")
	web := s.kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	ask(t, "POST", s.client+"/echo?address="+echo+":7", nil)
	s.startInPod(load.Target{Address: web + ":80", Host: "web", Path: "/api/products", Rate: rate})
	before := s.lasting()

	for i, name := range alone {
		services[name].kill()
		sent := s.nowInPod().Sent
		poll(t, "load while "+name+" is away", func() bool { return s.nowInPod().Sent >= sent+rate/4 })
		// The ingress is the way in, and the node's agent answers for names.
		if name != "ingress" && name != "nodeagent" {
			s.order("without-" + name)
		}
		if name == "nats" && s.isReady() {
			t.Error("the apiserver says that it is ready, and the log is away")
		}
		services[name].run(s.cluster)
		poll(t, "the API, after the kill of "+name, s.isReady)
		replicas := 3 - i%2 // 3, 2, 3, ...
		s.kubectl("scale", "deployment/scaled", fmt.Sprintf("--replicas=%d", replicas))
		s.pods(fmt.Sprintf("%d replicas after the kill of %s", replicas, name), "default", "app=scaled", allReady(replicas))
		s.order("after-" + name)
		if d := cmp.Diff(before, s.lasting()); d != "" {
			t.Errorf("processes of containers, after the kill of %s: %s", name, d)
		}
		t.Logf("%s killed and started again: the shop sells, %d replicas", name, replicas)
	}
	r := s.stopInPod()
	var e load.EchoReport
	s.report("DELETE", "/echo", &e)
	t.Logf("through the Service over six kills: %s", &r)
	t.Logf("one connection over six kills: %d lines, the slowest took %s", e.Lines, e.Pause)
	if r.Failed > 0 || e.Broken != "" {
		t.Errorf("requests: %s\nconnection: %+v", strings.Join(r.Failures, "\n"), e)
	}
	if out := s.rutter("replay"); !strings.Contains(out, "unexplained") {
		t.Errorf("replay: %s", out)
	}
}

// startAlone starts every service of the cluster in a process of its own and
// waits until the node is ready.
func (s *story) startAlone() map[string]*process {
	s.t.Helper()
	services := map[string]*process{"nats": s.start("nats", "--listen", natsAddress)}
	url := "nats://" + natsAddress
	poll(s.t, "the log's server to write its credentials", func() bool { return exists(s.data, "scheduler.credentials") })
	services["apiserver"] = s.start("apiserver", "--nats", url, "--advertise", hostAddress)
	services["scheduler"] = s.start("scheduler", "--nats", url)
	services["controllers"] = s.start("controllers", "--nats", url)
	poll(s.t, "the API to be ready", func() bool { return exists(s.data, "admin.kubeconfig") && s.isReady() })
	s.connect()
	services["ingress"] = s.start("ingress", "--nats", url)
	s.rutter("node-credentials", "--data", s.data, "--run", s.run, "--node", nodeName, "--node-address", hostAddress)
	services["nodeagent"] = s.start("nodeagent", "--node", nodeName, "--node-address", hostAddress, "--host-services", "--apiserver", "https://127.0.0.1:6443")
	await(s.cluster, "the node to be ready", func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		return s.api.CoreV1().Nodes().Watch(ctx, o)
	}, func(ns []*corev1.Node) bool {
		return len(ns) == 1 && slices.ContainsFunc(ns[0].Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		})
	})
	return services
}

func (s *story) isReady() bool {
	return s.command("", s.kubectlBin, "get", "--raw", "/readyz").code == 0
}

// scaledCommand is the command line of the pods that come and go.
const scaledCommand = "sleep 98765"

// scaledManifest is a Deployment whose replicas change, to see that somebody
// decides.
const scaledManifest = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: scaled}
spec:
  replicas: 2
  selector: {matchLabels: {app: scaled}}
  template:
    metadata: {labels: {app: scaled}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: sleep, image: ` + tools.Image + `, command: [sleep, "98765"]}
`

// lasting are the processes in containers that nobody asked to end: all but
// those of the Deployment that is scaled.
func (s *story) lasting() []string {
	s.t.Helper()
	return slices.DeleteFunc(s.containers(), func(process string) bool { return strings.Contains(process, scaledCommand) })
}
