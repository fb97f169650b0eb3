package kinds_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// TestServiceNotSupported refuses each field that is valid and that nothing
// acts on, names it, and lets through what is acted on.
func TestServiceNotSupported(t *testing.T) {
	for _, c := range []struct{ spec, refused string }{
		{"{ports: [{port: 80}]}", ""},
		{"{clusterIP: None, publishNotReadyAddresses: true}", ""},
		{"{type: ExternalName, externalName: a.example.com}", ""},
		{"{ports: [{port: 53, protocol: UDP}], ipFamilyPolicy: PreferDualStack, internalTrafficPolicy: Cluster}", ""},
		{"{type: NodePort, ports: [{port: 80}]}", "spec.type"},
		{"{type: LoadBalancer, ports: [{port: 80}]}", "spec.type"},
		{"{externalIPs: [192.0.2.1], ports: [{port: 80}]}", "spec.externalIPs"},
		{"{sessionAffinity: ClientIP, ports: [{port: 80}]}", "spec.sessionAffinity"},
		{"{ipFamilies: [IPv6], ports: [{port: 80}]}", "spec.ipFamilies"},
		{"{ipFamilyPolicy: RequireDualStack, ports: [{port: 80}]}", "spec.ipFamilyPolicy"},
		{"{internalTrafficPolicy: Local, ports: [{port: 80}]}", "spec.internalTrafficPolicy"},
		{"{trafficDistribution: PreferClose, ports: [{port: 80}]}", "spec.trafficDistribution"},
		{"{ports: [{port: 80, protocol: SCTP}]}", "spec.ports[0].protocol"},
	} {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
		if err := yaml.Unmarshal([]byte(c.spec), &s.Spec); err != nil {
			t.Fatal(err)
		}
		kinds.Services.Default(s)
		var got []string
		for _, e := range kinds.Services.Admit(kernel.NewView(kinds.Schema{}), kernel.Write{}, s, nil) {
			got = append(got, e.Field)
			if !strings.Contains(e.Detail, "not supported yet") {
				t.Errorf("%s is refused with %q", c.spec, e.Detail)
			}
		}
		if refused := strings.Join(got, " "); refused != c.refused {
			t.Errorf("%s is refused for %q, want %q", c.spec, refused, c.refused)
		}
		kinds.Services.Prepare(s, nil)
		if errs := kinds.Services.Validate(s, nil); len(errs) > 0 && c.refused != "spec.type" {
			t.Errorf("%s is not even valid: %v", c.spec, errs)
		}
	}
}

// TestIngressDefaultClass gives an Ingress without a class the newest of those
// that are marked as default.
func TestIngressDefaultClass(t *testing.T) {
	class := func(name string, born time.Time, isDefault string) *networkingv1.IngressClass {
		return &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{
			Name: name, CreationTimestamp: metav1.NewTime(born),
			Annotations: map[string]string{networkingv1.AnnotationIsDefaultIngressClass: isDefault},
		}}
	}
	v := kernel.NewView(kinds.Schema{}).With(
		class("a-old", now.Add(-time.Hour), "true"), class("b-new", now, "true"), class("c-new", now, "true"), class("d-newest", now.Add(1), "false"))
	i := &networkingv1.Ingress{}
	if errs := kinds.Ingresses.Admit(v, kernel.Write{}, i, nil); len(errs) > 0 {
		t.Fatal(errs)
	}
	if i.Spec.IngressClassName == nil || *i.Spec.IngressClassName != "b-new" {
		t.Errorf("the class is %v, want b-new", i.Spec.IngressClassName)
	}
	own := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"kubernetes.io/ingress.class": "other"}}}
	if kinds.Ingresses.Admit(v, kernel.Write{}, own, nil); own.Spec.IngressClassName != nil {
		t.Errorf("an Ingress that names its class in the annotation got %s", *own.Spec.IngressClassName)
	}
}

// TestOneDefaultPriority lets only one PriorityClass be the default.
func TestOneDefaultPriority(t *testing.T) {
	class := func(name string) *schedulingv1.PriorityClass {
		return &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, GlobalDefault: true}
	}
	v := kernel.NewView(kinds.Schema{}).With(class("first"))
	if errs := kinds.PriorityClasses.Admit(v, kernel.Write{}, class("second"), nil); len(errs) != 1 || errs[0].Field != "globalDefault" {
		t.Errorf("a second default is refused with %v", errs)
	}
	if errs := kinds.PriorityClasses.Admit(v, kernel.Write{}, class("first"), class("first")); len(errs) > 0 {
		t.Errorf("the default itself cannot be written: %v", errs)
	}
}

// TestTemplateNotSupported refuses a Deployment whose pods would be refused,
// and lets one that is stored be scaled.
func TestTemplateNotSupported(t *testing.T) {
	d := samples(t, kinds.Deployments)[0].(*appsv1.Deployment)
	kinds.Deployments.Default(d)
	d.Spec.Template.Spec.Volumes = append(d.Spec.Template.Spec.Volumes, corev1.Volume{
		Name: "shared", VolumeSource: corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{Server: "nas", Path: "/"}},
	})
	v := kernel.NewView(kinds.Schema{})
	errs := kinds.Deployments.Admit(v, kernel.Write{}, d, nil)
	if len(errs) != 1 || errs[0].Field != "spec.template.spec.volumes[1].nfs" {
		t.Errorf("an nfs volume is refused with %v", errs)
	}
	scaled := d.DeepCopy()
	kinds.Deployments.Scale.Set(scaled, 0)
	if errs := kinds.Deployments.Admit(v, kernel.Write{}, scaled, d); len(errs) > 0 {
		t.Errorf("a stored Deployment cannot be scaled: %v", errs)
	}
}

// TestTypes names what happened to objects of the kinds that say more than
// created, updated and deleted.
func TestTypes(t *testing.T) {
	row := func(r kinds.Row, change func(o kernel.Object)) string {
		old := samples(t, r)[0]
		r.DefaultObject(old)
		o := old.DeepCopyObject().(kernel.Object)
		change(o)
		return r.TypeOfChange(o, old)
	}
	deployment := func(change func(d *appsv1.Deployment)) string {
		return row(kinds.Deployments, func(o kernel.Object) { change(o.(*appsv1.Deployment)) })
	}
	node := func(change func(n *corev1.Node)) string {
		return row(kinds.Nodes, func(o kernel.Object) { change(o.(*corev1.Node)) })
	}
	got := []string{
		deployment(func(d *appsv1.Deployment) { d.Labels["a"] = "b" }),
		deployment(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "shop/web:v2" }),
		deployment(func(d *appsv1.Deployment) { d.Spec.Template.Labels["a"] = "b" }),
		deployment(func(d *appsv1.Deployment) { d.Spec.Paused = true }),
		deployment(func(d *appsv1.Deployment) { d.Status.ReadyReplicas++ }),
		deployment(func(d *appsv1.Deployment) { d.DeletionTimestamp = &born; d.Finalizers = []string{"foregroundDeletion"} }),
		deployment(func(d *appsv1.Deployment) { d.DeletionTimestamp = &born }),
		node(func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown }),
		node(func(n *corev1.Node) { n.Spec.Unschedulable = true }),
		node(func(n *corev1.Node) { n.Spec.Taints = nil }),
		node(func(n *corev1.Node) { n.Status.Addresses = nil }),
		kinds.EndpointSlices.TypeOfChange(samples(t, kinds.EndpointSlices)[0], samples(t, kinds.EndpointSlices)[0]),
		kinds.Services.TypeOfChange(samples(t, kinds.Services)[0], nil),
		kinds.IPAddresses.TypeOfChange(samples(t, kinds.IPAddresses)[0], nil),
	}
	want := []string{
		"deployment.updated", "deployment.imagechanged", "deployment.templatechanged", "deployment.paused", "deployment.progressed",
		"deployment.deleting", "deployment.deleted", "node.unready", "node.cordoned", "node.tainted", "node.reported",
		"endpointslice.updated", "service.created", "ipaddress.claimed",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("types of changes (-want +got):\n%s", d)
	}
}
