package clientgo

import (
	apiunstructured "k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

func dynamicFor(c *rest.Config) (dynamic.Interface, error) { return dynamic.NewForConfig(c) }

func unstructured(o map[string]any) *apiunstructured.Unstructured {
	return &apiunstructured.Unstructured{Object: o}
}
