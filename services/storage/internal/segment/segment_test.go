package segment

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

// everyType has a column of each type, and a key of two columns.
func everyType() *catalog.Table {
	t := &catalog.Table{ID: 7, Namespace: "app", Name: "t", SchemaVersion: 3}
	add := func(name string, typ catalog.Type, key bool) {
		t.Columns = append(t.Columns, catalog.Column{ID: uint32(len(t.Columns) + 1), Name: name, Type: typ, PrimaryKey: key, NotNull: key})
	}
	add("room", catalog.Type{Kind: catalog.Text}, true)
	add("id", catalog.Type{Kind: catalog.BigInt}, true)
	for k := catalog.Boolean; k <= catalog.File; k++ {
		typ := catalog.Type{Kind: k}
		switch k {
		case catalog.Decimal:
			typ.Precision, typ.Scale = 20, 4
		case catalog.Embedding:
			typ.Dimension = 3
		}
		add(fmt.Sprintf("c%d", k), typ, false)
	}
	return t.Index()
}

// valueOf is some value of a type; small n make the extremes.
func valueOf(t catalog.Type, n int) datum.Datum {
	v := int64(n) * 7919
	switch t.Kind {
	case catalog.Boolean:
		return datum.Bool(n%2 == 0)
	case catalog.SmallInt:
		return datum.Int(int64(int16(v)))
	case catalog.Int:
		return datum.Int(int64(int32(v)))
	case catalog.BigInt:
		return datum.Int([]int64{math.MinInt64, math.MaxInt64, v}[min(n, 2)])
	case catalog.Float:
		return datum.Float([]float64{math.Inf(-1), math.MaxFloat32, float64(float32(v) / 3)}[min(n, 2)])
	case catalog.Double:
		return datum.Float([]float64{math.Inf(1), -math.MaxFloat64, float64(v) / 3}[min(n, 2)])
	case catalog.Decimal:
		return datum.Decimal(0, uint64(n)*1_000_003, t.Scale)
	case catalog.Text, catalog.JSON, catalog.File:
		return datum.Text([]string{"", "\x00\x01ü", strings.Repeat("x", n%200)}[min(n, 2)])
	case catalog.Bytes:
		return datum.Bytes([][]byte{{}, {0, 255}, []byte(fmt.Sprint(n))}[min(n, 2)])
	case catalog.Timestamp, catalog.DateTime:
		return datum.Timestamp(v * 1_000_001)
	case catalog.Date:
		return datum.Date(int64(n) - 1000)
	case catalog.Time:
		return datum.Time(v % 86_400_000_000)
	case catalog.UUID:
		return datum.UUID([16]byte{byte(n), byte(n >> 8), 15: 9})
	case catalog.Embedding:
		return datum.Embedding([]float32{float32(n), -1, 0.5})
	}
	panic(t.Kind)
}

type version struct {
	key []datum.Datum
	row rowcodec.Row
	v   keycodec.Version
}

func versions(t *catalog.Table, n int) []version {
	out := make([]version, n)
	for i := range out {
		row := rowcodec.NewRow(t)
		row.Put(0, datum.Text(fmt.Sprintf("room%d", i/100)))
		row.Put(1, datum.Int(int64(2*i)))
		for c := 2; c < len(t.Columns); c++ {
			if (i+c)%5 != 0 { // else NULL
				row.Put(c, valueOf(t.Columns[c].Type, i))
			}
		}
		out[i] = version{key: []datum.Datum{row.Values[0], row.Values[1]}, row: row,
			v: keycodec.Version{Seq: uint64(1000 + i*3), Deleted: i%7 == 3, SchemaVersion: t.SchemaVersion, Row: rowcodec.Append(nil, t, &row)}}
	}
	slices.SortFunc(out, func(a, b version) int {
		return bytes.Compare(keycodec.AppendKeyValues(nil, a.key), keycodec.AppendKeyValues(nil, b.key))
	})
	return out
}

func write(t testing.TB, table *catalog.Table, rows []version) ([]byte, *storagev1.Segment) {
	t.Helper()
	var buf bytes.Buffer
	w, err := NewWriter(&buf, table)
	if err != nil {
		t.Fatal(err)
	}
	for i := range rows {
		if err := w.Add(keycodec.AppendKeyValues(nil, rows[i].key), rows[i].v); err != nil {
			t.Fatal(err)
		}
	}
	seg, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes(), seg
}

func open(t testing.TB, raw []byte) *Reader {
	t.Helper()
	r, err := Open(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestWhatWasWrittenIsRead(t *testing.T) {
	table := everyType()
	rows := versions(table, rowGroupRows+500)
	raw, seg := write(t, table, rows)
	if seg.Bytes != uint64(len(raw)) || seg.Rows != uint64(len(rows)) || seg.SeqMin != 1000 || seg.SeqMax != uint64(1000+3*(len(rows)-1)) {
		t.Errorf("%v", seg)
	}
	r := open(t, raw)
	if r.RowGroups() != 2 {
		t.Fatalf("%d row groups", r.RowGroups())
	}
	n := 0
	for g := range r.RowGroups() {
		got, err := r.Read(context.Background(), g, table, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Keys[0], r.FirstKey(g)) {
			t.Errorf("row group %d begins with another key", g)
		}
		for i := range got.Keys {
			want := rows[n]
			if !bytes.Equal(got.Keys[i], keycodec.AppendKeyValues(nil, want.key)) {
				t.Fatalf("row %d has another key", n)
			}
			if v := got.Versions[i]; v.Seq != want.v.Seq || v.Deleted != want.v.Deleted || v.SchemaVersion != table.SchemaVersion || !bytes.Equal(v.Row, want.v.Row) {
				t.Fatalf("row %d: %v, want %v", n, v, want.v)
			}
			n++
		}
	}
	if n != len(rows) {
		t.Errorf("%d rows of %d", n, len(rows))
	}
}

func TestOnlyTheColumnsAskedForAreDecoded(t *testing.T) {
	table := everyType()
	raw, _ := write(t, table, versions(table, 10))
	got, err := open(t, raw).Read(context.Background(), 0, table, []uint32{5})
	if err != nil {
		t.Fatal(err)
	}
	row := rowcodec.NewRow(table)
	for i := range got.Versions {
		if err := rowcodec.Decode(got.Versions[i].Row, table, &row); err != nil {
			t.Fatal(err)
		}
		for c := range row.Set {
			if row.Set[c] && c != 0 && c != 1 && table.Columns[c].ID != 5 {
				t.Fatalf("column %d was decoded", table.Columns[c].ID)
			}
		}
		if row.Set[4] != ((i+4)%5 != 0) {
			t.Errorf("row %d: the column asked for is there: %v", i, row.Set[4])
		}
	}
}

// A column that was dropped, added, renamed or widened since the file was written.
func TestTheSchemaMayChangeAfterwards(t *testing.T) {
	before := (&catalog.Table{ID: 1, SchemaVersion: 1, Columns: []catalog.Column{{ID: 1, Name: "id", Type: catalog.Type{Kind: catalog.Int}, PrimaryKey: true},
		{ID: 2, Name: "gone", Type: catalog.Type{Kind: catalog.Text}}, {ID: 3, Name: "n", Type: catalog.Type{Kind: catalog.Int}}}}).Index()
	row := rowcodec.NewRow(before)
	row.Put(0, datum.Int(5))
	row.Put(1, datum.Text("x"))
	row.Put(2, datum.Int(7))
	raw, _ := write(t, before, []version{{key: []datum.Datum{datum.Int(5)}, v: keycodec.Version{Seq: 9, Row: rowcodec.Append(nil, before, &row)}}})
	after := (&catalog.Table{ID: 1, SchemaVersion: 2, Columns: []catalog.Column{{ID: 1, Name: "id", Type: catalog.Type{Kind: catalog.Int}, PrimaryKey: true},
		{ID: 3, Name: "renamed", Type: catalog.Type{Kind: catalog.BigInt}}, {ID: 4, Name: "gone", Type: catalog.Type{Kind: catalog.BigInt}}}}).Index()
	got, err := open(t, raw).Read(context.Background(), 0, after, nil)
	if err != nil {
		t.Fatal(err)
	}
	now := rowcodec.NewRow(after)
	if err := rowcodec.Decode(got.Versions[0].Row, after, &now); err != nil {
		t.Fatal(err)
	}
	if now.Values[0].AsInt() != 5 || now.Values[1].AsInt() != 7 || now.Set[2] || got.Versions[0].SchemaVersion != 2 {
		t.Errorf("%+v", now)
	}
}

func TestFiltersHaveNoFalseNegatives(t *testing.T) {
	table := everyType()
	rows := versions(table, 3000)
	raw, _ := write(t, table, rows)
	r := open(t, raw)
	for i := range rows {
		g := r.GroupOf(keycodec.AppendKeyValues(nil, rows[i].key))
		if may, err := r.MayHold(g, table, rows[i].key); err != nil || !may {
			t.Fatalf("row %d in group %d: %v %v", i, g, may, err)
		}
	}
	said := 0
	for i := range 1000 {
		may, err := r.MayHold(0, table, []datum.Datum{datum.Text("room1"), datum.Int(int64(2*i + 1))})
		if err != nil {
			t.Fatal(err)
		}
		if may {
			said++
		}
	}
	if said > 200 {
		t.Errorf("%d of 1000 keys that are not there may be", said)
	}
}

func TestKeysOutOfOrderAreRefused(t *testing.T) {
	table := everyType()
	rows := versions(table, 2)
	w, err := NewWriter(new(bytes.Buffer), table)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if err := w.Add(keycodec.AppendKeyValues(nil, rows[1].key), rows[1].v); err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{1, 0} {
		if err := w.Add(keycodec.AppendKeyValues(nil, rows[i].key), rows[i].v); !dberr.Is(err, dberr.Internal) {
			t.Errorf("row %d: %v", i, err)
		}
	}
}

func TestDamagedFilesAreCorrupt(t *testing.T) {
	table := everyType()
	raw, _ := write(t, table, versions(table, 50))
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		bad := bytes.Clone(raw)
		for range 1 + rng.IntN(4) {
			bad[rng.IntN(len(bad))] ^= byte(1 << rng.IntN(8))
		}
		if rng.IntN(4) == 0 {
			bad = bad[:rng.IntN(len(bad))]
		}
		readAll(t, bad, table)
	}
}

// readAll reads a file that may be anything: it must end with an error of ours or with rows.
func readAll(t *testing.T, raw []byte, table *catalog.Table) {
	r, err := Open(bytes.NewReader(raw), int64(len(raw)))
	for g := 0; err == nil && g < r.RowGroups(); g++ {
		_, err = r.Read(context.Background(), g, table, nil)
	}
	if err != nil && !dberr.Is(err, dberr.Corrupt) && !dberr.Is(err, dberr.Unsupported) {
		t.Fatalf("%v", err)
	}
}

func FuzzOpen(f *testing.F) {
	table := everyType()
	raw, _ := write(f, table, versions(table, 5))
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) { readAll(t, raw, table) })
}

// A column that was added as NOT NULL and is nullable again: rows from before it show its default of then, and NULL stays NULL.
func TestNullIsNotTheDefaultOfOlderRows(t *testing.T) {
	before := everyType()
	after := everyType()
	after.SchemaVersion = 4
	added := len(after.Columns)
	after.Columns = append(after.Columns, catalog.Column{ID: 90, Name: "added", Type: catalog.Type{Kind: catalog.Int}, Missing: datum.Append(nil, datum.Int(5))})
	after.Index()
	rows := versions(before, 2)
	second := rowcodec.NewRow(after)
	if err := rowcodec.DecodeStored(rows[1].v.Row, after, &second); err != nil {
		t.Fatal(err)
	}
	second.Put(added, datum.Null)
	rows[1].v.Row, rows[1].v.SchemaVersion = rowcodec.Append(nil, after, &second), 4
	old, err := NewWriter(new(bytes.Buffer), before)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Abort()
	if err := old.Add(keycodec.AppendKeyValues(nil, rows[1].key), rows[1].v); !dberr.Is(err, dberr.SchemaChanged) {
		t.Errorf("a row that is newer than the table: %v", err)
	}
	file, _ := write(t, after, rows)
	r, err := Open(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.Read(t.Context(), 0, after, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []datum.Datum{datum.Int(5), datum.Null} {
		row := rowcodec.NewRow(after)
		if err := rowcodec.DecodeStored(got.Versions[i].Row, after, &row); err != nil || row.Values[added] != want {
			t.Errorf("row %d: %v, %v; want %v", i, row.Values[added], err, want)
		}
	}
}
