package kinds

import (
	"bytes"
	"encoding/json"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/rutterhq/rutter/kernel"
)

// Secrets hold what only some may read (k8s.io/api/core/v1.Secret). Their data
// is encrypted in the log.
var Secrets = &Kind[*corev1.Secret]{
	Info: Info{
		Resource: kernel.Resource{Plural: "secrets"}, Version: "v1", Kind: "Secret",
		Singular: "secret", Sealed: true,
	},
	New:      func() *corev1.Secret { return &corev1.Secret{} },
	NewList:  func() runtime.Object { return &corev1.SecretList{} },
	Default:  defaultSecret,
	Prepare:  prepareSecret,
	Admit:    admitSecret,
	Validate: validateSecret,
	Columns: []Column[*corev1.Secret]{
		nameColumn[*corev1.Secret](),
		column("Type", doc(corev1.Secret{}, "type"), func(s *corev1.Secret) any { return string(s.Type) }),
		column("Data", doc(corev1.Secret{}, "data"), func(s *corev1.Secret) any { return int64(len(s.Data)) }),
		ageColumn[*corev1.Secret](),
	},
	Fields: func(s *corev1.Secret) fields.Set { return fields.Set{"type": string(s.Type)} },
}

// defaultSecret makes a secret opaque and moves what was written as text into
// its data, where it is the only form that is ever read back.
func defaultSecret(s *corev1.Secret) {
	if len(s.StringData) > 0 {
		if s.Data == nil {
			s.Data = map[string][]byte{}
		}
		for k, v := range s.StringData {
			s.Data[k] = []byte(v)
		}
	}
	s.StringData = nil
	if s.Type == "" {
		s.Type = corev1.SecretTypeOpaque
	}
}

// validateSecret checks keys, size and what the secret's type asks for. No
// error repeats any data.
func validateSecret(now, old *corev1.Secret) field.ErrorList {
	errs := validateObjectMeta(now, true, apivalidation.NameIsDNSSubdomain)
	path := field.NewPath("data")
	size := 0
	for k, v := range now.Data {
		errs = append(errs, invalid(path.Key(k), k, validation.IsConfigMapKey(k))...)
		size += len(v)
	}
	if size > maxDataBytes {
		errs = append(errs, field.TooLong(path, "", maxDataBytes))
	}
	errs = append(errs, validateSecretType(now, path)...)
	if old == nil {
		return errs
	}
	errs = append(errs, validateMetaUpdate(now, old)...)
	errs = append(errs, apivalidation.ValidateImmutableField(now.Type, old.Type, field.NewPath("type"))...)
	if value(old.Immutable) {
		if !value(now.Immutable) {
			errs = append(errs, frozen(field.NewPath("immutable")))
		}
		if !maps.EqualFunc(now.Data, old.Data, bytes.Equal) {
			errs = append(errs, frozen(path))
		}
	}
	return errs
}

// validateSecretType checks the keys that the well-known types must have.
func validateSecretType(s *corev1.Secret, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	want := func(keys ...string) {
		for _, k := range keys {
			if _, ok := s.Data[k]; !ok {
				errs = append(errs, field.Required(path.Key(k), ""))
			}
		}
	}
	wantJSON := func(key string) {
		want(key)
		if v, ok := s.Data[key]; ok {
			if err := json.Unmarshal(v, &map[string]any{}); err != nil {
				errs = append(errs, field.Invalid(path.Key(key), "<secret contents redacted>", "must be a JSON object"))
			}
		}
	}
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		if s.Annotations[corev1.ServiceAccountNameKey] == "" {
			errs = append(errs, field.Required(metadataPath.Child("annotations").Key(corev1.ServiceAccountNameKey), ""))
		}
	case corev1.SecretTypeDockercfg:
		wantJSON(corev1.DockerConfigKey)
	case corev1.SecretTypeDockerConfigJson:
		wantJSON(corev1.DockerConfigJsonKey)
	case corev1.SecretTypeBasicAuth:
		_, user := s.Data[corev1.BasicAuthUsernameKey]
		_, password := s.Data[corev1.BasicAuthPasswordKey]
		if !user && !password {
			want(corev1.BasicAuthUsernameKey, corev1.BasicAuthPasswordKey)
		}
	case corev1.SecretTypeSSHAuth:
		if len(s.Data[corev1.SSHAuthPrivateKey]) == 0 {
			errs = append(errs, field.Required(path.Key(corev1.SSHAuthPrivateKey), ""))
		}
	case corev1.SecretTypeTLS:
		want(corev1.TLSCertKey, corev1.TLSPrivateKeyKey)
	}
	return errs
}

// prepareSecret keeps the type of one that is updated without saying it.
func prepareSecret(now, old *corev1.Secret) {
	if old != nil && now.Type == "" {
		now.Type = old.Type
	}
}

// admitSecret refuses a secret that asks for a token to be put into it: tokens
// are given through the token subresource of service accounts.
func admitSecret(_ *kernel.View, _ kernel.Write, now, old *corev1.Secret) field.ErrorList {
	if old == nil && now.Type == corev1.SecretTypeServiceAccountToken && len(now.Data[corev1.ServiceAccountTokenKey]) == 0 {
		return field.ErrorList{notSupportedYet(field.NewPath("type"))}
	}
	return nil
}
