#!/usr/bin/env bash
# usage: deploy/soak.sh [PART…]   as root; two to three hours. The long forms of what make test holds; figures in docs/reliability.md.
# Two parts at a time, the longest first: all of them, or those that are named. bin/soak/PART.log has what each of them printed;
# shown is a line for each as it ends, and the figures at its end. One that fails ends no other, but makes this fail.
set -euo pipefail
cd "$(dirname "$0")/.."
export CGO_ENABLED=0 GOFLAGS="-buildvcs=false -trimpath"
parts=(three seeds connections replay powercut faults three-jumping past jumping history slow full)

run() {
	case $1 in
	three) go test -tags e2e -count=1 -timeout 3h ./test/r3 -run TestThreeServers -hour 1h -v ;;
	seeds) GOGC=400 go test -count=1 -timeout 24h -run TestSeeds ./sim -seeds "${SEEDS:-10000}" -from "${FROM:-500000}" -keep "$PWD/bin/soak/seeds" -v ;;
	connections) GOGC=400 go test -count=1 -timeout 2h -run TestConnections ./sim -seeds 100 -from "${FROM:-500000}" -keep "$PWD/bin/soak/seeds" -v ;;
	powercut) go test -count=1 -timeout 60m ./events/jetstream -run 'TestPowerCut|TestKilled|TestWriterKilled' -cuts 1000 -kills 200 -v ;;
	faults) go test -count=1 -timeout 4h -parallel 4 ./test/faults -seeds 60 -first 1000 -v ;;
	past)
		go test -count=1 -timeout 2h -run ThePastOfALogOnDisk ./cmd/rutter -past 10000 -v &&
			go test -count=1 -timeout 1h ./internal/history -run TestLongRecording -long 100000 -v
		;;
	history) go test -count=5 -timeout 2h ./events/memory ./events/jetstream -run 'TestLog/History' ;;
	replay) deploy/replay.sh 1000 ;;
	jumping)
		RUTTER_TEST_CLOCK=jumps go test -overlay "$clock" -vet=off -count=1 -timeout 2h -parallel 4 ./test/faults -seeds 20 -first 3000 -v &&
			go test -overlay "$clock" -vet=off -count=1 -timeout 30m ./events/jetstream -run 'TestLog$|TestHold|TestPurgeWaits|TestASilent|TestLostAnswers'
		;;
	slow) go test -count=1 -timeout 30m ./events/jetstream -run TestSlowDisk -slowseeds 3 -slowfirst 100 -slowmost 3s -slowstill 15s -v ;;
	three-jumping)
		go build -overlay "$clock" -o bin/rutter-jumping ./cmd/rutter &&
			RUTTER_TEST_RUTTER=$PWD/bin/rutter-jumping go test -tags e2e -count=1 -timeout 30m ./test/r3 -run TestThreeServers -jumps -v
		;;
	full) go test -count=1 -timeout 10m -tags e2e ./test/faults -run TestDiskFull -v ;;
	*) echo "no such part: $1 (there are ${parts[*]})" && return 2 ;;
	esac
}

# figures are what the tests logged in the end; of a test with many seeds, sums.
figures() {
	grep -oE '[^ ].*(seeds:|cuts: | kills, |acknowledged, |was connected|equal in|decisions in|events are there).*' "$1" | cut -c1-240 | sed 's/^/    /' || true
	grep -oE 'told: .*' "$1" | tr -d ']' | tr '[' ' ' | awk '{
		for (i = 1; i <= NF; i++) if (split($i, p, ":") == 2 && p[2] != "") { if (!(p[1] in sum)) names[++n] = p[1]; sum[p[1]] += p[2] }
	} END { if (NR > 1) { printf "    in all"; for (i = 1; i <= n; i++) printf " %s %d", names[i], sum[names[i]]; print "" } }'
}

if [ "${1:-}" = --part ]; then # what xargs runs, below
	begun=$SECONDS
	if run "$2" >"bin/soak/$2.log" 2>&1; then how=passed; else how=FAILED; fi
	took=$((SECONDS - begun))
	printf '%s  %-14s %s  %3d:%02d  load %s\n%s\n' "$(date +%T)" "$2" $how $((took / 60)) $((took % 60)) "$(cut -d' ' -f1 /proc/loadavg)" "$(figures "bin/soak/$2.log")"
	[ $how = passed ]
	exit
fi

mkdir -p bin/soak
clock=$(go run ./test/jumpingclock "$PWD/bin/clock")
export clock
[ $# -gt 0 ] && parts=("$@")
echo "$(date +%T)  ${#parts[@]} parts, of $(git describe --always --dirty)"
printf '%s\n' "${parts[@]}" | xargs -P 2 -n 1 "$0" --part
echo "$(date +%T)  all passed"
