# `make up` on a fresh Debian machine with Go starts a cluster and the example; `make test` runs all tests.
export GOFLAGS := -buildvcs=false -trimpath
export CGO_ENABLED := 0
BUILD := $(shell git describe --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.build=$(BUILD)
SEEDS ?= 200
.PHONY: build unit test race sim e2e soak bench generate images lint up down tools

build: ## bin/rutter and bin/kubectl
	go build -ldflags '$(LDFLAGS)' -o bin/rutter ./cmd/rutter
	cd cmd/kubectl && go build -ldflags '-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2' -o ../../bin/kubectl .
tools: ## what Debian has and this machine lacks
	deploy/tools.sh
unit: ## needs nothing but Go
	go test ./...
test: unit e2e
race:
	CGO_ENABLED=1 go test -race ./events/... ./kernel/... ./kinds/... ./internal/... ./services/...
sim: ## KEEP=/folder: where what failing seeds shrink to is written
	go test ./sim -run TestSeeds -count=1 -timeout 0 -seeds $(SEEDS) -keep "$(KEEP)" -v
e2e: tools build images ## real containers, networks and BPF: root only
	@test "$$(id -u)" = 0 || { echo "make test needs root: it runs containers, network namespaces and BPF"; exit 1; }
	go test -tags e2e -count=1 -p 1 -timeout 15m ./bpf/... ./services/nodeagent/... ./test/...
	overlay=$$(go run ./test/jumpingclock $(CURDIR)/bin/clock) && RUTTER_TEST_CLOCK=jumps go test -overlay "$$overlay" -vet=off -count=1 -timeout 10m ./test/faults # where the time of day jumps by hours
soak: build images ## hours, root only
	deploy/soak.sh
bench: build
	deploy/bench.sh
generate:
	go generate ./...
images: ## the example's images, as OCI archives in bin/images
	go run ./deploy/examples/shop/images -o bin/images
lint:
	@test -z "$$(gofmt -l . | tee /dev/stderr)"
	go vet ./... && go vet -tags e2e ./...
	go tool staticcheck -tags e2e ./...
up: tools build images
	deploy/up.sh
down:
	bin/rutter down
