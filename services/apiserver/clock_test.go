package apiserver

import (
	"fmt"
	"testing"
	"time"

	"github.com/rutterhq/rutter/events"
)

// TestClockSetBack has the clock set right that was three hours ahead: what was
// made before seems to come from the future.
func TestClockSetBack(t *testing.T) {
	c := newCluster(t)
	a := c.start()
	future := time.Now().Add(3 * time.Hour).UTC()
	const pod = `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}`

	// Its service account never comes: the pod is refused, and soon.
	space := events.Record{Key: events.Key{Resource: events.Resource{Plural: "namespaces"}, Name: "late"},
		Envelope: events.Envelope{ID: "late", Source: "user:test", Type: "namespace.created", Time: future},
		Body: fmt.Appendf(nil, `{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"late","uid":"u1","creationTimestamp":%q},"status":{"phase":"Active"}}`,
			future.Format(time.RFC3339))}
	seq, err := c.log.Append(t.Context(), space)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.s.cfg.Mirror.At(t.Context(), seq); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	a.want(403, "POST", "/api/v1/namespaces/late/pods", pod)
	if took := time.Since(begun); took > 2*settling {
		t.Errorf("refused after %s, expected at most %s", took, settling)
	}

	accounts := "/api/v1/namespaces/default/serviceaccounts"
	robot := a.want(201, "POST", accounts, `{"metadata":{"name":"robot"}}`)
	for ahead, code := range map[time.Duration]int{3 * time.Hour: 201, 100 * time.Hour: 401} {
		from := time.Now().Add(ahead).Unix()
		token, err := a.s.tokens.sign(&claims{Issuer: a.s.tokens.issuer, Subject: serviceAccountPrefix + "default:robot", ID: "t",
			Audience: []string{a.s.tokens.issuer}, IssuedAt: from, NotBefore: from, Expires: from + tokenLife,
			Kubernetes: bound{Namespace: "default", ServiceAccount: ref{"robot", str(robot, "metadata", "uid")}}})
		if err != nil {
			t.Fatal(err)
		}
		c.client(a.url, "").with("Authorization", "Bearer "+token).
			want(code, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", `{}`)
	}
}
