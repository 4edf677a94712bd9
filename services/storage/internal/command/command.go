// Package command is the content of a shard's Raft entries: what the leader decided, complete enough
// that applying it reads nothing.
//
// Format: version u8, kind u8, term u64, first _seq u64, big-endian; then
//
//	write (version 1)   user (length, bytes), number of rows, rows
//	purge (version 1)   table
//	write (version 2)   request id (16 bytes), number of counts, counts, then as in version 1
//	verify (version 2)  bucket of the change log
//	segments (version 4)  user (length, bytes), table, _seq u64 up to which rows are covered, number of segments removed,
//	                    their ids u64, segments added (storage.v1.Segment)
//	forget (version 4)  table, _seq u64, keys of rows
//	import (version 5)  user (length, bytes), table, number of rows, rows: key, version (keycodec.Version), unique index keys set
//	erase (version 5)   user (length, bytes), id of the job (length, bytes)
//
// A row: flags u8 (kind in the low bits, shared, old here), table, schema version, key, row; for update and
// delete old schema version, old _seq u64, old row; then the unique index keys dropped and set. Numbers
// are uvarints, byte strings have their length before them. This is a disk and wire format.
package command

import (
	"encoding/binary"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// Kind is what a command does.
type Kind uint8

// The kinds.
const (
	// Write changes rows.
	Write Kind = 1
	// Purge removes a dropped table and refuses later writes to it.
	Purge Kind = 2
	// Verify makes every replica compute the sum of its state at this entry.
	Verify Kind = 3
	// Segments changes the segments of a partition: rows move out of the hot store into new ones, or new ones take
	// the place of others.
	Segments Kind = 4
	// Forget removes deleted rows for good.
	Forget Kind = 5
	// Import writes rows with a _seq of their own into a partition that nobody reads yet.
	Import Kind = 6
	// Erase removes everything a user has.
	Erase Kind = 7
)

// The versions of the format. A leader writes an entry of a version only when every replica reads it.
const (
	version1 = 1
	// VersionRequests brought request ids and Verify.
	VersionRequests = 2
	// VersionSegments brought Segments and Forget. Version 3, of the catalog, changed no entry of a shard.
	VersionSegments = 4
	// VersionImport brought Import, VersionErase Erase.
	VersionImport = 5
	VersionErase  = 5
	// Newest is the highest version this program reads.
	Newest = VersionErase
)

// RequestIDBytes is the length of a request's id.
const RequestIDBytes = 16

// Command is one decided entry.
type Command struct {
	Kind Kind
	// Term is the leader's term when it decided. In another term somebody else may have decided
	// otherwise meanwhile, so apply refuses the entry.
	Term uint64
	// FirstSeq is the _seq of the first row; row i has snowflake.At(FirstSeq, i).
	FirstSeq uint64
	// User owns the rows of per-user tables; of an Erase, all that goes.
	User string
	Rows []Row
	// Table is what a Purge removes.
	Table uint32
	// RequestID names the write in every attempt of it; nil when it has none. Counts are then the rows of each
	// table write of the request, in order: together they are the answer to another attempt.
	RequestID []byte
	Counts    []uint32
	// Bucket is the first hour bucket of the change log that a Verify sums up.
	Bucket uint32
	// CoveredSeq is set when the segments Added come from the hot store: its rows of User's partition of Table that lie
	// within their keys and have a _seq up to it are in them.
	CoveredSeq uint64
	// Removed are ids of segments whose rows the Added have. Added are encoded; number i has the id
	// snowflake.At(FirstSeq, i).
	Removed []uint64
	Added   [][]byte
	// Keys are rows of Table to Forget: those that are deleted still, with a _seq below BeforeSeq.
	Keys      [][]byte
	BeforeSeq uint64
	// Job is the one that an Erase is part of.
	Job string
	// Imported are rows of User's partition of Table. Each has a _seq below FirstSeq.
	Imported []ImportedRow
}

// ImportedRow is a row as it is stored.
type ImportedRow struct {
	// Key is the row's key in the hot store, Version its value there.
	Key, Version []byte
	// UniqueSet are keys of the unique index.
	UniqueSet [][]byte
}

// version is the lowest that can carry c.
func (c *Command) version() byte {
	switch {
	case c.Kind == Erase:
		return VersionErase
	case c.Kind == Import:
		return VersionImport
	case c.Kind == Segments, c.Kind == Forget:
		return VersionSegments
	case c.Kind == Verify || len(c.RequestID) > 0:
		return VersionRequests
	}
	return version1
}

// Row is the change of one row.
type Row struct {
	Kind storagev1.ChangeKind
	// Shared: the row belongs to a shared table, not to the command's user.
	Shared        bool
	Table         uint32
	SchemaVersion uint32
	// Key is the row's key in the hot store.
	Key []byte
	// Row is the new row; empty for a delete.
	Row []byte
	// The version replaced; none for an insert. OldHere says that OldSeq is not a _seq but the number
	// of an earlier row of this command.
	OldSchemaVersion uint32
	OldSeq           uint64
	OldHere          bool
	OldRow           []byte
	// UniqueDropped and UniqueSet are keys of the unique index.
	UniqueDropped, UniqueSet [][]byte
}

const (
	headerBytes = 2 + 8 + 8
	seqOffset   = 2 + 8

	kindMask    = 0x03
	sharedFlag  = 0x04
	oldHereFlag = 0x08

	// rowBytesMin is the shortest row there is; it bounds what a wrong count makes Decode allocate.
	rowBytesMin = 7
	// importedBytesMin is the same of imported rows.
	importedBytesMin = 3
)

// Append encodes c, in version 1 where that can carry it.
func Append(dst []byte, c *Command) []byte {
	dst = append(dst, c.version(), byte(c.Kind))
	dst = binary.BigEndian.AppendUint64(dst, c.Term)
	dst = binary.BigEndian.AppendUint64(dst, c.FirstSeq)
	switch c.Kind {
	case Purge:
		return binary.AppendUvarint(dst, uint64(c.Table))
	case Verify:
		return binary.AppendUvarint(dst, uint64(c.Bucket))
	case Segments:
		return appendSegments(dst, c)
	case Forget:
		dst = binary.AppendUvarint(dst, uint64(c.Table))
		return appendList(binary.BigEndian.AppendUint64(dst, c.BeforeSeq), c.Keys)
	case Erase:
		return appendBytes(appendBytes(dst, []byte(c.User)), []byte(c.Job))
	case Import:
		return appendImport(dst, c)
	}
	if len(c.RequestID) > 0 {
		dst = append(dst, c.RequestID...)
		dst = binary.AppendUvarint(dst, uint64(len(c.Counts)))
		for _, n := range c.Counts {
			dst = binary.AppendUvarint(dst, uint64(n))
		}
	}
	dst = appendBytes(dst, []byte(c.User))
	dst = binary.AppendUvarint(dst, uint64(len(c.Rows)))
	for i := range c.Rows {
		dst = appendRow(dst, &c.Rows[i])
	}
	return dst
}

func appendSegments(dst []byte, c *Command) []byte {
	dst = appendBytes(dst, []byte(c.User))
	dst = binary.AppendUvarint(dst, uint64(c.Table))
	dst = binary.BigEndian.AppendUint64(dst, c.CoveredSeq)
	dst = binary.AppendUvarint(dst, uint64(len(c.Removed)))
	for _, id := range c.Removed {
		dst = binary.BigEndian.AppendUint64(dst, id)
	}
	return appendList(dst, c.Added)
}

func appendImport(dst []byte, c *Command) []byte {
	dst = binary.AppendUvarint(appendBytes(dst, []byte(c.User)), uint64(c.Table))
	dst = binary.AppendUvarint(dst, uint64(len(c.Imported)))
	for i := range c.Imported {
		r := &c.Imported[i]
		dst = appendList(appendBytes(appendBytes(dst, r.Key), r.Version), r.UniqueSet)
	}
	return dst
}

// SetFirstSeq puts the _seq into an encoded command: it is known last, under the lock that orders
// commands.
func SetFirstSeq(encoded []byte, seq uint64) {
	binary.BigEndian.PutUint64(encoded[seqOffset:], seq)
}

func appendRow(dst []byte, r *Row) []byte {
	flags := byte(r.Kind)
	if r.Shared {
		flags |= sharedFlag
	}
	if r.OldHere {
		flags |= oldHereFlag
	}
	dst = append(dst, flags)
	dst = binary.AppendUvarint(dst, uint64(r.Table))
	dst = binary.AppendUvarint(dst, uint64(r.SchemaVersion))
	dst = appendBytes(dst, r.Key)
	dst = appendBytes(dst, r.Row)
	if r.Kind != storagev1.ChangeKind_CHANGE_KIND_INSERT {
		dst = binary.AppendUvarint(dst, uint64(r.OldSchemaVersion))
		dst = binary.BigEndian.AppendUint64(dst, r.OldSeq)
		dst = appendBytes(dst, r.OldRow)
	}
	return appendList(appendList(dst, r.UniqueDropped), r.UniqueSet)
}

func appendBytes(dst, b []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

func appendList(dst []byte, l [][]byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(l)))
	for _, b := range l {
		dst = appendBytes(dst, b)
	}
	return dst
}

// Decode reads a command, which shares memory with src. Malformed input is answered with a Corrupt
// error.
func Decode(src []byte) (*Command, error) {
	if len(src) < headerBytes || src[0] < version1 || src[0] > Newest {
		return nil, corrupt("unknown format")
	}
	c := &Command{Kind: Kind(src[1]), Term: binary.BigEndian.Uint64(src[2:]), FirstSeq: binary.BigEndian.Uint64(src[seqOffset:])}
	r := reader{src: src[headerBytes:]}
	switch {
	case src[0] == version1 && c.Kind == Purge:
		c.Table = r.uint32()
	case src[0] == version1 && c.Kind == Write:
		r.write(c)
	case src[0] == VersionRequests && c.Kind == Write:
		r.request(c)
		r.write(c)
		r.checkCounts(c)
	case src[0] == VersionRequests && c.Kind == Verify:
		c.Bucket = r.uint32()
	case src[0] == VersionSegments && c.Kind == Segments:
		r.segments(c)
	case src[0] == VersionSegments && c.Kind == Forget:
		c.Table, c.BeforeSeq = r.uint32(), r.uint64()
		c.Keys = r.list()
	case src[0] == VersionErase && c.Kind == Erase:
		c.User, c.Job = string(r.bytes()), string(r.bytes())
	case src[0] == VersionImport && c.Kind == Import:
		r.imported(c)
	default:
		return nil, corrupt("unknown kind")
	}
	if r.bad || len(r.src) > 0 {
		return nil, corrupt("malformed")
	}
	return c, nil
}

// reader cuts fields off src; after the first that is malformed it returns zeros.
type reader struct {
	src []byte
	bad bool
}

func (r *reader) fail() { r.bad, r.src = true, nil }

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.src)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.src = r.src[n:]
	return v
}

func (r *reader) uint32() uint32 {
	v := r.uvarint()
	if v != uint64(uint32(v)) {
		r.fail()
		return 0
	}
	return uint32(v)
}

func (r *reader) uint64() uint64 {
	if len(r.src) < 8 {
		r.fail()
		return 0
	}
	v := binary.BigEndian.Uint64(r.src)
	r.src = r.src[8:]
	return v
}

// count reads how many items of at least size bytes follow.
func (r *reader) count(size int) int {
	v := r.uvarint()
	if v > uint64(len(r.src)/size) {
		r.fail()
		return 0
	}
	return int(v)
}

func (r *reader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.src)) {
		r.fail()
		return nil
	}
	b := r.src[:n:n]
	r.src = r.src[n:]
	return b
}

func (r *reader) list() [][]byte {
	n := r.count(1)
	if n == 0 {
		return nil
	}
	l := make([][]byte, n)
	for i := range l {
		l[i] = r.bytes()
	}
	return l
}

func (r *reader) write(c *Command) {
	c.User = string(r.bytes())
	c.Rows = make([]Row, r.count(rowBytesMin))
	for i := range c.Rows {
		r.row(&c.Rows[i])
	}
}

func (r *reader) segments(c *Command) {
	c.User, c.Table = string(r.bytes()), r.uint32()
	c.CoveredSeq = r.uint64()
	if n := r.count(8); n > 0 {
		c.Removed = make([]uint64, n)
		for i := range c.Removed {
			c.Removed[i] = r.uint64()
		}
	}
	c.Added = r.list()
}

func (r *reader) imported(c *Command) {
	c.User, c.Table = string(r.bytes()), r.uint32()
	c.Imported = make([]ImportedRow, r.count(importedBytesMin))
	for i := range c.Imported {
		c.Imported[i] = ImportedRow{Key: r.bytes(), Version: r.bytes(), UniqueSet: r.list()}
	}
}

func (r *reader) request(c *Command) {
	if len(r.src) < RequestIDBytes {
		r.fail()
		return
	}
	c.RequestID, r.src = r.src[:RequestIDBytes:RequestIDBytes], r.src[RequestIDBytes:]
	c.Counts = make([]uint32, r.count(1))
	for i := range c.Counts {
		c.Counts[i] = r.uint32()
	}
}

// checkCounts refuses counts that are not those of the rows: they become an answer.
func (r *reader) checkCounts(c *Command) {
	rows := uint64(0)
	for _, n := range c.Counts {
		rows += uint64(n)
	}
	if rows != uint64(len(c.Rows)) {
		r.fail()
	}
}

func (r *reader) row(row *Row) {
	if r.bad || len(r.src) == 0 {
		r.fail()
		return
	}
	flags := r.src[0]
	r.src = r.src[1:]
	row.Kind, row.Shared, row.OldHere = storagev1.ChangeKind(flags&kindMask), flags&sharedFlag != 0, flags&oldHereFlag != 0
	if row.Kind == storagev1.ChangeKind_CHANGE_KIND_UNSPECIFIED || flags&^(kindMask|sharedFlag|oldHereFlag) != 0 {
		r.fail()
		return
	}
	row.Table, row.SchemaVersion = r.uint32(), r.uint32()
	row.Key, row.Row = r.bytes(), r.bytes()
	if row.Kind != storagev1.ChangeKind_CHANGE_KIND_INSERT {
		row.OldSchemaVersion = r.uint32()
		row.OldSeq = r.uint64()
		row.OldRow = r.bytes()
	}
	row.UniqueDropped, row.UniqueSet = r.list(), r.list()
}

func corrupt(what string) error { return dberr.New(dberr.Corrupt, "decode command: %s", what) }
