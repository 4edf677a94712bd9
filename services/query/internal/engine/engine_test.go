package engine

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

func newEngine(t testing.TB, cfg Config) *Engine {
	t.Helper()
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return e
}

// collect reads a statement's result as text, one line a row.
func collect(t testing.TB, e *Engine, s Statement) ([]string, error) {
	t.Helper()
	rows, err := e.Query(t.Context(), s)
	if err != nil {
		return nil, err
	}
	defer rows.Release()
	return drain(t, rows)
}

func drain(t testing.TB, rows *Rows) ([]string, error) {
	var out []string
	for {
		b, err := rows.Next(t.Context())
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		for i := range int(b.NumRows()) {
			out = append(out, line(b, i))
		}
		b.Release()
	}
}

func line(b arrow.RecordBatch, row int) string {
	var s []string
	for i := range int(b.NumCols()) {
		s = append(s, strings.Clone(b.Column(i).ValueStr(row)))
	}
	return strings.Join(s, "|")
}

// memoryTable is a Table over batches in memory. It counts open readers and records what was asked.
type memoryTable struct {
	columns []Column
	batches []arrow.RecordBatch
	asked   [][]int
	open    int
	err     error // returned after the batches
	// endless repeats the batches for ever.
	endless bool
}

func (m *memoryTable) table() Table {
	return Table{Columns: m.columns, Ordered: true, Open: func(_ context.Context, columns []int) (Reader, error) {
		m.asked = append(m.asked, columns)
		m.open++
		return &memoryReader{m: m, columns: columns}, nil
	}}
}

type memoryReader struct {
	m       *memoryTable
	columns []int
	next    int
}

func (r *memoryReader) Next(context.Context) (arrow.RecordBatch, error) {
	if r.next == len(r.m.batches) {
		if !r.m.endless {
			if r.m.err != nil {
				return nil, r.m.err
			}
			return nil, io.EOF
		}
		r.next = 0
	}
	b := r.m.batches[r.next]
	r.next++
	fields := make([]arrow.Field, len(r.columns))
	cols := make([]arrow.Array, len(r.columns))
	for i, c := range r.columns {
		fields[i], cols[i] = b.Schema().Field(c), b.Column(c)
	}
	return array.NewRecordBatch(arrow.NewSchema(fields, nil), cols, b.NumRows()), nil
}

func (r *memoryReader) Release() { r.m.open-- }

// everyType is a table of one column per type with three rows, the second of them NULL.
func everyType(t testing.TB, alloc memory.Allocator) *memoryTable {
	t.Helper()
	types := []catalog.Type{{Kind: catalog.Boolean}, {Kind: catalog.SmallInt}, {Kind: catalog.Int}, {Kind: catalog.BigInt},
		{Kind: catalog.Float}, {Kind: catalog.Double}, {Kind: catalog.Decimal, Precision: 10, Scale: 2},
		{Kind: catalog.Decimal, Precision: 38, Scale: 4}, {Kind: catalog.Text}, {Kind: catalog.Bytes}, {Kind: catalog.JSON},
		{Kind: catalog.Timestamp}, {Kind: catalog.DateTime}, {Kind: catalog.Date}, {Kind: catalog.Time}, {Kind: catalog.UUID},
		{Kind: catalog.Embedding, Dimension: 3}, {Kind: catalog.File}}
	// Arrow's own text forms of the values, as its builders read them.
	values := [][2]string{{"true", "false"}, {"-7", "32767"}, {"1", "-2147483648"}, {"9223372036854775807", "-1"},
		{"1.5", "-2.25"}, {"0.1", "1e300"}, {"12.34", "-99999999.99"}, {"1234567890.1234", "-0.0001"},
		{"hello", "a text longer than the twelve bytes that are kept inline"}, {"AAEC", "/w=="}, {`{"a":1}`, `[]`},
		{"2024-05-06T07:08:09.123456", "1969-12-31T23:59:59.999999"}, {"2024-05-06T07:08:09.123456Z", "1970-01-01T00:00:00Z"},
		{"2024-02-29", "1960-01-01"}, {"23:59:59.999999", "00:00:00"},
		{"AAAAAAAAQACAAAAAAAAAAQ==", "/////////////////////w=="}, {"[1,2.5,-3]", "[0,0,0]"}, {`{"id":"f"}`, `{}`}}
	m := &memoryTable{}
	var fields []arrow.Field
	for i, ct := range types {
		name := "c" + string(rune('a'+i))
		m.columns = append(m.columns, Column{Name: name, Type: ct})
		fields = append(fields, arrow.Field{Name: name, Type: arrowType(ct), Nullable: true})
	}
	b := array.NewRecordBuilder(alloc, arrow.NewSchema(fields, nil))
	defer b.Release()
	for i := range types {
		for _, v := range []string{values[i][0], "", values[i][1]} {
			if v == "" {
				b.Field(i).AppendNull()
			} else if err := b.Field(i).AppendValueFromString(v); err != nil {
				t.Fatalf("%s: %q: %v", types[i], v, err)
			}
		}
	}
	m.batches = []arrow.RecordBatch{b.NewRecordBatch()}
	return m
}

func TestEveryTypeComesBackAsItWasGiven(t *testing.T) {
	alloc := memory.NewCheckedAllocator(memory.NewGoAllocator())
	defer alloc.AssertSize(t, 0)
	e := newEngine(t, Config{})
	m := everyType(t, alloc)
	defer m.batches[0].Release()
	rows, err := e.Query(t.Context(), Statement{SQL: "SELECT * FROM kalam_scan(0)", Tables: []Table{m.table()}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := drain(t, rows)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{line(m.batches[0], 0), line(m.batches[0], 1), line(m.batches[0], 2)} {
		if got[i] != want {
			t.Errorf("row %d:\n got %s\nwant %s", i, got[i], want)
		}
	}
	for i, f := range rows.Schema().Fields() {
		if v, _ := f.Metadata.GetValue(typeKey); v != m.columns[i].Type.WireJSON() {
			t.Errorf("column %s came back as %s, not %s", f.Name, v, m.columns[i].Type.WireJSON())
		}
	}
	rows.Release()
	if m.open != 0 {
		t.Errorf("%d readers were left open", m.open)
	}
}

// Types keep their names through subqueries, set operations and joins, although DuckDB stores several
// of them alike.
func TestTypesSurviveExpressions(t *testing.T) {
	e := newEngine(t, Config{})
	m := everyType(t, memory.DefaultAllocator)
	rows, err := e.Query(t.Context(), Statement{Tables: []Table{m.table(), m.table()},
		SQL: `SELECT a.ck, max(b.cm), a.cr FROM (SELECT * FROM kalam_scan(0) UNION ALL SELECT * FROM kalam_scan(0)) a
		JOIN kalam_scan(1) b ON a.cc = b.cc GROUP BY 1, 3`})
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Release()
	for i, want := range []string{`"Json"`, `"DateTime"`, `"File"`} {
		if v, _ := rows.Schema().Field(i).Metadata.GetValue(typeKey); v != want {
			t.Errorf("column %d is %s, not %s", i, v, want)
		}
	}
}

func TestOnlyNeededColumnsAreRead(t *testing.T) {
	e := newEngine(t, Config{})
	m := everyType(t, memory.DefaultAllocator)
	for _, c := range []struct {
		sql  string
		want []int
	}{
		{"SELECT ci FROM kalam_scan(0) WHERE cc > 0", []int{2, 8}},
		{"SELECT count(*) FROM kalam_scan(0)", []int{0}}, // DuckDB takes the first when it needs none
		{"SELECT sum(cd) FROM kalam_scan(0)", []int{3}},
	} {
		m.asked = nil
		if _, err := collect(t, e, Statement{SQL: c.sql, Tables: []Table{m.table()}}); err != nil {
			t.Fatal(err)
		}
		asked := map[int]bool{}
		for _, p := range m.asked[0] {
			asked[p] = true
		}
		if len(asked) != len(c.want) {
			t.Errorf("%s: read %v, needs %v", c.sql, m.asked[0], c.want)
		}
		for _, p := range c.want {
			if !asked[p] {
				t.Errorf("%s: read %v, needs %v", c.sql, m.asked[0], c.want)
			}
		}
	}
}

func TestResultsOfForeignTypes(t *testing.T) {
	e := newEngine(t, Config{})
	for _, c := range []struct{ sql, typ, want string }{
		{"SELECT sum(i) FROM range(5) t(i)", `"BigInt"`, "10"},
		{"SELECT [1,2]", `"Json"`, "[1,2]"},
		{"SELECT {'a': 1}", `"Json"`, `{"a":1}`},
		{"SELECT INTERVAL '1 day'", `"Text"`, "1 day"},
		{"SELECT 5::TINYINT", `"SmallInt"`, "5"},
		{"SELECT NULL", `"Int"`, "(null)"},
		{"SELECT TIMESTAMPTZ '2020-01-02 03:04:05+02'", `"Timestamp"`, "2020-01-02T01:04:05"},
		{"SELECT json_extract('{\"a\":{\"b\":2}}', '$.\"a\"')", `"Json"`, `{"b":2}`},
		{"SELECT 'x', sum(1), 'y'", `"Text"`, "x|1|y"},
	} {
		rows, err := e.Query(t.Context(), Statement{SQL: c.sql})
		if err != nil {
			t.Errorf("%s: %v", c.sql, err)
			continue
		}
		got, err := drain(t, rows)
		if err != nil || len(got) != 1 || got[0] != c.want {
			t.Errorf("%s: got %q, %v; want %q", c.sql, got, err, c.want)
		}
		if v, _ := rows.Schema().Field(0).Metadata.GetValue(typeKey); v != c.typ {
			t.Errorf("%s: is %s, not %s", c.sql, v, c.typ)
		}
		rows.Release()
	}
}

func TestParameters(t *testing.T) {
	e := newEngine(t, Config{})
	got, err := collect(t, e, Statement{SQL: "SELECT CAST($1 AS BIGINT) + 1, $2, $3, $4, $5 || 'z'",
		Params: []datum.Datum{datum.Int(41), datum.Null, datum.Bool(true), datum.Float(1.5), datum.Text("it's\x00")}})
	if err != nil || len(got) != 1 || got[0] != "42|(null)|true|1.5|it's\x00z" {
		t.Errorf("got %q, %v", got, err)
	}
	_, err = collect(t, e, Statement{SQL: "SELECT $2::INT", Params: []datum.Datum{datum.Int(1)}})
	if !dberr.Is(err, dberr.InvalidArgument) {
		t.Errorf("a missing parameter: %v", err)
	}
}

func TestErrorsHaveCodes(t *testing.T) {
	e := newEngine(t, Config{})
	for sql, want := range map[string]dberr.Code{
		"SELECT 1 +":                     dberr.InvalidSQL,
		"SELECT nope":                    dberr.InvalidSQL,
		"SELECT lower()":                 dberr.InvalidSQL,
		"SELECT * FROM nope":             dberr.InvalidSQL,
		"CREATE TABLE x (a INT)":         dberr.InvalidSQL,
		"SELECT 9223372036854775807 + 1": dberr.ValueOutOfRange,
		"SELECT sum(9223372036854775807) FROM range(3)":       dberr.ValueOutOfRange,
		"SELECT CAST('x' AS INT)":                             dberr.ValueOutOfRange,
		"SELECT 1 / kalam_nonzero(i::INT) FROM range(3) t(i)": dberr.ValueOutOfRange,
		"SELECT CAST('kalamdb:Internal:1:x' AS INT)":          dberr.ValueOutOfRange,
		"SELECT kalam_repeat('x', 1000000000)":                dberr.LimitExceeded,
	} {
		if _, err := collect(t, e, Statement{SQL: sql}); dberr.CodeOf(err) != want {
			t.Errorf("%s: %v (%s), want %s", sql, err, dberr.CodeOf(err), want)
		}
	}
}

func TestAReadersErrorIsTheStatementsError(t *testing.T) {
	e := newEngine(t, Config{})
	m := everyType(t, memory.DefaultAllocator)
	m.err = dberr.New(dberr.SchemaChanged, "bound to an older schema")
	_, err := collect(t, e, Statement{SQL: "SELECT sum(cc) FROM kalam_scan(0)", Tables: []Table{m.table()}})
	if !dberr.Is(err, dberr.SchemaChanged) {
		t.Errorf("got %v", err)
	}
	if m.open != 0 {
		t.Errorf("%d readers were left open", m.open)
	}
}

func TestABatchOfOtherTypesIsRefused(t *testing.T) {
	e := newEngine(t, Config{})
	m := everyType(t, memory.DefaultAllocator)
	m.columns[8].Type = catalog.Type{Kind: catalog.BigInt}
	_, err := collect(t, e, Statement{SQL: "SELECT ci FROM kalam_scan(0)", Tables: []Table{m.table()}})
	if !dberr.Is(err, dberr.Internal) || !strings.Contains(err.Error(), "not as int64") {
		t.Errorf("got %v", err)
	}
}
