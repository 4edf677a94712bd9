package celljson

import (
	"bytes"
	"encoding/json"
	"math"
	"reflect"
	"testing"
	"unicode/utf8"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

func typed(k catalog.TypeKind) catalog.Type { return catalog.Type{Kind: k} }

// the instant 2025-10-28T10:00:00Z, of the seed's examples
const seedInstantUS = 1761645600_000000

var uuidSample = datum.UUID([16]byte{0x01, 0x8f, 0x2c, 0, 0, 0, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, 0xff})

var cells = []struct {
	value      datum.Datum
	typ        catalog.Type
	json, seed string
}{
	{datum.Null, typed(catalog.BigInt), `null`, `null`},
	{datum.Bool(true), typed(catalog.Boolean), `true`, `true`},
	{datum.Int(-7), typed(catalog.SmallInt), `-7`, `-7`},
	{datum.Int(2147483647), typed(catalog.Int), `2147483647`, `2147483647`},
	{datum.Int(math.MinInt64), typed(catalog.BigInt), `"-9223372036854775808"`, `-9223372036854775808`},
	{datum.Int(123), typed(catalog.BigInt), `"123"`, `123`},
	{datum.Float(float64(float32(0.1))), typed(catalog.Float), `0.1`, `0.1`},
	{datum.Float(1.5), typed(catalog.Double), `1.5`, `1.5`},
	{datum.Float(1e21), typed(catalog.Double), `1e+21`, `1e+21`},
	{datum.Float(100000), typed(catalog.Double), `100000`, `100000`},
	{datum.Decimal(0, 1250, 2), typed(catalog.Decimal), `"12.50"`, `12.50`},
	{datum.Decimal(-1, math.MaxUint64-4, 3), typed(catalog.Decimal), `"-0.005"`, `-0.005`},
	{datum.Decimal(-1, 0, 0), typed(catalog.Decimal), `"-18446744073709551616"`, `-18446744073709551616`},
	{datum.Decimal(1, 0, 1), typed(catalog.Decimal), `"1844674407370955161.6"`, `1844674407370955161.6`},
	{datum.Decimal(0, 0, 2), typed(catalog.Decimal), `"0.00"`, `0.00`},
	{datum.Text("a\"\\\n\x01\u2028é"), typed(catalog.Text), `"a\"\\\n\u0001\u2028é"`, `"a\"\\\n\u0001\u2028é"`},
	{datum.Text("\xff\xfe"), typed(catalog.Text), `"\ufffd\ufffd"`, `"\ufffd\ufffd"`},
	{datum.Text(`{"a":1}`), typed(catalog.JSON), `"{\"a\":1}"`, `"{\"a\":1}"`},
	{datum.Bytes([]byte{222, 173}), typed(catalog.Bytes), `[222,173]`, `"3q0="`},
	{datum.Bytes(nil), typed(catalog.Bytes), `[]`, `""`},
	{datum.Timestamp(seedInstantUS), typed(catalog.Timestamp), `1761645600000000`, `"2025-10-28T10:00:00Z"`},
	{datum.Timestamp(seedInstantUS + 1500), typed(catalog.DateTime), `1761645600001500`, `"2025-10-28T10:00:00.001500Z"`},
	{datum.Timestamp(-1), typed(catalog.Timestamp), `-1`, `"1969-12-31T23:59:59.999999Z"`},
	{datum.Timestamp(math.MaxInt64), typed(catalog.Timestamp), `9223372036854775807`, `"+294247-01-10T04:00:54.775807Z"`},
	{datum.Date(20389), typed(catalog.Date), `20389`, `"2025-10-28"`},
	{datum.Date(-800000), typed(catalog.Date), `-800000`, `"-000221-09-04"`},
	{datum.Time(36000_000000), typed(catalog.Time), `36000000000`, `"10:00:00"`},
	{datum.Time(86399_999999), typed(catalog.Time), `86399999999`, `"23:59:59.999999"`},
	{uuidSample, typed(catalog.UUID), `"018f2c00-0000-7000-8000-0000000000ff"`, `"018f2c00-0000-7000-8000-0000000000ff"`},
	{datum.Embedding([]float32{0.1, -2}), catalog.Type{Kind: catalog.Embedding, Dimension: 2}, `[0.1,-2]`, `[0.1,-2]`},
	{datum.Text(`{"id":"f"}`), typed(catalog.File), `"{\"id\":\"f\"}"`, `"{\"id\":\"f\"}"`},
}

func TestCells(t *testing.T) {
	for _, c := range cells {
		for _, d := range []struct {
			dialect Dialect
			want    string
		}{{JSON, c.json}, {Seed, c.seed}} {
			got, err := AppendValue(nil, c.value, c.typ, d.dialect)
			if err != nil || string(got) != d.want {
				t.Errorf("%s %s dialect %d: got %s, %v; want %s", c.typ, c.value.Kind(), d.dialect, got, err, d.want)
			}
			if !json.Valid(got) {
				t.Errorf("%s is not JSON", got)
			}
		}
	}
}

// TestMsgpackHasTheContentOfJSON decodes both and compares.
func TestMsgpackHasTheContentOfJSON(t *testing.T) {
	for _, c := range cells {
		packed, err := AppendValue(nil, c.value, c.typ, Msgpack)
		if err != nil {
			t.Fatal(err)
		}
		var fromPacked, fromJSON any
		if err := msgpack.Unmarshal(packed, &fromPacked); err != nil {
			t.Errorf("%s: %v", c.json, err)
			continue
		}
		asJSON, err := json.Marshal(fromPacked)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(asJSON, &fromPacked); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(c.json), &fromJSON); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(fromPacked, fromJSON) {
			t.Errorf("MessagePack holds %v, JSON %v", fromPacked, fromJSON)
		}
	}
}

func TestNumbersWithoutAForm(t *testing.T) {
	bad := []datum.Datum{datum.Float(math.NaN()), datum.Float(math.Inf(-1)), datum.Embedding([]float32{1, float32(math.NaN())})}
	for _, v := range bad {
		for _, d := range []Dialect{JSON, Seed, Msgpack} {
			if _, err := AppendValue(nil, v, typed(catalog.Double), d); !dberr.Is(err, dberr.ValueOutOfRange) {
				t.Errorf("dialect %d: %v", d, err)
			}
		}
	}
	if _, err := AppendValue(nil, datum.Interval(1, 2, 3), catalog.Type{}, JSON); !dberr.Is(err, dberr.Unsupported) {
		t.Errorf("interval: %v", err)
	}
}

func TestRowObject(t *testing.T) {
	cols := []catalog.Column{{Name: "id", Type: typed(catalog.BigInt)}, {Name: `we"ird`, Type: typed(catalog.Text)}, catalog.SystemColumns[0]}
	row := []datum.Datum{datum.Int(1), datum.Null, datum.Int(9)}
	got, err := AppendRowObject(nil, cols, row, JSON)
	if want := `{"id":"1","we\"ird":null,"_seq":"9"}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
	e := NewRowEncoder(cols, JSON)
	got, err = e.AppendObjectOf(nil, row, []bool{false, true, true})
	if want := `{"we\"ird":null,"_seq":"9"}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
	if got, err = e.AppendObjectOf(nil, row, make([]bool, 3)); err != nil || string(got) != `{}` {
		t.Errorf("got %s, %v; want {}", got, err)
	}
	if _, err = e.AppendObject(nil, row[:2]); !dberr.Is(err, dberr.Internal) {
		t.Errorf("a short row: %v", err)
	}
	var m map[string]any
	got, err = NewRowEncoder(cols, Msgpack).AppendObjectOf(nil, row, []bool{true, false, true})
	if err != nil || msgpack.Unmarshal(got, &m) != nil || !reflect.DeepEqual(m, map[string]any{"id": "1", "_seq": "9"}) {
		t.Errorf("got %v, %v", m, err)
	}
}

func TestMsgpackHeads(t *testing.T) {
	for _, n := range []int{0, 15, 16, 31, 32, 255, 256, 65535, 65536} {
		s := string(bytes.Repeat([]byte("x"), n))
		var back string
		if err := msgpack.Unmarshal(AppendMsgpackText(nil, s), &back); err != nil || back != s {
			t.Errorf("text of %d bytes: %v", n, err)
		}
		b := AppendMsgpackArray(nil, n)
		for range n {
			b = AppendMsgpackNil(b)
		}
		var list []any
		if err := msgpack.Unmarshal(b, &list); err != nil || len(list) != n {
			t.Errorf("array of %d: %v", n, err)
		}
		if got, err := msgpack.NewDecoder(bytes.NewReader(AppendMsgpackMap(nil, n))).DecodeMapLen(); err != nil || got != n {
			t.Errorf("map of %d: %d, %v", n, got, err)
		}
	}
	for _, v := range []int64{0, 127, 128, 255, 256, 65535, 65536, math.MaxUint32, math.MaxUint32 + 1, math.MaxInt64,
		-1, -32, -33, -128, -129, -32768, -32769, math.MinInt32, math.MinInt32 - 1, math.MinInt64} {
		var back int64
		if err := msgpack.Unmarshal(AppendMsgpackInt(nil, v), &back); err != nil || back != v {
			t.Errorf("%d came back as %d, %v", v, back, err)
		}
	}
}

func FuzzText(f *testing.F) {
	for _, s := range []string{"", "a", "\x00\x1f\x7f", "\u2028\u2029\u202a", "\xed\xa0\x80", "é\xff", `"\/`, "😀", "</script>"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want := string([]rune(s)) // each bad byte becomes U+FFFD
		out := AppendJSONText([]byte("x"), s)[1:]
		var back string
		if err := json.Unmarshal(out, &back); err != nil || back != want || !utf8.Valid(out) {
			t.Fatalf("%q became %s, which reads %q, %v", s, out, back, err)
		}
		if bytes.ContainsAny(out, "\u2028\u2029") {
			t.Fatalf("%s holds a line separator", out)
		}
		back = ""
		if err := msgpack.Unmarshal(AppendMsgpackText(nil, s), &back); err != nil || back != want {
			t.Fatalf("%q became %q in MessagePack, %v", s, back, err)
		}
	})
}

func FuzzValue(f *testing.F) {
	for _, c := range cells {
		f.Add(datum.Append(nil, c.value), uint8(c.typ.Kind))
	}
	f.Add(datum.Append(nil, datum.Float(1e300)), uint8(catalog.Float))
	f.Fuzz(func(t *testing.T, encoded []byte, kind uint8) {
		v, _, err := datum.Decode(encoded)
		if err != nil {
			return
		}
		typ := typed(catalog.TypeKind(kind))
		for _, d := range []Dialect{JSON, Seed} {
			out, err := AppendValue(nil, v, typ, d)
			if err == nil && !json.Valid(out) {
				t.Fatalf("%s: %s is not JSON", v.Kind(), out)
			}
		}
		out, err := AppendValue(nil, v, typ, Msgpack)
		var back any
		if err == nil && msgpack.Unmarshal(out, &back) != nil {
			t.Fatalf("%s: %x is not MessagePack", v.Kind(), out)
		}
	})
}

func BenchmarkRowObject(b *testing.B) {
	cols := []catalog.Column{{Name: "id", Type: typed(catalog.BigInt)}, {Name: "body", Type: typed(catalog.Text)},
		{Name: "created_at", Type: typed(catalog.Timestamp)}, catalog.SystemColumns[0]}
	row := []datum.Datum{datum.Int(249871236123492352), datum.Text("hello, this is a message of ordinary length"),
		datum.Timestamp(seedInstantUS), datum.Int(249871236123492352)}
	for name, d := range map[string]Dialect{"json": JSON, "seed": Seed, "msgpack": Msgpack} {
		b.Run(name, func(b *testing.B) {
			e, buf := NewRowEncoder(cols, d), []byte(nil)
			b.ReportAllocs()
			for b.Loop() {
				buf, _ = e.AppendObject(buf[:0], row)
			}
		})
	}
}
