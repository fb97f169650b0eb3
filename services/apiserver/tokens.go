package apiserver

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/rutterhq/rutter/kernel"
)

const (
	// A token lives for an hour unless asked otherwise, for ten minutes at
	// least and for a day at most.
	tokenLife    = int64(3600)
	tokenLifeMin = int64(600)
	tokenLifeMax = int64(24 * 3600)
	// clockSlack is how far the clock may be set back before tokens that were
	// issued before are not valid yet.
	clockSlack = 24 * time.Hour
	// tokensKept bounds the tokens whose signature is remembered as good.
	tokensKept = 4096
	// p256Bytes is the length of each half of an ES256 signature (RFC 7518 §3.4).
	p256Bytes = 32
)

var errBadToken = errors.New("the token is not valid")

// claims are the body of a service account token (RFC 7519, and the private
// claims of Kubernetes).
type claims struct {
	Audience   []string `json:"aud"`
	Expires    int64    `json:"exp"`
	IssuedAt   int64    `json:"iat"`
	Issuer     string   `json:"iss"`
	ID         string   `json:"jti"`
	Kubernetes bound    `json:"kubernetes.io"`
	NotBefore  int64    `json:"nbf"`
	Subject    string   `json:"sub"`
}

// bound says what a token is bound to: it ends with each of them.
type bound struct {
	Namespace      string `json:"namespace"`
	Node           *ref   `json:"node,omitempty"`
	Pod            *ref   `json:"pod,omitempty"`
	Secret         *ref   `json:"secret,omitempty"`
	ServiceAccount ref    `json:"serviceaccount"`
}

type ref struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
}

// tokens signs and checks service account tokens.
type tokens struct {
	key    *ecdsa.PrivateKey
	id     string // of the key
	issuer string

	mu   sync.Mutex // protects the following
	good map[[sha256.Size]byte]*claims
}

func newTokens(key *ecdsa.PrivateKey, issuer string) *tokens {
	t := &tokens{key: key, issuer: issuer, good: map[[sha256.Size]byte]*claims{}}
	sum := sha256.Sum256(t.point())
	t.id = base64.RawURLEncoding.EncodeToString(sum[:])
	return t
}

// point is the public key as its two coordinates.
func (t *tokens) point() []byte {
	x, y := make([]byte, p256Bytes), make([]byte, p256Bytes)
	pub, err := t.key.PublicKey.ECDH()
	if err != nil {
		panic("the service account key is not on P-256: " + err.Error())
	}
	raw := pub.Bytes() // 4, x, y
	copy(x, raw[1:1+p256Bytes])
	copy(y, raw[1+p256Bytes:])
	return append(x, y...)
}

func (t *tokens) sign(c *claims) (string, error) {
	head, err := json.Marshal(map[string]string{"alg": "ES256", "kid": t.id})
	if err != nil {
		return "", fmt.Errorf("encode the token: %w", err)
	}
	body, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("encode the token: %w", err)
	}
	b64 := base64.RawURLEncoding
	signed := b64.EncodeToString(head) + "." + b64.EncodeToString(body)
	sum := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, t.key, sum[:])
	if err != nil {
		return "", fmt.Errorf("sign the token: %w", err)
	}
	var sig [2 * p256Bytes]byte
	r.FillBytes(sig[:p256Bytes])
	s.FillBytes(sig[p256Bytes:])
	return signed + "." + b64.EncodeToString(sig[:]), nil
}

// verify checks a token's signature, not its time nor what it is bound to.
func (t *tokens) verify(token string) (*claims, error) {
	at := sha256.Sum256([]byte(token))
	t.mu.Lock()
	c := t.good[at]
	t.mu.Unlock()
	if c != nil {
		return c, nil
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, errBadToken
	}
	var head struct {
		Algorithm string `json:"alg"`
	}
	b64 := base64.RawURLEncoding
	raw, err := b64.DecodeString(parts[0])
	if err != nil || json.Unmarshal(raw, &head) != nil || head.Algorithm != "ES256" {
		return nil, errBadToken
	}
	sig, err := b64.DecodeString(parts[2])
	if err != nil || len(sig) != 2*p256Bytes {
		return nil, errBadToken
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	r, s := new(big.Int).SetBytes(sig[:p256Bytes]), new(big.Int).SetBytes(sig[p256Bytes:])
	if !ecdsa.Verify(&t.key.PublicKey, sum[:], r, s) {
		return nil, errBadToken
	}
	c = &claims{}
	if raw, err = b64.DecodeString(parts[1]); err != nil || json.Unmarshal(raw, c) != nil || c.Issuer != t.issuer {
		return nil, errBadToken
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.good) >= tokensKept {
		clear(t.good)
	}
	t.good[at] = c
	return c, nil
}

// user returns whose token it is. audiences: those of which the token must
// have one; nil means the API's own.
func (t *tokens) user(v *kernel.View, token string, audiences []string) (*User, error) {
	c, err := t.verify(token)
	if err != nil {
		return nil, err
	}
	if audiences == nil {
		audiences = []string{t.issuer}
	}
	now := time.Now().Unix()
	// Nobody here issues tokens for later: one that is not valid yet was issued
	// before the clock was set back.
	if now >= c.Expires || now < c.NotBefore-int64(clockSlack.Seconds()) || !slices.ContainsFunc(c.Audience, func(a string) bool { return slices.Contains(audiences, a) }) {
		return nil, errBadToken
	}
	k := &c.Kubernetes
	if !lives(v, "serviceaccounts", k.Namespace, &k.ServiceAccount) || !lives(v, "pods", k.Namespace, k.Pod) ||
		!lives(v, "secrets", k.Namespace, k.Secret) {
		return nil, errBadToken
	}
	u := &User{Name: serviceAccountPrefix + k.Namespace + ":" + k.ServiceAccount.Name, UID: k.ServiceAccount.UID,
		Groups: serviceAccountGroups(k.Namespace), Extra: map[string][]string{"authentication.kubernetes.io/credential-id": {"JTI=" + c.ID}}}
	if k.Pod != nil {
		u.Extra["authentication.kubernetes.io/pod-name"] = []string{k.Pod.Name}
		u.Extra["authentication.kubernetes.io/pod-uid"] = []string{k.Pod.UID}
	}
	if k.Node != nil {
		u.Extra["authentication.kubernetes.io/node-name"] = []string{k.Node.Name}
		u.Extra["authentication.kubernetes.io/node-uid"] = []string{k.Node.UID}
	}
	return u, nil
}

// lives tells whether what a token is bound to is still the same object. A
// token that names none is not bound to it.
func lives(v *kernel.View, plural, namespace string, r *ref) bool {
	if r == nil {
		return true
	}
	o, ok := v.Get(kernel.Key{Resource: kernel.Resource{Plural: plural}, Namespace: namespace, Name: r.Name})
	return ok && string(o.GetUID()) == r.UID
}

// tokenRequest answers POST serviceaccounts/NAME/token.
func (r *request) tokenRequest() error {
	tr := &authenticationv1.TokenRequest{}
	if err := r.decodeAPI(tr, "TokenRequest"); err != nil {
		return err
	}
	v, err := r.viewFor("")
	if err != nil {
		return err
	}
	sa, ok := v.Get(r.key())
	if !ok {
		return r.notFound(r.info.Name)
	}
	if tr.Name == "" {
		tr.Name, tr.Namespace = r.info.Name, r.info.Namespace
	}
	if tr.Name != r.info.Name || tr.Namespace != r.info.Namespace {
		return badRequest("the name of the token request (%s/%s) does not match the name on the URL (%s/%s)", tr.Namespace, tr.Name, r.info.Namespace, r.info.Name)
	}
	if err := checkTokenSpec(tr); err != nil {
		return err
	}
	c := &claims{Issuer: r.s.tokens.issuer, Subject: serviceAccountPrefix + sa.GetNamespace() + ":" + sa.GetName(), ID: uuid.NewString(),
		Kubernetes: bound{Namespace: sa.GetNamespace(), ServiceAccount: ref{sa.GetName(), string(sa.GetUID())}}}
	if node, ok := nodeOf(r.user); ok {
		if err := nodeMayBind(v, node, tr); err != nil {
			return err
		}
	}
	if err := bindToken(v, tr, &c.Kubernetes); err != nil {
		return err
	}
	if len(tr.Spec.Audiences) == 0 {
		tr.Spec.Audiences = []string{r.s.tokens.issuer}
	}
	now := time.Now()
	c.Audience, c.IssuedAt, c.NotBefore, c.Expires = tr.Spec.Audiences, now.Unix(), now.Unix(), now.Unix()+*tr.Spec.ExpirationSeconds
	tr.CreationTimestamp = metav1.NewTime(now)
	tr.Status.ExpirationTimestamp = metav1.NewTime(time.Unix(c.Expires, 0))
	if dry, err := r.writeOptions(); err != nil || dry {
		if err != nil {
			return err
		}
		return r.writeAPI(http.StatusCreated, tr, tokenRequestKind)
	}
	if tr.Status.Token, err = r.s.tokens.sign(c); err != nil {
		return err
	}
	return r.writeAPI(http.StatusCreated, tr, tokenRequestKind)
}

var tokenRequestKind = authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")

func checkTokenSpec(tr *authenticationv1.TokenRequest) error {
	path := field.NewPath("spec", "expirationSeconds")
	if tr.Spec.ExpirationSeconds == nil {
		life := tokenLife
		tr.Spec.ExpirationSeconds = &life
	}
	var errs field.ErrorList
	switch n := *tr.Spec.ExpirationSeconds; {
	case n < tokenLifeMin:
		errs = append(errs, field.Invalid(path, n, "may not specify a duration less than 10 minutes"))
	case n > 1<<32:
		errs = append(errs, field.Invalid(path, n, "may not specify a duration larger than 2^32 seconds"))
	case n > tokenLifeMax:
		*tr.Spec.ExpirationSeconds = tokenLifeMax
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Group: "authentication.k8s.io", Kind: "TokenRequest"}, tr.Name, errs)
	}
	return nil
}

// bindToken binds a token to the pod or secret that the request names, and to
// the pod's node.
func bindToken(v *kernel.View, tr *authenticationv1.TokenRequest, b *bound) error {
	to := tr.Spec.BoundObjectRef
	if to == nil {
		return nil
	}
	var plural string
	switch {
	case to.Kind == "Pod" && to.APIVersion == "v1":
		plural = "pods"
	case to.Kind == "Secret" && to.APIVersion == "v1":
		plural = "secrets"
	default:
		return badRequest("cannot bind token for serviceaccount %q to object of type %s", tr.Name, to.APIVersion+"/"+to.Kind)
	}
	o, ok := v.Get(kernel.Key{Resource: kernel.Resource{Plural: plural}, Namespace: tr.Namespace, Name: to.Name})
	if !ok {
		return apierrors.NewNotFound(schema.GroupResource{Resource: plural}, to.Name)
	}
	if to.UID != "" && to.UID != o.GetUID() {
		return apierrors.NewConflict(schema.GroupResource{Resource: plural}, to.Name,
			fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", to.UID))
	}
	at := &ref{o.GetName(), string(o.GetUID())}
	if plural == "secrets" {
		b.Secret = at
		return nil
	}
	b.Pod = at
	pod := o.(*corev1.Pod)
	if pod.Spec.ServiceAccountName != tr.Name {
		return badRequest("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", tr.Name)
	}
	if n, ok := v.Get(kernel.Key{Resource: kernel.Resource{Plural: "nodes"}, Name: pod.Spec.NodeName}); ok {
		b.Node = &ref{n.GetName(), string(n.GetUID())}
	}
	return nil
}

// serveIssuer and serveKeys let others check tokens (OpenID Connect Discovery 1.0).
func (s *Server) serveIssuer(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, map[string]any{"issuer": s.tokens.issuer, "jwks_uri": "https://" + s.cfg.Advertise.String() + "/openid/v1/jwks",
		"response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"},
		"id_token_signing_alg_values_supported": []string{"ES256"}})
}

func (s *Server) serveKeys(w http.ResponseWriter, _ *http.Request) {
	p := s.tokens.point()
	b64 := base64.RawURLEncoding.EncodeToString
	writeJSON(w, map[string]any{"keys": []map[string]string{{"use": "sig", "kty": "EC", "kid": s.tokens.id, "crv": "P-256", "alg": "ES256",
		"x": b64(p[:p256Bytes]), "y": b64(p[p256Bytes:])}}})
}
