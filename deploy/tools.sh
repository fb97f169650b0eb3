#!/usr/bin/env bash
# Installs what Rutter needs from Debian and this machine lacks. Harmless when run again.
set -euo pipefail
command -v go >/dev/null || { echo "Go 1.26 or newer is needed: https://go.dev/doc/install" >&2; exit 1; }
declare -A needs=(
  [containerd]=containerd [runc]=runc [ip]=iproute2 [nsenter]=util-linux [iptables]=iptables [nft]=nftables
  [busybox]=busybox-static [redis-server]=redis-server [curl]=curl [docker-registry]=docker-registry [make]=make [openssl]=openssl
)
missing=()
for command in "${!needs[@]}"; do
  command -v "$command" >/dev/null || [ -x "/usr/sbin/$command" ] || [ -x "/sbin/$command" ] || missing+=("${needs[$command]}")
done
# Go's module proxy is asked over TLS, and no command tells whether that can be checked.
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
[ ${#missing[@]} -eq 0 ] && exit 0
[ "$(id -u)" = 0 ] || { echo "missing: ${missing[*]}; run as root to install them" >&2; exit 1; }
echo "installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
# A package that starts its service would take ports and sockets that nobody asked for.
policy=/usr/sbin/policy-rc.d
made=
if [ ! -e $policy ]; then printf '#!/bin/sh\nexit 101\n' >$policy; chmod +x $policy; made=1; fi
trap '[ -z "$made" ] || rm -f $policy' EXIT
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
