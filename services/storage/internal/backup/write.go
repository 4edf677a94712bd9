package backup

import (
	"context"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/keyring"
	"github.com/kalamdb/kalamdb-go/internal/sealedfile"
	"github.com/kalamdb/kalamdb-go/internal/shardmap"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
)

const (
	// batchPartitions are looked at together, so that their owners' keys are asked for in one go.
	batchPartitions = 256
	// hotBlockBytes is where a block of hot rows is full, hotFileBytes where a file of them is.
	hotBlockBytes = 1 << 20
	hotFileBytes  = 64 << 20
)

// Keys are users' data keys.
type Keys interface {
	// Of returns users' data keys, made for those who have none. Who is being erased gets none, and is left out of the backup.
	Of(ctx context.Context, users []string) (map[string][]byte, error)
	// Slot returns a page of the sealed keys of a slot's users, in order of their ids.
	Slot(ctx context.Context, slot uint16, after string) (users []string, sealed [][]byte, more bool, err error)
}

// Progress is how far writing is.
type Progress struct{ Files, Bytes, Rows uint64 }

// Writer writes what a shard has at a cut.
type Writer struct {
	Shard  uint32
	Shards shardmap.Map
	// Snapshot is the state. Tables are those to write, in order of their ids.
	Snapshot *pebble.Snapshot
	Tables   []*catalog.Table
	// OpenSegment reads a segment's file.
	OpenSegment func(ctx context.Context, seg *storagev1.Segment) (io.ReadCloser, error)
	Keys        Keys
	// BackupID names the backup, Key is its own.
	BackupID string
	Key      []byte
	Target   Target
	// Parent is the backup whose files are not copied again, at ParentPath; nil: none.
	Parent     Target
	ParentPath string
	// Tell hears how far it is; it must not wait long.
	Tell func(Progress)

	own      cipher.AEAD
	parent   *list
	parentID string
	list     *summedFile
	hot      *summedFile
	hotFiles int
	done     Progress
}

// ListPath is where a shard's list is.
func ListPath(shard uint32) string { return fmt.Sprintf("shards/%d.ndjson", shard) }

// summedFile knows the sum of what is written to it.
type summedFile struct {
	File
	path  string
	sum   hash.Hash
	bytes int64
}

func (w *Writer) create(path string) (*summedFile, error) {
	f, err := w.Target.Create(path)
	if err != nil {
		return nil, err
	}
	return &summedFile{File: f, path: path, sum: sha256.New()}, nil
}

func (f *summedFile) Write(p []byte) (int, error) {
	_, _ = f.sum.Write(p) // a hash never fails
	n, err := f.File.Write(p)
	f.bytes += int64(n)
	return n, err
}

// commit is the sum of the finished file.
func (f *summedFile) commit() (Sum, error) {
	return Sum{Path: f.path, Bytes: f.bytes, SHA256: hex.EncodeToString(f.sum.Sum(nil))}, f.Commit()
}

// Write writes the shard's part and returns its list's sum.
func (w *Writer) Write(ctx context.Context) (sum Sum, p Progress, err error) {
	if w.own, err = keyring.AEAD(w.Key); err != nil {
		return sum, p, err
	}
	if err := w.openParent(); err != nil {
		return sum, p, err
	}
	if w.list, err = w.create(ListPath(w.Shard)); err != nil {
		return sum, p, errors.Join(err, w.closeParent())
	}
	for _, t := range w.Tables {
		if err = w.table(ctx, t); err != nil {
			break
		}
	}
	if err == nil {
		err = w.endHot()
	}
	if err == nil {
		err = w.userKeys(ctx)
	}
	if err = errors.Join(err, w.closeParent()); err != nil {
		if w.hot != nil {
			err = errors.Join(err, w.hot.Abort())
		}
		return sum, p, errors.Join(err, w.list.Abort())
	}
	sum, err = w.list.commit()
	return sum, w.done, err
}

func (w *Writer) openParent() (err error) {
	if w.Parent == nil {
		return nil
	}
	d, err := ReadDescription(w.Parent)
	if err != nil {
		return err
	}
	w.parentID = d.ID
	w.parent, err = openList(w.Parent, ListPath(w.Shard))
	return err
}

func (w *Writer) closeParent() error {
	if w.parent == nil {
		return nil
	}
	return w.parent.Close()
}

// part is a partition: which segments it has, and whether it has hot rows.
type part struct {
	table    *catalog.Table
	owner    string
	segments []*storagev1.Segment
	hot      bool
}

// table writes a table's partitions in order of their owners: those with hot rows, with segments, or with both.
func (w *Writer) table(ctx context.Context, t *catalog.Table) (err error) {
	hot, err := w.iterate(keycodec.TablePrefix(w.Shard, t.ID))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, hot.Close()) }()
	cold, err := w.iterate(keycodec.TableSegmentPrefix(w.Shard, t.ID))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cold.Close()) }()
	hot.First()
	cold.First()
	var batch []part
	for {
		p, ok, err := nextPart(t, hot, cold)
		if err != nil {
			return err
		}
		if ok {
			batch = append(batch, p)
		}
		if len(batch) == batchPartitions || !ok {
			if err := w.batch(ctx, batch); err != nil || !ok {
				return err
			}
			batch = batch[:0]
		}
	}
}

func (w *Writer) iterate(prefix []byte) (*pebble.Iterator, error) {
	span := keycodec.PrefixSpan(prefix)
	it, err := w.Snapshot.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
	if err != nil {
		return nil, dberr.New(dberr.Unavailable, "read what to back up: %w", err)
	}
	return it, nil
}

// nextPart takes the next partition off both iterators.
func nextPart(t *catalog.Table, hot, cold *pebble.Iterator) (p part, ok bool, err error) {
	p.table = t
	var prefix []byte
	if hot.Valid() {
		if prefix, p.owner, err = keycodec.UserOf(hot.Key()); err != nil {
			return p, false, err
		}
		p.hot, ok = true, true
	} else if err := hot.Error(); err != nil {
		return p, false, dberr.New(dberr.Unavailable, "read what to back up: %w", err)
	}
	for cold.Valid() {
		e, err := manifest.Decode(cold)
		if err != nil {
			return p, false, err
		}
		if !ok || e.User < p.owner { // a partition without hot rows comes first
			p.owner, p.hot, ok = e.User, false, true
		}
		if e.User > p.owner {
			break
		}
		p.segments = append(p.segments, e.Segment)
		cold.Next()
	}
	if err := cold.Error(); err != nil {
		return p, false, dberr.New(dberr.Unavailable, "read what to back up: %w", err)
	}
	if p.hot {
		hot.SeekGE(keycodec.PrefixEnd(prefix))
	}
	return p, ok, nil
}

// batch writes partitions whose keys are asked for together.
func (w *Writer) batch(ctx context.Context, parts []part) error {
	var users []string
	for _, p := range parts {
		if p.table.Kind.PerUser() {
			users = append(users, p.owner)
		}
	}
	keys := map[string][]byte{}
	if len(users) > 0 {
		var err error
		if keys, err = w.Keys.Of(ctx, users); err != nil {
			return err
		}
	}
	for i := range parts {
		p := &parts[i]
		aead, id := w.own, backupKeyID(w.BackupID)
		if p.table.Kind.PerUser() {
			if keys[p.owner] == nil {
				continue
			}
			var err error
			if aead, err = keyring.AEAD(keys[p.owner]); err != nil {
				return err
			}
			id = userKeyID
		}
		if err := w.partition(ctx, p, aead, id); err != nil {
			return err
		}
		if w.Tell != nil {
			w.Tell(w.done)
		}
	}
	return nil
}

func (w *Writer) partition(ctx context.Context, p *part, aead cipher.AEAD, keyID string) error {
	if ctx.Err() != nil {
		return dberr.FromStatus(ctx.Err())
	}
	known, err := w.known(p)
	if err != nil {
		return err
	}
	for _, seg := range p.segments {
		line, ok := known[hex.EncodeToString(seg.GetSha256())]
		if !ok {
			if line, err = w.segment(ctx, p, seg, aead, keyID); err != nil {
				return err
			}
		}
		if err := w.write(line, ok); err != nil {
			return err
		}
	}
	if p.hot {
		return w.hotRows(ctx, p, aead)
	}
	return nil
}

// known are the segments of a partition that the parent has, by the sum of what was sealed.
func (w *Writer) known(p *part) (map[string]*Line, error) {
	if w.parent == nil {
		return nil, nil
	}
	lines, err := w.parent.seek(p.table.ID, p.owner)
	known := map[string]*Line{}
	for _, l := range lines {
		if len(l.Segment) == 0 {
			continue
		}
		seg := new(storagev1.Segment)
		if err := proto.Unmarshal(l.Segment, seg); err != nil {
			return nil, damaged(ListPath(w.Shard), "a segment: %v", err)
		}
		if l.Backup == "" {
			l.Backup, l.BackupID = w.ParentPath, w.parentID
		}
		known[hex.EncodeToString(seg.GetSha256())] = l
	}
	return known, err
}

// segment seals a segment's file, as it is.
func (w *Writer) segment(ctx context.Context, p *part, seg *storagev1.Segment, aead cipher.AEAD, keyID string) (*Line, error) {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(seg)
	if err != nil {
		return nil, dberr.New(dberr.Internal, "encode a segment: %w", err)
	}
	from, err := w.OpenSegment(ctx, seg)
	if err != nil {
		return nil, err
	}
	f, err := w.create("segments/" + seg.GetPath() + ".sealed")
	if err != nil {
		return nil, errors.Join(err, from.Close())
	}
	sealed, err := sealedfile.NewWriter(f, aead, keyID)
	if err == nil {
		_, err = copyBuffer(sealed, from)
	}
	if err == nil {
		err = sealed.Close()
	}
	if err = errors.Join(err, from.Close()); err != nil {
		return nil, errors.Join(copyErr("seal segment "+seg.GetPath(), err), f.Abort())
	}
	sum, err := f.commit()
	return &Line{Path: sum.Path, Bytes: sum.Bytes, SHA256: sum.SHA256, Table: p.table.ID, Owner: p.owner, Rows: seg.GetRows(), Segment: raw}, err
}

// write adds a line to the list; elsewhere says that another backup has the bytes.
func (w *Writer) write(l *Line, elsewhere bool) error {
	raw, err := json.Marshal(l)
	if err != nil {
		return dberr.New(dberr.Internal, "encode a line of a backup: %w", err)
	}
	if w.done.Rows += l.Rows; !elsewhere {
		w.done.Files, w.done.Bytes = w.done.Files+1, w.done.Bytes+uint64(l.Bytes)
	}
	_, err = w.list.Write(append(raw, '\n'))
	return err
}

// hotRows writes the hot rows of a partition in blocks: key and version, each behind its length.
func (w *Writer) hotRows(ctx context.Context, p *part, aead cipher.AEAD) (err error) {
	prefix := keycodec.PartitionPrefix(nil, w.Shard, p.table.ID, p.owner)
	it, err := w.iterate(prefix)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	var block []byte
	rows := uint64(0)
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return dberr.New(dberr.Unavailable, "read rows to back up: %w", err)
		}
		key := it.Key()[len(prefix):]
		block = append(binary.AppendUvarint(block, uint64(len(key))), key...)
		block = append(binary.AppendUvarint(block, uint64(len(value))), value...)
		if rows++; len(block) >= hotBlockBytes {
			if err := w.block(p, aead, block, rows); err != nil {
				return err
			}
			if ctx.Err() != nil {
				return dberr.FromStatus(ctx.Err())
			}
			block, rows = block[:0], 0
		}
	}
	if err := it.Error(); err != nil {
		return dberr.New(dberr.Unavailable, "read rows to back up: %w", err)
	}
	if rows == 0 {
		return nil
	}
	return w.block(p, aead, block, rows)
}

func (w *Writer) block(p *part, aead cipher.AEAD, plain []byte, rows uint64) (err error) {
	if w.hot != nil && w.hot.bytes >= hotFileBytes {
		if err := w.endHot(); err != nil {
			return err
		}
	}
	if w.hot == nil {
		if w.hot, err = w.create(fmt.Sprintf("hot/%d-%d.rows", w.Shard, w.hotFiles)); err != nil {
			return err
		}
		w.hotFiles++
	}
	sealed := keyring.SealWith(aead, hotPurpose(p.table.ID, p.owner), plain)
	l := &Line{Path: w.hot.path, Offset: w.hot.bytes, Bytes: int64(len(sealed)), SHA256: hexSum(sealed), Table: p.table.ID, Owner: p.owner, Rows: rows}
	if _, err := w.hot.Write(sealed); err != nil {
		return err
	}
	return w.write(l, false)
}

func (w *Writer) endHot() error {
	if w.hot == nil {
		return nil
	}
	f := w.hot
	w.hot = nil
	return f.Commit()
}

// userKeys writes the keys of the users who have rows here, slot by slot.
func (w *Writer) userKeys(ctx context.Context) error {
	for slot := range uint16(shardmap.Slots) {
		if w.Shards.ShardOf(slot) != w.Shard {
			continue
		}
		if err := w.slot(ctx, slot); err != nil {
			return err
		}
	}
	return nil
}

func (w *Writer) slot(ctx context.Context, slot uint16) error {
	keys, after := slotKeys{}, ""
	for more := true; more; {
		users, sealed, has, err := w.Keys.Slot(ctx, slot, after)
		if err != nil {
			return err
		}
		for i, u := range users {
			holds, err := w.holds(u)
			if err != nil {
				return err
			}
			if holds {
				keys[u] = sealed[i]
			}
			after = u
		}
		more = has && len(users) > 0
	}
	if len(keys) == 0 {
		return nil
	}
	return writeSlotKeys(w.Target, slot, keys)
}

// holds reports whether a user has rows in the backup.
func (w *Writer) holds(user string) (bool, error) {
	for _, t := range w.Tables {
		if !t.Kind.PerUser() {
			continue
		}
		for _, prefix := range [][]byte{keycodec.PartitionPrefix(nil, w.Shard, t.ID, user), keycodec.PartitionSegmentPrefix(nil, w.Shard, t.ID, user)} {
			it, err := w.iterate(prefix)
			if err != nil {
				return false, err
			}
			found := it.First()
			if err := errors.Join(it.Error(), it.Close()); err != nil {
				return false, dberr.New(dberr.Unavailable, "read what to back up: %w", err)
			}
			if found {
				return true, nil
			}
		}
	}
	return false, nil
}
