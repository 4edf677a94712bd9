#!/usr/bin/env bash
# Plants a bug in the storage nodes and shows that the robustness runs catch it: each is a substitution in
# one file, compiled through an overlay, so that the tree stays as it is.
#
#   tests/planted.sh <folder of the binaries> [runs]
set -euo pipefail
bin=$(realpath "$1") runs=${2:-6}
root=$(git rev-parse --show-toplevel)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# plant <name> <file> <perl substitution> <faults>
plant() {
  local name=$1 file=$root/services/storage/internal/$2 change=$3 faults=$4
  mkdir -p "$work/bin"
  perl -0pe "$change" "$file" > "$work/planted.go"
  if cmp -s "$file" "$work/planted.go"; then echo "planted: $name no longer fits $2"; exit 1; fi
  printf '{"Replace":{"%s":"%s"}}' "$file" "$work/planted.go" > "$work/overlay.json"
  cp -f "$bin"/kalamdb-{query,live,gateway} "$work/bin/"
  go build -overlay "$work/overlay.json" -tags duckdb_arrow -o "$work/bin/kalamdb-storage" "$root/services/storage/cmd/storage"
  if go run -tags duckdb_arrow "$root/tests/cmd/robustness" -bin "$work/bin" -target cluster -keep "$work/logs-$name" \
      -runs "$runs" -duration 25s -seed 1 -faults "$faults" > "$work/out" 2>&1; then
    echo "planted: $name was NOT caught"; cat "$work/out"; exit 1
  fi
  # A node that did not start, or a statement that failed, proves nothing: the check of a history must have spoken.
  if ! grep -qE 'FAILED: seed [0-9]+: (rb|shared|lane)' "$work/out" || grep -q ' ended: \|is not ready' "$work/out"; then
    echo "planted: $name broke something else"; cat "$work/out"; exit 1
  fi
  echo "planted: $name was caught: $(grep -m1 FAILED "$work/out" | cut -c1-200)"
}

plant "acknowledged before a majority has it" shard/write.go \
  's/(s\.failing <- proposal\{[^\n]*\n)/$1\tpend.finish(nil)\n/' kill-storage,pause-storage
plant "a transaction is committed though what it read has changed" shard/write.go \
  's/s\.checkReads\(reads\)/s.checkReads(nil)/' kill-query
plant "reads without asking whether it still leads" raftgroup/verify.go \
  's/if g\.soleVoter\(\) \{/if true {/' pause-storage
plant "one change in 997 is not handed out" watch/hub.go \
  's/h\.inBatch = true\n\th\.offer/h.inBatch = true\n\tif ch.GetSeq()%997 == 3 {\n\t\treturn\n\t}\n\th.offer/' kill-live
plant "a request that was done is done again" shard/request.go \
  's/if l\.memo != nil \{/l.n = 0\n\tif l.memo != nil {/' kill-query,kill-storage,pause-query
