// Command catalog knows what the shop sells: the products of a ConfigMap.
package main

import (
	"encoding/json"
	"log"
	"net/http"
	"os"

	"github.com/rutterhq/rutter/deploy/examples/shop/internal/serve"
)

type product struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Cents int    `json:"cents"`
}

func main() {
	file := serve.Env("PRODUCTS", "/etc/shop/products.json")
	products := func() (list []product, err error) {
		b, err := os.ReadFile(file) // each time: the ConfigMap may change
		if err == nil {
			err = json.Unmarshal(b, &list)
		}
		return list, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /products", func(w http.ResponseWriter, _ *http.Request) {
		list, err := products()
		if err != nil {
			serve.Fail(w, err)
			return
		}
		serve.JSON(w, list)
	})
	if err := serve.Run(":8080", mux); err != nil {
		log.Fatal(err)
	}
}
