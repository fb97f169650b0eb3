package controllers

import "github.com/rutterhq/rutter/kernel"

// Config is what the deciders must know that is not in the log. It has to be
// the same whenever a recorded decision is made again.
type Config struct {
	// PodPrefix is the first two numbers of the addresses of pods: every node
	// gets a /24 of this /16.
	PodPrefix string
}

// Default is the Config of a cluster that says nothing else.
func Default() Config { return Config{PodPrefix: "10.42"} }

// Deciders are all deciders of the service.
func Deciders(cfg Config) []kernel.Decider {
	return []kernel.Decider{ //     reads                                  writes
		deployment,      //         deployments, replicasets               deployments, replicasets
		replicaSet,      //         replicasets, pods                      replicasets (status), pods
		endpointSlice,   //         services, pods, nodes, endpointslices  endpointslices
		endpoints,       //         services, pods, endpoints              endpoints
		namespace,       //         namespaces and all that is in them     the same
		garbage,         //         everything                             everything
		serviceAccount,  //         namespaces, serviceaccounts, configmaps  serviceaccounts, configmaps
		nodeLifecycle,   //         nodes, pods                            nodes (taints), pods (ready, delete)
		nodeRanges(cfg), //         nodes, ipaddresses                     ipaddresses, nodes (podCIDR)
		ipClaims,        //         ipaddresses, services                  ipaddresses
		podGC,           //         pods, nodes                            pods
		eventsExpire,    //         events                                 events
	}
}
