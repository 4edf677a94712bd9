package rowcodec

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

func messages() *catalog.Table {
	t := &catalog.Table{ID: 7, Namespace: "app", Name: "messages", Columns: []catalog.Column{
		{ID: 1, Name: "id", Type: catalog.Type{Kind: catalog.BigInt}, PrimaryKey: true},
		{ID: 3, Name: "body", Type: catalog.Type{Kind: catalog.Text}},
		{ID: 4, Name: "at", Type: catalog.Type{Kind: catalog.Timestamp}},
		{ID: 9, Name: "price", Type: catalog.Type{Kind: catalog.Decimal, Precision: 10, Scale: 2}},
	}}
	return t.Index()
}

func sample(t *catalog.Table) Row {
	r := NewRow(t)
	r.Put(0, datum.Int(42))
	r.Put(1, datum.Text("grüße"))
	r.Put(2, datum.Null)
	r.Put(3, datum.Decimal(0, 1999, 2))
	return r
}

func TestRoundTrip(t *testing.T) {
	table := messages()
	want, got := sample(table), NewRow(table)
	if err := Decode(Append(nil, table, &want), table, &got); err != nil {
		t.Fatal(err)
	}
	for i := range table.Columns {
		if got.Set[i] != want.Set[i] || !datum.Equal(got.Values[i], want.Values[i]) {
			t.Errorf("column %s: %v (set %v), want %v", table.Columns[i].Name, got.Values[i], got.Set[i], want.Values[i])
		}
	}
}

// The bytes are a disk format: this file was written by the first version and must stay readable.
func TestRowsOfTheFirstVersion(t *testing.T) {
	path := filepath.Join("testdata", "row-v1.bin")
	table := messages()
	row := sample(table)
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := Append(nil, table, &row); !bytes.Equal(got, want) {
		t.Errorf("the format changed: %x, want %x", got, want)
	}
}

func TestSchemaMayChangeAroundARow(t *testing.T) {
	old := messages()
	row := sample(old)
	encoded := Append(nil, old, &row)
	changed := messages()
	changed.Columns[0].Name = "key"                                                                                        // renamed
	changed.Columns = append(changed.Columns[:1:1], changed.Columns[2:]...)                                                // body dropped
	changed.Columns = append(changed.Columns, catalog.Column{ID: 10, Name: "new", Type: catalog.Type{Kind: catalog.Text}}) // added
	changed.Index()
	got := NewRow(changed)
	if err := Decode(encoded, changed, &got); err != nil {
		t.Fatal(err)
	}
	if got.Values[0].AsInt() != 42 || got.Set[3] || !got.Values[3].IsNull() {
		t.Errorf("got %v", got)
	}
}

func TestAValueOfAnotherKindIsCorrupt(t *testing.T) {
	table := messages()
	row := NewRow(table)
	row.Put(0, datum.Text("not a number"))
	got := NewRow(table)
	if err := Decode(Append(nil, table, &row), table, &got); !dberr.Is(err, dberr.Corrupt) {
		t.Errorf("got %v", err)
	}
}

func FuzzDecodeRow(f *testing.F) {
	table := messages()
	row := sample(table)
	f.Add(Append(nil, table, &row))
	f.Add([]byte{version1})
	f.Fuzz(func(t *testing.T, b []byte) {
		got := NewRow(table)
		if err := Decode(b, table, &got); err != nil {
			if !dberr.Is(err, dberr.Corrupt) {
				t.Fatalf("error without code: %v", err)
			}
			return
		}
		again := NewRow(table)
		if err := Decode(Append(nil, table, &got), table, &again); err != nil {
			t.Fatal(err)
		}
		for i := range got.Values {
			if !datum.Equal(got.Values[i], again.Values[i]) {
				t.Fatalf("column %d: %v, then %v", i, got.Values[i], again.Values[i])
			}
		}
	})
}

// A NOT NULL column that was added shows its default of then in rows from before it, and NULL where a row says so.
func TestARowFromBeforeAColumn(t *testing.T) {
	old := messages()
	row := sample(old)
	encoded := Append(nil, old, &row)
	altered := messages()
	altered.Columns = append(altered.Columns, catalog.Column{ID: 10, Name: "stars", Type: catalog.Type{Kind: catalog.Int},
		NotNull: true, Missing: datum.Append(nil, datum.Int(3))})
	altered.Index()
	stored, written, projected := NewRow(altered), NewRow(altered), NewRow(altered)
	if err := DecodeStored(encoded, altered, &stored); err != nil || !stored.Set[4] || stored.Values[4] != datum.Int(3) {
		t.Errorf("stored: %v, %v", stored.Values, err)
	}
	if err := Decode(encoded, altered, &written); err != nil || written.Set[4] {
		t.Errorf("to be written: %v, %v", written.Values, err) // what an INSERT leaves out takes the DEFAULT of now
	}
	p := NewProjection(altered, []uint32{1, 10})
	if err := p.DecodeShared(encoded, &projected); err != nil || projected.Values[4] != datum.Int(3) {
		t.Errorf("projected: %v, %v", projected.Values, err)
	}
	stored.Put(4, datum.Null) // DROP NOT NULL, and then NULL was written
	if err := p.DecodeShared(Append(nil, altered, &stored), &projected); err != nil || !projected.Values[4].IsNull() {
		t.Errorf("projected NULL: %v, %v", projected.Values, err)
	}
	altered.Columns[4].Missing = []byte{99}
	if err := DecodeStored(encoded, altered, &stored); !dberr.Is(err, dberr.Corrupt) {
		t.Errorf("what does not decode: %v", err)
	}
	if err := NewProjection(altered, []uint32{10}).DecodeShared(encoded, &projected); !dberr.Is(err, dberr.Corrupt) {
		t.Errorf("what does not decode, projected: %v", err)
	}
}
