#!/usr/bin/env python3
"""Counts messages per person in messages.ndjson.gz, independently of the demo.

usage: count.py messages.ndjson.gz > expected.tsv
Compare with what the database says: make demo ARGS='-counts got.tsv'; diff got.tsv expected.tsv
Sorted by the bytes of the name, as the demo sorts.
"""
import collections
import gzip
import json
import sys

counts = collections.Counter()
with gzip.open(sys.argv[1], "rt", encoding="utf-8") as lines:
    for line in lines:
        counts[json.loads(line)["nick"]] += 1
out = sys.stdout.buffer
for nick in sorted(counts, key=lambda n: n.encode()):
    out.write(nick.encode() + b"\t" + str(counts[nick]).encode() + b"\n")
