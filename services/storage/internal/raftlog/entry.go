package raftlog

import (
	"encoding/binary"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// An entry is a format byte, Raft's type, the term, the time it was appended (Unix nanoseconds, 0 for
// unknown), the extensions with their length, and the data up to the end.
const (
	entryVersion = 1
	// headerBytesMax is an entry without extensions and data.
	headerBytesMax = 2 + 3*binary.MaxVarintLen64
	logKeyBytes    = 1 + 4 + 8
	// entryOverheadBytes is what a batch needs for an entry besides its data: key, header, lengths.
	entryOverheadBytes = logKeyBytes + headerBytesMax + 2*binary.MaxVarintLen32
)

// appendEntry writes an entry into the batch without a copy in between.
func appendEntry(b *pebble.Batch, key []byte, l *raft.Log) error {
	var buf [headerBytesMax]byte
	header := appendHeader(buf[:0], l)
	op := b.SetDeferred(len(key), len(header)+len(l.Extensions)+len(l.Data))
	copy(op.Key, key)
	n := copy(op.Value, header)
	n += copy(op.Value[n:], l.Extensions)
	copy(op.Value[n:], l.Data)
	return op.Finish()
}

func appendHeader(dst []byte, l *raft.Log) []byte {
	var at int64
	if !l.AppendedAt.IsZero() {
		at = l.AppendedAt.UnixNano()
	}
	dst = append(dst, entryVersion, byte(l.Type))
	dst = binary.AppendUvarint(dst, l.Term)
	dst = binary.AppendVarint(dst, at)
	return binary.AppendUvarint(dst, uint64(len(l.Extensions)))
}

// decodeEntry reads an entry; l shares no memory with src.
func decodeEntry(src []byte, l *raft.Log) error {
	if len(src) < 2 || src[0] != entryVersion {
		return dberr.New(dberr.Corrupt, "unknown entry format")
	}
	l.Type = raft.LogType(src[1])
	src = src[2:]
	term, n := binary.Uvarint(src)
	if n <= 0 {
		return dberr.New(dberr.Corrupt, "bad term")
	}
	at, m := binary.Varint(src[n:])
	if m <= 0 {
		return dberr.New(dberr.Corrupt, "bad time")
	}
	src = src[n+m:]
	size, n := binary.Uvarint(src)
	if n <= 0 || size > uint64(len(src)-n) {
		return dberr.New(dberr.Corrupt, "bad length of extensions")
	}
	src = src[n:]
	l.Term = term
	l.AppendedAt = time.Time{}
	if at != 0 {
		l.AppendedAt = time.Unix(0, at)
	}
	own := append([]byte(nil), src...)
	l.Extensions, l.Data = own[:size:size], own[size:]
	if size == 0 {
		l.Extensions = nil
	}
	return nil
}
