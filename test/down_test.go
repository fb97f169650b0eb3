//go:build e2e

package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rutterhq/rutter/test/tools"
)

// TestDown takes a cluster with everything in it down: nothing is left of it
// but its data, from which it comes up again as it was.
func TestDown(t *testing.T) {
	c := newCluster(t)
	// Another node on the machine, which has nothing to run yet.
	out, err := exec.Command("sh", "-c", `echo $(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)/rutter/`+nodeName+"-other").Output()
	if err != nil {
		t.Fatal(err)
	}
	other := strings.TrimSpace(string(out))
	if err := os.MkdirAll(other, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(other)
	c.up()
	c.importImages()
	c.apply(downManifests)
	c.kubectl("rollout", "status", "deployment/tools", "--timeout=20s")
	c.rutter("up", "--detach", "--data", c.data, "--run", c.run, "--node", nodeName, "--node-address", hostAddress) // harmless

	c.rutter("down", "--data", c.data, "--run", c.run)
	c.before.compare(t, look(t))
	if _, err := os.Stat(other); err != nil {
		t.Errorf("the cgroup of another node is gone: %v", err)
	}
	if _, err := os.Stat(c.run); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", c.run, err)
	}
	if _, err := os.Stat(filepath.Join(c.data, "log")); err != nil {
		t.Errorf("the log is not kept: %v", err)
	}
	c.rutter("down", "--data", c.data, "--run", c.run) // harmless, too

	c.up()
	c.kubectl("rollout", "status", "deployment/tools", "--timeout=20s")
	c.pods("the pods to run again", "default", "app=tools", allReady(2))
}

// downManifests use what leaves traces: addresses, ports of the host, volumes,
// a pod in the host's network.
const downManifests = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: tools}
spec:
  replicas: 2
  selector: {matchLabels: {app: tools}}
  template:
    metadata: {labels: {app: tools}}
    spec:
      containers:
      - name: tools
        image: ` + tools.Image + `
        resources: {limits: {memory: 64Mi, cpu: 500m}}
        readinessProbe: {httpGet: {path: /healthz, port: 9000}, periodSeconds: 1}
        volumeMounts:
        - {name: scratch, mountPath: /scratch}
        - {name: memory, mountPath: /memory}
        - {name: conf, mountPath: /conf}
      volumes:
      - {name: scratch, emptyDir: {}}
      - {name: memory, emptyDir: {medium: Memory}}
      - {name: conf, configMap: {name: conf}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: conf}
data: {a: b}
---
apiVersion: v1
kind: Service
metadata: {name: tools}
spec:
  selector: {app: tools}
  ports: [{port: 80, targetPort: 9000}]
---
apiVersion: v1
kind: Pod
metadata: {name: port}
spec:
  containers:
  - {name: tools, image: ` + tools.Image + `, ports: [{containerPort: 9000, hostPort: 9001}]}
---
apiVersion: v1
kind: Pod
metadata: {name: host}
spec:
  hostNetwork: true
  containers:
  - {name: sleep, image: ` + tools.Image + `, command: [sleep, "1000"]}
`
