package apiserver

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
)

// copyOf is a log of which this server's copy lacks something, until it does
// not.
type copyOf struct{ lacks error }

func (c *copyOf) Whole(context.Context) error { return c.lacks }

// TestReadyOnceTheCopyIsWhole: a server that lost its disk serves at once, and
// says that it is not ready until it has what the others have.
func TestReadyOnceTheCopyIsWhole(t *testing.T) {
	c := newCluster(t)
	a := c.start()
	own := &copyOf{errors.New("this server's copy of HIST has 1 of 2 messages")}
	a.s.cfg.Copier = own
	if code, body, _ := a.do("GET", "/readyz", ""); code != 500 || !strings.Contains(body, "[-]log-copy: this server's copy of HIST has 1 of 2 messages") {
		t.Errorf("what lacks something: %d %s", code, body)
	}
	a.want(201, "POST", configMaps, configMap("one"))
	own.lacks = nil
	if code, body, _ := a.do("GET", "/readyz", ""); code != 200 || body != "ok" {
		t.Errorf("what is whole: %d %s", code, body)
	}
}

func TestWhoIsAsked(t *testing.T) {
	c := newCluster(t)
	a := c.start()
	nobody := c.client(a.url, "")
	for path, want := range map[string]int{"/healthz": 200, "/livez": 200, "/readyz": 200, "/version": 200, "/api": 401, "/metrics": 401, configMaps: 401} {
		if code, body, _ := nobody.do("GET", path, ""); code != want {
			t.Errorf("%s without a certificate: %d %s, want %d", path, code, body, want)
		}
	}
	if code, body, _ := nobody.with("Authorization", "Bearer x.y.z").do("GET", configMaps, ""); code != 401 {
		t.Errorf("a bad token: %d %s", code, body)
	}
	// A certificate of another authority is no one's.
	stranger := newCluster(t)
	stranger.ca, c.ca = c.ca, stranger.ca
	liar := c.client(a.url, "admin", "system:masters")
	liar.http.Transport.(*http.Transport).TLSClientConfig.RootCAs = stranger.ca.Pool()
	if code, body, _ := liar.do("GET", configMaps, ""); code != 401 {
		t.Errorf("a certificate of another authority: %d %s", code, body)
	}
}

const rbacPath = "/apis/rbac.authorization.k8s.io/v1/"

func TestRBAC(t *testing.T) {
	c := newCluster(t)
	a := c.start()
	ann := c.client(a.url, "ann", "devs")
	ann.want(200, "GET", "/apis", "") // everyone who is known may discover
	s := ann.want(403, "GET", configMaps, "")
	if m := str(s, "message"); m != `configmaps is forbidden: User "ann" cannot list resource "configmaps" in API group "" in the namespace "default"` {
		t.Errorf("forbidden: %s", m)
	}
	if s := ann.want(403, "GET", "/metrics", ""); str(s, "message") != `forbidden: User "ann" cannot get path "/metrics"` {
		t.Errorf("forbidden path: %v", s)
	}
	a.want(201, "POST", rbacPath+"namespaces/default/rolebindings", `{"metadata":{"name":"devs-edit"},
		"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"edit"},"subjects":[{"kind":"Group","name":"devs"}]}`)
	ann.want(201, "POST", configMaps, configMap("one")) // at once
	ann.want(200, "GET", configMaps, "")                // view is part of edit
	ann.want(403, "GET", "/api/v1/configmaps", "")      // elsewhere she may not
	ann.want(403, "GET", rbacPath+"namespaces/default/roles", "")
	review := ann.want(201, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
		`{"spec":{"resourceAttributes":{"verb":"create","resource":"pods","namespace":"default"}}}`)
	if ok, _ := at_(review, "status", "allowed").(bool); !ok || !strings.Contains(str(review, "status", "reason"), `RoleBinding "devs-edit/default"`) {
		t.Errorf("review: %v", review["status"])
	}
	rules := ann.want(201, "POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", `{"spec":{"namespace":"default"}}`)
	if l, _ := at_(rules, "status", "resourceRules").([]any); len(l) < 5 {
		t.Errorf("rules: %v", rules["status"])
	}
	whoami := ann.want(201, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", `{}`)
	if str(whoami, "status", "userInfo", "username") != "ann" || str(whoami, "status", "userInfo", "groups", 1) != groupAuthenticated {
		t.Errorf("whoami: %v", whoami["status"])
	}
	a.want(200, "DELETE", rbacPath+"namespaces/default/rolebindings/devs-edit", "")
	a.s.index.view(t.Context())
	for { // rights are taken away as soon as the server has read it
		if code, _, _ := ann.do("GET", configMaps, ""); code == 403 {
			break
		}
	}
}

// Nobody gives away what they do not have.
func TestEscalation(t *testing.T) {
	c := newCluster(t)
	a := c.start()
	a.want(201, "POST", rbacPath+"namespaces/default/rolebindings", `{"metadata":{"name":"bob"},
		"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"admin"},"subjects":[{"kind":"User","name":"bob"}]}`)
	bob := c.client(a.url, "bob")
	role := func(name, verb, resource string) string {
		return `{"metadata":{"name":"` + name + `"},"rules":[{"apiGroups":[""],"verbs":["` + verb + `"],"resources":["` + resource + `"]}]}`
	}
	roles := rbacPath + "namespaces/default/roles"
	bob.want(201, "POST", roles, role("fine", "get", "pods"))
	s := bob.want(403, "POST", roles, role("too-much", "get", "nodes"))
	if m := str(s, "message"); !strings.Contains(m, "attempting to grant RBAC permissions not currently held") || !strings.Contains(m, `Resources:["nodes"]`) {
		t.Errorf("escalation: %s", m)
	}
	bob.with("Content-Type", patchMerge).want(403, "PATCH", roles+"/fine", role("fine", "*", "pods"))
	bind := func(role string) string {
		return `{"metadata":{"name":"b-` + role + `"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"` + role + `"},"subjects":[{"kind":"User","name":"eve"}]}`
	}
	bob.want(201, "POST", rbacPath+"namespaces/default/rolebindings", bind("view"))
	bob.want(403, "POST", rbacPath+"namespaces/default/rolebindings", bind("cluster-admin"))
	bob.want(403, "POST", rbacPath+"clusterrolebindings", bind("view"))
}

func TestImpersonation(t *testing.T) {
	c := newCluster(t)
	a := c.start()
	a.with("Impersonate-User", "ann").want(403, "GET", configMaps, "")
	a.with("Impersonate-User", "root").with("Impersonate-Group", "system:masters").want(200, "GET", configMaps, "")
	c.client(a.url, "ann").with("Impersonate-User", "root").with("Impersonate-Group", "system:masters").want(403, "GET", configMaps, "")
}

func TestServiceAccountTokens(t *testing.T) {
	c := newCluster(t)
	a := c.start()
	accounts := "/api/v1/namespaces/default/serviceaccounts"
	a.want(201, "POST", accounts, `{"metadata":{"name":"robot"}}`)
	tr := a.want(201, "POST", accounts+"/robot/token", `{"spec":{"expirationSeconds":600}}`)
	a.want(422, "POST", accounts+"/robot/token", `{"spec":{"expirationSeconds":5}}`)
	a.want(404, "POST", accounts+"/nobody/token", `{}`)
	token := str(tr, "status", "token")
	robot := c.client(a.url, "").with("Authorization", "Bearer "+token)
	me := robot.want(201, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", `{}`)
	if str(me, "status", "userInfo", "username") != "system:serviceaccount:default:robot" {
		t.Errorf("robot is %v", me["status"])
	}
	robot.want(403, "GET", configMaps, "")
	a.want(201, "POST", rbacPath+"clusterrolebindings", `{"metadata":{"name":"robots"},
		"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"view"},"subjects":[{"kind":"ServiceAccount","namespace":"default","name":"robot"}]}`)
	robot.want(200, "GET", configMaps, "")
	tampered := token[:len(token)-4] + "AAAA"
	c.client(a.url, "").with("Authorization", "Bearer "+tampered).want(401, "GET", configMaps, "")
	other := a.want(201, "POST", accounts+"/robot/token", `{"spec":{"audiences":["elsewhere"]}}`)
	c.client(a.url, "").with("Authorization", "Bearer "+str(other, "status", "token")).want(401, "GET", configMaps, "")
	// A token ends with its account, also if one of the same name comes after it.
	a.want(200, "DELETE", accounts+"/robot", "")
	a.want(201, "POST", accounts, `{"metadata":{"name":"robot"}}`)
	a.want(200, "GET", accounts, "") // the server has read it
	robot.want(401, "GET", configMaps, "")
}
