package partition

import (
	"fmt"
	"slices"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/predicate"
	"github.com/kalamdb/kalamdb-go/internal/shardmap"
	exprv1 "github.com/kalamdb/kalamdb-go/proto/expr/v1"
)

func table(n uint32, kind catalog.TypeKind) *catalog.Table {
	t := &catalog.Table{ID: 7, Namespace: "app", Name: "t", Kind: catalog.SharedTable, PartitionColumnID: 1, Partitions: n,
		Columns: []catalog.Column{{ID: 1, Name: "room", Type: catalog.Type{Kind: kind}, PrimaryKey: true, NotNull: true},
			{ID: 2, Name: "id", Type: catalog.Type{Kind: catalog.BigInt}, PrimaryKey: true, NotNull: true}}}
	return t.Index()
}

// The numbers are where rows are on disk: they never change.
func TestOfIsTheDiskFormat(t *testing.T) {
	uuid := datum.UUID([16]byte{1, 0x8f, 15: 42})
	for _, c := range []struct {
		kind catalog.TypeKind
		v    datum.Datum
		want uint32
	}{
		{catalog.Text, datum.Text(""), 641}, {catalog.Text, datum.Text("blue"), 534}, {catalog.Text, datum.Text("grün"), 304},
		{catalog.BigInt, datum.Int(0), 759}, {catalog.BigInt, datum.Int(1), 128}, {catalog.BigInt, datum.Int(-1), 846},
		{catalog.UUID, uuid, 481},
	} {
		got, err := Of(table(1000, c.kind), c.v)
		if err != nil || got != c.want {
			t.Errorf("%v: %d, %v; want %d", c.v, got, err, c.want)
		}
	}
	if _, err := Of(table(4, catalog.Text), datum.Null); !dberr.Is(err, dberr.NotNullViolation) {
		t.Error(err)
	}
}

func TestSpread(t *testing.T) {
	tab := table(16, catalog.Text)
	rows := make([]int, 16)
	for i := range 16_000 {
		n, err := Of(tab, datum.Text(fmt.Sprint("room-", i)))
		if err != nil {
			t.Fatal(err)
		}
		rows[n]++
	}
	if least, most := slices.Min(rows), slices.Max(rows); least < 850 || most > 1150 {
		t.Errorf("%d to %d of 16,000 values in one of 16 partitions", least, most)
	}
	for _, shards := range []uint32{1, 3, 8, 16, 64} {
		m, held := shardmap.Even(shards), map[uint32]int{}
		for n := range uint32(16) {
			held[At(m, tab, n).Shard]++
		}
		if want := min(shards, 16); uint32(len(held)) != want {
			t.Errorf("%d shards: the partitions are on %d of them, want %d", shards, len(held), want)
		}
	}
}

func TestShards(t *testing.T) {
	m, all := shardmap.Even(5), []uint32{0, 1, 2, 3, 4}
	shared := &catalog.Table{ID: 7, Kind: catalog.SharedTable}
	for _, c := range []struct {
		table *catalog.Table
		want  []uint32
	}{
		{&catalog.Table{ID: 7, Kind: catalog.UserTable}, all}, {&catalog.Table{ID: 7, Kind: catalog.StreamTable}, all},
		{shared, []uint32{m.Table(7)}}, {table(1, catalog.Text), []uint32{m.Table(7)}}, {table(64, catalog.Text), all},
	} {
		if got := Shards(m, c.table); !slices.Equal(got, c.want) {
			t.Errorf("%s in %d partitions: shards %v, want %v", c.table.Kind, c.table.Partitions, got, c.want)
		}
	}
	two := table(2, catalog.Text)
	for p := range uint32(2) {
		if at := At(m, two, p).Shard; !slices.Contains(Shards(m, two), at) {
			t.Errorf("partition %d is in shard %d, which is not among %v", p, at, Shards(m, two))
		}
	}
}

func TestMatching(t *testing.T) {
	tab := table(64, catalog.Text)
	is := func(v string) *exprv1.Expr {
		return predicate.Call("=", predicate.Column(1), predicate.Literal(datum.Text(v)))
	}
	of := func(v string) uint32 {
		n, err := Of(tab, datum.Text(v))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	idIs := predicate.Call("=", predicate.Column(2), predicate.Literal(datum.Int(1)))
	for name, c := range map[string]struct {
		filter *exprv1.Expr
		want   []uint32
		all    bool
	}{
		"nothing said":    {nil, nil, true},
		"another column":  {idIs, nil, true},
		"one":             {is("a"), []uint32{of("a")}, false},
		"one and more":    {predicate.And(idIs, is("a")), []uint32{of("a")}, false},
		"either":          {predicate.Call("or", is("a"), is("b")), nil, true},
		"contradiction":   {predicate.And(is("a"), is("b")), nil, false},
		"not equal":       {predicate.Call("<>", predicate.Column(1), predicate.Literal(datum.Text("a"))), nil, true},
		"range":           {predicate.Call(">", predicate.Column(1), predicate.Literal(datum.Text("a"))), nil, true},
		"equal to itself": {predicate.And(is("a"), is("a")), []uint32{of("a")}, false},
	} {
		got, all, err := Matching(tab, c.filter)
		if err != nil || all != c.all || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, all %v, %v; want %v, all %v", name, got, all, err, c.want, c.all)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"\x00p0", "\x00p63", "\x00p64", "\x00p01", "\x00p+1", "\x00p", "p1", "", "\x00p4294967296"} {
		f.Add(s)
	}
	tab := table(64, catalog.Text)
	f.Fuzz(func(t *testing.T, s string) {
		if n, ok := Parse(tab, s); ok != (n < 64 && Name(n) == s) {
			t.Errorf("%q: %d, %v", s, n, ok)
		}
	})
}

func TestCheck(t *testing.T) {
	good := table(8, catalog.Text)
	if err := Check(good); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*catalog.Table){
		"no such column": func(t *catalog.Table) { t.PartitionColumnID = 9 },
		"number alone":   func(t *catalog.Table) { t.PartitionColumnID = 0 },
		"column alone":   func(t *catalog.Table) { t.Partitions = 0 },
		"too many":       func(t *catalog.Table) { t.Partitions = Max + 1 },
		"of users":       func(t *catalog.Table) { t.Kind = catalog.UserTable },
		"not in the key": func(t *catalog.Table) { t.Columns[0].PrimaryKey = false },
		"a type":         func(t *catalog.Table) { t.Columns[0].Type.Kind = catalog.Double },
		"a default":      func(t *catalog.Table) { t.Columns[0].Default.Kind = catalog.DefaultUUIDV7 },
		"another UNIQUE": func(t *catalog.Table) { t.Columns[1].Unique = true },
	} {
		bad := table(8, catalog.Text)
		change(bad)
		if Check(bad.Index()) == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
