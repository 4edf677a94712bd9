#!/usr/bin/env bash
# Runs every fuzz target of the workspace, one after another, for the time given (default 10m each).
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-10m}
only=${2:-}
failed=0
out=$(mktemp)
trap 'rm -f "$out"' EXIT

# fuzz <folder> <target>. A worker that is busy when the time is over makes go test fail with nothing but "context deadline
# exceeded" (go.dev/issue/75804): no input failed then, which would be named.
fuzz() {
  go test -tags duckdb_arrow,invariants -run '^$' -fuzz "^$2\$" -fuzztime "$time" -fuzzminimizetime 100x "./$1" 2>&1 | tee "$out" && return 0
  grep -q '^    context deadline exceeded$' "$out" && ! grep -qE 'Failing input|panic:|_test\.go:' "$out"
}

while IFS=: read -r file target; do
  dir=$(dirname "$file")
  case "$dir/$target" in *"$only"*) ;; *) continue ;; esac
  echo "== $dir $target ($time)"
  fuzz "$dir" "$target" || failed=1
done < <(grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' internal services tests | sed -E 's/:func /:/')
exit $failed
