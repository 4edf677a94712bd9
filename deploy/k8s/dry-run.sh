#!/usr/bin/env bash
# dry-run.sh helm kube-apiserver: gives the chart and the manifests to a real Kubernetes API server, which defaults,
# validates and stores them. No controllers run, so no pod starts. Needs etcd (Debian: etcd-server), kubectl, jq
# and openssl.
set -euo pipefail
helm=$1 apiserver=$2
here=$(cd "$(dirname "$0")" && pwd)
source "$here/../../tools/k8s/modules.sh"
dir=$(mktemp -d)
pids=()
finish() {
  status=$?
  for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done # nothing here is to be kept
  wait 2>/dev/null || true
  if [ $status -ne 0 ]; then tail -n 20 "$dir"/*.log; fi
  rm -rf "$dir"
}
trap finish EXIT

free() { # a port nobody listens on
  local port
  while port=$((20000 + RANDOM % 12000)); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
}
client=$(free) peer=$(free) port=$(free)
etcd --data-dir "$dir/etcd" --listen-client-urls "http://127.0.0.1:$client" --advertise-client-urls "http://127.0.0.1:$client" \
  --listen-peer-urls "http://127.0.0.1:$peer" >"$dir/etcd.log" 2>&1 &
pids+=($!)

token=$(head -c 16 /dev/urandom | base64 | tr -dc a-z0-9)
echo "$token,admin,1,system:masters" >"$dir/tokens"
openssl genrsa -out "$dir/accounts.key" 2048 2>/dev/null
"$apiserver" --etcd-servers "http://127.0.0.1:$client" --secure-port "$port" --bind-address 127.0.0.1 --cert-dir "$dir/apiserver" \
  --token-auth-file "$dir/tokens" --authorization-mode RBAC --service-cluster-ip-range 10.96.0.0/16 \
  --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$dir/accounts.key" \
  --service-account-signing-key-file "$dir/accounts.key" >"$dir/apiserver.log" 2>&1 &
pids+=($!)

export KUBECONFIG=$dir/kubeconfig HELM_CACHE_HOME=$dir/helm HELM_CONFIG_HOME=$dir/helm HELM_DATA_HOME=$dir/helm
kubectl config set-cluster c --server "https://127.0.0.1:$port" --insecure-skip-tls-verify >/dev/null
kubectl config set-credentials admin --token "$token" >/dev/null
kubectl config set-context c --cluster c --user admin >/dev/null
kubectl config use-context c >/dev/null
for _ in $(seq 240); do
  kubectl get --raw /readyz >/dev/null 2>&1 && break
  kill -0 "${pids[1]}" || { echo "kube-apiserver ended"; exit 1; }
  sleep 0.5
done
kubectl version

namespace() { # one that warns of everything Pod Security "restricted" would refuse
  kubectl create namespace "$1" >/dev/null
  kubectl label namespace "$1" pod-security.kubernetes.io/warn=restricted pod-security.kubernetes.io/enforce=restricted >/dev/null
  kubectl create serviceaccount --namespace "$1" default >/dev/null # a controller's work
}
custom_resources | xargs -n1 kubectl create -f >/dev/null

for values in "$here"/chart/ci/*.yaml; do
  name=chart-$(basename "$values" .yaml)
  namespace "$name"
  echo "$name"
  "$helm" template kalamdb "$here/chart" --namespace "$name" --values "$values" --validate |
    kubectl create --namespace "$name" --warnings-as-errors -f - | sed 's/^/  /'
done

namespace kalamdb
echo "manifests"
kubectl create --namespace kalamdb --warnings-as-errors $(printf -- '-f %s ' "$here"/manifests/[!v]*.yaml) | sed 's/^/  /'

# Pods are made by controllers, which are not here: one of each workload by hand, where Pod Security refuses, not warns.
for workload in statefulset/kalamdb-storage deployment/kalamdb-query deployment/kalamdb-live deployment/kalamdb-gateway job/kalamdb-certs; do
  kubectl get --namespace kalamdb "$workload" -o json |
    jq '.spec.template | .apiVersion = "v1" | .kind = "Pod" | .metadata.name = "by-hand" | del(.spec.serviceAccountName)
      | if .spec.containers[0].name == "storage" then .spec.volumes += [{name: "data", emptyDir: {}}] else . end' |
    kubectl create --namespace kalamdb --dry-run=server -f - >/dev/null
done

echo "the Secret of the certificate Job, made with its rights"
mkdir "$dir/certs" && echo x >"$dir/certs/ca.crt"
as() { kubectl --namespace kalamdb --as system:serviceaccount:kalamdb:kalamdb-certs "$@"; }
as create secret generic kalamdb-certs "--from-file=$dir/certs" | sed 's/^/  /'
if as get secret kalamdb-certs >/dev/null 2>&1; then echo "the Job may read Secrets"; exit 1; fi

echo "secrets survive an upgrade"
namespace upgrade
release() {
  "$helm" "$1" kalamdb "$here/chart" --namespace upgrade --set tls.mode=existing,tls.existingSecretPrefix=node- >/dev/null
  kubectl get --namespace upgrade secret kalamdb-auth -o jsonpath='{.data}'
}
[ "$(release install)" = "$(release upgrade)" ] || { echo "an upgrade changed the secrets"; exit 1; }
echo "all accepted by $(kubectl version -o json | jq -r .serverVersion.gitVersion)"
