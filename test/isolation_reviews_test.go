package test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/kinds"
)

const (
	authn = "/apis/authentication.k8s.io/v1/"
	authz = "/apis/authorization.k8s.io/v1/"
)

// reviews are the questions about rights and tokens, as one asks them about others.
var reviews = map[string]string{
	authn + "tokenreviews":                                 `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":%q}}`,
	authz + "subjectaccessreviews":                         `{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview","spec":{"user":"admin","groups":["system:masters"],"uid":%q,"resourceAttributes":{"verb":"get","resource":"secrets","namespace":"default"}}}`,
	authz + "namespaces/default/localsubjectaccessreviews": `{"apiVersion":"authorization.k8s.io/v1","kind":"LocalSubjectAccessReview","spec":{"user":"admin","uid":%q,"resourceAttributes":{"verb":"get","resource":"secrets","namespace":"default"}}}`,
}

// ownReviews are those that everybody may ask, about themselves alone.
var ownReviews = map[string]string{
	authn + "selfsubjectreviews":       `{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview","status":{"userInfo":{"username":"admin"}}}`,
	authz + "selfsubjectrulesreviews":  `{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectRulesReview","spec":{"namespace":"default"}}`,
	authz + "selfsubjectaccessreviews": `{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{"user":"admin","groups":["system:masters"],"resourceAttributes":{"verb":"get","resource":"secrets","namespace":"default","name":"canary"}}}`,
}

// tryReviews asks about the rights and tokens of others.
func (w *world) tryReviews() {
	_, answer := w.send(w.admin, "POST", accounts+"/default/token", "application/json", tokenRequest("null"), 0)
	var made struct{ Status struct{ Token string } }
	if err := json.Unmarshal([]byte(answer), &made); err != nil || made.Status.Token == "" {
		w.t.Fatalf("a token for the administrator: %v %s", err, answer)
	}
	for path, question := range reviews {
		question = fmt.Sprintf(question, made.Status.Token)
		if code, out := w.send(w.admin, "POST", path, "application/json", question, 0); code != http.StatusCreated {
			w.t.Errorf("POST %s by the administrator: %d %s", path, code, out)
		}
		if code, out := w.send(w.node, "POST", path, "application/json", question, 0); code != http.StatusForbidden {
			w.t.Errorf("POST %s: %d %s", path, code, out)
		}
	}
	for path, question := range ownReviews {
		code, out := w.send(w.node, "POST", path, "application/json", question, 0)
		var o struct{ Status json.RawMessage }
		if err := json.Unmarshal([]byte(out), &o); err != nil || code != http.StatusCreated {
			w.t.Errorf("POST %s: %d %v %s", path, code, err, out)
		}
		var access authorizationv1.SubjectAccessReviewStatus
		_ = json.Unmarshal(o.Status, &access) // of the others there is nothing in it
		if access.Allowed || strings.Contains(string(o.Status), "secrets") || strings.Contains(string(o.Status), "admin") {
			w.t.Errorf("POST %s: it is told %s", path, o.Status)
		}
	}
	for _, all := range []map[string]string{reviews, ownReviews} {
		for path := range all {
			for _, method := range []string{"GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"} {
				for _, of := range []string{"", "/canary", "/canary/status"} {
					if code, out := w.send(w.node, method, path+of, "application/json", "{}", 0); !denied(code) || shows(out) {
						w.t.Errorf("%s %s: %d %.200s", method, path+of, code, out)
					}
				}
			}
		}
	}
}

const accounts = "/api/v1/namespaces/default/serviceaccounts"

func tokenRequest(to string) string {
	return `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"expirationSeconds":600,"boundObjectRef":` + to + `}}`
}

// tryTokens asks for tokens of the account as which a pod of the node runs: it
// gets those that end with this pod, and no others.
func (w *world) tryTokens() {
	uid := func(pod string) string {
		w.t.Helper()
		var o corev1.Pod
		code, out := w.send(w.admin, "GET", "/api/v1/namespaces/default/pods/"+pod, "", "", 0)
		if err := json.Unmarshal([]byte(out), &o); err != nil || code != http.StatusOK || o.Spec.ServiceAccountName != "default" {
			w.t.Fatalf("pod %s: %d %v %s", pod, code, err, out)
		}
		return string(o.UID)
	}
	bound := func(kind, name, uid string) string {
		return fmt.Sprintf(`{"apiVersion":"v1","kind":%q,"name":%q,"uid":%q}`, kind, name, uid)
	}
	ask := func(to string) (int, string) {
		w.t.Helper()
		return w.send(w.node, "POST", accounts+"/default/token", "application/json", tokenRequest(to), 0)
	}
	for what, to := range map[string]string{
		"nothing": "null", "another node's pod": bound("Pod", "canary", uid("canary")), "a Secret": bound("Secret", "canary", ""), "no Secret": bound("Secret", "none", ""),
		"a pod by its name alone": bound("Pod", "mine", ""), "a pod that was": bound("Pod", "mine", uid("canary")), "no pod": bound("Pod", "none", ""),
	} {
		if code, out := ask(to); code != http.StatusForbidden {
			w.t.Errorf("a token bound to %s: %d %.200s", what, code, out)
		}
	}
	if code, out := ask(bound("Pod", "mine", uid("mine"))); code != http.StatusCreated {
		w.t.Errorf("a token bound to its own pod: %d %s", code, out)
	}
}

// complete is an error for every resource that the API says it has, and that
// nobody tried.
func (w *world) complete() {
	tried := map[string]bool{}
	for _, row := range kinds.All {
		tried[row.Describe().Resource.Plural] = true
	}
	for _, all := range []map[string]string{reviews, ownReviews} {
		for path := range all {
			tried[path[strings.LastIndex(path, "/")+1:]] = true
		}
	}
	read := func(path string, into any) {
		w.t.Helper()
		if code, out := w.send(w.admin, "GET", path, "", "", 0); code != http.StatusOK || json.Unmarshal([]byte(out), into) != nil {
			w.t.Fatalf("GET %s: %d %s", path, code, out)
		}
	}
	var groups metav1.APIGroupList
	read("/apis", &groups)
	versions := []string{"/api/v1"}
	for _, g := range groups.Groups {
		for _, v := range g.Versions {
			versions = append(versions, "/apis/"+v.GroupVersion)
		}
	}
	for _, v := range versions {
		var all metav1.APIResourceList
		read(v, &all)
		for _, r := range all.APIResources {
			name, sub, _ := strings.Cut(r.Name, "/")
			known := false
			for s := range subresources {
				at, _, _ := strings.Cut(s, "?")
				known = known || sub == "" || at == "/"+sub
			}
			if !tried[name] || !known {
				w.t.Errorf("nobody tried %s of %s: it needs a sample", r.Name, v)
			}
		}
	}
}
