// Package manifest reads which segments a partition has: part of a shard's state in the hot store.
package manifest

import (
	"errors"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

// Entry is a segment of a partition.
type Entry struct {
	Table uint32
	User  string
	// ID orders a partition's segments by the time they were added.
	ID uint64
	*storagev1.Segment
}

// Reader is a store or a view of it.
type Reader interface {
	NewIter(*pebble.IterOptions) (*pebble.Iterator, error)
}

// Read lists the segments of a partition, oldest first.
func Read(r Reader, shard, table uint32, user string) ([]Entry, error) {
	return collect(r, keycodec.PrefixSpan(keycodec.PartitionSegmentPrefix(nil, shard, table, user)))
}

// ReadTable lists the segments of all partitions a shard has of a table.
func ReadTable(r Reader, shard, table uint32) ([]Entry, error) {
	return collect(r, keycodec.PrefixSpan(keycodec.TableSegmentPrefix(shard, table)))
}

func collect(r Reader, span keycodec.Span) ([]Entry, error) {
	var list []Entry
	err := Each(r, span, func(e Entry) error {
		list = append(list, e)
		return nil
	})
	return list, err
}

// EachOf visits every segment of a shard until visit fails.
func EachOf(r Reader, shard uint32, visit func(Entry) error) error {
	return Each(r, keycodec.PrefixSpan(keycodec.SegmentPrefix(shard)), visit)
}

// Each visits the segments in a span of keys until visit fails.
func Each(r Reader, span keycodec.Span, visit func(Entry) error) error {
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
	if err != nil {
		return readFailed(err)
	}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		var e Entry
		if e, err = Decode(it); err == nil {
			err = visit(e)
		}
	}
	if closeErr := errors.Join(it.Error(), it.Close()); closeErr != nil {
		return readFailed(closeErr)
	}
	return err
}

// Decode reads the entry under an iterator.
func Decode(it *pebble.Iterator) (Entry, error) {
	value, err := it.ValueAndErr()
	if err != nil {
		return Entry{}, readFailed(err)
	}
	e := Entry{Segment: new(storagev1.Segment)}
	if e.Table, e.User, e.ID, err = keycodec.DecodeSegmentKey(it.Key()); err != nil {
		return Entry{}, err
	}
	if err := proto.Unmarshal(value, e.Segment); err != nil {
		return Entry{}, dberr.New(dberr.Corrupt, "decode segment %d of table %d: %w", e.ID, e.Table, err)
	}
	return e, nil
}

func readFailed(err error) error {
	return dberr.New(dberr.Unavailable, "read the list of segments: %w", err)
}

// EachPartition visits the segments of each partition in a span of keys, oldest first, one partition after the other, until visit
// returns false or fails. One partition's are in memory at a time.
func EachPartition(r Reader, span keycodec.Span, visit func([]Entry) (more bool, err error)) error {
	var entries []Entry
	err := Each(r, span, func(e Entry) error {
		if len(entries) > 0 && (entries[0].Table != e.Table || entries[0].User != e.User) {
			more, err := visit(entries)
			if err == nil && !more {
				err = errEnough
			}
			entries = entries[:0]
			if err != nil {
				return err
			}
		}
		entries = append(entries, e)
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	if err == nil && len(entries) > 0 {
		_, err = visit(entries)
	}
	return err
}

// errEnough ends an iteration.
var errEnough = errors.New("enough")
