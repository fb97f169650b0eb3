package apiserver

import (
	"net/http"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/rutterhq/rutter/kinds/openapi"
)

// The media types of the protobuf forms of the documents.
const (
	openAPIv2Proto = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
	openAPIv3Proto = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"
)

// serveOpenAPI answers with the API's own description: all of it as version 2,
// a group and version at a time as version 3 (KEP-2896).
func (r *request) serveOpenAPI(path string) error {
	accept := strings.Join(r.Header.Values("Accept"), ",")
	switch {
	case path == "/openapi/v2":
		if strings.Contains(accept, "proto-openapi.spec.v2") {
			return r.writeDocument(openAPIv2Proto, "", openapi.V2Proto)
		}
		return r.writeDocument(typeJSON, "", openapi.V2)
	case path == "/openapi/v3":
		return r.writeDocument(typeJSON, "", openapi.Index)
	}
	gv, ok := groupVersionOf(strings.TrimPrefix(path, "/openapi/v3/"))
	if !ok || !strings.HasPrefix(path, "/openapi/v3/") {
		return errNotFoundPath
	}
	hash, err := openapi.Hash(gv)
	if err != nil {
		return errNotFoundPath
	}
	if strings.Contains(accept, "proto-openapi.spec.v3") {
		return r.writeDocument(openAPIv3Proto, hash, func() ([]byte, error) { return openapi.V3Proto(gv) })
	}
	return r.writeDocument(typeJSON, hash, func() ([]byte, error) { return openapi.V3(gv) })
}

// groupVersionOf reads "api/v1" and "apis/apps/v1".
func groupVersionOf(path string) (gv schema.GroupVersion, ok bool) {
	switch parts := strings.Split(path, "/"); {
	case len(parts) == 2 && parts[0] == "api":
		return schema.GroupVersion{Version: parts[1]}, true
	case len(parts) == 3 && parts[0] == "apis":
		return schema.GroupVersion{Group: parts[1], Version: parts[2]}, true
	}
	return gv, false
}

// writeDocument answers with a document. A client that names its hash may keep
// it for ever.
func (r *request) writeDocument(media, hash string, document func() ([]byte, error)) error {
	h := r.w.Header()
	if hash != "" {
		h.Set("Etag", `"`+hash+`"`)
		if r.query.Get("hash") == hash {
			h.Set("Cache-Control", "public, immutable")
			h.Set("Vary", "Accept")
		}
		if strings.Contains(r.Header.Get("If-None-Match"), hash) {
			r.w.WriteHeader(http.StatusNotModified)
			return nil
		}
	}
	body, err := document()
	if err != nil {
		return err
	}
	h.Set("Content-Type", media)
	_, _ = r.w.Write(body) // the client may have left
	return nil
}
