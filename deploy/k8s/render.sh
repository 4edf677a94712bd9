#!/usr/bin/env bash
# render.sh helm-program kubernetes-version folder: writes the chart as plain manifests, one file per template.
set -euo pipefail
helm=$1 version=$2 out=$3
here=$(cd "$(dirname "$0")" && pwd)
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT

"$helm" template kalamdb "$here/chart" --namespace kalamdb --kube-version "$version" --skip-tests \
  --values "$here/manifests/values.yaml" --output-dir "$made" >/dev/null
mkdir -p "$out"
[ "$out" -ef "$here/manifests" ] || cp "$here/manifests/values.yaml" "$out/"
find "$out" -name '*.yaml' ! -name values.yaml -delete
for file in "$made"/kalamdb/templates/*.yaml; do
  { echo "# Rendered from ../chart by \`make k8s-manifests\`; edit the chart."
    # A list begins with its first object, not with an empty one.
    sed -e '/^# Source: /d' -e 's/managed-by: Helm/managed-by: kubectl/' -e 's/[[:space:]]*$//' "$file" | sed '1{/^---$/d}'
  } >"$out/$(basename "$file")"
done
