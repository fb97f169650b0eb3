package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/services/apiserver"
)

const (
	// maxReplicas, with the surge, times all Deployments fits the machines.
	maxReplicas = 5
	// userRetry is how long users wait before they try again.
	userRetry = 2 * time.Second
)

var (
	errGoing   = errors.New("it is still going")
	errChanged = errors.New("the wish changed meanwhile")
)

// wish is what the users want of one object.
type wish struct {
	key      kernel.Key
	inside   *wish // the namespace that it needs; nil: one that is always there
	wanted   bool
	replicas int32
	image    string
	before   string // the image of before: what a rollback goes to
	version  int    // rises with every change of mind
	met      int    // the version that was acknowledged
	asking   int    // requests in flight
	retry    time.Time
}

// users want things, and ask for each until they were told that it is so.
type users struct {
	w      *World
	wishes []*wish
	own    int // so many of the wishes they change their mind about
	asked  int
	notes  int // Event objects
}

func newUsers(w *World) *users {
	u := &users{w: w}
	add := func(k kernel.Key, inside *wish) *wish {
		one := &wish{key: k, inside: inside}
		u.wishes = append(u.wishes, one)
		return one
	}
	team := add(kinds.Namespaces.Key("", "team"), nil)
	for i, ns := range []*wish{nil, nil, team, team} {
		name, space := fmt.Sprintf("web-%d", i), metav1.NamespaceDefault
		if ns != nil {
			space = ns.key.Name
		}
		add(kinds.Deployments.Key(space, name), ns)
		add(kinds.Services.Key(space, name), ns)
	}
	add(kinds.Ingresses.Key(metav1.NamespaceDefault, "web"), nil)
	add(kinds.ConfigMaps.Key(metav1.NamespaceDefault, quotaName), nil)
	for i := range 6 { // enough for the small range of addresses to be fought for
		add(kinds.Services.Key(metav1.NamespaceDefault, fmt.Sprintf("more-%d", i)), nil)
	}
	u.own = len(u.wishes)
	return u
}

// act has the users change their mind about something.
func (u *users) act(d *dice) {
	one := u.wishes[d.below(u.own)]
	if one.key.Resource != kinds.Deployments.Resource && d.once(3) {
		one = u.wishes[1+2*d.below(4)] // Deployments are what is most to be seen of
	}
	switch {
	case d.once(6):
		u.deletePod(d)
		return
	case d.once(12):
		u.note(d)
		return
	case one.inside != nil && !one.inside.wanted:
		one = one.inside
		fallthrough
	case !one.wanted:
		one.wanted, one.replicas, one.image = true, int32(d.below(maxReplicas+1)), u.image(d)
		u.w.count("user: wants " + one.key.Plural)
	case one.key.Resource == kinds.Deployments.Resource && !d.once(8):
		u.change(one, d)
	default:
		one.wanted = false
		u.w.count("user: wants no " + one.key.Plural)
		for _, o := range u.wishes {
			if o.inside == one {
				o.wanted = false
				o.version++
			}
		}
	}
	one.version++
}

// change is another replicas or image of a Deployment.
func (u *users) change(one *wish, d *dice) {
	switch n := d.below(10); {
	case n < 4:
		one.replicas = int32(d.below(maxReplicas + 1))
		u.w.count("user: scales")
	case n < 8:
		one.before, one.image = one.image, u.image(d)
		u.w.count("user: sets an image")
	default:
		if one.before != "" {
			one.before, one.image = one.image, one.before
			u.w.count("user: rolls back")
		}
	}
}

func (u *users) image(d *dice) string {
	if d.once(8) {
		return missingImage + ":v1"
	}
	return fmt.Sprintf("shop:v%d", d.below(3))
}

// sober has the users want nothing that cannot be, and ask for all again.
func (u *users) sober() {
	for _, one := range u.wishes {
		if one.key.Name == quotaName {
			one.wanted = false
		}
		if one.image == missingImage+":v1" {
			one.image = "shop:v9"
		}
		one.version++
	}
}

// reopen has the users look again at what changed behind their back.
func (u *users) reopen(k kernel.Key) {
	for _, one := range u.wishes {
		if one.key == k {
			one.met = -1
		}
	}
}

// ask sends a request for something that is not yet so.
func (u *users) ask(d *dice) {
	at := d.below(len(u.wishes))
	for i := range u.wishes {
		one := u.wishes[(at+i)%len(u.wishes)]
		if one.met != one.version && one.asking < 2 && !one.retry.After(u.w.now) {
			u.send(one)
			return
		}
	}
}

// round asks for all that is not yet so.
func (u *users) round() bool {
	busy := false
	for _, one := range u.wishes {
		if one.met != one.version && one.asking == 0 && !one.retry.After(u.w.now) {
			u.send(one)
			busy = true
		}
	}
	return busy
}

func (u *users) next() time.Time {
	var next time.Time
	for _, one := range u.wishes {
		if one.met != one.version && one.asking == 0 && (next.IsZero() || one.retry.Before(next)) {
			next = one.retry
		}
	}
	return next
}

// send asks one apiserver.
func (u *users) send(one *wish) {
	u.asked++
	s := u.w.servers[u.w.hash("user", u.asked)%uint64(len(u.w.servers))]
	version := one.version
	one.asking++
	s.call(func(ctx context.Context) error { return u.make(ctx, s.writer, one) }, func(err error) {
		one.asking--
		one.retry = u.w.now.Add(userRetry)
		switch {
		case err == nil && one.version == version:
			one.met = version
			for _, o := range u.wishes {
				if o.inside == one {
					o.met = -1 // what was there may have gone with a namespace of that name
				}
			}
		case apierrors.IsConflict(err):
			u.w.count("user: told of a conflict")
		case apierrors.IsForbidden(err), apierrors.IsInvalid(err):
			u.w.count("user: refused")
		}
	})
}

// make makes one object what the users want it to be, or finds that it is.
func (u *users) make(ctx context.Context, api *apiserver.Writer, one *wish) error {
	live, err := api.Get(ctx, one.key)
	exists := err == nil
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	var told apiserver.Written
	switch {
	case !one.wanted && !exists:
		return nil
	case exists && live.GetDeletionTimestamp() != nil:
		return errGoing
	case !one.wanted:
		if told, err = api.Delete(ctx, admin, one.key, &metav1.DeleteOptions{}); err == nil && !told.Deleted {
			u.w.told.acks.toldUser(one.key, told)
			return errGoing
		}
	case !exists && u.w.hash("how", one.key, u.asked)%3 == 0:
		told, err = api.Apply(ctx, admin, one.key, "maker", true, u.manifest(one))
		u.w.count("user: applies what is not there")
	case !exists:
		told, err = api.Create(ctx, admin, u.object(one))
	case u.same(one, live):
		return nil
	case u.w.hash("how", one.key, u.asked)%3 == 0:
		// Whoever else wanted something of these fields has to yield, at the second try.
		told, err = api.Apply(ctx, admin, one.key, "scaler", u.w.hash("force", u.asked)%2 == 0, fmt.Appendf(nil,
			`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":%q},`+wishSpec, one.key.Name, one.replicas, one.image))
		u.w.count("user: applies")
	case u.w.hash("how", one.key, u.asked)%3 == 1:
		told, err = api.Patch(ctx, admin, one.key, "application/strategic-merge-patch+json", fmt.Appendf(nil, "{"+wishSpec, one.replicas, one.image))
		u.w.count("user: patches")
	default:
		// Some insist on the version that they have seen.
		insist := u.w.hash("insist", live.GetResourceVersion())%3 == 0
		told, err = api.Update(ctx, admin, one.key, "", func(now kernel.Object) (kernel.Object, error) {
			if !one.wanted {
				return nil, errChanged
			}
			o := now.DeepCopyObject().(kernel.Object)
			o.SetResourceVersion("")
			if insist {
				o.SetResourceVersion(live.GetResourceVersion())
			}
			u.adapt(one, o)
			return o, nil
		})
	}
	if err == nil {
		u.w.told.acks.toldUser(one.key, told)
	}
	return err
}

// wishSpec is the part of a Deployment that changes.
const wishSpec = `"spec":{"replicas":%d,"template":{"spec":{"containers":[{"name":"web","image":%q}]}}}}`

// manifest is what is to be created, as a file.
func (u *users) manifest(one *wish) []byte {
	o := u.object(one)
	row, _ := kinds.RowFor(one.key.Resource)
	o.GetObjectKind().SetGroupVersionKind(row.Describe().GVK())
	text, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	return text
}

// same tells whether an object is as it is wanted.
func (u *users) same(one *wish, o kernel.Object) bool {
	d, ok := o.(*appsv1.Deployment)
	return !ok || *d.Spec.Replicas == one.replicas && d.Spec.Template.Spec.Containers[0].Image == one.image
}

// adapt makes an object as it is wanted.
func (u *users) adapt(one *wish, o kernel.Object) {
	if d, ok := o.(*appsv1.Deployment); ok {
		d.Spec.Replicas = &[]int32{one.replicas}[0]
		d.Spec.Template.Spec.Containers[0].Image = one.image
	}
}

// object is what is to be created.
func (u *users) object(one *wish) kernel.Object {
	meta := metav1.ObjectMeta{Namespace: one.key.Namespace, Name: one.key.Name}
	switch one.key.Resource {
	case kinds.Namespaces.Resource:
		return &corev1.Namespace{ObjectMeta: meta}
	case kinds.Deployments.Resource:
		d := u.deployment(one, meta)
		u.adapt(one, d)
		return d
	case kinds.Services.Resource:
		s := &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": meta.Name}, Ports: []corev1.ServicePort{{Port: 80}}}}
		if u.w.hash("static", meta.Name, u.asked)%3 == 0 {
			s.Spec.ClusterIP = fmt.Sprintf("10.43.0.%d", 11+u.w.hash("address", meta.Name, u.asked)%6)
		}
		return s
	case kinds.ConfigMaps.Resource:
		return &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"pods": fmt.Sprint(u.w.hash("quota", one.version) % 6)}}
	case kinds.Ingresses.Resource:
		path := networkingv1.PathTypePrefix
		return &networkingv1.Ingress{ObjectMeta: meta, Spec: networkingv1.IngressSpec{Rules: []networkingv1.IngressRule{{
			IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{
				Path: "/", PathType: &path, Backend: networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{
					Name: "web-0", Port: networkingv1.ServiceBackendPort{Number: 80}}}}}}}}}}}
	}
	panic("nobody wants " + one.key.String())
}

func (u *users) deployment(one *wish, meta metav1.ObjectMeta) *appsv1.Deployment {
	labels := map[string]string{"app": meta.Name}
	c := corev1.Container{Name: "web", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}}}
	draw := &dice{u.w.hash("strategy", meta.Name, one.version)}
	if !draw.once(3) {
		c.ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(80)}}}
	}
	grace := int64(draw.below(20))
	d := &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec: corev1.PodSpec{Containers: []corev1.Container{c}, TerminationGracePeriodSeconds: &grace}},
		Strategy: appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType},
	}}
	if !draw.once(4) {
		surge, missing := intstr.FromInt32(int32(draw.below(3))), intstr.FromInt32(int32(draw.below(2)))
		if surge.IntVal == 0 {
			missing = intstr.FromInt32(1)
		}
		if draw.once(3) {
			surge, missing = intstr.FromString(fmt.Sprintf("%d%%", 10*draw.below(5))), intstr.FromString("10%")
		}
		d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType,
			RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &missing}}
	}
	return d
}

// discard has the users want that something is gone that others made.
func (u *users) discard(k kernel.Key) {
	u.wishes = append(u.wishes, &wish{key: k, version: 1})
}

// note writes an Event object about a pod, as controllers of users do.
func (u *users) note(d *dice) {
	pods := kinds.Pods.List(u.w.view(), "")
	if len(pods) == 0 {
		return
	}
	p := pods[d.below(len(pods))]
	u.notes++
	u.w.count("user: notes an Event")
	o := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: fmt.Sprint("note-", u.notes)}, Reason: "Noted", Type: corev1.EventTypeNormal,
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID}}
	s := u.w.servers[d.below(len(u.w.servers))]
	s.call(func(ctx context.Context) error {
		told, err := s.writer.Create(ctx, admin, o)
		if err == nil {
			u.w.told.acks.toldUser(kinds.Events.Key(o.Namespace, o.Name), told)
		}
		return err
	}, func(error) {})
}

// deletePod deletes a pod, now and then without grace.
func (u *users) deletePod(d *dice) {
	pods := kinds.Pods.List(u.w.view(), "")
	if len(pods) == 0 {
		return
	}
	p := pods[d.below(len(pods))]
	o := &metav1.DeleteOptions{}
	if d.once(3) {
		o.GracePeriodSeconds = new(int64)
	}
	u.w.count("user: deletes a pod")
	k := kinds.Pods.Key(p.Namespace, p.Name)
	s := u.w.servers[d.below(len(u.w.servers))]
	s.call(func(ctx context.Context) error {
		told, err := s.writer.Delete(ctx, admin, k, o)
		if err == nil {
			u.w.told.acks.toldUser(k, told)
		}
		return err
	}, func(error) {})
}
