#!/usr/bin/env bash
# Writes deploy/k8s/schemas from the modules named here. Needs the Go module proxy.
set -euo pipefail
cd "$(dirname "$0")"

kubernetes=k8s.io/kubernetes@v1.37.2
operator=github.com/prometheus-operator/prometheus-operator@v0.85.0
certmanager=github.com/cert-manager/cert-manager@v1.21.2

module() { # the folder of a module in the module cache
  (cd / && GOWORK=off GOFLAGS=-mod=mod go mod download -json "$1") | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p'
}

out=../../../deploy/k8s/schemas
mkdir -p "$out" && rm -f "$out"/*.json
kinds=v1/ConfigMap,v1/Pod,v1/Secret,v1/Service,v1/ServiceAccount
kinds+=,apps/v1/Deployment,apps/v1/StatefulSet,batch/v1/Job,policy/v1/PodDisruptionBudget
kinds+=,autoscaling/v2/HorizontalPodAutoscaler,networking.k8s.io/v1/Ingress,networking.k8s.io/v1/NetworkPolicy
kinds+=,rbac.authorization.k8s.io/v1/Role,rbac.authorization.k8s.io/v1/RoleBinding
GOWORK=off go run . -openapi "$(module $kubernetes)/api/openapi-spec/swagger.json" -kinds "$kinds" -out "$out" \
  "$(module $operator)/example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml" \
  "$(module $certmanager)/deploy/crds/cert-manager.io_certificates.yaml" \
  "$(module $certmanager)/deploy/crds/cert-manager.io_issuers.yaml"
echo "Made by \`make k8s-schemas\` (tools/k8s/schemas) from $kubernetes, $operator, $certmanager." >"$out/README.md"
