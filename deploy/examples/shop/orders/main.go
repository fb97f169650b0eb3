// Command orders turns a cart into an order: it asks cart and catalog, and
// keeps the order in Redis.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"strings"

	"github.com/rutterhq/rutter/deploy/examples/shop/internal/redis"
	"github.com/rutterhq/rutter/deploy/examples/shop/internal/serve"
)

type order struct {
	ID    int64          `json:"id"`
	Items map[string]int `json:"items"`
	Cents int            `json:"cents"`
}

func main() {
	db := redis.Client{Addr: serve.Env("REDIS", "redis:6379"), Password: serve.Env("REDIS_PASSWORD", "")}
	cart, catalog := serve.Env("CART", "http://cart"), serve.Env("CATALOG", "http://catalog")
	mux := http.NewServeMux()
	mux.HandleFunc("POST /orders/{customer}", func(w http.ResponseWriter, r *http.Request) {
		customer := r.PathValue("customer")
		o := order{Items: map[string]int{}}
		if err := serve.Get(r.Context(), cart+"/carts/"+customer, &o.Items); err != nil {
			serve.Fail(w, err)
			return
		}
		var products []struct {
			ID    string
			Cents int
		}
		if err := serve.Get(r.Context(), catalog+"/products", &products); err != nil {
			serve.Fail(w, err)
			return
		}
		for _, p := range products {
			o.Cents += p.Cents * o.Items[p.ID]
		}
		id, err := db.Do("INCR", "orders")
		if err != nil {
			serve.Fail(w, err)
			return
		}
		o.ID, _ = id.(int64)
		b, err := json.Marshal(o)
		if err == nil {
			_, err = db.Do("RPUSH", "orders:"+customer, string(b))
		}
		if err != nil {
			serve.Fail(w, err)
			return
		}
		serve.JSON(w, o)
	})
	mux.HandleFunc("GET /orders/{customer}", func(w http.ResponseWriter, r *http.Request) {
		answer, err := db.Do("LRANGE", "orders:"+r.PathValue("customer"), "0", "-1")
		if err != nil {
			serve.Fail(w, err)
			return
		}
		var all []string
		list, _ := answer.([]any) // nil if there is none
		for _, o := range list {
			all = append(all, fmt.Sprint(o))
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, "[%s]\n", strings.Join(all, ","))
	})
	if err := serve.Run(":8080", mux); err != nil {
		log.Fatal(err)
	}
}
