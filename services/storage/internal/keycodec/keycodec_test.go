package keycodec

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// inOrder lists values of each kind from lowest to highest.
func inOrder() map[string][]datum.Datum {
	return map[string][]datum.Datum{
		"null and bool": {datum.Null, datum.Bool(false), datum.Bool(true)},
		"int":           {datum.Int(math.MinInt64), datum.Int(-256), datum.Int(-1), datum.Int(0), datum.Int(1), datum.Int(math.MaxInt64)},
		"float": {datum.Float(math.Inf(-1)), datum.Float(-2), datum.Float(-1e-300), datum.Float(0), datum.Float(5e-324),
			datum.Float(1), datum.Float(math.Inf(1)), datum.Float(math.NaN())},
		"decimal":   {datum.Decimal(-2, 5, 2), datum.Decimal(-1, 0, 2), datum.Decimal(-1, math.MaxUint64, 2), datum.Decimal(0, 0, 2), datum.Decimal(0, math.MaxUint64, 2), datum.Decimal(1, 0, 2)},
		"text":      {datum.Text(""), datum.Text("\x00"), datum.Text("\x00\x00"), datum.Text("\x00\x01"), datum.Text("\x00a"), datum.Text("\x01"), datum.Text("a"), datum.Text("a\x00"), datum.Text("a\x00b"), datum.Text("a\x01"), datum.Text("ab"), datum.Text("\xff"), datum.Text("\xff\xff")},
		"bytes":     {datum.Bytes(nil), datum.Bytes([]byte{0}), datum.Bytes([]byte{0, 255}), datum.Bytes([]byte{1})},
		"timestamp": {datum.Timestamp(math.MinInt64), datum.Timestamp(-1), datum.Timestamp(0), datum.Timestamp(1 << 50)},
		"date":      {datum.Date(-1), datum.Date(0), datum.Date(19000)},
		"time":      {datum.Time(0), datum.Time(86_399_999_999)},
		"uuid":      {datum.UUID([16]byte{}), datum.UUID([16]byte{15: 1}), datum.UUID([16]byte{1})},
		"embedding": {datum.Embedding(nil), datum.Embedding([]float32{0}), datum.Embedding([]float32{0, 0})},
		"interval":  {datum.Interval(-1, 5, 5), datum.Interval(0, -1, 9), datum.Interval(0, 0, -1), datum.Interval(0, 0, 0), datum.Interval(1, 0, 0)},
	}
}

func TestEncodingsSortAsValues(t *testing.T) {
	for name, values := range inOrder() {
		for i, a := range values {
			for j, b := range values {
				got := bytes.Compare(AppendDatum(nil, a), AppendDatum(nil, b))
				if got != cmp.Compare(i, j) {
					t.Errorf("%s: values %d and %d compare as %d", name, i, j, got)
				}
			}
		}
	}
}

func TestDatumRoundTrip(t *testing.T) {
	for name, values := range inOrder() {
		for i, want := range values {
			enc := AppendDatum(nil, want)
			got, rest, err := DecodeDatum(append(enc, 7))
			if err != nil || len(rest) != 1 {
				t.Fatalf("%s %d: %v, %d bytes left", name, i, err, len(rest))
			}
			if !bytes.Equal(AppendDatum(nil, got), enc) || got.Kind() != want.Kind() {
				t.Errorf("%s %d: came back as another value", name, i)
			}
		}
	}
}

func TestZeroHasOneEncoding(t *testing.T) {
	if !bytes.Equal(AppendDatum(nil, datum.Float(0)), AppendDatum(nil, datum.Float(math.Copysign(0, -1)))) {
		t.Error("-0 and 0 are two keys")
	}
	if !bytes.Equal(AppendDatum(nil, datum.Float(math.NaN())), AppendDatum(nil, datum.Float(math.Float64frombits(0xFFF8000000000042)))) {
		t.Error("two NaNs are two keys")
	}
}

// No user can be named so that one partition's prefix starts another's keys.
func TestPartitionsDoNotOverlap(t *testing.T) {
	users := []string{"", "a", "a\x00", "a\x00\x01", "ab", "\x00", "\x00\x01", "\xff", "b"}
	for _, a := range users {
		for _, b := range users {
			key := AppendRowKey(nil, 1, 2, b, []datum.Datum{datum.Text("k")})
			if a != b && bytes.HasPrefix(key, PartitionPrefix(nil, 1, 2, a)) {
				t.Errorf("a row of %q lies in the partition of %q", b, a)
			}
		}
	}
}

func TestRowKeyRoundTrip(t *testing.T) {
	want := []datum.Datum{datum.Text("a\x00b"), datum.Int(-7)}
	shard, table, user, key, err := DecodeRowKey(AppendRowKey(nil, 3, 9, "u\x00", want))
	if err != nil || shard != 3 || table != 9 || user != "u\x00" || len(key) != 2 || key[0] != want[0] || key[1] != want[1] {
		t.Fatalf("got %d %d %q %v, %v", shard, table, user, key, err)
	}
}

func TestShardSpansHoldEveryKeyOfTheShardAlone(t *testing.T) {
	keysOf := func(shard uint32) [][]byte {
		return [][]byte{AppliedKey(shard), AppendRowKey(nil, shard, 1, "u", nil), ChangeKey(nil, shard, 2, 1, "u", 5),
			DroppedKey(shard, 4), UniqueKey(nil, shard, 1, 2, "u", datum.Int(1)), PrunedKey(shard),
			SegmentKey(nil, shard, 1, "u", 9)}
	}
	held := func(k []byte) bool {
		for _, s := range ShardSpans(7) {
			if bytes.Compare(k, s.Start) >= 0 && (s.End == nil || bytes.Compare(k, s.End) < 0) {
				return true
			}
		}
		return false
	}
	for _, shard := range []uint32{0, 6, 7, 8, math.MaxUint32} {
		for i, k := range keysOf(shard) {
			if held(k) != (shard == 7) {
				t.Errorf("shard %d key %d: held %v", shard, i, held(k))
			}
		}
	}
}

func TestPrefixEnd(t *testing.T) {
	for _, c := range []struct{ prefix, end []byte }{{[]byte{1, 2}, []byte{1, 3}}, {[]byte{1, 255}, []byte{2}}, {[]byte{255}, nil}} {
		if got := PrefixEnd(c.prefix); !bytes.Equal(got, c.end) {
			t.Errorf("PrefixEnd(%x) = %x, want %x", c.prefix, got, c.end)
		}
	}
}

func TestVersionRoundTrip(t *testing.T) {
	for _, want := range []Version{{Seq: 1, SchemaVersion: 1}, {Seq: math.MaxUint64, Deleted: true, SchemaVersion: math.MaxUint32, Row: []byte("row")}} {
		got, err := DecodeVersion(AppendVersion(nil, &want))
		if err != nil || got.Seq != want.Seq || got.Deleted != want.Deleted || got.SchemaVersion != want.SchemaVersion || !bytes.Equal(got.Row, want.Row) {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
	}
	applied := Applied{Index: 5, Term: 2, Seq: math.MaxUint64}
	if got, err := DecodeApplied(AppendApplied(nil, applied)); err != nil || got != applied {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, bad := range [][]byte{nil, make([]byte, 9), append(make([]byte, 8), 2, 1), append(make([]byte, 9), 0x80)} {
		if _, err := DecodeVersion(bad); !dberr.Is(err, dberr.Corrupt) {
			t.Errorf("%x: %v", bad, err)
		}
	}
}

// The formats are on disk: a changed line in testdata is a changed format.
func TestFormat(t *testing.T) {
	datadriven.RunTest(t, "testdata/format.txt", func(t *testing.T, d *datadriven.TestData) string {
		var out strings.Builder
		line := func(name string, b []byte) { fmt.Fprintf(&out, "%s: %s\n", name, hex.EncodeToString(b)) }
		switch d.Cmd {
		case "keys":
			line("applied", AppliedKey(1))
			line("partition", PartitionPrefix(nil, 1, 2, "a\x00b"))
			line("row", AppendRowKey(nil, 1, 2, "u", []datum.Datum{datum.Text("k"), datum.Int(1)}))
			line("change", ChangeKey(nil, 1, 3, 2, "u", 4))
			line("dropped", DroppedKey(1, 2))
			line("unique", UniqueKey(nil, 1, 2, 3, "u", datum.Text("v")))
			line("pruned", PrunedKey(1))
		case "values":
			line("version", AppendVersion(nil, &Version{Seq: 1, Deleted: true, SchemaVersion: 300, Row: []byte{9}}))
			line("applied", AppendApplied(nil, Applied{Index: 1, Term: 2, Seq: 3}))
		case "datums":
			for _, name := range []string{"null and bool", "int", "float", "decimal", "text", "bytes", "timestamp", "date", "time", "uuid", "embedding", "interval"} {
				for _, v := range inOrder()[name] {
					line(name, AppendDatum(nil, v))
				}
			}
		default:
			d.Fatalf(t, "unknown command %s", d.Cmd)
		}
		return out.String()
	})
}

func FuzzDecodeDatum(f *testing.F) {
	for _, values := range inOrder() {
		for _, v := range values {
			f.Add(AppendDatum(nil, v))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, _, err := DecodeDatum(b)
		if err != nil {
			if !dberr.Is(err, dberr.Corrupt) {
				t.Fatalf("error without code: %v", err)
			}
			return
		}
		again, rest, err := DecodeDatum(AppendDatum(nil, v))
		if err != nil || len(rest) != 0 || !bytes.Equal(AppendDatum(nil, again), AppendDatum(nil, v)) {
			t.Fatalf("%v does not survive: %v", v, err)
		}
	})
}

func FuzzOrder(f *testing.F) {
	f.Add("a", "a\x00", int64(-1), int64(1), 1.5, -1.5)
	f.Fuzz(func(t *testing.T, s1, s2 string, i1, i2 int64, f1, f2 float64) {
		check := func(what string, want int, a, b datum.Datum) {
			if got := bytes.Compare(AppendDatum(nil, a), AppendDatum(nil, b)); got != want {
				t.Fatalf("%s: got %d, want %d", what, got, want)
			}
		}
		check("text", cmp.Compare(s1, s2), datum.Text(s1), datum.Text(s2))
		check("bytes", bytes.Compare([]byte(s1), []byte(s2)), datum.Bytes([]byte(s1)), datum.Bytes([]byte(s2)))
		check("int", cmp.Compare(i1, i2), datum.Int(i1), datum.Int(i2))
		check("timestamp", cmp.Compare(i1, i2), datum.Timestamp(i1), datum.Timestamp(i2))
		check("decimal", datum.Decimal(i1, uint64(i2), 3).DecimalBig().Cmp(datum.Decimal(i2, uint64(i1), 3).DecimalBig()),
			datum.Decimal(i1, uint64(i2), 3), datum.Decimal(i2, uint64(i1), 3))
		if f1 == f1 && f2 == f2 {
			check("float", cmp.Compare(f1, f2), datum.Float(f1), datum.Float(f2))
		}
	})
}

func FuzzDecodeVersion(f *testing.F) {
	f.Add(AppendVersion(nil, &Version{Seq: 1, Deleted: true, SchemaVersion: 3, Row: []byte("x")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := DecodeVersion(b)
		if err != nil {
			if !dberr.Is(err, dberr.Corrupt) {
				t.Fatalf("error without code: %v", err)
			}
			return
		}
		again, err := DecodeVersion(AppendVersion(nil, &v))
		if err != nil || again.Seq != v.Seq || again.SchemaVersion != v.SchemaVersion || !bytes.Equal(again.Row, v.Row) {
			t.Fatalf("does not survive: %v", err)
		}
	})
}

func TestSegmentKeyRoundTrip(t *testing.T) {
	k := SegmentKey(nil, 3, 4, "a\x00b", math.MaxUint64)
	table, user, id, err := DecodeSegmentKey(k)
	if err != nil || table != 4 || user != "a\x00b" || id != math.MaxUint64 {
		t.Errorf("%d %q %d %v", table, user, id, err)
	}
	for n := range k {
		if _, _, _, err := DecodeSegmentKey(k[:n]); !dberr.Is(err, dberr.Corrupt) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
}
