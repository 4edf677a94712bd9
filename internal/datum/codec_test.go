package datum

import (
	"math"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

func samples() []Datum {
	return []Datum{Null, Bool(true), Bool(false), Int(0), Int(-1), Int(math.MaxInt64), Int(math.MinInt64),
		Float(0), Float(math.Copysign(0, -1)), Float(1.5), Float(math.Inf(1)), Decimal(-1, math.MaxUint64, 10),
		Text(""), Text("a\x00b"), Bytes([]byte{0, 255}), Timestamp(-5), Date(19000), Time(1),
		UUID([16]byte{1, 15: 9}), Embedding([]float32{1, -2.5}), Embedding(nil), Interval(-1, 40, 7)}
}

func TestCodecRoundTrip(t *testing.T) {
	var all []byte
	for _, d := range samples() {
		all = Append(all, d)
	}
	for _, want := range samples() {
		got, rest, err := Decode(all)
		if err != nil || !Equal(got, want) {
			t.Fatalf("got %v, %v; want %v", got, err, want)
		}
		all = rest
	}
	if len(all) != 0 {
		t.Fatalf("%d bytes left", len(all))
	}
}

func FuzzDecode(f *testing.F) {
	for _, d := range samples() {
		f.Add(Append(nil, d))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, rest, err := Decode(b)
		if err != nil {
			if !dberr.Is(err, dberr.Corrupt) {
				t.Fatalf("error without code: %v", err)
			}
			return
		}
		again, _, err := Decode(Append(nil, d))
		if err != nil || !Equal(again, d) || len(rest) > len(b) {
			t.Fatalf("%v came back as %v, %v", d, again, err)
		}
	})
}
