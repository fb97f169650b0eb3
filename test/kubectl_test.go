//go:build e2e

package test

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rutterhq/rutter/test/tools"
)

// step is one command of a tour, and what it has to print.
type step struct {
	do   string   // a shell's line; k is kubectl
	says []string // regular expressions, each of which the output has to match
}

// tour is what people do with kubectl all day, in order.
var tour = []step{
	{"k version", []string{`Server Version: v1\.37\.`}},
	{"k cluster-info", []string{`control plane.* is running at`}},
	{"k api-resources", []string{`(?m)^pods +po +v1 +true +Pod$`, `(?m)^deployments +deploy +apps/v1 +true +Deployment$`, `(?m)^nodes +no +v1 +false +Node$`}},
	{"k api-resources --api-group=networking.k8s.io -o name", []string{`(?m)^ingresses\.networking\.k8s\.io$`}},
	{"k api-versions", []string{`(?m)^apps/v1$`, `(?m)^v1$`}},
	{"k explain pod.spec.containers.livenessProbe", []string{`(?s)KIND: +Pod.*FIELD: livenessProbe <Probe>`, `failureThreshold\s+<integer>`}},
	{"k explain deploy.spec --recursive", []string{`rollingUpdate\s+<RollingUpdateDeployment>`}},

	{"k apply -f tour.yaml", []string{`deployment.apps/web created`, `service/web created`, `configmap/conf created`}},
	{"k apply -f tour.yaml", []string{`deployment.apps/web unchanged`, `service/web unchanged`, `configmap/conf unchanged`}},
	{"k rollout status deployment/web --timeout=60s", []string{`successfully rolled out`}},
	{"k get deployments", []string{`NAME +READY +UP-TO-DATE +AVAILABLE +AGE`, `web +2/2 +2 +2`}},
	{"k get pods -o wide", []string{`NAME +READY +STATUS +RESTARTS +AGE +IP +NODE +NOMINATED NODE +READINESS GATES`, `web-\S+ +1/1 +Running +0 +\S+ +10\.42\.\d+\.\d+ +e2e`}},
	{"k get all", []string{`pod/web-`, `service/web`, `deployment.apps/web`, `replicaset.apps/web-`}},
	{"k get rs,svc,ep,cm,secret,sa -A", []string{`replicaset.apps/web-`, `kube-root-ca.crt`, `serviceaccount/default`}},
	{"k get pods --show-labels --sort-by=.metadata.name --no-headers", []string{`app=web,pod-template-hash=`}},
	{"k get deploy web -o yaml", []string{`(?m)^apiVersion: apps/v1$`, `(?m)^  replicas: 2$`}},
	{"k get deploy web -o json", []string{`"kind": "Deployment"`}},
	{"k get deploy web -o jsonpath='{.spec.template.spec.containers[0].name}'", []string{`^web$`}},
	{"k get pods -o custom-columns=NAME:.metadata.name,NODE:.spec.nodeName", []string{`web-\S+ +e2e`}},
	{"k get pods -l app=web -o name | wc -l", []string{`^2\n$`}},
	{"k get pods -l 'app in (nope)'", nil},
	{"k get pods --field-selector=status.phase=Running -o name", []string{`pod/web-`}},
	{"k get --raw /api/v1/namespaces/default/services/web | head -c 20", []string{`\{`}},
	{"k get nodes -o wide", []string{`e2e\S* +Ready +\S+ +\S+ +v1\.37`, `containerd://`}},
	{"k get ns", []string{`default +Active`}},
	{"k get endpointslices", []string{`web-\S+ +IPv4 +9000 +10\.42\.\d+\.\d+,10\.42\.`}},
	{"k describe deployment web", []string{`Replicas: +2 desired \| 2 updated \| 2 total \| 2 available`, `StrategyType: +RollingUpdate`, `ScalingReplicaSet`}},
	{"k describe $(k get pod -l app=web -o name | head -n 1)", []string{`Events:`, `Scheduled`, `Conditions:`, `Ready +True`}},
	{"k describe node", []string{`Allocated resources:`, `Non-terminated Pods:`, `web-`}},
	{"k describe service web", []string{`Endpoints: +10\.42\.`}},
	{"k events --for deployment/web", []string{`ScalingReplicaSet`}},

	{"k label deployment web tier=front", []string{`labeled`}},
	{"k label deployment web tier=back", nil}, // refused: it has a value
	{"k label deployment web tier=back --overwrite && k get deploy -L tier", []string{`back`}},
	{"k label deployment web tier- && k get deploy web -o jsonpath='{.metadata.labels}'", []string{`unlabeled`}},
	{"k annotate deployment web kubernetes.io/change-cause=first && k annotate deployment web --list", []string{`change-cause=first`}},
	{"k patch deployment web -p '{\"spec\":{\"replicas\":3}}'", []string{`patched`}},
	{"k patch deployment web --type=merge -p '{\"metadata\":{\"labels\":{\"a\":\"b\"}}}'", []string{`patched`}},
	{"k patch deployment web --type=json -p '[{\"op\":\"remove\",\"path\":\"/metadata/labels/a\"}]'", []string{`patched`}},
	{"k patch deployment web --type=json -p '[{\"op\":\"test\",\"path\":\"/spec/replicas\",\"value\":3}]'", []string{`no change`}},
	{"k wait deployment/web --for=jsonpath='{.status.readyReplicas}'=3 --timeout=30s", []string{`condition met`}},
	{"k scale deployment web --replicas=2 --current-replicas=3", []string{`scaled`}},
	{"k wait --for=condition=Available deployment/web --timeout=30s", []string{`condition met`}},
	{"k set env deployment/web COLOUR=blue && k rollout status deployment/web --timeout=60s", []string{`env updated`, `successfully rolled out`}},
	{"k annotate deployment web kubernetes.io/change-cause=second --overwrite; k rollout history deployment/web", []string{`REVISION +CHANGE-CAUSE`, `1 +first`, `2 +second`}},
	{"k rollout history deployment/web --revision=2", []string{`COLOUR:\s+blue`}},
	{"k rollout undo deployment/web && k rollout status deployment/web --timeout=60s", []string{`rolled back`, `successfully rolled out`}},
	{"k get deploy web -o jsonpath='{.spec.template.spec.containers[0].env}'", []string{`^$`}},
	{"k rollout pause deployment/web && k set env deployment/web A=1 && k rollout resume deployment/web && k rollout status deployment/web --timeout=60s", []string{`paused`, `resumed`, `successfully`}},
	{"k rollout restart deployment/web && k rollout status deployment/web --timeout=60s", []string{`restarted`, `successfully`}},
	{"EDITOR=./editor.sh k edit configmap conf && k get cm conf -o jsonpath='{.data.colour}'", []string{`edited`, `green$`}},
	{"sed s/red/yellow/ tour.yaml | k diff -f -; test $? = 1", []string{`(?m)^-  colour: green`, `(?m)^\+  colour: yellow`}},
	{"k apply --server-side --force-conflicts -f tour.yaml", []string{`deployment.apps/web serverside-applied`}},
	{"k get cm conf -o yaml --show-managed-fields", []string{`operation: Apply`}},
	{"k create configmap made --from-literal=a=b --dry-run=server -o yaml", []string{`(?m)^  a: b$`, `uid: `}},
	{"k get cm made", nil},
	{"k create deployment quick --image=" + tools.Image + " && k rollout status deployment/quick --timeout=30s", []string{`created`, `successfully`}},
	{"k expose deployment quick --port=80 --target-port=9000 && k get svc quick -o jsonpath='{.spec.ports[0].targetPort}'", []string{`exposed`, `9000`}},
	{"k create secret generic hidden --from-literal=password=x && k get secret hidden", []string{`hidden +Opaque +1`}},
	{"k create sa robot && k create token robot", []string{`created`, `\.`}},
	{"k create role reader --verb=get --resource=pods && k create rolebinding reader --role=reader --serviceaccount=default:robot && k auth can-i get pods --as=system:serviceaccount:default:robot", []string{`yes`}},
	{"k auth can-i delete pods --as=system:serviceaccount:default:robot; true", []string{`no`}},
	{"k auth whoami", []string{`admin`}},
	{"k run once --image=" + tools.Image + " --restart=Never --command -- sh -c 'echo one; echo two; sleep 1; echo three' && k wait pod/once --for=jsonpath='{.status.phase}'=Running --timeout=20s", []string{`created`, `condition met`}},
	{"k logs -f once", []string{`^one\ntwo\nthree\n$`}},
	{"k logs once --tail=1 --timestamps", []string{`^\d{4}-\d\d-\d\dT\S+ three\n$`}},
	{"k wait pod/once --for=jsonpath='{.status.phase}'=Succeeded --timeout=20s && k get pod once", []string{`Completed`}},
	{"k logs deployment/web", []string{`ready`}},
	{"k logs -l app=web --prefix", []string{`\[pod/web-`}},
	{"k exec deployment/web -- echo hello", []string{`^hello\n$`}},
	{"echo sent | k exec -i deployment/web -- cat", []string{`^sent\n$`}},
	{"k exec deployment/web -- sh -c 'echo oops >&2; exit 7'; echo code $?", []string{`oops`, `code 7`}},
	{"printf 'tty\\nexit\\n' | script -qec \"$KUBECTL exec -it deployment/web -- sh\" /dev/null", []string{`/dev/pts/`}},
	{"echo content > file.txt; P=$(k get pod -l app=web -o jsonpath='{.items[0].metadata.name}'); k cp file.txt $P:/tmp/there && k exec $P -- cat /tmp/there && k cp $P:/tmp/there back.txt && cat back.txt", []string{`content\n(.*\n)*content`}},
	{"k attach once --pod-running-timeout=1s; true", nil},
	{"k run it --rm -i --image=" + tools.Image + " --restart=Never --command -- sh -c 'cat; echo done' < /dev/null", []string{`done|deleted`}},
	{"k debug --help | head -1", []string{`debug|Debug`}},
	{"k taint node --all test=yes:PreferNoSchedule && k taint node --all test-", []string{`tainted`, `untainted`}},
	{"k cordon -l kubernetes.io/os=linux && k get nodes && k uncordon -l kubernetes.io/os=linux", []string{`SchedulingDisabled`, `uncordoned`}},
	{"k replace -f tour.yaml", []string{`deployment.apps/web replaced`}},
	{"k delete pod -l app=web --wait=false && k rollout status deployment/web --timeout=60s", []string{`deleted`, `successfully`}},
	{"k delete -f tour.yaml --timeout=60s", []string{`deployment.apps "web" deleted`, `service "web" deleted`}},
	{"k wait --for=delete pod -l app=web --timeout=60s; k get pods -l app=web", nil},
	{"k create ns short && k -n short create deployment d --image=" + tools.Image + " && k delete ns short --timeout=60s && k get ns", []string{`namespace "short" deleted`, `default +Active`}},
}

const tourManifests = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: web
        image: ` + tools.Image + `
        ports: [{containerPort: 9000}]
        readinessProbe: {httpGet: {path: /healthz, port: 9000}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 9000}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: conf}
data: {colour: red}
`

// TestKubectl takes the tour.
func TestKubectl(t *testing.T) {
	c := newCluster(t)
	c.up()
	c.importImages()
	for name, content := range map[string]string{"tour.yaml": tourManifests, "editor.sh": "#!/bin/sh\nsed -i s/red/green/ \"$1\"\n"} {
		if err := os.WriteFile(filepath.Join(c.dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("Watch", func(t *testing.T) { c.inside(t).watchPods() })
	for _, s := range tour {
		begun := time.Now()
		r := c.command("", "sh", "-c", "cd "+c.dir+"; export KUBECTL="+c.kubectlBin+"; k() { "+c.kubectlBin+` "$@"; }; `+s.do)
		if r.code != 0 && s.says != nil {
			t.Errorf("$ %s\nexit code %d\n%s%s", s.do, r.code, r.out, r.err)
			continue
		}
		for _, says := range s.says {
			if !regexp.MustCompile(says).MatchString(r.out) && !regexp.MustCompile(says).MatchString(r.err) {
				t.Errorf("$ %s\n%s%s\nexpected to match %s", s.do, r.out, r.err, says)
			}
		}
		if took := time.Since(begun); took > 5*time.Second {
			t.Logf("%.1f s: %s", took.Seconds(), s.do)
		}
	}
}

// watchPods follows a pod's life with kubectl get -w.
func (c *cluster) watchPods() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.kubectlBin, "get", "pods", "-w")
	cmd.Env = c.env()
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.kubectl("run", "watched", "--image="+tools.Image, "--restart=Never", "--command", "--", "true")
	var seen []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if f := strings.Fields(lines.Text()); len(f) > 2 && f[0] == "watched" {
			if seen = append(seen, f[2]); f[2] == "Completed" {
				break
			}
		}
	}
	cancel()
	_ = cmd.Wait() // killed: that is the error
	all := strings.Join(seen, " ")
	if !regexp.MustCompile(`^(Pending )+(ContainerCreating )*(Running )*Completed$`).MatchString(all) {
		c.t.Errorf("kubectl get pods -w: %s", all)
	}
	c.kubectl("delete", "pod", "watched")
}
