// Command web is the shop's front: a page for people, and the other services'
// paths under /api.
package main

import (
	"html/template"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"

	"github.com/rutterhq/rutter/deploy/examples/shop/internal/serve"
)

var page = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{.Title}}</title>
<style>body{font:16px system-ui;max-width:40em;margin:3em auto}td{padding:.3em 1em .3em 0}footer{color:#777;margin-top:2em}</style></head>
<body><h1>{{.Title}}</h1><table>{{range .Products}}<tr><td>{{.Name}}</td><td>{{.Price}} €</td></tr>{{end}}</table>
<footer>version {{.Version}}, served by {{.Pod}}</footer></body></html>
`))

type product struct {
	Name  string
	Cents int
}

// Price is for people.
func (p product) Price() string {
	return string(append(appendInt(nil, p.Cents/100), '.', byte('0'+p.Cents/10%10), byte('0'+p.Cents%10)))
}

func appendInt(b []byte, n int) []byte {
	if n >= 10 {
		b = appendInt(b, n/10)
	}
	return append(b, byte('0'+n%10))
}

func main() {
	catalog := serve.Env("CATALOG", "http://catalog")
	mux := http.NewServeMux()
	for path, to := range map[string]string{"/api/products": catalog, "/api/carts/": serve.Env("CART", "http://cart"), "/api/orders/": serve.Env("ORDERS", "http://orders")} {
		target, err := url.Parse(to)
		if err != nil {
			log.Fatalf("address of %s: %v", path, err)
		}
		mux.Handle(path, http.StripPrefix("/api", httputil.NewSingleHostReverseProxy(target)))
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		var products []product
		if err := serve.Get(r.Context(), catalog+"/products", &products); err != nil {
			serve.Fail(w, err)
			return
		}
		host, _ := os.Hostname() // "" is as good an answer as any
		if err := page.Execute(w, map[string]any{"Title": serve.Env("TITLE", "The shop"), "Products": products, "Version": serve.Version, "Pod": host}); err != nil {
			log.Print(err)
		}
	})
	if err := serve.Run(":8080", mux); err != nil {
		log.Fatal(err)
	}
}
