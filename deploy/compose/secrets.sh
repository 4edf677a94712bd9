#!/usr/bin/env bash
# Makes deploy/compose/secrets/gateway.toml with random content; leaves one that exists alone.
set -euo pipefail
cd "$(dirname "$0")"

file=secrets/gateway.toml
if [ -e "$file" ]; then
  echo "$file exists"
  exit
fi
random() { head -c "$1" /dev/urandom | base64 | tr -d '\n=' | tr '+/' '-_'; }
mkdir -p -m 0700 secrets
# The account in the container (65532) reads it; on this machine the folder keeps others out.
printf '[auth]\njwt_secret = "%s"\nroot_password = "%s"\n' "$(random 48)" "$(random 18)" >"$file.new"
chmod 0444 "$file.new"
mv "$file.new" "$file"
echo "made $file; root's password is in it"
