// Package changelog is the history of a shard's changes: apply appends each change in the batch that
// makes it, watches read on from a position, retention drops whole hours.
//
// Keys sort by hour bucket first, then partition, then _seq, so that dropping old history is one range
// delete. Reading a partition therefore seeks once in every bucket that exists, at most the retention
// in hours; buckets without changes cost nothing.
package changelog

import (
	"encoding/binary"
	"errors"
	"math"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

// A _seq holds milliseconds since snowflake.SeqEpoch above these bits (see the RFC, Positions).
const seqTimeShift = 22

const bucketMS = uint64(time.Hour / time.Millisecond)

// Beginning is the position of a shard without changes: before all of them, and not zero, which in a request
// means "now".
const Beginning = 1

// Bucket is the hour bucket of a position.
func Bucket(seq uint64) uint32 { return uint32(seq >> seqTimeShift / bucketMS) }

// BucketAt is the bucket of a point in time; times before 2025 are in the first.
func BucketAt(t time.Time) uint32 {
	ms := t.Sub(snowflake.SeqEpoch).Milliseconds()
	if ms < 0 {
		return 0
	}
	return uint32(uint64(ms) / bucketMS)
}

// bucketStart is the lowest position of a bucket.
func bucketStart(bucket uint32) uint64 { return uint64(bucket) * bucketMS << seqTimeShift }

// Append adds one change to the batch that applies it.
func Append(b *pebble.Batch, shard, table uint32, user string, ch *storagev1.Change) error {
	var kbuf [96]byte
	key := keycodec.ChangeKey(kbuf[:0], shard, Bucket(ch.GetSeq()), table, user, ch.GetSeq())
	op := b.SetDeferred(len(key), valueBytes(ch))
	copy(op.Key, key)
	encode(op.Value[:0], ch)
	if err := op.Finish(); err != nil {
		return dberr.New(dberr.Internal, "append to the change log: %w", err)
	}
	return nil
}

func valueBytes(ch *storagev1.Change) int {
	return 1 + uvarintBytes(uint64(ch.GetSchemaVersion())) + 8 +
		uvarintBytes(uint64(len(ch.GetRow()))) + len(ch.GetRow()) +
		uvarintBytes(uint64(len(ch.GetOldRow()))) + len(ch.GetOldRow())
}

func uvarintBytes(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}

// encode: kind u8, schema version uvarint, old _seq u64, length and row, length and old row. The _seq
// is in the key.
func encode(dst []byte, ch *storagev1.Change) []byte {
	dst = append(dst, byte(ch.GetKind()))
	dst = binary.AppendUvarint(dst, uint64(ch.GetSchemaVersion()))
	dst = binary.BigEndian.AppendUint64(dst, ch.GetOldSeq())
	dst = binary.AppendUvarint(dst, uint64(len(ch.GetRow())))
	dst = append(dst, ch.GetRow()...)
	dst = binary.AppendUvarint(dst, uint64(len(ch.GetOldRow())))
	return append(dst, ch.GetOldRow()...)
}

// decode reads a value; rows are copied out of src.
func decode(seq uint64, src []byte) (*storagev1.Change, error) {
	if len(src) < 1 || src[0] < byte(storagev1.ChangeKind_CHANGE_KIND_INSERT) ||
		src[0] > byte(storagev1.ChangeKind_CHANGE_KIND_DELETE) {
		return nil, corrupt("bad kind")
	}
	ch := &storagev1.Change{Seq: seq, Kind: storagev1.ChangeKind(src[0])}
	schema, w := binary.Uvarint(src[1:])
	if w <= 0 || schema != uint64(uint32(schema)) || len(src) < 1+w+8 {
		return nil, corrupt("bad header")
	}
	ch.SchemaVersion = uint32(schema)
	ch.OldSeq = binary.BigEndian.Uint64(src[1+w:])
	src = src[1+w+8:]
	var err error
	if ch.Row, src, err = cutBytes(src); err != nil {
		return nil, err
	}
	if ch.OldRow, src, err = cutBytes(src); err != nil {
		return nil, err
	}
	if len(src) != 0 {
		return nil, corrupt("bytes after the end")
	}
	return ch, nil
}

func cutBytes(src []byte) (b, rest []byte, err error) {
	n, w := binary.Uvarint(src)
	if w <= 0 || n > uint64(len(src)-w) {
		return nil, nil, corrupt("length beyond the end")
	}
	if n > 0 {
		b = append(b, src[w:w+int(n)]...)
	}
	return b, src[w+int(n):], nil
}

func corrupt(what string) error { return dberr.New(dberr.Corrupt, "decode change: %s", what) }

// Limits bound one Read. Zero fields take the defaults.
type Limits struct{ Rows, Bytes int }

// Defaults of Limits: enough to keep a stream busy, little enough to hold one per slow watch in turn.
const (
	readRowsDefault  = 512
	readBytesDefault = 1 << 20
)

func (l Limits) withDefaults() Limits {
	if l.Rows <= 0 {
		l.Rows = readRowsDefault
	}
	if l.Bytes <= 0 {
		l.Bytes = readBytesDefault
	}
	return l
}

// Read returns the partition's next changes with a _seq above afterSeq, in order, at least one if there
// is one. more says that it stopped at a limit. A position older than the log is answered with
// PositionGone.
func Read(r pebble.Reader, shard, table uint32, user string, afterSeq uint64, lim Limits) (changes []*storagev1.Change, more bool, err error) {
	space := keycodec.PrefixSpan(keycodec.ChangePrefix(shard))
	if afterSeq == math.MaxUint64 {
		return nil, false, nil
	}
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: space.Start, UpperBound: space.End})
	if err != nil {
		return nil, false, dberr.New(dberr.Internal, "read the change log: %w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	// After the iterator: what Prune removes later stays readable, what it removed before is recorded.
	if err := checkPruned(r, shard, afterSeq); err != nil {
		return nil, false, err
	}
	return readPartition(it, shard, table, user, afterSeq, lim.withDefaults())
}

func checkPruned(r pebble.Reader, shard uint32, afterSeq uint64) error {
	oldest, err := Oldest(r, shard)
	if err != nil {
		return err
	}
	if afterSeq < oldest {
		return dberr.New(dberr.PositionGone,
			"position %d is older than the change log of shard %d, which starts after %d: read the table again", afterSeq, shard, oldest)
	}
	return nil
}

func readPartition(it *pebble.Iterator, shard, table uint32, user string, afterSeq uint64, lim Limits) ([]*storagev1.Change, bool, error) {
	var changes []*storagev1.Change
	var kbuf [96]byte
	bytes, bucket, from := 0, Bucket(afterSeq+1), afterSeq+1
	for {
		prefix := keycodec.ChangePartitionPrefix(kbuf[:0], shard, bucket, table, user)
		valid := it.SeekGE(binary.BigEndian.AppendUint64(prefix, from))
		for ; valid && hasPrefix(it.Key(), prefix); valid = it.Next() {
			if len(changes) >= lim.Rows || bytes >= lim.Bytes {
				return changes, true, nil
			}
			seq, err := seqOf(it.Key(), len(prefix))
			if err != nil {
				return nil, false, err
			}
			v, err := it.ValueAndErr()
			if err != nil {
				return nil, false, dberr.New(dberr.Internal, "read the change log: %w", err)
			}
			ch, err := decode(seq, v)
			if err != nil {
				return nil, false, err
			}
			changes = append(changes, ch)
			bytes += len(v)
		}
		if !valid {
			break
		}
		// At the first key behind the partition: in this bucket, or in the next one that exists.
		found, err := keycodec.ChangeBucketOf(it.Key())
		if err != nil {
			return nil, false, err
		}
		bucket = max(bucket+1, found)
	}
	if err := it.Error(); err != nil {
		return nil, false, dberr.New(dberr.Internal, "read the change log: %w", err)
	}
	return changes, false, nil
}

func hasPrefix(k, prefix []byte) bool {
	return len(k) >= len(prefix) && string(k[:len(prefix)]) == string(prefix)
}

func seqOf(k []byte, prefix int) (uint64, error) {
	if len(k) != prefix+8 {
		return 0, dberr.New(dberr.Corrupt, "decode change: key of %d bytes, want %d", len(k), prefix+8)
	}
	return binary.BigEndian.Uint64(k[prefix:]), nil
}

// Oldest returns the position the log starts after: changes up to it may be gone. Zero means the log is
// whole.
func Oldest(r pebble.Reader, shard uint32) (uint64, error) {
	v, closer, err := r.Get(keycodec.PrunedKey(shard))
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, dberr.New(dberr.Internal, "read the change log's start: %w", err)
	}
	defer func() { _ = closer.Close() }() // a read has nothing to lose at close
	if len(v) != 8 {
		return 0, dberr.New(dberr.Corrupt, "read the change log's start: %d bytes, want 8", len(v))
	}
	return binary.BigEndian.Uint64(v), nil
}

// FirstBucket is the oldest bucket that has changes, 0 when there are none.
func FirstBucket(r pebble.Reader, shard uint32) (bucket uint32, err error) {
	span := keycodec.PrefixSpan(keycodec.ChangePrefix(shard))
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
	if err != nil {
		return 0, dberr.New(dberr.Internal, "read the change log: %w", err)
	}
	if it.First() {
		bucket, err = keycodec.ChangeBucketOf(it.Key())
	}
	return bucket, errors.Join(err, it.Error(), it.Close())
}

// Prune drops the buckets before the given one and records which positions are gone: none from the last change on,
// as whoever has that lacks nothing, however long ago it was. It reports whether there was anything to drop. The
// shard must apply nothing meanwhile.
func Prune(db *pebble.DB, shard, before uint32) (bool, error) {
	start, end := keycodec.ChangePrefix(shard), keycodec.ChangeBucketPrefix(nil, shard, before)
	if found, err := anyKey(db, start, end); err != nil || !found {
		return false, err
	}
	oldest := bucketStart(before) - 1
	applied, found, err := readApplied(db, shard)
	if err != nil {
		return false, err
	}
	if found {
		oldest = min(oldest, applied.Seq)
	}
	b := db.NewBatch()
	defer func() { _ = b.Close() }()
	gone := binary.BigEndian.AppendUint64(nil, oldest)
	err = errors.Join(b.DeleteRange(start, end, nil), b.Set(keycodec.PrunedKey(shard), gone, nil))
	if err == nil {
		err = b.Commit(pebble.NoSync)
	}
	if err != nil {
		return false, dberr.New(dberr.Internal, "prune the change log of shard %d: %w", shard, err)
	}
	return true, nil
}

func anyKey(db *pebble.DB, start, end []byte) (found bool, err error) {
	if string(start) >= string(end) {
		return false, nil
	}
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: start, UpperBound: end})
	if err != nil {
		return false, dberr.New(dberr.Internal, "prune the change log: %w", err)
	}
	found = it.First()
	return found, errors.Join(it.Error(), it.Close())
}

// Log is one shard's change log with the default limits, as watches read it.
type Log struct {
	Reader pebble.Reader
	Shard  uint32
}

// Read returns the partition's next changes after a position. A position the shard has not reached is of
// another history, and as gone as one that is too old.
func (l Log) Read(table uint32, user string, afterSeq uint64) ([]*storagev1.Change, bool, error) {
	applied, _, err := readApplied(l.Reader, l.Shard)
	if err != nil {
		return nil, false, err
	}
	if afterSeq > max(applied.Seq, Beginning) {
		return nil, false, dberr.New(dberr.PositionGone,
			"position %d is ahead of shard %d, which is at %d: read the table again", afterSeq, l.Shard, applied.Seq)
	}
	return Read(l.Reader, l.Shard, table, user, afterSeq, Limits{})
}

// Changed reports whether a partition has a change after a position.
func (l Log) Changed(table uint32, user string, afterSeq uint64) (bool, error) {
	changes, _, err := Read(l.Reader, l.Shard, table, user, afterSeq, Limits{Rows: 1})
	return len(changes) > 0, err
}

// readApplied reads how far a shard has been applied; a new one not at all.
func readApplied(r pebble.Reader, shard uint32) (a keycodec.Applied, found bool, err error) {
	v, closer, err := r.Get(keycodec.AppliedKey(shard))
	if errors.Is(err, pebble.ErrNotFound) {
		return a, false, nil
	}
	if err != nil {
		return a, false, dberr.New(dberr.Internal, "read the applied position of shard %d: %w", shard, err)
	}
	a, err = keycodec.DecodeApplied(v)
	return a, true, errors.Join(err, closer.Close())
}

// At returns the change of a partition with a _seq.
func At(r pebble.Reader, shard, table uint32, user string, seq uint64) (*storagev1.Change, error) {
	v, closer, err := r.Get(keycodec.ChangeKey(nil, shard, Bucket(seq), table, user, seq))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, dberr.New(dberr.PositionGone, "change %d is not in the change log of shard %d any more", seq, shard)
	}
	if err != nil {
		return nil, dberr.New(dberr.Internal, "read the change log: %w", err)
	}
	ch, err := decode(seq, v)
	return ch, errors.Join(err, closer.Close())
}
