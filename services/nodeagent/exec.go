package nodeagent

import (
	"net/http"

	"github.com/rutterhq/rutter/kernel"
)

func keyOf(r kernel.Resource, namespace, name string) kernel.Key {
	return kernel.Key{Resource: r, Namespace: namespace, Name: name}
}

func (a *Agent) serveExec(w http.ResponseWriter, r *http.Request)        {}
func (a *Agent) serveAttach(w http.ResponseWriter, r *http.Request)      {}
func (a *Agent) servePortForward(w http.ResponseWriter, r *http.Request) {}
