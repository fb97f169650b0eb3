#!/usr/bin/env bash
# usage: deploy/replay.sh [N [TARGET…]]   as root; N times (default 30), divided among three programs, or those named
# Replays the recordings of sim/logs elsewhere: on what is, for a program, another machine. Of this one it has the kernel and
# the processor. It has its own namespaces (host name, network, mounts, processes, IPC), another root folder that is empty but
# for the program itself (no /etc, no /proc, no /usr/share/zoneinfo), another user without rights, another time zone, language and
# number of processors. The three programs are compiled for other processors: amd64, amd64 with fused floating point
# (GOAMD64=v3), and 386, where int has 32 bits. Each must come to the digests of sim/logs/corpus.txt every time.
set -euo pipefail
cd "$(dirname "$0")/.."
export CGO_ENABLED=0 GOFLAGS="-buildvcs=false -trimpath"
n=${1:-30}
shift || true
[ $# -gt 0 ] || set -- "GOARCH=amd64 GOAMD64=v1" "GOARCH=amd64 GOAMD64=v3" "GOARCH=386"
n=$(((n + $# - 1) / $#))
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
i=0
for target; do
	i=$((i + 1))
	# shellcheck disable=SC2086 # two settings
	env $target go test -c -o "$root/replay" ./sim/logs
	echo "== $target, $n times"
	unshare --uts --net --mount --pid --ipc --fork bash -c '
		hostname "elsewhere-$2"
		exec env -i TZ=Asia/Kathmandu LANG=tr_TR.UTF-8 LC_ALL=tr_TR.UTF-8 GOMAXPROCS="$2" GOGC=$((100 * $2)) \
			"$(command -v chroot)" --userspec=65534:65534 "$1" /replay -test.v -test.timeout=0 -test.run="^TestAgain$" -again "$3"' _ "$root" $i "$n" |
		grep -E "equal in|^(PASS|FAIL|ok|panic)"
done
