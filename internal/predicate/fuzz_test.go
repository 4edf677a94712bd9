package predicate

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	exprv1 "github.com/kalamdb/kalamdb-go/proto/expr/v1"
)

// FuzzCompile feeds expressions as another process could send them.
func FuzzCompile(f *testing.F) {
	text, number := Literal(datum.Text("1")), Literal(datum.Int(7))
	for _, e := range []*exprv1.Expr{
		recent(),
		Call("case", Call("is null", Column(3)), number, Call("+", Column(3), number)),
		Call("in", Column(4), number, Literal(datum.Decimal(0, 150, 2)), Literal(datum.Null)),
		Call("substring", Column(1), number, number),
		Call("extract", Literal(datum.Text("year")), Column(2)),
		Call("date_trunc", Literal(datum.Text("week")), Column(2)),
		Call("->>", Call("cast", Column(1), Literal(datum.Text("JSON"))), text),
		Call("*", Literal(datum.Interval(1, 2, 3)), Literal(datum.Float(1e300))),
		Call("greatest", Column(3), Column(4), Literal(datum.Float(1))),
		Call("||", Call("replace", Column(1), text, text), Column(5)),
		Call("not ilike", Column(1), Literal(datum.Text("%a_")), Literal(datum.Text("!"))),
		Call("/", Column(4), Call("%", Column(4), Literal(datum.Decimal(-1, 5, 3)))),
		Call("round", Call("-", Column(4))), Call("nullif", Column(2), text),
	} {
		b, err := proto.Marshal(e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for name := range builders { // every name with columns of several types
		for n := range 4 {
			args := []*exprv1.Expr{Column(1), Column(3), Column(4), Column(2)}[:n]
			if b, err := proto.Marshal(Call(name, args...)); err == nil {
				f.Add(b)
			}
		}
	}
	rows := []row{
		{datum.Text("x"), datum.Timestamp(1), datum.Int(0), datum.Decimal(0, 0, 2), datum.UUID([16]byte{1}), datum.Embedding([]float32{1, 2})},
		{datum.Text(`{"1":[2]}`), datum.Timestamp(1 << 62), datum.Int(-1 << 63), datum.Decimal(-1, 1, 2)},
		{},
	}
	env := &Env{NowUS: 1 << 50, UserID: "u", Role: 2}
	f.Fuzz(func(t *testing.T, b []byte) {
		var e exprv1.Expr
		if proto.Unmarshal(b, &e) != nil {
			return
		}
		Terms(&e, table)
		KeyRange(&e, table)
		p, err := Compile(&e, table)
		if err != nil {
			if dberr.CodeOf(err) == dberr.Internal {
				t.Fatalf("error without code: %v", err)
			}
			return
		}
		for _, r := range rows {
			d, err := p.Eval(env, r)
			if err != nil && dberr.CodeOf(err) == dberr.Internal {
				t.Fatalf("error without code: %v", err)
			}
			if err == nil && !d.IsNull() && p.Type().Kind != 0 && d.Kind() != datum.KindOf(p.Type()) {
				t.Fatalf("%v is %s, its value %s", &e, p.Type(), d.Kind())
			}
		}
	})
}

// BenchmarkMatches is the filter of a chat room's recent messages.
func BenchmarkMatches(b *testing.B) {
	p, err := CompileFilter(recent(), table)
	if err != nil {
		b.Fatal(err)
	}
	env := &Env{NowUS: 1_749_981_600_000_000}
	var r RowReader = row{datum.Text("x"), datum.Timestamp(1_749_981_500_000_000)}
	b.ReportAllocs()
	for b.Loop() {
		if ok, err := p.Matches(env, r); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}
