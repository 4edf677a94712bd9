#!/usr/bin/env bash
# Writes deploy/k8s/schemas from the modules that ../modules.sh names. Needs the Go module proxy.
set -euo pipefail
cd "$(dirname "$0")"
source ../modules.sh

out=../../../deploy/k8s/schemas
mkdir -p "$out" && rm -f "$out"/*.json
kinds=v1/ConfigMap,v1/Pod,v1/Secret,v1/Service,v1/ServiceAccount
kinds+=,apps/v1/Deployment,apps/v1/StatefulSet,batch/v1/Job,policy/v1/PodDisruptionBudget
kinds+=,autoscaling/v2/HorizontalPodAutoscaler,networking.k8s.io/v1/Ingress,networking.k8s.io/v1/NetworkPolicy
kinds+=,rbac.authorization.k8s.io/v1/Role,rbac.authorization.k8s.io/v1/RoleBinding
custom_resources | xargs env GOWORK=off go run . -openapi "$(module "$kubernetes")/api/openapi-spec/swagger.json" -kinds "$kinds" -out "$out"
echo "Made by \`make k8s-schemas\` (tools/k8s/schemas) from $kubernetes, $operator, $certmanager." >"$out/README.md"
