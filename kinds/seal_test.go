package kinds

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/events/memory"
	"github.com/rutterhq/rutter/kernel"
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
		if bytes.Contains(red, []byte(canary)) || bytes.Contains(red, []byte(clusterMark)) || !bytes.Contains(red, []byte(`"kept"`)) {
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

// TestSecretWithItsOwnKey: it opens with that key alone, two objects have two,
// and once it is destroyed, only hashes are left of what the log held.
func TestSecretWithItsOwnKey(t *testing.T) {
	ctx, key := t.Context(), Secrets.Key("default", "s")
	s := keyed()
	before, err := s.Encode(testSecret()) // from before there were such keys
	if err != nil {
		t.Fatal(err)
	}
	s.Keys = new(memory.Keys)
	again, err := s.Encode(testSecret())
	if err != nil || !bytes.Equal(before, again) {
		t.Fatalf("a secret without a key of its own is sealed anew: %v\n%s", err, again)
	}
	p := &Proposal{Object: testSecret()}
	if err := s.Prepare(ctx, p); err != nil {
		t.Fatal(err)
	}
	body := p.Body
	if bytes.Contains(body, []byte(canary)) || bytes.Equal(body, before) {
		t.Errorf("the body: %s", body)
	}
	twin := testSecret()
	twin.UID = "u2"
	if err := s.Prepare(ctx, &Proposal{Object: twin}); err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string][]byte{"cluster's key": before, "own key": body} {
		o, err := s.Decode(key, body)
		if err != nil || string(o.(*corev1.Secret).Data["a"]) != canary {
			t.Fatalf("%s: decoded to %v, %v", name, o, err)
		}
		if err := (Schema{}).mustPass(key, body); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		forged := bytes.Replace(body, []byte(`"uid":"u1"`), []byte(`"uid":"u2"`), 1)
		if _, err := s.Decode(key, forged); err == nil {
			t.Errorf("%s: values of one object opened as another's", name)
		}
	}

	if _, err := keyed().Decode(key, body); err == nil {
		t.Error("a process that lacks the keys takes sealed values for the real ones")
	}
	if err := s.Keys.Destroy(ctx, "u1"); err != nil {
		t.Fatal(err)
	}
	o, err := s.Decode(key, body)
	if err != nil {
		t.Fatal(err)
	}
	secret := o.(*corev1.Secret)
	for place, value := range map[string]string{"data": string(secret.Data["a"]), "annotation": secret.Annotations[corev1.LastAppliedConfigAnnotation]} {
		if !strings.HasPrefix(value, hashMark) {
			t.Errorf("%s after its key was destroyed: %q", place, value)
		}
	}
	if o, err = s.Decode(key, before); err != nil || string(o.(*corev1.Secret).Data["a"]) != canary {
		t.Errorf("what the cluster's key had sealed: %v, %v", o, err)
	}
}

// mustPass tells whether a process with these keys writes a body back as it was.
func (s Schema) mustPass(k kernel.Key, body []byte) error {
	o, err := s.Decode(k, body)
	if err != nil {
		return err
	}
	back, err := s.Encode(o)
	if err == nil && !bytes.Equal(back, body) {
		err = fmt.Errorf("the body changed on the way:\n%s\n%s", body, back)
	}
	return err
}

// TestValueThatLooksSealed: what users write is data, whatever it begins with.
func TestValueThatLooksSealed(t *testing.T) {
	s := keyed()
	s.Keys = new(memory.Keys)
	for _, prepared := range []bool{false, true} {
		for _, mark := range []string{clusterMark, ownMark, hashMark} {
			secret := testSecret()
			secret.Data["a"] = []byte(mark + "x")
			secret.Annotations[corev1.LastAppliedConfigAnnotation] = mark + "AAAA"
			if prepared {
				if err := s.Prepare(t.Context(), &Proposal{Object: secret}); err != nil {
					t.Fatal(err)
				}
			}
			body, err := s.Encode(secret)
			if err != nil {
				t.Fatal(err)
			}
			o, err := s.Decode(Secrets.Key("default", "s"), body)
			if err != nil {
				t.Fatalf("%s: %v", mark, err)
			}
			if got := o.(*corev1.Secret); string(got.Data["a"]) != mark+"x" || got.Annotations[corev1.LastAppliedConfigAnnotation] != mark+"AAAA" {
				t.Errorf("%s: %q %q", mark, got.Data["a"], got.Annotations[corev1.LastAppliedConfigAnnotation])
			}
		}
	}
}
