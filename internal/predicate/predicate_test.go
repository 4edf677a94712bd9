package predicate

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	exprv1 "github.com/kalamdb/kalamdb-go/proto/expr/v1"
)

// Values of expressions are tested on SQL text, beside the SQL parser (services/query/internal/sqlfront).

var table = (&catalog.Table{Namespace: "app", Name: "t", Columns: []catalog.Column{
	{ID: 1, Name: "room_id", Type: catalog.Type{Kind: catalog.Text}, PrimaryKey: true},
	{ID: 2, Name: "ts", Type: catalog.Type{Kind: catalog.Timestamp}},
	{ID: 3, Name: "n", Type: catalog.Type{Kind: catalog.BigInt}},
	{ID: 4, Name: "price", Type: catalog.Type{Kind: catalog.Decimal, Precision: 10, Scale: 2}},
	{ID: 5, Name: "id", Type: catalog.Type{Kind: catalog.UUID}},
	{ID: 6, Name: "emb", Type: catalog.Type{Kind: catalog.Embedding, Dimension: 2}},
}}).Index()

type row []datum.Datum // by column id - 1

func (r row) Column(id uint32) datum.Datum {
	if int(id) <= len(r) {
		return r[id-1]
	}
	return datum.Null
}

func recent() *exprv1.Expr {
	return Call("and",
		Call("=", Column(1), Literal(datum.Text("x"))),
		Call(">", Column(2), Call("-", Call("now"), Literal(datum.Interval(0, 1, 0)))))
}

func TestProgram(t *testing.T) {
	p, err := Compile(recent(), table)
	if err != nil {
		t.Fatal(err)
	}
	if c := p.Columns(); len(c) != 2 || c[0] != 1 || c[1] != 2 {
		t.Errorf("columns %v", c)
	}
	if !p.TimeDependent() || p.Type().Kind != catalog.Boolean {
		t.Error("a condition on now() is BOOLEAN and depends on the time")
	}
	const now = int64(10 * 86_400_000_000)
	for _, c := range []struct {
		row  row
		want bool
	}{
		{row{datum.Text("x"), datum.Timestamp(now - 1)}, true},
		{row{datum.Text("x"), datum.Timestamp(now - 86_400_000_000)}, false},
		{row{datum.Text("y"), datum.Timestamp(now)}, false},
		{row{datum.Text("x"), datum.Null}, false},
		{row{datum.Null, datum.Timestamp(now)}, false},
	} {
		if got, err := p.Matches(&Env{NowUS: now}, c.row); err != nil || got != c.want {
			t.Errorf("%v: got %v, %v", c.row, got, err)
		}
	}
}

func TestFilterErrorsAreReturned(t *testing.T) {
	p, err := CompileFilter(Call(">", Call("/", Literal(datum.Int(1)), Column(3)), Literal(datum.Int(0))), table)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Matches(&Env{}, row{2: datum.Int(0)}); !dberr.Is(err, dberr.ValueOutOfRange) {
		t.Errorf("division by zero: %v", err)
	}
}

func TestCompileRefuses(t *testing.T) {
	deep := Literal(datum.Bool(true))
	for range DepthMax {
		deep = Call("not", deep)
	}
	wide := Call("in", Column(3))
	for range nodesMax {
		wide.GetCall().Args = append(wide.GetCall().Args, Literal(datum.Int(1)))
	}
	for name, c := range map[string]struct {
		e    *exprv1.Expr
		want dberr.Code
	}{
		"deep":            {deep, dberr.LimitExceeded},
		"wide":            {wide, dberr.LimitExceeded},
		"empty":           {&exprv1.Expr{}, dberr.InvalidArgument},
		"nil argument":    {Call("not", nil), dberr.InvalidArgument},
		"unknown":         {Call("pg_sleep", Literal(datum.Int(1))), dberr.Unsupported},
		"arity":           {Call("=", Column(3)), dberr.Unsupported},
		"column":          {Column(99), dberr.ColumnNotFound},
		"bad literal":     {&exprv1.Expr{Node: &exprv1.Expr_Literal{Literal: []byte{99}}}, dberr.InvalidArgument},
		"long literal":    {&exprv1.Expr{Node: &exprv1.Expr_Literal{Literal: []byte{0, 0}}}, dberr.InvalidArgument},
		"types":           {Call("=", Column(1), Column(3)), dberr.InvalidArgument},
		"no condition":    {Call("and", Column(3)), dberr.InvalidArgument},
		"cast to nothing": {Call("cast", Column(3), Literal(datum.Text("nope"))), dberr.InvalidSQL},
		"long pattern": {Call("like", Column(1), Literal(datum.Text(strings.Repeat("_", likeUnderscoreMax+1)))),
			dberr.LimitExceeded},
	} {
		if _, err := CompileFilter(c.e, table); dberr.CodeOf(err) != c.want {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	if p, err := CompileFilter(nil, table); err != nil {
		t.Error(err)
	} else if ok, err := p.Matches(&Env{}, row{}); !ok || err != nil {
		t.Error("no filter matches every row")
	}
}

func TestMatchesBatch(t *testing.T) {
	alloc := memory.NewCheckedAllocator(memory.NewGoAllocator())
	defer alloc.AssertSize(t, 0)
	columns := []catalog.Column{table.Columns[2], table.Columns[0], table.Columns[3], table.Columns[4], table.Columns[5]}
	schema, err := rowbatch.SchemaOf(columns)
	if err != nil {
		t.Fatal(err)
	}
	b := rowbatch.NewBuilder(alloc, schema, columns)
	defer b.Release()
	rows := []row{
		{datum.Text("x"), datum.Null, datum.Int(1), datum.Decimal(0, 150, 2), datum.UUID([16]byte{1}), datum.Embedding([]float32{1, 2})},
		{datum.Null, datum.Null, datum.Int(2), datum.Null, datum.Null, datum.Null},
		{datum.Text("xy"), datum.Null, datum.Null, datum.Decimal(0, 250, 2), datum.UUID([16]byte{2}), datum.Null},
	}
	for _, r := range rows {
		for i, c := range columns {
			if err := b.Append(i, r.Column(c.ID)); err != nil {
				t.Fatal(err)
			}
		}
		b.EndRow()
	}
	rec := b.NewBatch()
	defer rec.Release()
	for _, e := range []*exprv1.Expr{
		Call("like", Column(1), Literal(datum.Text("x%"))),
		Call("is null", Column(3)),
		Call(">", Column(4), Literal(datum.Int(2))),
		Call("=", Column(5), Literal(datum.UUID([16]byte{2}))),
		Call("is not null", Column(6)),
		Call("or", Call("is null", Column(1)), Call("=", Column(3), Literal(datum.Int(1)))),
	} {
		p, err := CompileFilter(e, table)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]bool, len(rows))
		if err := p.MatchesBatch(&Env{}, rec, got); err != nil {
			t.Fatal(err)
		}
		for i, r := range rows {
			if want, err := p.Matches(&Env{}, r); err != nil || got[i] != want {
				t.Errorf("%v, row %d: batch %v, row %v, %v", e, i, got[i], want, err)
			}
		}
	}
	p, err := CompileFilter(Call("is null", Column(2)), table)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.MatchesBatch(&Env{}, rec, make([]bool, len(rows))); !dberr.Is(err, dberr.Internal) {
		t.Errorf("a batch without the column: %v", err)
	}
}

func TestAndJoins(t *testing.T) {
	a, b, c := Call("is null", Column(1)), Call("is null", Column(2)), Call("is null", Column(3))
	if And() != nil || And(nil, nil) != nil || And(nil, a) != a {
		t.Error("nothing joined is nil, one condition is itself")
	}
	if got := Conjuncts(And(And(a, b), nil, c)); len(got) != 3 || got[0] != a || got[2] != c {
		t.Errorf("%v", got)
	}
}

// matchSlowly is LIKE by definition: try everything.
func matchSlowly(text, pattern []rune) bool {
	switch {
	case len(pattern) == 0:
		return len(text) == 0
	case pattern[0] == '%':
		for i := range len(text) + 1 {
			if matchSlowly(text[i:], pattern[1:]) {
				return true
			}
		}
		return false
	case pattern[0] == '\\' && len(pattern) > 1:
		return len(text) > 0 && text[0] == pattern[1] && matchSlowly(text[1:], pattern[2:])
	}
	return len(text) > 0 && (pattern[0] == '_' || pattern[0] == text[0]) && matchSlowly(text[1:], pattern[1:])
}

func TestLikeAgreesWithItsDefinition(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(alphabet []rune, n int) []rune {
		out := make([]rune, random.IntN(n))
		for i := range out {
			out[i] = alphabet[random.IntN(len(alphabet))]
		}
		return out
	}
	matches := 0
	for range 200_000 {
		text, pattern := pick([]rune("abé%"), 9), pick([]rune(`abé%%_\`), 8)
		p, err := compileLike(string(pattern), `\`, false)
		if err != nil {
			continue
		}
		got, want := p.match(string(text)), matchSlowly(text, pattern)
		if got != want {
			t.Fatalf("%q LIKE %q: got %v", string(text), string(pattern), got)
		}
		if want {
			matches++
		}
		if prefix, _ := p.literalPrefix(); want && !strings.HasPrefix(string(text), prefix) {
			t.Fatalf("%q LIKE %q matches outside the prefix %q", string(text), string(pattern), prefix)
		}
	}
	if matches < 1000 {
		t.Fatalf("only %d matches: the test shows nothing", matches)
	}
}

// TestKeyRangeHoldsEveryMatch checks on random filters that no matching row lies outside the range,
// and that exact terms alone decide.
func TestKeyRangeHoldsEveryMatch(t *testing.T) {
	keyed := (&catalog.Table{Namespace: "app", Name: "k", Columns: []catalog.Column{
		{ID: 1, Name: "id", Type: catalog.Type{Kind: catalog.Int}, PrimaryKey: true}}}).Index()
	random := rand.New(rand.NewPCG(3, 4))
	constant := func() *exprv1.Expr {
		switch v := int64(random.IntN(8)); random.IntN(6) {
		case 0:
			return Literal(datum.Decimal(0, uint64(10*v+5), 1))
		case 1:
			return Literal(datum.Float(float64(v)))
		case 2:
			return Literal(datum.Text(string(rune('0' + v))))
		case 3:
			return Literal(datum.Null)
		default:
			return Literal(datum.Int(v))
		}
	}
	ops := []string{"=", "<", "<=", ">", ">=", "<>"}
	for range 20_000 {
		var terms []*exprv1.Expr
		for range 1 + random.IntN(3) {
			switch random.IntN(4) {
			case 0:
				terms = append(terms, Call("in", Column(1), constant(), constant(), constant()))
			case 1:
				terms = append(terms, Call("between", Column(1), constant(), constant()))
			case 2:
				terms = append(terms, Call(ops[random.IntN(len(ops))], constant(), Column(1)))
			default:
				terms = append(terms, Call(ops[random.IntN(len(ops))], Column(1), constant()))
			}
		}
		e := And(terms...)
		p, err := CompileFilter(e, keyed)
		if err != nil {
			t.Fatal(err)
		}
		r := KeyRange(e, keyed)
		for v := int64(-1); v < 9; v++ {
			d := datum.Int(v)
			match, err := p.Matches(&Env{}, row{d})
			if err != nil {
				t.Fatal(err)
			}
			inside := !r.Empty && r.contains(d) && (r.Points == nil || containsPoint(r.Points, d))
			if match && !inside {
				t.Fatalf("%v matches %d, which is outside %+v", e, v, r)
			}
		}
	}
}

func containsPoint(points []datum.Datum, d datum.Datum) bool {
	for _, p := range points {
		if order(p, d) == 0 {
			return true
		}
	}
	return false
}

func FuzzLike(f *testing.F) {
	f.Add("abc", "a%c", `\`)
	f.Add("größe", "%ö_", "!")
	f.Add("\xff", "_\xff%", "")
	f.Fuzz(func(t *testing.T, text, pattern, escape string) {
		for _, fold := range []bool{false, true} {
			p, err := compileLike(pattern, escape, fold)
			if err != nil {
				if c := dberr.CodeOf(err); c != dberr.InvalidArgument && c != dberr.LimitExceeded {
					t.Fatalf("%v", err)
				}
				continue
			}
			p.match(text)
		}
	})
}
