#!/usr/bin/env bash
# usage: deploy/soak.sh   as root; hours. The long forms of what make test holds, one line each; figures in docs/reliability.md.
set -euxo pipefail
cd "$(dirname "$0")/.."
export CGO_ENABLED=0 GOFLAGS="-buildvcs=false -trimpath"
deploy/replay.sh 1000
go test -count=50 -timeout 2h ./events/memory ./events/jetstream -run 'TestLog/History'
go test -count=1 -timeout 2h -run ThePastOfALogOnDisk ./cmd/rutter -past 20000
go test -count=1 -timeout 60m ./events/jetstream -run 'TestPowerCut|TestKilled' -cuts 1000 -kills 200 -v
go test -count=1 -timeout 30m ./events/jetstream -run TestSlowDisk -slowseeds 10 -slowfirst 100 -slowmost 3s -slowstill 15s -v
go test -count=1 -timeout 4h -parallel 4 ./test/faults -seeds 500 -first 1000
clock=$(go run ./test/jumpingclock "$PWD/bin/clock")
go test -overlay "$clock" -vet=off -count=1 -timeout 2h -parallel 4 ./test/faults -seeds 100 -first 3000
go test -overlay "$clock" -vet=off -count=1 -timeout 30m ./events/jetstream -run 'TestLog$|TestHold|TestPurgeWaits|TestASilent|TestLostAnswers'
go test -count=1 -timeout 10m -tags e2e ./test/faults -run TestDiskFull
GOGC=400 go test -count=1 -timeout 24h -run TestSeeds ./sim -seeds 10000 -v
go test -count=1 -timeout 1h ./internal/history -run TestLongRecording -long 100000
go test -tags e2e -count=1 -timeout 3h ./test/r3 -hour 1h -v
go build -overlay "$clock" -o bin/rutter-jumping ./cmd/rutter
RUTTER_TEST_RUTTER=$PWD/bin/rutter-jumping go test -tags e2e -count=1 -timeout 30m ./test/r3 -run TestThreeServers -jumps -v
