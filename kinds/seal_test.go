package kinds

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const canary = "canary-9f2d"

func testSecret() *corev1.Secret {
	return &corev1.Secret{
		TypeMeta: metav1.TypeMeta{Kind: "Secret", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{
			Name: "s", Namespace: "default", UID: "u1", ResourceVersion: "7",
			Annotations: map[string]string{
				corev1.LastAppliedConfigAnnotation: `{"data":{"a":"` + canary + `"}}`,
				"other":                            "kept",
			},
		},
		Data: map[string][]byte{"a": []byte(canary), "b": []byte(canary), "empty": {}},
		Type: corev1.SecretTypeOpaque,
	}
}

func keyed() Schema { return Schema{Cluster: "c1", Seal: bytes.Repeat([]byte{7}, 32)} }

func TestSecretIsSealedAndOpened(t *testing.T) {
	s, before := keyed(), testSecret()
	body, err := s.Encode(testSecret())
	if err != nil {
		t.Fatal(err)
	}
	again, _ := s.Encode(testSecret())
	if !bytes.Equal(body, again) {
		t.Error("the same secret encoded twice gives two bodies")
	}
	for _, leak := range []string{canary, base64.StdEncoding.EncodeToString([]byte(canary))} {
		if strings.Contains(string(body), leak) {
			t.Errorf("the body holds %q in plaintext: %s", leak, body)
		}
	}
	got, err := s.Decode(Secrets.Key("default", "s"), body)
	if err != nil {
		t.Fatal(err)
	}
	before.ResourceVersion = ""
	if diff := cmp.Diff(before, got); diff != "" {
		t.Errorf("decoded differs (-want +got):\n%s", diff)
	}
}

func TestSecretWithoutKeyPassesUnharmed(t *testing.T) {
	body, err := keyed().Encode(testSecret())
	if err != nil {
		t.Fatal(err)
	}
	blind := Schema{Cluster: "c1"}
	o, err := blind.Decode(Secrets.Key("default", "s"), body)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(o.(*corev1.Secret).Data["a"], []byte(canary)) {
		t.Error("a process without the key reads the secret")
	}
	back, err := blind.Encode(o)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(body, back) {
		t.Errorf("the body changed on the way:\n%s\n%s", body, back)
	}
	if _, err := blind.Encode(testSecret()); err == nil {
		t.Error("a process without the key wrote plaintext")
	}
	other := Schema{Cluster: "c1", Seal: bytes.Repeat([]byte{8}, 32)}
	if _, err := other.Decode(Secrets.Key("default", "s"), body); err == nil {
		t.Error("another key opened the secret")
	}
}

func TestSealedValueCannotMove(t *testing.T) {
	s := keyed()
	body, _ := s.Encode(testSecret())
	o, err := Schema{}.Decode(Secrets.Key("default", "s"), body)
	if err != nil {
		t.Fatal(err)
	}
	secret := o.(*corev1.Secret)
	secret.Data["a"], secret.Data["b"] = secret.Data["b"], secret.Data["a"]
	swapped, err := Schema{}.Encode(secret)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Decode(Secrets.Key("default", "s"), swapped); err == nil {
		t.Error("values that changed places were accepted")
	}
}

func TestRedactBody(t *testing.T) {
	key := Secrets.Key("default", "s")
	sealed, _ := keyed().Encode(testSecret())
	plain, _ := EncodeJSON(testSecret())
	for name, body := range map[string][]byte{"sealed": sealed, "plain": plain} {
		red := RedactBody(key, body)
		if bytes.Contains(red, []byte(canary)) || bytes.Contains(red, []byte(sealMark)) || !bytes.Contains(red, []byte(`"kept"`)) {
			t.Errorf("%s: redacted to %s", name, red)
		}
		for _, s := range []Schema{{}, keyed()} {
			o, err := s.Decode(key, red)
			if err != nil {
				t.Fatalf("%s: a redacted body does not decode: %v", name, err)
			}
			if !strings.HasPrefix(string(o.(*corev1.Secret).Data["a"]), hashMark) {
				t.Errorf("%s: data is %q", name, o.(*corev1.Secret).Data["a"])
			}
		}
	}
	body := []byte(`{"kind":"ConfigMap"}`)
	if got := RedactBody(ConfigMaps.Key("d", "c"), body); !bytes.Equal(got, body) {
		t.Errorf("a ConfigMap became %s", got)
	}
}
