package match

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/predicate"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

func column(id uint32, name string, kind catalog.TypeKind) catalog.Column {
	return catalog.Column{ID: id, Name: name, Type: catalog.Type{Kind: kind}}
}

// events has column ids with a gap, as after DROP COLUMN.
func events() *catalog.Table {
	t := &catalog.Table{ID: 7, Namespace: "app", Name: "events", Kind: catalog.UserTable, SchemaVersion: 3, Columns: []catalog.Column{
		column(1, "id", catalog.BigInt), column(3, "at", catalog.Timestamp), column(4, "note", catalog.Text), column(9, "price", catalog.Double)}}
	t.Columns[0].PrimaryKey = true
	return t.Index()
}

func seqAt(at time.Time) uint64 {
	return uint64(at.Sub(snowflake.SeqEpoch).Milliseconds()) << 22
}

var (
	t0   = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	seq0 = seqAt(t0)
)

func encodeRow(t *catalog.Table, values ...datum.Datum) []byte {
	r := rowcodec.NewRow(t)
	for i, d := range values {
		r.Put(i, d)
	}
	return rowcodec.Append(nil, t, &r)
}

func event(id int64, at time.Time, note datum.Datum, price float64) []byte {
	return encodeRow(events(), datum.Int(id), datum.Timestamp(at.UnixMicro()), note, datum.Float(price))
}

func update(old, row []byte) *storagev1.Change {
	return &storagev1.Change{Kind: storagev1.ChangeKind_CHANGE_KIND_UPDATE, Seq: seq0 + 1, OldSeq: seq0, OldRow: old, Row: row}
}

func mustCompile(t *testing.T, spec Spec) *Shape {
	t.Helper()
	spec.Table = events()
	if spec.Encoding == 0 {
		spec.Encoding = livev1.Encoding_ENCODING_JSON
	}
	s, err := Compile(spec)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func evaluate(t *testing.T, s *Shape, ch *storagev1.Change) *livev1.Changed {
	t.Helper()
	c, err := Decode(s.Table(), ch)
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.Evaluate(c, true)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func readable(b []byte) string {
	return strings.NewReplacer(fmt.Sprint(seq0+1), "#1", fmt.Sprint(seq0), "#0").Replace(string(b))
}

func TestUpdateInEveryEncoding(t *testing.T) {
	ch := update(event(1, t0, datum.Text("old"), 1.5), event(1, t0, datum.Null, 2.5))
	all := []uint32{1, 3, 4, 9}
	js := evaluate(t, mustCompile(t, Spec{Columns: all}), ch)
	if got, want := readable(js.GetRows()), `[{"id":"1","at":1772366400000000,"price":2.5,"_seq":"#1"}]`; got != want {
		t.Errorf("rows %s\nwant %s", got, want)
	}
	if got, want := readable(js.GetOldRows()), `[{"id":"1","note":"old","price":1.5,"_seq":"#0"}]`; got != want {
		t.Errorf("old %s\nwant %s", got, want)
	}
	seed := evaluate(t, mustCompile(t, Spec{Columns: []uint32{3, 4}, Encoding: livev1.Encoding_ENCODING_SEED_JSON}), ch)
	if got, want := string(seed.GetRows())+string(seed.GetOldRows()),
		`[{"at":"2026-03-01T12:00:00Z","note":null}][{"at":"2026-03-01T12:00:00Z","note":"old"}]`; got != want {
		t.Errorf("seed %s\nwant %s", got, want)
	}
	mp := evaluate(t, mustCompile(t, Spec{Columns: all, Encoding: livev1.Encoding_ENCODING_MSGPACK}), ch)
	var rows []map[string]any
	if err := msgpack.Unmarshal(mp.GetOldRows(), &rows); err != nil || len(rows) != 1 || len(rows[0]) != 4 ||
		rows[0]["note"] != "old" || rows[0]["_seq"] != fmt.Sprint(seq0) {
		t.Errorf("msgpack %v %v", rows, err)
	}
	ar := evaluate(t, mustCompile(t, Spec{Columns: all, Encoding: livev1.Encoding_ENCODING_ARROW_IPC}), ch)
	if got, want := arrowText(t, ar.GetRows()), fmt.Sprintf("id=1 at=1772366400000000 note=NULL price=2.5 _seq=%d", seq0+1); got != want {
		t.Errorf("arrow %s\nwant  %s", got, want)
	}
	if got, want := arrowText(t, ar.GetOldRows()), fmt.Sprintf("id=1 note=old price=1.5 _seq=%d", seq0); got != want {
		t.Errorf("arrow old %s\nwant      %s", got, want)
	}
}

func arrowText(t *testing.T, b []byte) string {
	t.Helper()
	schema, batches, err := rowbatch.Decode(memory.DefaultAllocator, b, 1<<20)
	if err != nil || len(batches) != 1 || batches[0].NumRows() != 1 {
		t.Fatalf("%v, %d batches", err, len(batches))
	}
	defer batches[0].Release()
	var out []string
	for i, c := range rowbatch.ColumnsOf(schema) {
		d := rowbatch.DatumAt(batches[0].Column(i), 0, c.Type)
		switch {
		case d.IsNull():
			out = append(out, c.Name+"=NULL")
		case d.Kind() == datum.KindText:
			out = append(out, c.Name+"="+d.AsText())
		case d.Kind() == datum.KindFloat:
			out = append(out, fmt.Sprintf("%s=%g", c.Name, d.AsFloat()))
		default:
			out = append(out, fmt.Sprintf("%s=%d", c.Name, d.AsInt()))
		}
	}
	return strings.Join(out, " ")
}

// Spec 4.2: WHERE timestamp > NOW() - INTERVAL '5 minutes'.
func TestTimeIsThatOfTheChange(t *testing.T) {
	recent := predicate.Call(">", predicate.Column(3),
		predicate.Call("-", predicate.Call("now"), predicate.Literal(datum.Interval(0, 0, 5*60*1_000_000))))
	s := mustCompile(t, Spec{Columns: []uint32{1}, Filter: recent})
	insert := func(at time.Time) *storagev1.Change {
		return &storagev1.Change{Kind: storagev1.ChangeKind_CHANGE_KIND_INSERT, Seq: seq0, Row: event(1, at, datum.Null, 0)}
	}
	if ch := evaluate(t, s, insert(t0.Add(-4*time.Minute))); ch.GetKind() != livev1.Kind_KIND_INSERT {
		t.Errorf("recent row: %v", ch)
	}
	if ch := evaluate(t, s, insert(t0.Add(-6*time.Minute))); ch != nil {
		t.Errorf("old row: %v", ch)
	}
	// An hour later the row is too old, but the subscriber has it: it must be taken back.
	late := seqAt(t0.Add(time.Hour))
	row := event(1, t0, datum.Null, 0)
	gone := &storagev1.Change{Kind: storagev1.ChangeKind_CHANGE_KIND_DELETE, Seq: late, OldSeq: seq0, OldRow: row}
	if ch := evaluate(t, s, gone); ch.GetKind() != livev1.Kind_KIND_DELETE {
		t.Errorf("aged row deleted: %v", ch)
	}
	edit := &storagev1.Change{Kind: storagev1.ChangeKind_CHANGE_KIND_UPDATE, Seq: late, OldSeq: seq0, OldRow: row, Row: event(1, t0, datum.Text("x"), 0)}
	if ch := evaluate(t, s, edit); ch.GetKind() != livev1.Kind_KIND_DELETE {
		t.Errorf("aged row edited: %v", ch)
	}
}

func TestUnknownOldVersion(t *testing.T) {
	s := mustCompile(t, Spec{Columns: []uint32{1}})
	c, err := Decode(s.Table(), update(event(1, t0, datum.Null, 1), event(1, t0, datum.Null, 2)))
	if err != nil {
		t.Fatal(err)
	}
	if ch, err := s.Evaluate(c, false); err != nil || ch.GetKind() != livev1.Kind_KIND_INSERT || ch.GetOldRows() != nil {
		t.Fatalf("%v %v", ch, err)
	}
	c, err = Decode(s.Table(), &storagev1.Change{Kind: storagev1.ChangeKind_CHANGE_KIND_DELETE, Seq: 9, OldRow: event(1, t0, datum.Null, 1)})
	if err != nil {
		t.Fatal(err)
	}
	if ch, err := s.Evaluate(c, false); err != nil || ch != nil {
		t.Fatalf("%v %v", ch, err)
	}
}

func TestColumnsDelivered(t *testing.T) {
	names := func(s *Shape) string {
		var out []string
		for _, c := range s.Columns() {
			out = append(out, c.Name)
		}
		return strings.Join(out, ",")
	}
	for _, c := range []struct {
		columns  []uint32
		encoding livev1.Encoding
		want     string
	}{
		{[]uint32{9, 4, 9}, 0, "price,note,id,_seq"},
		{[]uint32{catalog.SeqColumnID, 1}, 0, "id,_seq"},
		{nil, 0, "id,_seq"},
		{[]uint32{4, catalog.UpdatedColumnID}, 0, "note,_updated,id,_seq"},
		{[]uint32{4}, livev1.Encoding_ENCODING_SEED_JSON, "note"},
	} {
		s := mustCompile(t, Spec{Columns: c.columns, Encoding: c.encoding})
		if got := names(s); got != c.want {
			t.Errorf("%v: %s, want %s", c.columns, got, c.want)
		}
		if scan := s.ScanColumns(); scan[len(scan)-1] != catalog.SeqColumnID {
			t.Errorf("%v: scan %v", c.columns, scan)
		}
	}
}

func TestNumbersWithoutJSONForm(t *testing.T) {
	s := mustCompile(t, Spec{Columns: []uint32{9}})
	c, err := Decode(s.Table(), &storagev1.Change{Kind: storagev1.ChangeKind_CHANGE_KIND_INSERT, Seq: 1,
		Row: encodeRow(events(), datum.Int(1), datum.Null, datum.Null, datum.Float(zero()/zero()))})
	if err != nil {
		t.Fatal(err)
	}
	if ch, err := s.Evaluate(c, true); err == nil {
		t.Fatalf("NaN became %s", ch.GetRows())
	}
}

func zero() float64 { return 0 }

func TestCacheSharesAndForgets(t *testing.T) {
	c := NewCache()
	plain := Spec{Table: events(), Columns: []uint32{1}, Encoding: livev1.Encoding_ENCODING_JSON}
	own := plain
	own.Filter = predicate.Call("=", predicate.Column(4), predicate.Call("current_user"))
	get := func(spec Spec, user string) *Shape {
		spec.UserID, spec.Role = user, catalog.RoleUser
		s, err := c.Get(spec)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	a, b := get(plain, "alice"), get(plain, "bob")
	if a != b {
		t.Error("equal queries of two users are compiled twice")
	}
	if get(own, "alice") == get(own, "bob") {
		t.Error("two users share a filter that asks who they are")
	}
	other := plain
	other.Encoding = livev1.Encoding_ENCODING_MSGPACK
	if get(other, "alice") == a {
		t.Error("two encodings share a shape")
	}
	if c.Len() != 4 {
		t.Errorf("%d shapes", c.Len())
	}
	c.Release(a)
	if c.Len() != 4 {
		t.Error("a shape in use was forgotten")
	}
	c.Release(b)
	c.Release(b)
	if c.Len() != 3 {
		t.Errorf("%d shapes after the last release", c.Len())
	}
	if _, err := c.Get(Spec{Table: events(), Encoding: livev1.Encoding_ENCODING_JSON, Filter: predicate.Column(1)}); err == nil {
		t.Error("a filter that is no condition was taken")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(int32(1), event(1, t0, datum.Text("x"), 1), []byte(nil))
	f.Add(int32(2), event(1, t0, datum.Text("x"), 1), event(1, t0, datum.Null, 1))
	f.Add(int32(3), []byte{1, 1}, []byte{0})
	shape, err := Compile(Spec{Table: events(), Columns: []uint32{1, 3, 4}, Encoding: livev1.Encoding_ENCODING_JSON,
		Filter: predicate.Call("is null", predicate.Column(4))})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, kind int32, row, old []byte) {
		c, err := Decode(shape.Table(), &storagev1.Change{Kind: storagev1.ChangeKind(kind), Seq: 5, OldSeq: 4, Row: row, OldRow: old})
		if err != nil {
			if !dberr.Is(err, dberr.Corrupt) {
				t.Fatalf("%v is %s", err, dberr.CodeOf(err))
			}
			return
		}
		if _, err := shape.Evaluate(c, true); err != nil && dberr.Is(err, dberr.Internal) {
			t.Fatal(err)
		}
	})
}

func BenchmarkEvaluate(b *testing.B) {
	filter := predicate.Call("=", predicate.Column(4), predicate.Literal(datum.Text("note")))
	ch := &storagev1.Change{Kind: storagev1.ChangeKind_CHANGE_KIND_INSERT, Seq: seq0, Row: event(1, t0, datum.Text("note"), 1.5)}
	for _, e := range []livev1.Encoding{livev1.Encoding_ENCODING_JSON, livev1.Encoding_ENCODING_MSGPACK, livev1.Encoding_ENCODING_ARROW_IPC} {
		s, err := Compile(Spec{Table: events(), Columns: []uint32{1, 3, 4, 9}, Encoding: e, Filter: filter})
		if err != nil {
			b.Fatal(err)
		}
		b.Run(e.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c, err := Decode(s.Table(), ch)
				if err != nil {
					b.Fatal(err)
				}
				if out, err := s.Evaluate(c, true); err != nil || out == nil {
					b.Fatal(err)
				}
			}
		})
	}
}
