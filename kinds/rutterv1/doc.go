// +k8s:openapi-gen=true
// +k8s:openapi-model-package=dev.rutter.v1

// Package rutterv1 holds the API types of Rutter's own group, rutter.dev/v1.
//
// They are written as k8s.io/api's are: their OpenAPI schemas are generated with
// those (make generate). They have no protobuf form: as for custom resources,
// clients get JSON.
package rutterv1
