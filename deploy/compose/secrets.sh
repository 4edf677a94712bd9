#!/usr/bin/env bash
# Makes the secrets of gateways and storage nodes in deploy/compose/secrets with random content; leaves those that exist alone.
# Keep a copy of master-key elsewhere: without it no backup can be restored.
set -euo pipefail
cd "$(dirname "$0")"

mkdir -p -m 0700 secrets
# make <name> <bytes>
make() {
  local file=secrets/$1
  if [ -e "$file" ]; then
    echo "$file exists"
    return
  fi
  head -c "$2" /dev/urandom | base64 | tr -d '\n=' | tr '+/' '-_' >"$file.new"
  # The account in the container (65532) reads it; on this machine the folder keeps others out.
  chmod 0444 "$file.new"
  mv "$file.new" "$file"
  echo "made $file"
}
make jwt-secret 48
make master-key 32
make root-password 18
