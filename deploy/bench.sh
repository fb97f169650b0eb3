#!/usr/bin/env bash
# Measures Rutter and prints what it found, beside what kube-apiserver and etcd
# need. Nothing is asserted: figures depend on what else the machine does, so the
# load average is printed with them. docs/bench.md has a run and how to read it.
#
#   ROUNDS=3   clusters that are measured through their API; medians are shown
#   ONLY=      log, core, api, services or aged; empty: all but the last
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "make bench needs root: it runs containers, networks and BPF" >&2; exit 1; }
deploy/tools.sh
step() { printf '\n\033[1m▸ %s\033[0m (load average %s)\n' "$1" "$(cut -d' ' -f1-3 /proc/loadavg)"; }
wanted() { [ -z "${ONLY:-}" ] || [ "$ONLY" = "$1" ]; }
# The lines of go test -bench that hold figures, and what failed.
gobench() { go test -run '^$' -count=1 "$@" 2>&1 | grep -Ev '^(goos|goarch|cpu|PASS|ok )'; }

printf '%s, %s CPUs, Linux %s, %s\n' "$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)" "$(nproc)" "$(uname -r)" "$(go version | cut -d' ' -f3)"

if wanted log; then
  step "log: durable append (commits grouped) by 1, 16 and 64 writers, goal: 10,000 / 19,000 per s with 16 / 64; JetStream's own publish (sync always), both on three servers, and majority reads"
  gobench -bench 'Append|Publish|LastThree|Wake' -benchtime 3000x ./events/jetstream
  gobench -bench 'ServerLost|LeaderLost' -benchtime 6x ./events/jetstream
  gobench -bench Replay ./events/jetstream
  step "an object, and a watch's start, at a random position of the past"
  gobench -bench Past -benchtime 40x ./cmd/rutter
fi

if wanted core; then
  step "fold (goal: 100,000 events/s) and decide"
  gobench -bench Fold ./kernel
  gobench -bench . ./services/scheduler
  gobench -bench . ./services/controllers
  gobench -bench . ./kinds
fi

# The measured cluster, in a network namespace of its own: that keeps it apart from a cluster of this machine.
cluster() {
  go build -o bin/bench ./test/bench
  unshare --net sh -c 'ip link set lo up && exec bin/bench "$@"' bench -rounds "${ROUNDS:-3}" "$@"
}

if wanted api; then
  step "API through TLS, and pod start against ctr run -d"
  [ -f bin/images/catalog-v1.tar ] || go run ./deploy/examples/shop/images -o bin/images
  cluster
fi

if wanted services; then
  step "services: new connections from a container, to a pod and to its ClusterIP, in turns (goal: ratio 0.95 or more)"
  cluster -only services
  step "services: the same without a cluster, time per connection (1.00: the same)"
  gobench -tags e2e -bench ServiceFromPod -benchtime 1x -count "${ROUNDS:-3}" ./services/nodeagent/network
  step "services: connect() alone, and loading the datapath (goal: 10,000 services in 0.5 s; one change in 1 ms)"
  gobench -tags e2e -bench 'Connect|Set' ./bpf
  step "attaching a pod to the network"
  gobench -tags e2e -bench Attach ./services/nodeagent/network
fi

if [ "${ONLY:-}" = aged ]; then
  step "age: 1 M events of 100,000 objects: updates of random old objects, and starts (goal: 3 s after an orderly end, 15 s after a kill)"
  go build -o bin/aged ./test/bench/aged
  aged() { unshare --net sh -c 'ip link set lo up && exec bin/aged "$@"' aged "$@"; }
  aged
  for events in 700000 7000000; do
    step "age: updates of random old objects, and starts, behind $events events (1.5 KB each)"
    aged -boots 1 -events "$events"
  done
  for events in 700000 1000000 7000000; do
    step "age: three servers, made of one that has $events events"
    aged -three -boots 1 -events "$events"
  done
fi
