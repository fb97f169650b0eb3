package apiserver

import (
	"strings"
	"testing"
)

// What users do wrong, and what they are told.
func TestStatus(t *testing.T) {
	a := newCluster(t).start()
	a.want(201, "POST", configMaps, configMap("one"))
	json := "application/json"
	for _, c := range []struct {
		about, method, path, body string
		contentType, accept       string
		code                      int
		reason, says              string
	}{
		{about: "an unknown path", method: "GET", path: "/nosuch", code: 404, says: "404 page not found"},
		{about: "an unknown resource", method: "GET", path: "/api/v1/nosuch", code: 404, says: "404 page not found"},
		{about: "an unknown group", method: "GET", path: "/apis/no.such/v1/things", code: 404, says: "404 page not found"},
		{about: "a missing object", method: "GET", path: configMaps + "/two", code: 404, reason: "NotFound", says: `configmaps "two" not found`},
		{about: "an unknown namespace", method: "POST", path: "/api/v1/namespaces/none/configmaps", body: configMap("x"), code: 404, reason: "NotFound", says: `namespaces "none" not found`},
		{about: "a method that is not served", method: "PUT", path: configMaps, body: configMap("x"), code: 405, reason: "MethodNotAllowed"},
		{about: "a name that is taken", method: "POST", path: configMaps, body: configMap("one"), code: 409, reason: "AlreadyExists", says: `configmaps "one" already exists`},
		{about: "a form that is not spoken", method: "GET", path: configMaps, accept: "text/html", code: 406, reason: "NotAcceptable"},
		{about: "a body in an unknown form", method: "POST", path: configMaps, body: "x", contentType: "text/plain", code: 415, reason: "UnsupportedMediaType"},
		{about: "a patch in an unknown form", method: "PATCH", path: configMaps + "/one", body: "{}", contentType: json, code: 415, reason: "UnsupportedMediaType"},
		{about: "broken JSON", method: "POST", path: configMaps, body: "{", contentType: json, code: 400, reason: "BadRequest"},
		{about: "a wrong type", method: "POST", path: configMaps, body: `{"metadata":{"name":"x"},"data":{"a":1}}`, code: 400, reason: "BadRequest", says: "cannot unmarshal number"},
		{about: "another kind", method: "POST", path: configMaps, body: `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"x"}}`, code: 400, reason: "BadRequest"},
		{about: "an invalid name", method: "POST", path: configMaps, body: configMap("Not_Valid"), code: 422, reason: "Invalid", says: "metadata.name: Invalid value"},
		{about: "an unknown field, strict", method: "POST", path: configMaps + "?fieldValidation=Strict", body: `{"metadata":{"name":"x"},"dota":{}}`, code: 400, reason: "BadRequest", says: `strict decoding error: unknown field "dota"`},
		{about: "an unknown validation", method: "POST", path: configMaps + "?fieldValidation=Maybe", body: configMap("x"), code: 422, reason: "Invalid"},
		{about: "an unknown dry run", method: "POST", path: configMaps + "?dryRun=Some", body: configMap("x"), code: 422, reason: "Invalid"},
		{about: "too large a body", method: "POST", path: configMaps, body: configMap("x", "k", strings.Repeat("x", maxBody)), code: 413, reason: "RequestEntityTooLarge"},
		{about: "a version at create", method: "POST", path: configMaps, body: `{"metadata":{"name":"x","resourceVersion":"7"}}`, code: 400, reason: "BadRequest"},
		{about: "another name in the body", method: "PUT", path: configMaps + "/one", body: configMap("two"), code: 400, reason: "BadRequest", says: "does not match the name on the URL"},
		{about: "another namespace in the body", method: "POST", path: configMaps, body: `{"metadata":{"name":"x","namespace":"other"}}`, code: 400, reason: "BadRequest"},
		{about: "a bad label selector", method: "GET", path: configMaps + "?labelSelector=a%3D%3D%3Db", code: 400, reason: "BadRequest"},
		{about: "a field that cannot be selected", method: "GET", path: configMaps + "?fieldSelector=spec.x%3Dy", code: 400, reason: "BadRequest", says: "field label not supported: spec.x"},
		{about: "a version in the future", method: "GET", path: configMaps + "?resourceVersion=99999999", code: 504, reason: "Timeout", says: "Too large resource version"},
		{about: "a bad version", method: "GET", path: configMaps + "?resourceVersion=x", code: 400, reason: "BadRequest"},
		{about: "match without a version", method: "GET", path: configMaps + "?resourceVersionMatch=Exact", code: 422, reason: "Invalid"},
		{about: "a bad continue token", method: "GET", path: configMaps + "?continue=x", code: 400, reason: "BadRequest"},
		{about: "a bad propagation", method: "DELETE", path: configMaps + "/one?propagationPolicy=Sideways", code: 422, reason: "Invalid"},
		{about: "a precondition that does not hold", method: "DELETE", path: configMaps + "/one", body: `{"preconditions":{"uid":"x"}}`, code: 409, reason: "Conflict"},
		{about: "apply without a manager", method: "PATCH", path: configMaps + "/one", contentType: patchApply, body: configMap("one"), code: 422, reason: "Invalid", says: "fieldManager"},
		{about: "initial events without match", method: "GET", path: configMaps + "?watch=1&sendInitialEvents=true", code: 422, reason: "Invalid"},
	} {
		client := a.client
		if c.contentType != "" {
			client = client.with("Content-Type", c.contentType)
		}
		if c.accept != "" {
			client = client.with("Accept", c.accept)
		}
		code, body, _ := client.do(c.method, c.path, c.body)
		if code != c.code || !strings.Contains(body, c.says) && !strings.Contains(body, strings.ReplaceAll(c.says, `"`, `\"`)) {
			t.Errorf("%s: %d, want %d and %q: %.400s", c.about, code, c.code, c.says, body)
			continue
		}
		if c.reason != "" {
			if s := decode(t, body); str(s, "kind") != "Status" || str(s, "reason") != c.reason || str(s, "status") != "Failure" {
				t.Errorf("%s: %s", c.about, body)
			}
		}
	}
}

func TestWarnings(t *testing.T) {
	a := newCluster(t).start()
	code, body, header := a.do("POST", configMaps, `{"metadata":{"name":"x"},"dota":{}}`)
	if code != 201 || header.Get("Warning") != `299 - "unknown field \"dota\""` {
		t.Errorf("%d %v: %s", code, header["Warning"], body)
	}
	_, _, header = a.do("POST", configMaps+"?fieldValidation=Ignore", `{"metadata":{"name":"y"},"dota":{}}`)
	if header.Get("Warning") != "" {
		t.Errorf("warned although told to ignore: %v", header["Warning"])
	}
}

func TestDryRunWritesNothing(t *testing.T) {
	a := newCluster(t).start()
	before, err := a.s.cfg.Log.Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if o := a.want(201, "POST", configMaps+"?dryRun=All", configMap("x")); str(o, "metadata", "uid") == "" {
		t.Errorf("a dry run gave %v", o)
	}
	a.want(404, "GET", configMaps+"/x", "")
	if last, err := a.s.cfg.Log.Last(t.Context()); err != nil || last != before {
		t.Errorf("the log went from %d to %d: %v", before, last, err)
	}
}
