package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"

	"golang.org/x/sync/errgroup"

	"github.com/rutterhq/rutter/test/load"
	"github.com/rutterhq/rutter/test/tools"
)

const (
	services = "/api/v1/namespaces/default/services"

	// shortPort is where test/loadgen says one line, controlPort where it is told
	// what to do.
	shortPort, controlPort = 8, 9000
)

// serviceCounts are how many Services there are when connections are compared.
var serviceCounts = []int{1, 1000}

// measureServices has a container of one pod connect to another pod, and to
// Services of that pod, in turns.
func measureServices(ctx context.Context, c *cluster, all *results) error {
	image, err := tools.Archive(c.dir)
	if err != nil {
		return fmt.Errorf("make the pods' image: %w", err)
	}
	if out, err := exec.CommandContext(ctx, c.rutter, append([]string{"image", "import", image}, c.folders()...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("import the image: %w: %s", err, out)
	}
	client, err := c.runTools(ctx, "client")
	if err != nil {
		return err
	}
	server, err := c.runTools(ctx, "server")
	if err != nil {
		return err
	}
	made := 0
	for _, n := range serviceCounts {
		var address string
		if address, err = c.addServices(ctx, made, n); err != nil {
			return err
		}
		made = n
		if _, err := c.settledCPU(ctx); err != nil { // their endpoints are told to the node by then
			return err
		}
		q := url.Values{"direct": {fmt.Sprintf("%s:%d", server, shortPort)}, "service": {address + ":80"}}
		at := &cluster{url: fmt.Sprintf("http://%s:%d", client, controlPort)}
		body, err := at.call(ctx, http.DefaultClient, http.MethodPost, "/compare?"+q.Encode(), "", "")
		if err != nil {
			return err
		}
		var r load.Comparison
		if err := json.Unmarshal(body, &r); err != nil {
			return fmt.Errorf("%s: %w", body, err)
		}
		all.service(n, r)
	}
	return nil
}

// runTools runs a pod of the tools' image and gives its address.
func (c *cluster) runTools(ctx context.Context, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, podTimeout)
	defer cancel()
	client := c.client()
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+pods+"?watch=true&fieldSelector=metadata.name%3D"+name, nil)
	if err != nil {
		return "", err
	}
	watch, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer watch.Body.Close()
	body := fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q,"labels":{"app":%q}},"spec":{"terminationGracePeriodSeconds":0,`+
		`"containers":[{"name":"loadgen","image":%q,"imagePullPolicy":"Never","readinessProbe":{"httpGet":{"path":"/healthz","port":%d},"periodSeconds":1}}]}}`,
		name, name, tools.Image, controlPort)
	if _, err := c.call(ctx, client, http.MethodPost, pods, typeJSON, body); err != nil {
		return "", err
	}
	events := json.NewDecoder(watch.Body)
	for {
		var e struct {
			Object struct {
				Status struct {
					PodIP             string
					ContainerStatuses []struct{ Ready bool }
				}
			}
		}
		if err := events.Decode(&e); err != nil {
			return "", fmt.Errorf("await pod %s: %w", name, err)
		}
		if s := e.Object.Status; s.PodIP != "" && len(s.ContainerStatuses) == 1 && s.ContainerStatuses[0].Ready {
			return s.PodIP, nil
		}
	}
}

// addServices creates Services of the server, those from one number up to
// another, and gives the address of the last.
func (c *cluster) addServices(ctx context.Context, from, to int) (string, error) {
	const clients = 8 // at once
	client := c.client()
	defer client.CloseIdleConnections()
	g, group := errgroup.WithContext(ctx)
	g.SetLimit(clients)
	for i := from; i < to; i++ {
		g.Go(func() error {
			_, err := c.call(group, client, http.MethodPost, services, typeJSON, fmt.Sprintf(`{"apiVersion":"v1","kind":"Service","metadata":{"name":%q},`+
				`"spec":{"selector":{"app":"server"},"ports":[{"port":80,"targetPort":%d}]}}`, serviceName(i), shortPort))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return "", err
	}
	body, err := c.call(ctx, client, http.MethodGet, services+"/"+serviceName(to-1), "", "")
	if err != nil {
		return "", err
	}
	var last struct{ Spec struct{ ClusterIP string } }
	if err := json.Unmarshal(body, &last); err != nil {
		return "", fmt.Errorf("service %s: %w", serviceName(to-1), err)
	}
	return last.Spec.ClusterIP, nil
}

func serviceName(i int) string { return fmt.Sprintf("s%05d", i) }
