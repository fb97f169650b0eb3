//go:build e2e

package test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/rutterhq/rutter/test/load"
)

const natsAddress = "127.0.0.1:4222"

// TestServicesAlone runs every service in a process of its own, then kills each
// in turn with SIGKILL: the cluster goes on from the log once it is back, and
// what runs in containers never notices.
func TestServicesAlone(t *testing.T) {
	s := &story{cluster: newCluster(t)}
	nats := s.start("nats", "--listen", natsAddress)
	url := "nats://" + natsAddress
	poll(t, "the log's server to write its credentials", func() bool { return exists(s.data, "nats.credentials") })
	services := map[string]*process{"nats": nats}
	services["apiserver"] = s.start("apiserver", "--nats", url, "--advertise", hostAddress)
	services["scheduler"] = s.start("scheduler", "--nats", url)
	services["controllers"] = s.start("controllers", "--nats", url)
	poll(t, "the API to be ready", func() bool {
		return exists(s.data, "admin.kubeconfig") && s.command("", s.kubectlBin, "get", "--raw", "/readyz").code == 0
	})
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
	s.importImages("web-v1.tar", "catalog-v1.tar")
	s.kubectl("apply", "-f", "../deploy/examples/shop/manifests/catalog.yaml", "-f", "../deploy/examples/shop/manifests/web.yaml")
	s.apply(clientManifests)
	for _, d := range []string{"catalog", "web"} {
		s.kubectl("rollout", "status", "deployment/"+d, "--timeout=60s")
	}
	for _, p := range s.pods("the client and the echo server to run", "client", "", allReady(2)) {
		if p.Name == "client" {
			s.client = "http://" + p.Status.PodIP + ":9000"
		}
	}
	echo := s.kubectl("-n", "client", "get", "service", "echo", "-o", "jsonpath={.spec.clusterIP}")
	web := s.kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	ask(t, "POST", s.client+"/echo?address="+echo+":7", nil)
	s.startInPod(load.Target{Address: web + ":80", Host: "web", Path: "/version", Rate: rate})
	before := s.containers()

	replicas := 2
	for _, name := range []string{"scheduler", "controllers", "apiserver", "ingress", "nodeagent", "nats"} {
		services[name].kill()
		sent := s.nowInPod().Sent
		poll(t, "load while "+name+" is away", func() bool { return s.nowInPod().Sent >= sent+rate/4 })
		if name == "nats" && s.command("", s.kubectlBin, "get", "--raw", "/readyz").code == 0 {
			t.Error("the apiserver says that it is ready, and the log is away")
		}
		services[name].run(s.cluster)
		poll(t, "the API, after the kill of "+name, func() bool {
			return s.command("", s.kubectlBin, "get", "--raw", "/readyz").code == 0
		})
		replicas = 5 - replicas // 3, 2, 3, ...
		s.kubectl("scale", "deployment/catalog", fmt.Sprintf("--replicas=%d", replicas))
		s.pods(fmt.Sprintf("%d replicas after the kill of %s", replicas, name), "default", "app=catalog", allReady(replicas))
		if name == "ingress" {
			s.trust = nil
			poll(t, "the ingress to answer", func() bool {
				return strings.Contains(s.command("", "curl", "-sk", "--resolve", shopHost+":443:"+hostAddress, "https://"+shopHost+"/api/products").out, "Sextant")
			})
		}
		t.Logf("%s killed and started again: %d pods of catalog", name, replicas)
	}
	r := s.stopInPod()
	var e load.EchoReport
	s.report("DELETE", "/echo", &e)
	t.Logf("through the Service over six kills: %s", &r)
	t.Logf("one connection over six kills: %d lines, the slowest took %s", e.Lines, e.Pause)
	if r.Failed > 0 || e.Broken != "" {
		t.Errorf("requests: %s\nconnection: %+v", strings.Join(r.Failures, "\n"), e)
	}
	// The catalog was scaled; everything else still runs as it did.
	after := s.containers()
	for _, process := range before {
		if !strings.Contains(process, "/catalog") && !contains(after, process) {
			t.Errorf("gone: %s", process)
		}
	}
	if out := s.rutter("replay"); !strings.Contains(out, "unexplained") {
		t.Errorf("replay: %s", out)
	}
}
