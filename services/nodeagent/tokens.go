package nodeagent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/services/nodeagent/podspec"
)

// token is one that was got.
type token struct {
	value string
	renew time.Time // when the next one should be got: at 80 % of its life
}

// tokenBytesMax bounds the answer to a request for a token.
const tokenBytesMax = 64 << 10

// tokenTimeout bounds one request for a token.
const tokenTimeout = 10 * time.Second

// tokens gets the service account tokens that a pod's volumes hold, and says
// when the first of them should be renewed (zero: there is none).
func (a *Agent) tokens(ctx context.Context, p *pod, spec *corev1.Pod) (map[podspec.Token]string, time.Time, error) {
	want := podspec.Tokens(spec)
	if len(want) == 0 {
		return nil, time.Time{}, nil
	}
	p.mu.Lock()
	have := p.tokens
	p.mu.Unlock()
	got, values := map[podspec.Token]token{}, map[podspec.Token]string{}
	var first time.Time
	for _, t := range want {
		one, ok := have[t]
		if !ok || !a.now().Before(one.renew) {
			var err error
			if one, err = a.requestToken(ctx, spec, t); err != nil {
				return nil, time.Time{}, err
			}
		}
		got[t], values[t] = one, one.value
		first = earlier(first, one.renew)
	}
	p.mu.Lock()
	p.tokens = got
	p.mu.Unlock()
	return values, first, nil
}

// requestToken asks the API server for a token that is bound to the pod.
func (a *Agent) requestToken(ctx context.Context, p *corev1.Pod, t podspec.Token) (token, error) {
	if a.cfg.API == "" || a.cfg.APIClient == nil {
		return token{}, errors.New("failed to fetch token: the node agent has no API server to ask")
	}
	req := authenticationv1.TokenRequest{
		TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenRequest"},
		Spec: authenticationv1.TokenRequestSpec{
			ExpirationSeconds: &t.Seconds,
			BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID},
		},
	}
	if t.Audience != "" {
		req.Spec.Audiences = []string{t.Audience}
	}
	body, err := json.Marshal(req)
	if err != nil {
		return token{}, fmt.Errorf("failed to fetch token: %w", err)
	}
	account := p.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	target := fmt.Sprintf("%s/api/v1/namespaces/%s/serviceaccounts/%s/token", a.cfg.API, url.PathEscape(p.Namespace), url.PathEscape(account))
	hr, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return token{}, fmt.Errorf("failed to fetch token: %w", err)
	}
	hr.Header.Set("Content-Type", "application/json")
	hr.Header.Set("Accept", "application/json")
	res, err := a.cfg.APIClient.Do(hr)
	if err != nil {
		return token{}, fmt.Errorf("failed to fetch token: %w", err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, tokenBytesMax))
	if err != nil {
		return token{}, fmt.Errorf("failed to fetch token: %w", err)
	}
	if res.StatusCode != http.StatusCreated && res.StatusCode != http.StatusOK {
		return token{}, fmt.Errorf("failed to fetch token: %w", statusError(res.StatusCode, answer))
	}
	var out authenticationv1.TokenRequest
	if err := json.Unmarshal(answer, &out); err != nil || out.Status.Token == "" {
		return token{}, fmt.Errorf("failed to fetch token: the answer holds none: %w", err)
	}
	life := out.Status.ExpirationTimestamp.Sub(a.now())
	return token{value: out.Status.Token, renew: a.now().Add(life * 4 / 5)}, nil
}
