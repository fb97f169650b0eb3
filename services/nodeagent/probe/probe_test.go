package probe

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
)

func TestURL(t *testing.T) {
	for _, c := range []struct{ scheme, host, port, path, want string }{
		{"HTTP", "10.0.0.1", "80", "/ok?x=1", "http://10.0.0.1:80/ok?x=1"}, {"HTTPS", "::1", "443", "ok", "https://[::1]:443/ok"}, {"", "h", "1", "", "http://h:1/"},
	} {
		if got := URL(c.scheme, c.host, c.port, c.path); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

func TestHTTP(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ok":
			if r.Host != "me" || r.Header.Get("X") != "y" {
				w.WriteHeader(http.StatusTeapot)
			}
		case "/away":
			http.Redirect(w, r, "http://elsewhere.invalid/", http.StatusFound)
		case "/slow":
			<-r.Context().Done()
		default:
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer s.Close()
	headers := []corev1.HTTPHeader{{Name: "Host", Value: "me"}, {Name: "X", Value: "y"}}
	for path, want := range map[string]string{"/ok": "", "/away": "", "/bad": "HTTP probe failed with statuscode: 503", "/slow": "deadline exceeded"} {
		ok, why := HTTP(t.Context(), s.URL+path, headers, 300*time.Millisecond)
		if ok != (want == "") || !strings.Contains(why, want) {
			t.Errorf("%s: %v %q", path, ok, why)
		}
	}
}

func TestTCPAndGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, h := grpc.NewServer(), health.NewServer()
	healthpb.RegisterHealthServer(server, h)
	h.SetServingStatus("bad", healthpb.HealthCheckResponse_NOT_SERVING)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	at := l.Addr().String()
	if ok, why := TCP(t.Context(), at, time.Second); !ok {
		t.Errorf("tcp: %s", why)
	}
	if ok, why := GRPC(t.Context(), at, "", 5*time.Second); !ok {
		t.Errorf("grpc: %s", why)
	}
	if ok, why := GRPC(t.Context(), at, "bad", 5*time.Second); ok || !strings.Contains(why, "NOT_SERVING") {
		t.Errorf("grpc, not serving: %v %s", ok, why)
	}
	server.Stop()
	<-done
	if ok, _ := TCP(t.Context(), at, time.Second); ok {
		t.Error("a port that nobody listens on is well")
	}
}
