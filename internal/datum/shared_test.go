package datum

import (
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

func TestSharedDecodesTheSame(t *testing.T) {
	for _, want := range samples() {
		src := append(Append(nil, want), 7)
		got, rest, err := DecodeShared(src)
		if err != nil || !Equal(got, want) || len(rest) != 1 {
			t.Errorf("got %v, %v; want %v", got, err, want)
		}
		if rest, err := Skip(src); err != nil || len(rest) != 1 {
			t.Errorf("skip %v: %d bytes left, %v", want, len(rest), err)
		}
	}
}

func FuzzDecodeShared(f *testing.F) {
	for _, d := range samples() {
		f.Add(Append(nil, d))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		want, wantRest, wantErr := Decode(b)
		got, rest, err := DecodeShared(b)
		skipped, skipErr := Skip(b)
		if dberr.CodeOf(err) != dberr.CodeOf(wantErr) || dberr.CodeOf(skipErr) != dberr.CodeOf(wantErr) {
			t.Fatalf("errors differ: %v, %v, %v", wantErr, err, skipErr)
		}
		if !Equal(got, want) || len(rest) != len(wantRest) || len(skipped) != len(wantRest) {
			t.Fatalf("got %v, want %v", got, want)
		}
	})
}
