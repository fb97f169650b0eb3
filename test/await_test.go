//go:build e2e

package test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// awaitTimeout bounds how long a test waits for something to become so.
const awaitTimeout = 90 * time.Second

// object is what every kind of object is to a watch.
type object interface{ metav1.Object }

// await watches objects until what there is of them is as wanted. The watch
// brings the objects that exist first, then a bookmark, then what happens.
func await[T object](c *cluster, what string, open func(context.Context, metav1.ListOptions) (watch.Interface, error), ok func([]T) bool) []T {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), awaitTimeout)
	defer cancel()
	initial := true
	w, err := open(ctx, metav1.ListOptions{SendInitialEvents: &initial, AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan})
	if err != nil {
		c.t.Fatalf("await %s: %v", what, err)
	}
	defer w.Stop()
	have, complete := map[string]T{}, false
	list := func() []T {
		var all []T
		for _, k := range slices.Sorted(maps.Keys(have)) {
			all = append(all, have[k])
		}
		return all
	}
	for e := range w.ResultChan() {
		o, is := e.Object.(T)
		if !is {
			c.t.Fatalf("await %s: the watch says %v", what, e.Object)
		}
		switch e.Type {
		case watch.Added, watch.Modified:
			have[o.GetNamespace()+"/"+o.GetName()] = o
		case watch.Deleted:
			delete(have, o.GetNamespace()+"/"+o.GetName())
		case watch.Bookmark:
			complete = complete || o.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true"
		}
		if complete && ok(list()) {
			return list()
		}
	}
	var names []string
	for _, o := range list() {
		names = append(names, o.GetName())
	}
	c.t.Fatalf("await %s: not so after %s; there are %s", what, awaitTimeout, strings.Join(names, " "))
	return nil
}

// pods waits for the pods of a namespace that a selector finds.
func (c *cluster) pods(what, namespace, selector string, ok func([]*corev1.Pod) bool) []*corev1.Pod {
	c.t.Helper()
	return await(c, what, func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		o.LabelSelector = selector
		return c.api.CoreV1().Pods(namespace).Watch(ctx, o)
	}, ok)
}

// pod waits for one pod.
func (c *cluster) pod(namespace, name, what string, ok func(*corev1.Pod) bool) *corev1.Pod {
	c.t.Helper()
	var found *corev1.Pod
	await(c, fmt.Sprintf("pod %s %s", name, what), func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		o.FieldSelector = "metadata.name=" + name
		return c.api.CoreV1().Pods(namespace).Watch(ctx, o)
	}, func(ps []*corev1.Pod) bool {
		if len(ps) == 1 && ok(ps[0]) {
			found = ps[0]
		}
		return found != nil
	})
	return found
}

// gone waits until no object is left that the watch finds.
func gone[T object](c *cluster, what string, open func(context.Context, metav1.ListOptions) (watch.Interface, error)) {
	c.t.Helper()
	await(c, what+" to be gone", open, func(all []T) bool { return len(all) == 0 })
}

// ready tells whether a pod is.
func ready(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// allReady tells whether there are n pods, all ready.
func allReady(n int) func([]*corev1.Pod) bool {
	return func(ps []*corev1.Pod) bool {
		return len(ps) == n && !slices.ContainsFunc(ps, func(p *corev1.Pod) bool { return !ready(p) })
	}
}
