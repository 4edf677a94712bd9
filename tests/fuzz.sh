#!/usr/bin/env bash
# Runs every fuzz target of the workspace, one after another, for the time given (default 10m each).
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-10m}
only=${2:-}
failed=0
while IFS=: read -r file target; do
  dir=$(dirname "$file")
  case "$dir/$target" in *"$only"*) ;; *) continue ;; esac
  echo "== $dir $target ($time)"
  go test -tags duckdb_arrow,invariants -run '^$' -fuzz "^$target\$" -fuzztime "$time" "./$dir" || failed=1
done < <(grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' internal services tests | sed -E 's/:func /:/')
exit $failed
