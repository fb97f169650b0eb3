// Command cart keeps what each customer is about to buy, in Redis.
package main

import (
	"log"
	"net/http"
	"strconv"

	"github.com/rutterhq/rutter/deploy/examples/shop/internal/redis"
	"github.com/rutterhq/rutter/deploy/examples/shop/internal/serve"
)

func main() {
	db := redis.Client{Addr: serve.Env("REDIS", "redis:6379"), Password: serve.Env("REDIS_PASSWORD", "")}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /carts/{customer}/{product}", func(w http.ResponseWriter, r *http.Request) {
		n, err := db.Do("HINCRBY", "cart:"+r.PathValue("customer"), r.PathValue("product"), "1")
		if err != nil {
			serve.Fail(w, err)
			return
		}
		serve.JSON(w, map[string]any{"count": n})
	})
	mux.HandleFunc("GET /carts/{customer}", func(w http.ResponseWriter, r *http.Request) {
		answer, err := db.Do("HGETALL", "cart:"+r.PathValue("customer"))
		if err != nil {
			serve.Fail(w, err)
			return
		}
		cart := map[string]int{}
		pairs, _ := answer.([]any) // nil for an empty cart
		for i := 0; i+1 < len(pairs); i += 2 {
			product, _ := pairs[i].(string)
			count, _ := pairs[i+1].(string)
			if cart[product], err = strconv.Atoi(count); err != nil {
				serve.Fail(w, err)
				return
			}
		}
		serve.JSON(w, cart)
	})
	mux.HandleFunc("DELETE /carts/{customer}", func(w http.ResponseWriter, r *http.Request) {
		if _, err := db.Do("DEL", "cart:"+r.PathValue("customer")); err != nil {
			serve.Fail(w, err)
		}
	})
	if err := serve.Run(":8080", mux); err != nil {
		log.Fatal(err)
	}
}
