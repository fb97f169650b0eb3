#!/usr/bin/env bash
# Starts a cluster of one node and the example shop in it. Harmless when run again.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "make up needs root: it runs containers, networks and BPF" >&2; exit 1; }
step() { printf '\033[1m▸ %s\033[0m\n' "$1"; }

step "starting the cluster"
bin/rutter up --detach
KUBECONFIG=$(mktemp); export KUBECONFIG
trap 'rm -f "$KUBECONFIG"' EXIT
bin/rutter kubeconfig >"$KUBECONFIG"

step "importing images"
bin/rutter image import bin/images/*.tar

step "applying deploy/examples/shop"
if ! bin/kubectl get secret shop-tls >/dev/null 2>&1; then
  tls=$(mktemp -d)
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj /CN=shop.example \
    -addext subjectAltName=DNS:shop.example -keyout "$tls/key" -out "$tls/cert" 2>/dev/null
  bin/kubectl create secret tls shop-tls --cert "$tls/cert" --key "$tls/key"
  rm -r "$tls"
fi
bin/kubectl apply -f deploy/examples/shop/manifests
for d in redis catalog cart orders web; do bin/kubectl rollout status "deployment/$d" --timeout=120s; done

step "asking the shop"
fetch() { curl -sk --max-time 5 --resolve shop.example:443:127.0.0.1 "$@"; }
for _ in $(seq 50); do
  answer=$(fetch -f https://shop.example/api/products) && break
  read -rt 0.2 <> <(:) || true
done
[ -n "${answer:-}" ] || { echo "the shop does not answer; see: bin/rutter log --tail 50" >&2; exit 1; }
printf '%s\n' "$answer"
cat <<END

The shop is at https://shop.example/ (this machine: curl -k --resolve shop.example:443:127.0.0.1 https://shop.example/)

Try next:
  bin/rutter kubeconfig > ~/.kube/rutter; export KUBECONFIG=~/.kube/rutter
  bin/kubectl get pods -o wide
  bin/rutter log --tail 20
  bin/rutter why pods/default/\$(bin/kubectl get pods -l app=web -o jsonpath='{.items[0].metadata.name}')
END
