package predicate

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	exprv1 "github.com/kalamdb/kalamdb-go/proto/expr/v1"
)

// numbers is a table of everything that batches compare in a way of their own, and of some that they do not.
var numbers = (&catalog.Table{Namespace: "app", Name: "numbers", Columns: []catalog.Column{
	{ID: 1, Name: "small", Type: catalog.Type{Kind: catalog.SmallInt}}, {ID: 2, Name: "mid", Type: catalog.Type{Kind: catalog.Int}},
	{ID: 3, Name: "big", Type: catalog.Type{Kind: catalog.BigInt}}, {ID: 4, Name: "day", Type: catalog.Type{Kind: catalog.Date}},
	{ID: 5, Name: "at", Type: catalog.Type{Kind: catalog.Timestamp}}, {ID: 6, Name: "clock", Type: catalog.Type{Kind: catalog.Time}},
	{ID: 7, Name: "flag", Type: catalog.Type{Kind: catalog.Boolean}}, {ID: 8, Name: "half", Type: catalog.Type{Kind: catalog.Double}}}}).Index()

func number(column uint32, n int64) datum.Datum {
	switch column {
	case 4:
		return datum.Date(n)
	case 5:
		return datum.Timestamp(n)
	case 6:
		return datum.Time(n)
	case 7:
		return datum.Bool(n > 1)
	case 8:
		return datum.Float(float64(n) / 2)
	}
	return datum.Int(n)
}

// A batch answers as its rows do, one by one.
func TestBatchesAnswerAsRows(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	schema, err := rowbatch.SchemaOf(numbers.Columns)
	if err != nil {
		t.Fatal(err)
	}
	b := rowbatch.NewBuilder(memory.DefaultAllocator, schema, numbers.Columns)
	defer b.Release()
	var rows []row
	for range 100 {
		r := make(row, len(numbers.Columns))
		for i, c := range numbers.Columns {
			if r[i] = datum.Null; rnd.IntN(5) > 0 && c.ID != 3 { // one column is NULL, one never
				r[i] = number(c.ID, rnd.Int64N(4))
			}
			if c.ID == 2 {
				r[i] = datum.Int(rnd.Int64N(4))
			}
			if err := b.Append(i, r[i]); err != nil {
				t.Fatal(err)
			}
		}
		b.EndRow()
		rows = append(rows, r)
	}
	rec := b.NewBatch()
	defer rec.Release()
	comparison := func() *exprv1.Expr {
		id := uint32(1 + rnd.IntN(len(numbers.Columns)))
		value, ops := Literal(number(id, rnd.Int64N(4))), []string{"=", "<>", "<", "<=", ">", ">="}
		if op := ops[rnd.IntN(len(ops))]; rnd.IntN(4) == 0 {
			return Call(op, value, Column(id))
		} else if rnd.IntN(6) > 0 {
			return Call(op, Column(id), value)
		}
		return Call("is null", Column(id))
	}
	for range 2000 {
		e := comparison()
		for range rnd.IntN(3) {
			e = Call([]string{"and", "and", "or"}[rnd.IntN(3)], e, comparison())
		}
		p, err := CompileFilter(e, numbers)
		if err != nil {
			t.Fatal(err)
		}
		keep, before := make([]bool, len(rows)), make([]bool, len(rows))
		for i := range keep {
			keep[i] = rnd.IntN(4) > 0
			before[i] = keep[i]
		}
		if err := p.NarrowBatch(&Env{}, rec, keep); err != nil {
			t.Fatal(err)
		}
		for i, r := range rows {
			if want, err := p.Matches(&Env{}, r); err != nil || keep[i] != (before[i] && want) {
				t.Fatalf("%v, row %d, %s: %v where it was %v and the row answers %v, %v", e, i, fmt.Sprint(r), keep[i], before[i], want, err)
			}
		}
	}
}

func BenchmarkNarrowBatch(b *testing.B) {
	columns := numbers.Columns[2:3]
	schema, err := rowbatch.SchemaOf(columns)
	if err != nil {
		b.Fatal(err)
	}
	builder := rowbatch.NewBuilder(memory.DefaultAllocator, schema, columns)
	defer builder.Release()
	const n = 8192
	for i := range n {
		if err := builder.Append(0, datum.Int(int64(i%1000))); err != nil {
			b.Fatal(err)
		}
		builder.EndRow()
	}
	rec := builder.NewBatch()
	defer rec.Release()
	p, err := CompileFilter(Call("between", Column(3), Literal(datum.Int(100)), Literal(datum.Int(300))), numbers)
	if err != nil {
		b.Fatal(err)
	}
	keep := make([]bool, n)
	for b.Loop() {
		if err := p.MatchesBatch(&Env{}, rec, keep); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/row")
}
