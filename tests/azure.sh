#!/usr/bin/env bash
# Runs the object store's tests against Azurite, the emulator of Azure Blob Storage, which npm installs below bin/.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v npm >/dev/null || { echo "make test-azure needs Node.js and npm (Debian: apt-get install nodejs npm)"; exit 1; }
azurite=bin/azurite/node_modules/.bin/azurite-blob
[ -x "$azurite" ] || npm install --silent --no-fund --no-audit --prefix bin/azurite azurite@3

data=$(mktemp -d)
port=${AZURITE_PORT:-10000}
"$azurite" --silent --disableTelemetry --skipApiVersionCheck --blobHost 127.0.0.1 --blobPort "$port" --location "$data" &
pid=$!
trap 'kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; rm -rf "$data"' EXIT

for _ in $(seq 100); do
  (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
  kill -0 "$pid" 2>/dev/null || { echo "Azurite has not started: is port $port free? (AZURITE_PORT)"; exit 1; }
  sleep 0.1
done

cd internal
KALAMDB_TEST_AZURITE="http://127.0.0.1:$port/devstoreaccount1" go test -count=1 -run 'TestEveryKind/azure|TestAzure' -v ./objectstore
