package changelog

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

const (
	shard = 3
	table = 9
)

func open(t testing.TB) *pebble.DB {
	t.Helper()
	db, err := pebble.Open("", &pebble.Options{FS: vfs.NewMem(), DisableWAL: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// seqIn is a position in an hour bucket.
func seqIn(bucket uint32, n uint64) uint64 { return bucketStart(bucket) + n }

func put(t testing.TB, db *pebble.DB, table uint32, user string, seqs ...uint64) {
	t.Helper()
	b := db.NewBatch()
	for _, seq := range seqs {
		ch := &storagev1.Change{Kind: storagev1.ChangeKind_CHANGE_KIND_INSERT, Seq: seq, SchemaVersion: 1, Row: []byte(fmt.Sprint(seq))}
		if err := Append(b, shard, table, user, ch); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, db *pebble.DB, user string, after uint64, lim Limits) (seqs []uint64, more bool) {
	t.Helper()
	changes, more, err := Read(db, shard, table, user, after, lim)
	if err != nil {
		t.Fatal(err)
	}
	for _, ch := range changes {
		if string(ch.GetRow()) != fmt.Sprint(ch.GetSeq()) {
			t.Errorf("change %d carries row %q", ch.GetSeq(), ch.GetRow())
		}
		seqs = append(seqs, ch.GetSeq())
	}
	return seqs, more
}

func TestReadGoesOnAcrossBuckets(t *testing.T) {
	db := open(t)
	a := []uint64{seqIn(10, 1), seqIn(10, 5), seqIn(12, 0), seqIn(900, 7)}
	put(t, db, table, "u", a...)
	put(t, db, table, "other", seqIn(10, 2), seqIn(11, 2), seqIn(901, 1))
	put(t, db, table-1, "u", seqIn(10, 3), seqIn(11, 3))
	put(t, db, table+1, "u", seqIn(10, 4), seqIn(12, 4))
	for i := range a {
		after := uint64(0)
		if i > 0 {
			after = a[i-1]
		}
		if got, more := read(t, db, "u", after, Limits{}); fmt.Sprint(got) != fmt.Sprint(a[i:]) || more {
			t.Errorf("after %d: got %v, %v; want %v", after, got, more, a[i:])
		}
	}
	if got, more := read(t, db, "u", a[3], Limits{}); len(got) != 0 || more {
		t.Errorf("after the last: %v, %v", got, more)
	}
	if got, _ := read(t, db, "nobody", 0, Limits{}); len(got) != 0 {
		t.Errorf("another user: %v", got)
	}
	if got, _ := read(t, db, "u", math.MaxUint64, Limits{}); len(got) != 0 {
		t.Errorf("after everything: %v", got)
	}
}

func TestReadStopsAtLimits(t *testing.T) {
	db := open(t)
	put(t, db, table, "u", seqIn(1, 1), seqIn(1, 2), seqIn(2, 1))
	if got, more := read(t, db, "u", 0, Limits{Rows: 2}); len(got) != 2 || !more {
		t.Errorf("two rows: %v, %v", got, more)
	}
	if got, more := read(t, db, "u", 0, Limits{Bytes: 1}); len(got) != 1 || !more {
		t.Errorf("one byte must still give one: %v, %v", got, more)
	}
	if got, more := read(t, db, "u", 0, Limits{Rows: 3}); len(got) != 3 || more {
		t.Errorf("exactly all: %v, %v", got, more)
	}
}

func TestPruneMakesOldPositionsGone(t *testing.T) {
	db := open(t)
	if dropped, err := Prune(db, shard, 100); err != nil || dropped {
		t.Fatalf("nothing to prune: %v, %v", dropped, err)
	}
	put(t, db, table, "u", seqIn(10, 1), seqIn(11, 1), seqIn(12, 1))
	if got, _ := read(t, db, "u", 1, Limits{}); len(got) != 3 {
		t.Fatalf("a log that never lost anything answers any position: %v", got)
	}
	if dropped, err := Prune(db, shard, 12); err != nil || !dropped {
		t.Fatalf("prune: %v, %v", dropped, err)
	}
	for _, after := range []uint64{1, seqIn(10, 1), seqIn(12, 0) - 2} {
		if _, _, err := Read(db, shard, table, "u", after, Limits{}); !dberr.Is(err, dberr.PositionGone) {
			t.Errorf("after %d: %v", after, err)
		}
	}
	if got, _ := read(t, db, "u", seqIn(12, 0)-1, Limits{}); len(got) != 1 {
		t.Errorf("the oldest position there is: %v", got)
	}
	if oldest, err := Oldest(db, shard); err != nil || oldest != seqIn(12, 0)-1 {
		t.Errorf("oldest %d, %v", oldest, err)
	}
	if _, _, err := Read(db, shard+1, table, "u", 1, Limits{}); err != nil {
		t.Errorf("another shard: %v", err)
	}
}

// A client that has the last change lacks nothing, however long ago that was.
func TestPruningAQuietShardKeepsItsLastPosition(t *testing.T) {
	db := open(t)
	last := seqIn(11, 1)
	put(t, db, table, "u", seqIn(10, 1), last)
	applied := keycodec.AppendApplied(nil, keycodec.Applied{Index: 2, Term: 1, Seq: last})
	if err := db.Set(keycodec.AppliedKey(shard), applied, pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	if dropped, err := Prune(db, shard, 40); err != nil || !dropped {
		t.Fatalf("prune: %v, %v", dropped, err)
	}
	put(t, db, table, "u", seqIn(41, 1))
	if got, _ := read(t, db, "u", last, Limits{}); len(got) != 1 || got[0] != seqIn(41, 1) {
		t.Errorf("after the last change: %v", got)
	}
	if _, _, err := Read(db, shard, table, "u", last-1, Limits{}); !dberr.Is(err, dberr.PositionGone) {
		t.Errorf("before it: %v", err)
	}
}

func TestLogRefusesPositionsAhead(t *testing.T) {
	db := open(t)
	put(t, db, table, "u", 5)
	if err := db.Set(keycodec.AppliedKey(shard), keycodec.AppendApplied(nil, keycodec.Applied{Index: 1, Seq: 5}), pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	log := Log{Reader: db, Shard: shard}
	if changes, _, err := log.Read(table, "u", 4); err != nil || len(changes) != 1 {
		t.Errorf("%v, %v", changes, err)
	}
	if _, _, err := log.Read(table, "u", 6); !dberr.Is(err, dberr.PositionGone) {
		t.Errorf("ahead: %v", err)
	}
}

func TestBuckets(t *testing.T) {
	at := time.Date(2026, 3, 4, 5, 59, 59, 0, time.UTC)
	seq := uint64(at.Sub(snowflake.SeqEpoch).Milliseconds()) << seqTimeShift
	if Bucket(seq) != BucketAt(at) || Bucket(seq+uint64(1000)<<seqTimeShift) != BucketAt(at)+1 {
		t.Error("the bucket of a _seq is not the hour it was made in")
	}
	if BucketAt(time.Unix(0, 0)) != 0 {
		t.Error("before the epoch")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(nil, &storagev1.Change{Kind: storagev1.ChangeKind_CHANGE_KIND_UPDATE, SchemaVersion: 300, Row: []byte("new"), OldRow: []byte("old"), OldSeq: 7}))
	f.Fuzz(func(t *testing.T, b []byte) {
		ch, err := decode(1, b)
		if err != nil {
			if !dberr.Is(err, dberr.Corrupt) {
				t.Fatalf("error without code: %v", err)
			}
			return
		}
		enc := encode(nil, ch)
		again, err := decode(1, enc)
		if err != nil || !proto.Equal(again, ch) || len(enc) != valueBytes(ch) {
			t.Fatalf("does not survive: %v", err)
		}
	})
}
