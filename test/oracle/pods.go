package oracle

import "k8s.io/kubernetes/pkg/capabilities"

// Privileged containers are a flag of kube-apiserver, which every installer
// sets. Rutter has no such flag.
func init() { capabilities.Initialize(capabilities.Capabilities{AllowPrivileged: true}) }
