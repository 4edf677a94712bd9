package scan_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/predicate"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch/rowbatchtest"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	exprv1 "github.com/kalamdb/kalamdb-go/proto/expr/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/scan"
)

// layers is a partition whose rows are in segments that overlap here and there, with tombstones, and in the hot store.
func layers(t *testing.T, rnd *rand.Rand) *node {
	n := newNode(t)
	table := n.tables[1]
	write := func(from, to, step int, deleted func() bool) {
		b := n.db.NewBatch()
		for i := from; i < to; i += step {
			row := rowcodec.NewRow(table)
			row.Put(0, datum.Int(int64(i)))
			row.Put(1, datum.Text(fmt.Sprint("room-", rnd.IntN(4))))
			if rnd.IntN(10) > 0 {
				row.Put(2, datum.Float(float64(rnd.IntN(50))))
			}
			row.Put(3, datum.Text(fmt.Sprint("text ", rnd.IntN(1000))))
			n.add(t, b, table, "alice", row, deleted())
		}
		if err := b.Set(keycodec.AppliedKey(shard), keycodec.AppendApplied(nil, keycodec.Applied{Seq: n.seq}), nil); err != nil {
			t.Fatal(err)
		}
		if err := b.Commit(pebble.NoSync); err != nil {
			t.Fatal(err)
		}
	}
	never, sometimes := func() bool { return false }, func() bool { return rnd.IntN(5) == 0 }
	write(0, 20_000, 1, never)
	n.flush(t)
	write(20_000, 30_000, 1, sometimes)
	n.flush(t)
	write(9_000, 9_500, 7, sometimes)
	n.flush(t)
	write(29_000, 31_000, 9, sometimes)
	write(500, 520, 1, sometimes)
	return n
}

// What is read column by column is what is read row by row: a limit that nothing reaches asks for the latter.
func TestColumnsAndRowsAgree(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	n := layers(t, rnd)
	server, err := scan.NewServer(n, scan.Config{Cold: n.cold, Allocator: rowbatchtest.Allocator(t)})
	if err != nil {
		t.Fatal(err)
	}
	columns := []uint32{1, 2, 3, 6, catalog.SeqColumnID, catalog.DeletedColumnID, catalog.UpdatedColumnID}
	conditions := func() *exprv1.Expr {
		at := predicate.Literal(datum.Int(rnd.Int64N(32_000)))
		return []*exprv1.Expr{predicate.Call(">", predicate.Column(1), at), predicate.Call("<", predicate.Column(1), at),
			predicate.Call("=", predicate.Column(2), predicate.Literal(datum.Text("room-1"))), predicate.Call("is null", predicate.Column(3)),
			predicate.Call("<", predicate.Column(3), predicate.Literal(datum.Float(7))), nil}[rnd.IntN(6)]
	}
	for range 60 {
		req := ask()
		for range rnd.IntN(5) {
			req.ColumnIds = append(req.ColumnIds, columns[rnd.IntN(len(columns))])
		}
		req.Filter = predicate.And(conditions(), conditions())
		if rnd.IntN(3) == 0 {
			req.AfterSeq = n.seq - uint64(rnd.IntN(int(n.seq)))
		}
		req.IncludeDeleted = rnd.IntN(3) == 0
		answer := func() string {
			out := &sink{}
			if err := server.Scan(t.Context(), req, out); err != nil {
				t.Fatalf("%v: %v", req, err)
			}
			return show(t, out)
		}
		byColumns := answer()
		req.Limit = 1 << 40
		if byRows := answer(); byRows != byColumns {
			t.Fatalf("%v: columns give %d bytes, rows %d:\n%.2000s\n---\n%.2000s", req, len(byColumns), len(byRows), byColumns, byRows)
		}
	}
}

// BenchmarkAnalysis is a filter over what is in segments.
func BenchmarkAnalysis(b *testing.B) {
	n := filled(b, 200_000, 4)
	n.flush(b)
	server := newServer(b, n)
	req := ask(2, 3)
	req.Filter = predicate.Call("<", predicate.Column(3), predicate.Literal(datum.Float(50_000)))
	b.ReportAllocs()
	for b.Loop() {
		if err := server.Scan(b.Context(), req, discard{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/200_000, "ns/row")
}
