package keycodec

import (
	"encoding/binary"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

const flagDeleted = 1

// Version is the value of a row key: the newest version of the row.
type Version struct {
	Seq           uint64
	Deleted       bool
	SchemaVersion uint32
	// Row is encoded by rowcodec. A tombstone carries the whole last row.
	Row []byte
}

// AppendVersion encodes v: _seq u64, flags u8, schema version uvarint, row.
func AppendVersion(dst []byte, v *Version) []byte {
	dst = binary.BigEndian.AppendUint64(dst, v.Seq)
	var flags byte
	if v.Deleted {
		flags |= flagDeleted
	}
	dst = append(dst, flags)
	dst = binary.AppendUvarint(dst, uint64(v.SchemaVersion))
	return append(dst, v.Row...)
}

// DecodeVersion reads a row key's value. Row aliases src.
func DecodeVersion(src []byte) (Version, error) {
	if len(src) < 10 || src[8]&^flagDeleted != 0 {
		return Version{}, dberr.New(dberr.Corrupt, "decode row version: bad header")
	}
	schema, w := binary.Uvarint(src[9:])
	if w <= 0 || schema != uint64(uint32(schema)) {
		return Version{}, dberr.New(dberr.Corrupt, "decode row version: bad schema version")
	}
	return Version{Seq: binary.BigEndian.Uint64(src), Deleted: src[8]&flagDeleted != 0,
		SchemaVersion: uint32(schema), Row: src[9+w:]}, nil
}

// Applied is the value of AppliedKey.
type Applied struct {
	Index, Term uint64
	// Seq is the highest _seq applied.
	Seq uint64
}

const appliedBytes = 24

// AppendApplied encodes a: three u64.
func AppendApplied(dst []byte, a Applied) []byte {
	dst = binary.BigEndian.AppendUint64(dst, a.Index)
	dst = binary.BigEndian.AppendUint64(dst, a.Term)
	return binary.BigEndian.AppendUint64(dst, a.Seq)
}

// DecodeApplied reads AppliedKey's value.
func DecodeApplied(src []byte) (Applied, error) {
	if len(src) != appliedBytes {
		return Applied{}, dberr.New(dberr.Corrupt, "decode applied index: %d bytes, want %d", len(src), appliedBytes)
	}
	return Applied{Index: binary.BigEndian.Uint64(src), Term: binary.BigEndian.Uint64(src[8:]),
		Seq: binary.BigEndian.Uint64(src[16:])}, nil
}

// Request is the value of a RequestKey: what a write that was done is answered with.
type Request struct {
	// FirstSeq is the _seq of its first row.
	FirstSeq uint64
	// Counts are the rows of each of its table writes.
	Counts []uint32
}

// AppendRequest encodes r: first _seq u64, number of counts uvarint, counts uvarint.
func AppendRequest(dst []byte, r *Request) []byte {
	dst = binary.BigEndian.AppendUint64(dst, r.FirstSeq)
	dst = binary.AppendUvarint(dst, uint64(len(r.Counts)))
	for _, n := range r.Counts {
		dst = binary.AppendUvarint(dst, uint64(n))
	}
	return dst
}

// DecodeRequest reads a RequestKey's value.
func DecodeRequest(src []byte) (Request, error) {
	bad := func() (Request, error) { return Request{}, dberr.New(dberr.Corrupt, "decode request: malformed") }
	if len(src) < 8 {
		return bad()
	}
	r := Request{FirstSeq: binary.BigEndian.Uint64(src)}
	n, w := binary.Uvarint(src[8:])
	if w <= 0 || n > uint64(len(src)-8-w) { // every count has a byte at least
		return bad()
	}
	src = src[8+w:]
	r.Counts = make([]uint32, n)
	for i := range r.Counts {
		c, w := binary.Uvarint(src)
		if w <= 0 || c != uint64(uint32(c)) {
			return bad()
		}
		r.Counts[i], src = uint32(c), src[w:]
	}
	if len(src) > 0 {
		return bad()
	}
	return r, nil
}
