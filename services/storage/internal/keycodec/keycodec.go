// Package keycodec is every key of the hot store, and the values that belong to no other package.
//
// A key is a space byte, the shard, and what the space needs; integers are big-endian, so that keys
// sort as numbers do. User ids and text are escaped (0x00 becomes 0x00 0xFF, the end is 0x00 0x01),
// which keeps their order and makes every part end by itself: no partition's prefix is the start of
// another partition's key. This is a disk format: what is here does not change.
package keycodec

import (
	"encoding/binary"

	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// The spaces.
const (
	spaceApplied byte = 0x01 // shard → Applied
	spaceRow     byte = 0x02 // shard table user key → Version
	spaceChange  byte = 0x03 // shard bucket table user seq → change (see changelog)
	spaceDropped byte = 0x04 // shard table → nothing
	spaceUnique  byte = 0x05 // shard table column user value → key
	spacePruned  byte = 0x06 // shard → position up to which the change log was pruned
	spaceRequest byte = 0x07 // shard bucket id → Request
	spaceSegment byte = 0x08 // shard table user id → storage.v1.Segment

	spaceScratch   byte = 0x7E // anything
	spaceRestoring byte = 0x7F // shard → nothing
)

// Span is a range of keys: Start inclusive, End exclusive.
type Span struct{ Start, End []byte }

// ShardSpans returns every range that holds keys of the shard, in key order: what a snapshot copies
// and what a restore clears.
func ShardSpans(shard uint32) []Span {
	spans := make([]Span, 0, spaceSegment)
	for space := spaceApplied; space <= spaceSegment; space++ {
		p := shardPrefix(nil, space, shard)
		spans = append(spans, Span{Start: p, End: PrefixEnd(p)})
	}
	return spans
}

// PrefixEnd returns the first key after all keys with the prefix, or nil when there is none.
func PrefixEnd(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != 0xFF {
			end := append([]byte(nil), prefix[:i+1]...)
			end[i]++
			return end
		}
	}
	return nil
}

// PrefixSpan is the range of all keys with the prefix.
func PrefixSpan(prefix []byte) Span { return Span{Start: prefix, End: PrefixEnd(prefix)} }

// AppliedKey holds how far the shard has applied its log.
func AppliedKey(shard uint32) []byte { return shardPrefix(nil, spaceApplied, shard) }

// RestoringKey marks a shard whose state is being replaced. It lies outside of the shard's spans: the marker must outlive
// their clearing.
func RestoringKey(shard uint32) []byte { return shardPrefix(nil, spaceRestoring, shard) }

// DroppedKey marks a table as dropped in the shard.
func DroppedKey(shard, table uint32) []byte {
	return binary.BigEndian.AppendUint32(shardPrefix(nil, spaceDropped, shard), table)
}

// DroppedPrefix starts the shard's markers of dropped tables.
func DroppedPrefix(shard uint32) []byte { return shardPrefix(nil, spaceDropped, shard) }

// DecodeDroppedKey reads the table of a marker.
func DecodeDroppedKey(k []byte) (table uint32, err error) {
	rest, _, err := cutHeader(k, spaceDropped, "dropped table")
	if err != nil {
		return 0, err
	}
	if len(rest) != 4 {
		return 0, corrupt("dropped table key of a wrong length")
	}
	return binary.BigEndian.Uint32(rest), nil
}

// PrunedKey holds the position up to which the shard's change log was pruned.
func PrunedKey(shard uint32) []byte { return shardPrefix(nil, spacePruned, shard) }

// RowPrefix starts the rows of all tables of the shard.
func RowPrefix(shard uint32) []byte { return shardPrefix(nil, spaceRow, shard) }

// UniquePrefix starts the unique index entries of all tables of the shard.
func UniquePrefix(shard uint32) []byte { return shardPrefix(nil, spaceUnique, shard) }

// TablePrefix starts the rows of a table in the shard, of all users.
func TablePrefix(shard, table uint32) []byte {
	return binary.BigEndian.AppendUint32(shardPrefix(nil, spaceRow, shard), table)
}

// PartitionPrefix starts the rows of one partition. The user of a shared table is "".
func PartitionPrefix(dst []byte, shard, table uint32, user string) []byte {
	dst = shardPrefix(dst, spaceRow, shard)
	dst = binary.BigEndian.AppendUint32(dst, table)
	return appendEscaped(dst, user)
}

// AppendRowKey appends the key of one row. A part of the key's values makes the prefix of all rows
// whose key begins with them.
func AppendRowKey(dst []byte, shard, table uint32, user string, key []datum.Datum) []byte {
	dst = PartitionPrefix(dst, shard, table, user)
	for _, d := range key {
		dst = AppendDatum(dst, d)
	}
	return dst
}

// DecodeRowKey splits a row's key.
func DecodeRowKey(k []byte) (shard, table uint32, user string, key []datum.Datum, err error) {
	rest, shard, err := cutHeader(k, spaceRow, "row")
	if err != nil {
		return 0, 0, "", nil, err
	}
	if len(rest) < 4 {
		return 0, 0, "", nil, corrupt("row key without a table")
	}
	table, rest = binary.BigEndian.Uint32(rest), rest[4:]
	if user, rest, err = cutEscaped(rest); err != nil {
		return 0, 0, "", nil, err
	}
	for len(rest) > 0 {
		var d datum.Datum
		if d, rest, err = DecodeDatum(rest); err != nil {
			return 0, 0, "", nil, err
		}
		key = append(key, d)
	}
	return shard, table, user, key, nil
}

// TableUniquePrefix starts the unique index entries of a table in the shard.
func TableUniquePrefix(shard, table uint32) []byte {
	return binary.BigEndian.AppendUint32(shardPrefix(nil, spaceUnique, shard), table)
}

// UniqueKey is the entry of a value in the unique index of a column; its value is the row key's
// values, by AppendKeyValues.
func UniqueKey(dst []byte, shard, table, column uint32, user string, value datum.Datum) []byte {
	dst = shardPrefix(dst, spaceUnique, shard)
	dst = binary.BigEndian.AppendUint32(dst, table)
	dst = binary.BigEndian.AppendUint32(dst, column)
	dst = appendEscaped(dst, user)
	return AppendDatum(dst, value)
}

// AppendKeyValues encodes a primary key alone, as unique index entries hold it: a row key without its
// partition's prefix.
func AppendKeyValues(dst []byte, key []datum.Datum) []byte {
	for _, d := range key {
		dst = AppendDatum(dst, d)
	}
	return dst
}

// ChangePrefix starts the shard's change log.
func ChangePrefix(shard uint32) []byte { return shardPrefix(nil, spaceChange, shard) }

// ChangeBucketPrefix starts one bucket of the shard's change log.
func ChangeBucketPrefix(dst []byte, shard, bucket uint32) []byte {
	return binary.BigEndian.AppendUint32(shardPrefix(dst, spaceChange, shard), bucket)
}

// ChangePartitionPrefix starts one partition's changes within a bucket.
func ChangePartitionPrefix(dst []byte, shard, bucket, table uint32, user string) []byte {
	dst = ChangeBucketPrefix(dst, shard, bucket)
	dst = binary.BigEndian.AppendUint32(dst, table)
	return appendEscaped(dst, user)
}

// ChangeKey is the key of one change.
func ChangeKey(dst []byte, shard, bucket, table uint32, user string, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(ChangePartitionPrefix(dst, shard, bucket, table, user), seq)
}

// ChangeBucketOf reads the bucket of a change's key.
func ChangeBucketOf(k []byte) (uint32, error) {
	rest, _, err := cutHeader(k, spaceChange, "change")
	if err != nil {
		return 0, err
	}
	if len(rest) < 4 {
		return 0, corrupt("change key without a bucket")
	}
	return binary.BigEndian.Uint32(rest), nil
}

// RequestPrefix starts the shard's remembered requests.
func RequestPrefix(shard uint32) []byte { return shardPrefix(nil, spaceRequest, shard) }

// RequestBucketPrefix starts the requests remembered in one bucket.
func RequestBucketPrefix(dst []byte, shard, bucket uint32) []byte {
	return binary.BigEndian.AppendUint32(shardPrefix(dst, spaceRequest, shard), bucket)
}

// RequestKey is the key of a request's answer.
func RequestKey(dst []byte, shard, bucket uint32, id []byte) []byte {
	return append(RequestBucketPrefix(dst, shard, bucket), id...)
}

// RequestBucketOf reads the bucket of a request's key.
func RequestBucketOf(k []byte) (uint32, error) {
	rest, _, err := cutHeader(k, spaceRequest, "request")
	if err != nil {
		return 0, err
	}
	if len(rest) < 4 {
		return 0, corrupt("request key without a bucket")
	}
	return binary.BigEndian.Uint32(rest), nil
}

// SegmentSpan is the segments of all shards.
func SegmentSpan() Span { return PrefixSpan([]byte{spaceSegment}) }

// SegmentPrefix starts the segments of all tables of the shard.
func SegmentPrefix(shard uint32) []byte { return shardPrefix(nil, spaceSegment, shard) }

// TableSegmentPrefix starts the segments of a table in the shard, of all users.
func TableSegmentPrefix(shard, table uint32) []byte {
	return binary.BigEndian.AppendUint32(shardPrefix(nil, spaceSegment, shard), table)
}

// PartitionSegmentPrefix starts the segments of one partition.
func PartitionSegmentPrefix(dst []byte, shard, table uint32, user string) []byte {
	dst = binary.BigEndian.AppendUint32(shardPrefix(dst, spaceSegment, shard), table)
	return appendEscaped(dst, user)
}

// SegmentKey is the key of a segment. Its id is the _seq of the entry that added it, so later ones come behind.
func SegmentKey(dst []byte, shard, table uint32, user string, id uint64) []byte {
	return binary.BigEndian.AppendUint64(PartitionSegmentPrefix(dst, shard, table, user), id)
}

// DecodeSegmentKey splits a segment's key.
func DecodeSegmentKey(k []byte) (table uint32, user string, id uint64, err error) {
	rest, _, err := cutHeader(k, spaceSegment, "segment")
	if err != nil {
		return 0, "", 0, err
	}
	if len(rest) < 4 {
		return 0, "", 0, corrupt("segment key without a table")
	}
	table = binary.BigEndian.Uint32(rest)
	if user, rest, err = cutEscaped(rest[4:]); err != nil {
		return 0, "", 0, err
	}
	if len(rest) != 8 {
		return 0, "", 0, corrupt("segment key of a wrong length")
	}
	return table, user, binary.BigEndian.Uint64(rest), nil
}

// TableOf reads the table of a row's key.
func TableOf(k []byte) (uint32, error) {
	rest, _, err := cutHeader(k, spaceRow, "row")
	if err != nil {
		return 0, err
	}
	if len(rest) < 4 {
		return 0, corrupt("row key without a table")
	}
	return binary.BigEndian.Uint32(rest), nil
}

// UserOf cuts the owner's id out of a row's key: its partition's prefix, and the id.
func UserOf(k []byte) (partition []byte, user string, err error) {
	rest, _, err := cutHeader(k, spaceRow, "row")
	if err != nil {
		return nil, "", err
	}
	if len(rest) < 4 {
		return nil, "", corrupt("row key without a table")
	}
	user, rest, err = cutEscaped(rest[4:])
	return k[:len(k)-len(rest)], user, err
}

// UserSpace is a space whose keys name a user behind the shard and a number of groups: what a user has is one span in each group.
type UserSpace struct {
	// Prefix starts the space's keys of the shard.
	Prefix []byte
	// groupBytes follow it, the table at tableAt of them.
	groupBytes, tableAt int
}

// RowSpace holds rows; a group is a table.
func RowSpace(shard uint32) UserSpace { return UserSpace{RowPrefix(shard), 4, 0} }

// UniqueSpace holds entries of UNIQUE columns; a group is a column of a table.
func UniqueSpace(shard uint32) UserSpace { return UserSpace{UniquePrefix(shard), 8, 0} }

// ChangeSpace holds the change log; a group is a table in an hour.
func ChangeSpace(shard uint32) UserSpace { return UserSpace{ChangePrefix(shard), 8, 4} }

// SegmentSpace holds lists of segments; a group is a table.
func SegmentSpace(shard uint32) UserSpace { return UserSpace{SegmentPrefix(shard), 4, 0} }

// Group cuts the group off a key of the space, and names its table. PrefixEnd of the group is where the next one begins.
func (s UserSpace) Group(k []byte) (group []byte, table uint32, err error) {
	n := len(s.Prefix) + s.groupBytes
	if len(k) < n {
		return nil, 0, corrupt("a key of a user's that ends before the user")
	}
	return append([]byte(nil), k[:n]...), binary.BigEndian.Uint32(k[len(s.Prefix)+s.tableAt:]), nil
}

// UserSpan is what a user has in a group.
func UserSpan(group []byte, user string) Span {
	return PrefixSpan(appendEscaped(group[:len(group):len(group)], user))
}

// ScratchKey is a key of no shard, which nobody reads: writing it gives the store something to flush.
func ScratchKey() []byte { return []byte{spaceScratch} }

func shardPrefix(dst []byte, space byte, shard uint32) []byte {
	return binary.BigEndian.AppendUint32(append(dst, space), shard)
}

func cutHeader(k []byte, space byte, what string) (rest []byte, shard uint32, err error) {
	if len(k) < 5 || k[0] != space {
		return nil, 0, corrupt("not a " + what + " key")
	}
	return k[5:], binary.BigEndian.Uint32(k[1:]), nil
}

func corrupt(what string) error { return dberr.New(dberr.Corrupt, "decode key: %s", what) }
