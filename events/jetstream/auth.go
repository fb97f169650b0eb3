package jetstream

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/rutterhq/rutter/events"
)

// Rights are what a service in a process of its own may do with the log: read
// it, hold the lease of its own name, and append events of some resources.
type Rights struct {
	Writes []events.Resource
	Keys   bool // read the keys of what is secret
	// All is the apiserver's: events of every resource, making and destroying
	// keys, how much of the past is kept, and what apiservers tell one another.
	All bool
}

// readable are the streams that every service may read.
var readable = []string{StreamName, HistName, "OBJ_" + SnapName, "KV_" + LeaseBucket, "KV_" + SeenName}

// inbox is where a service gets its answers, and nobody else's.
func inbox(service string) string { return "_INBOX_" + service }

// permissions are a service's rights in the server's terms. They see subjects
// only; what they do not see is the guard's.
func (r Rights) permissions(service string) *server.Permissions {
	may := []string{"$JS.API.INFO", "$JS.API.STREAM.INFO.*", "$KV." + LeaseBucket + "." + service, "$KV." + SeenName + "." + service + ".*"}
	streams := readable
	if r.Keys || r.All {
		streams = append(slices.Clip(streams), keysStream)
	}
	for _, s := range streams {
		may = append(may, "$JS.API.STREAM.MSG.GET."+s, "$JS.API.DIRECT.GET."+s, "$JS.API.DIRECT.GET."+s+".>",
			"$JS.API.CONSUMER.CREATE."+s+".>", "$JS.API.CONSUMER.MSG.NEXT."+s+".*", "$JS.API.CONSUMER.INFO."+s+".*",
			"$JS.API.CONSUMER.DELETE."+s+".*", "$JS.FC."+s+".>")
	}
	for _, w := range r.Writes {
		may = append(may, subjectsOf(w))
	}
	hears := []string{inbox(service) + ".>"}
	if r.All {
		hears = append(hears, talkRoot+">")
		may = append(may, talkRoot+">", events.SubjectRoot+".>", keysSubject+"*", "$JS.API.STREAM.MSG.DELETE."+keysStream, "$JS.API.STREAM.UPDATE."+HistName)
	}
	return &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: may},
		Subscribe: &server.SubjectPermission{Allow: hears},
	}
}

// subjectsOf matches the subjects of all objects of a resource.
func subjectsOf(r events.Resource) string {
	return strings.TrimSuffix(events.Key{Resource: r, Namespace: "x", Name: "x"}.Subject(), ".x.x") + ".*.*"
}

// gate lets clients in: this process by its token, services by what they were
// given.
type gate struct {
	token, secret string
	services      map[string]Rights
}

// password derives a service's from the server's secret: whoever has the
// secret, such as the server after a restart, knows it.
func password(secret, service string) string {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte("service " + service))
	return hex.EncodeToString(h.Sum(nil))
}

// Check is server.Authentication's.
func (g *gate) Check(c server.ClientAuthentication) bool {
	if c.Kind() != server.CLIENT {
		return true // another server: that is up to TLS
	}
	same := func(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
	// What comes over TCP has not been past the guard: a server of several
	// cannot help listening.
	if c.RemoteAddress() != nil && c.RemoteAddress().Network() == "tcp" {
		return false
	}
	o := c.GetOpts()
	if same(o.Token, g.token) {
		c.RegisterUser(&server.User{Username: "owner"})
		return true
	}
	rights, ok := g.services[o.Username]
	if !ok || g.secret == "" || !same(o.Password, password(g.secret, o.Username)) {
		return false
	}
	c.RegisterUser(&server.User{Username: o.Username, Permissions: rights.permissions(o.Username)})
	return true
}

// WriteServiceCredentials writes a file NAME.credentials for each service into
// a folder, with mode 0600: for Connect.
func (s *Server) WriteServiceCredentials(dir string) error {
	if s.gate.secret == "" {
		return errors.New("credentials of services: the server has no secret that they could outlive it by")
	}
	for _, name := range slices.Sorted(maps.Keys(s.gate.services)) {
		if err := writeSecret(filepath.Join(dir, name+".credentials"), name+":"+password(s.gate.secret, name)); err != nil {
			return err
		}
	}
	return nil
}

func writeSecret(file, secret string) error {
	tmp := file + ".new"
	err := errors.Join(os.RemoveAll(tmp), os.WriteFile(tmp, []byte(secret+"\n"), 0o600))
	if err == nil {
		err = os.Rename(tmp, file)
	}
	if err != nil {
		return fmt.Errorf("credentials of the log server: %w", err)
	}
	return nil
}
