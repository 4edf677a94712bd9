package command

import (
	"reflect"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

func sample() *Command {
	return &Command{Kind: Write, Term: 7, FirstSeq: 1 << 40, User: "ann", Rows: []Row{
		{Kind: storagev1.ChangeKind_CHANGE_KIND_INSERT, Table: 4, SchemaVersion: 1, Key: []byte("k1"), Row: []byte("r1"),
			UniqueSet: [][]byte{[]byte("u1"), {}}},
		{Kind: storagev1.ChangeKind_CHANGE_KIND_UPDATE, Shared: true, Table: 9, SchemaVersion: 3, Key: []byte("k2"), Row: []byte("r2"),
			OldSchemaVersion: 2, OldSeq: 99, OldRow: []byte("o2"), UniqueDropped: [][]byte{[]byte("u2")}},
		{Kind: storagev1.ChangeKind_CHANGE_KIND_DELETE, Table: 4, SchemaVersion: 1, Key: []byte("k3"), Row: []byte{},
			OldSchemaVersion: 1, OldSeq: 1, OldHere: true, OldRow: []byte("o3")},
	}}
}

func TestRoundTrip(t *testing.T) {
	for _, c := range []*Command{sample(), requested(), {Kind: Verify, Bucket: 9}, segmented(), {Kind: Segments}, forgotten(), {Kind: Purge, Term: 1, FirstSeq: 2, Table: 1 << 31}, {Kind: Write, Rows: []Row{}}} {
		got, err := Decode(Append(nil, c))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, c) {
			t.Errorf("got %+v\nwant %+v", got, c)
		}
	}
}

func TestSetFirstSeq(t *testing.T) {
	b := Append(nil, sample())
	SetFirstSeq(b, 12345)
	c, err := Decode(b)
	if err != nil || c.FirstSeq != 12345 || c.Term != 7 {
		t.Fatalf("%+v, %v", c, err)
	}
}

func TestEveryTruncationIsRefused(t *testing.T) {
	b := Append(nil, sample())
	for n := range b {
		if _, err := Decode(b[:n]); !dberr.Is(err, dberr.Corrupt) {
			t.Fatalf("%d of %d bytes: %v", n, len(b), err)
		}
	}
	if _, err := Decode(append(b, 0)); !dberr.Is(err, dberr.Corrupt) {
		t.Fatalf("a byte too many: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Append(nil, sample()))
	f.Add(Append(nil, &Command{Kind: Purge, Table: 3}))
	f.Add(Append(nil, requested()))
	f.Add(Append(nil, segmented()))
	f.Add(Append(nil, forgotten()))
	f.Add(Append(nil, &Command{Kind: Verify, Bucket: 3}))
	f.Fuzz(func(t *testing.T, src []byte) {
		c, err := Decode(src)
		if err != nil {
			return
		}
		again, err := Decode(Append(nil, c))
		if err != nil || !reflect.DeepEqual(again, c) {
			t.Fatalf("%+v became %+v (%v)", c, again, err)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	src := Append(nil, sample())
	b.SetBytes(int64(len(src)))
	for b.Loop() {
		if _, err := Decode(src); err != nil {
			b.Fatal(err)
		}
	}
}
