package rowcodec_test

import (
	"bytes"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
)

// table has columns 1, 3, 4 and 9; others were dropped.
func table() *catalog.Table {
	t := &catalog.Table{Namespace: "app", Name: "t", Columns: []catalog.Column{
		{ID: 1, Name: "id", Type: catalog.Type{Kind: catalog.BigInt}, PrimaryKey: true},
		{ID: 3, Name: "body", Type: catalog.Type{Kind: catalog.Text}},
		{ID: 4, Name: "at", Type: catalog.Type{Kind: catalog.Timestamp}},
		{ID: 9, Name: "tag", Type: catalog.Type{Kind: catalog.Text}},
	}}
	return t.Index()
}

func encoded(t *catalog.Table) []byte {
	r := rowcodec.NewRow(t)
	r.Put(0, datum.Int(7))
	r.Put(1, datum.Text("hello"))
	r.Put(3, datum.Text("x"))
	return rowcodec.Append(nil, t, &r)
}

func TestProjectionDecodesWhatWasChosen(t *testing.T) {
	tab := table()
	row := rowcodec.NewRow(tab)
	if err := rowcodec.NewProjection(tab, []uint32{3, 4, 77}).DecodeShared(encoded(tab), &row); err != nil {
		t.Fatal(err)
	}
	row.Put(2, datum.Timestamp(1)) // of the row before
	if err := rowcodec.NewProjection(tab, []uint32{3, 4, 3}).DecodeShared(encoded(tab), &row); err != nil {
		t.Fatal(err)
	}
	if row.Set[0] || !row.Set[1] || row.Set[2] || row.Set[3] || row.Values[1] != datum.Text("hello") {
		t.Fatalf("got %v %v", row.Values, row.Set)
	}
}

// A row may hold columns that were dropped since.
func TestProjectionSkipsUnknownColumns(t *testing.T) {
	old := table()
	old.Columns = append(old.Columns[:1:1], append([]catalog.Column{{ID: 2, Name: "gone", Type: catalog.Type{Kind: catalog.Text}}}, old.Columns[1:]...)...)
	old.Index()
	r := rowcodec.NewRow(old)
	r.Put(1, datum.Text("dropped"))
	r.Put(4, datum.Text("kept"))
	tab := table()
	row := rowcodec.NewRow(tab)
	if err := rowcodec.NewProjection(tab, []uint32{9}).DecodeShared(rowcodec.Append(nil, old, &r), &row); err != nil {
		t.Fatal(err)
	}
	if row.Values[3] != datum.Text("kept") {
		t.Fatalf("got %v", row.Values)
	}
}

func FuzzProjection(f *testing.F) {
	tab := table()
	f.Add(encoded(tab))
	f.Add(encoded(tab)[:9])
	all := rowcodec.NewProjection(tab, []uint32{1, 3, 4, 9})
	f.Fuzz(func(t *testing.T, b []byte) {
		want, got := rowcodec.NewRow(tab), rowcodec.NewRow(tab)
		wantErr := rowcodec.Decode(b, tab, &want)
		err := all.DecodeShared(bytes.Clone(b), &got)
		if err != nil && !dberr.Is(err, dberr.Corrupt) {
			t.Fatalf("error without code: %v", err)
		}
		if wantErr != nil {
			return // what follows the last column is not looked at
		}
		if err != nil {
			t.Fatal(err)
		}
		for i := range want.Values {
			if want.Values[i] != got.Values[i] || want.Set[i] != got.Set[i] {
				t.Fatalf("column %d: got %v, want %v", i, got.Values[i], want.Values[i])
			}
		}
	})
}
