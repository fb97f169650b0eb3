package controllers

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

const (
	// claimGrace is for how long a claim stays whose service is gone: it may be
	// made anew.
	claimGrace = time.Minute
	// claimAbandoned is for how long a claim stays whose service nobody has
	// written since: the apiserver claims an address first and writes the service
	// then, and how long a write can be on its way nobody knows. A day is more
	// than any clock is wrong.
	claimAbandoned = 24 * time.Hour
	// claimLook is how often it is looked meanwhile whether the service was.
	claimLook = 10 * time.Minute
)

// ipClaims gives back the addresses of services that are gone.
//
// A claim must not go while the write of its service is on its way, or somebody
// else claims the address and both have it. No clock tells that. But a service
// that was written after the claim does: a write that is still on its way was
// made before, expects an older event of the service, and is refused.
var ipClaims = kernel.Decider{
	Name:   "controllers/ipclaims",
	Reads:  []kernel.Resource{kinds.IPAddresses.Resource, kinds.Services.Resource},
	Writes: []kernel.Resource{kinds.IPAddresses.Resource},
	Wakes: func(_ *kernel.View, e kernel.Event) []kernel.Key {
		if e.Key.Resource == kinds.IPAddresses.Resource {
			return []kernel.Key{e.Key}
		}
		s, old, ok := kinds.Services.Of(e)
		if !ok || old == nil || s != nil && slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) {
			return nil
		}
		var keys []kernel.Key
		for _, ip := range old.Spec.ClusterIPs {
			if ip != "" && ip != corev1.ClusterIPNone {
				keys = append(keys, kinds.IPAddresses.Key("", ip))
			}
		}
		return keys
	},
	Decide: decideIPClaim,
}

func decideIPClaim(v *kernel.View, k kernel.Key, now time.Time) kernel.Decision {
	claim, ok := kinds.IPAddresses.Get(v, "", k.Name)
	if !ok || claim.DeletionTimestamp != nil || claim.Spec.ParentRef == nil {
		return kernel.Decision{}
	}
	parent := claim.Spec.ParentRef
	if parent.Group != "" || parent.Resource != kinds.Services.Resource.Plural {
		return kernel.Decision{} // somebody else's
	}
	own := v.Entry(k)
	until := own.Time.Add(claimAbandoned)
	again := now.Add(claimLook)
	if e := v.Entry(kinds.Services.Key(parent.Namespace, parent.Name)); e != nil {
		if !e.Delete && holds(e.Object().(*corev1.Service), claim) {
			return kernel.Decision{}
		}
		if e.Seq > own.Seq {
			until = e.Time.Add(claimGrace)
			again = until
		}
	}
	if until.After(now) {
		return kernel.Decision{Revisit: earlier(again, until)}
	}
	note := "service " + parent.Namespace + "/" + parent.Name + " does not have it"
	return kernel.Decision{Changes: []kernel.Change{kinds.IPAddresses.Remove(claim, "", note)}}
}

// holds tells whether the service has the claimed address.
func holds(s *corev1.Service, claim *networkingv1.IPAddress) bool {
	return s.Spec.ClusterIP == claim.Name || slices.Contains(s.Spec.ClusterIPs, claim.Name)
}
