package manifest

import (
	"encoding/json"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

func table(kind catalog.TableKind, types ...catalog.Type) *catalog.Table {
	t := &catalog.Table{ID: 1, Namespace: "app", Name: "t", Kind: kind}
	for i, typ := range types {
		t.Columns = append(t.Columns, catalog.Column{ID: uint32(i + 1), Name: string(rune('a' + i)), Type: typ})
	}
	return t.Index()
}

func entry(id uint64, name string, columns ...*storagev1.SegmentColumn) Entry {
	return Entry{Table: 1, User: "ann", ID: id, Segment: &storagev1.Segment{Path: "user/ann/app/t/" + name, Rows: 3, Bytes: 100, Sha256: []byte{0xAB},
		Tombstones: 1, SeqMin: id - 9, SeqMax: id - 1, SchemaVersion: 4, Level: 2, CreatedUs: int64(id) * 1000, Columns: columns}}
}

func TestTheFileIsThatOfTheSpecification(t *testing.T) {
	limits := &storagev1.SegmentColumn{ColumnId: 1, Nulls: 2, Min: keycodec.AppendDatum(nil, datum.Int(-5)), Max: keycodec.AppendDatum(nil, datum.Int(1<<60))}
	entries := []Entry{entry(100, "batch-a.parquet", limits, &storagev1.SegmentColumn{ColumnId: 9}), entry(200, "batch-b.parquet")}
	raw, err := JSON(table(catalog.UserTable, catalog.Type{Kind: catalog.BigInt}), "ann", entries)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"table_id":{"namespace_id":"app","table_name":"t"},"user_id":"ann","version":200,"created_at":100,"updated_at":200,"last_sequence_number":199,"segments":[` +
		`{"id":"batch-a.parquet","path":"batch-a.parquet","min_seq":91,"max_seq":99,"row_count":3,"size_bytes":100,"created_at":100,"schema_version":4,"status":"committed",` +
		`"column_stats":{"1":{"min":{"Int64":"-5"},"max":{"Int64":"1152921504606846976"},"null_count":2}},"sha256":"ab","level":2,"tombstones":1},` +
		`{"id":"batch-b.parquet","path":"batch-b.parquet","min_seq":191,"max_seq":199,"row_count":3,"size_bytes":100,"created_at":200,"schema_version":4,"status":"committed",` +
		`"column_stats":{},"sha256":"ab","level":2,"tombstones":1}]}`
	if string(raw) != want {
		t.Errorf("got  %s\nwant %s", raw, want)
	}
	if got := Path(entries); got != "user/ann/app/t/manifest.json" {
		t.Errorf("it is at %s", got)
	}
	if got := ParseVersion(raw); got != VersionOf(entries) || got != (Version{200, 2}) {
		t.Errorf("version %v", got)
	}
}

func TestLimitsBearTheirType(t *testing.T) {
	for _, c := range []struct {
		kind  catalog.TypeKind
		value datum.Datum
		want  string
	}{
		{catalog.Boolean, datum.Bool(true), `{"Boolean":"true"}`},
		{catalog.SmallInt, datum.Int(7), `{"Int16":"7"}`},
		{catalog.Int, datum.Int(7), `{"Int32":"7"}`},
		{catalog.Double, datum.Float(1.5), `{"Float64":"1.5"}`},
		{catalog.Text, datum.Text("a\"<b"), `{"Utf8":"a\"\u003cb"}`},
		{catalog.JSON, datum.Text("{}"), `{"Utf8":"{}"}`},
		{catalog.Timestamp, datum.Timestamp(1_700_000_000_000_001), `{"TimestampMicrosecond":"1700000000000001"}`},
		{catalog.Date, datum.Date(20000), `{"Date32":"20000"}`},
		{catalog.Time, datum.Time(61), `{"Time64Microsecond":"61"}`},
		{catalog.UUID, datum.UUID([16]byte{15: 1}), `{"Uuid":"00000000-0000-0000-0000-000000000001"}`},
	} {
		s, err := statsOf(catalog.Type{Kind: c.kind}, &storagev1.SegmentColumn{Max: keycodec.AppendDatum(nil, c.value)})
		if err != nil {
			t.Fatal(err)
		}
		got, err := json.Marshal(s.Max)
		if err != nil || string(got) != c.want || s.Min != nil {
			t.Errorf("%v: %s, %v, least %v; want %s", c.kind, got, err, s.Min, c.want)
		}
	}
	if _, err := statsOf(catalog.Type{Kind: catalog.Int}, &storagev1.SegmentColumn{Min: []byte{0xFF}}); err == nil {
		t.Error("a limit that is none was taken")
	}
}

func TestScopes(t *testing.T) {
	user, shared := table(catalog.UserTable), table(catalog.SharedTable)
	for _, c := range []struct {
		table       *catalog.Table
		owner, want string
	}{{user, "shared", "shared"}, {user, "ann", "ann"}, {shared, "", "shared"}, {shared, "\x003", "3"}} {
		if got := Scope(c.table, c.owner); got != c.want {
			t.Errorf("%q of a %v table: %q, want %q", c.owner, c.table.Kind, got, c.want)
		}
	}
	raw, err := JSON(shared, "\x003", []Entry{entry(5+9, "x.parquet")})
	var f map[string]any
	if err != nil || json.Unmarshal(raw, &f) != nil || f["user_id"] != nil || f["partition"] != "3" {
		t.Errorf("%s, %v", raw, err)
	}
}

// The file may be anybody's: whatever it holds, its version is that of a list or zero.
func FuzzParseVersion(f *testing.F) {
	f.Add([]byte(`{"version":7,"segments":[{},{}]}`))
	f.Add([]byte(`{"version":-1}`))
	f.Add([]byte(`{"version":18446744073709551615,"segments":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		v := ParseVersion(raw)
		if !json.Valid(raw) && v != (Version{}) {
			t.Errorf("%q has version %v", raw, v)
		}
	})
}
