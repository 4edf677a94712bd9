package keycodec

import (
	"bytes"
	"reflect"
	"slices"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

func TestRequestRoundTrip(t *testing.T) {
	for _, want := range []Request{{FirstSeq: 1 << 40, Counts: []uint32{1, 0, 1 << 31}}, {Counts: []uint32{}}} {
		enc := AppendRequest(nil, &want)
		got, err := DecodeRequest(enc)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, %v, want %v", got, err, want)
		}
		for n := range enc {
			if _, err := DecodeRequest(enc[:n]); !dberr.Is(err, dberr.Corrupt) {
				t.Errorf("%d of %d bytes: %v", n, len(enc), err)
			}
		}
	}
}

func TestRequestKeysAreTheirBuckets(t *testing.T) {
	id := []byte("0123456789abcdef")
	k := RequestKey(nil, 3, 7, id)
	if !bytes.HasPrefix(k, RequestBucketPrefix(nil, 3, 7)) || !bytes.HasPrefix(k, RequestPrefix(3)) || bytes.HasPrefix(k, RequestPrefix(4)) {
		t.Errorf("key %x", k)
	}
	if b, err := RequestBucketOf(k); b != 7 || err != nil {
		t.Errorf("bucket %d, %v", b, err)
	}
	for _, bad := range [][]byte{nil, k[:8], AppliedKey(3)} {
		if _, err := RequestBucketOf(bad); !dberr.Is(err, dberr.Corrupt) {
			t.Errorf("%x: %v", bad, err)
		}
	}
	spans := ShardSpans(3)
	if !slices.ContainsFunc(spans, func(s Span) bool { return string(k) >= string(s.Start) && string(k) < string(s.End) }) {
		t.Error("requests are not among what a snapshot copies")
	}
}

func TestUserOf(t *testing.T) {
	for _, user := range []string{"", "ann", "a\x00b", "\x00", "ü"} {
		k := AppendRowKey(nil, 3, 9, user, []datum.Datum{datum.Text("x\x00"), datum.Int(4)})
		partition, got, err := UserOf(k)
		if err != nil || got != user || !bytes.Equal(partition, PartitionPrefix(nil, 3, 9, user)) {
			t.Errorf("%q: %q, %x, %v", user, got, partition, err)
		}
	}
	k := AppendRowKey(nil, 3, 9, "ann", nil)
	for n := range k {
		if _, _, err := UserOf(k[:n]); !dberr.Is(err, dberr.Corrupt) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func FuzzDecodeRequest(f *testing.F) {
	f.Add(AppendRequest(nil, &Request{FirstSeq: 9, Counts: []uint32{1, 300}}))
	f.Fuzz(func(t *testing.T, src []byte) {
		r, err := DecodeRequest(src)
		if err != nil {
			if !dberr.Is(err, dberr.Corrupt) {
				t.Fatal(err)
			}
			return
		}
		again, err := DecodeRequest(AppendRequest(nil, &r))
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Fatalf("%v became %v (%v)", r, again, err)
		}
	})
}
