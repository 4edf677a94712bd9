package backup

import (
	"bytes"
	"context"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/golang-lru/v2/simplelru"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/keyring"
	"github.com/kalamdb/kalamdb-go/internal/sealedfile"
	"github.com/kalamdb/kalamdb-go/internal/shardmap"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
)

// errNoKey: the user was erased since, so nobody can read what the backup has of them.
var errNoKey = dberr.New(dberr.NotFound, "the user was erased: the backup has no data key of theirs any more")

// slotsKept bounds the files of keys that are kept in memory.
const slotsKept = 128

// TableOf is a definition as this node uses it.
func TableOf(p *catalogv1.Table) *catalog.Table { return catalog.TableFromProto(p) }

// OpenKey opens what the cluster key of a backup has sealed for a purpose.
type OpenKey func(ctx context.Context, of keyring.WrappedKey, purpose string, sealed []byte) ([]byte, error)

// Reader reads the rows of a backup, partition by partition. Use it from one goroutine.
type Reader struct {
	target Target
	d      *Description
	find   func(path string) (Target, error)
	open   OpenKey
	fs     vfs.FS
	// scratch is a folder for segments that are being read.
	scratch string
	number  atomic.Uint64

	// Erased counts the partitions of users who were erased since, which are passed over.
	Erased uint64

	slots *simplelru.LRU[uint16, slotKeys]
	// others are the backups that this one builds upon, by path; own are backups' own keys, by path, "" this one.
	others map[string]Target
	own    map[string]cipher.AEAD
}

// NewReader reads a backup that was verified.
func NewReader(t Target, d *Description, find func(path string) (Target, error), open OpenKey, fs vfs.FS, scratch string) (*Reader, error) {
	slots, err := simplelru.NewLRU[uint16, slotKeys](slotsKept, nil)
	if err != nil {
		return nil, dberr.New(dberr.Internal, "read a backup: %w", err)
	}
	return &Reader{target: t, d: d, find: find, open: open, fs: fs, scratch: scratch, slots: slots,
		others: map[string]Target{}, own: map[string]cipher.AEAD{}}, nil
}

// Rows yields the rows of a partition in order of their keys, of each the newest version, deleted ones too.
type Rows func(ctx context.Context) (key []byte, v keycodec.Version, ok bool, err error)

// Each visits the partitions that one shard wrote. tables are those to read, by their ids in the backup; others are passed over.
func (r *Reader) Each(ctx context.Context, p Part, tables map[uint32]*catalog.Table, visit func(t *catalog.Table, owner string, rows Rows) error) (err error) {
	l, err := openList(r.target, p.List.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	for {
		lines, err := l.partition()
		if err != nil || len(lines) == 0 {
			return err
		}
		t, ok := tables[lines[0].Table]
		if !ok {
			continue
		}
		if err := r.partition(ctx, t, lines, visit); err != nil {
			return err
		}
	}
}

func (r *Reader) partition(ctx context.Context, t *catalog.Table, lines []*Line, visit func(*catalog.Table, string, Rows) error) error {
	if t.Kind.PerUser() {
		if _, err := r.userKey(ctx, lines[0].Owner); errors.Is(err, errNoKey) {
			r.Erased++
			return nil
		} else if err != nil {
			return err
		}
	}
	m, err := r.merge(ctx, t, lines)
	if err != nil {
		return err
	}
	return errors.Join(visit(t, lines[0].Owner, m.next), m.close())
}

// merged are the rows of a partition.
type merged struct {
	reader *Reader
	files  *restoring
	cold   *cold.Merge
	hot    *hotRows
	// the next row of each; nil: at the end
	coldRow, hotRow *row
}

type row struct {
	key     []byte
	version keycodec.Version
}

func (r *Reader) merge(ctx context.Context, t *catalog.Table, lines []*Line) (*merged, error) {
	m := &merged{reader: r, hot: &hotRows{reader: r, perUser: t.Kind.PerUser()}}
	var segments []*Line
	for _, l := range lines {
		if len(l.Segment) > 0 {
			segments = append(segments, l)
		} else {
			m.hot.lines = append(m.hot.lines, l)
		}
	}
	err := m.openSegments(t, segments)
	if err == nil {
		err = m.advanceHot(ctx)
	}
	if err == nil {
		err = m.advanceCold(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, m.close())
	}
	return m, nil
}

func (m *merged) openSegments(t *catalog.Table, lines []*Line) error {
	if len(lines) == 0 {
		return nil
	}
	r := m.reader
	m.files = &restoring{reader: r, perUser: t.Kind.PerUser(), lines: map[string]*Line{}, dir: r.fs.PathJoin(r.scratch, fmt.Sprint(r.number.Add(1)))}
	entries := make([]manifest.Entry, len(lines))
	for i, l := range lines {
		seg := new(storagev1.Segment)
		if err := proto.Unmarshal(l.Segment, seg); err != nil {
			return damaged(l.Path, "its segment: %v", err)
		}
		seg.StorageId = "" // it is read here
		m.files.lines[seg.GetPath()] = l
		entries[i] = manifest.Entry{Table: t.ID, User: l.Owner, ID: uint64(i) + 1, Segment: seg}
	}
	var err error
	m.files.files = cold.NewFiles(r.fs, m.files.dir)
	if m.files.readers, err = cold.NewReaders(m.files.files, 1<<20, m.files.fetch); err != nil {
		return err
	}
	m.cold = m.files.readers.NewMerge(0, entries, cold.Range{Table: t})
	return nil
}

// restoring are the segments of a partition that is being read: they are decrypted into files as the merge reaches them.
type restoring struct {
	reader  *Reader
	perUser bool
	dir     string
	files   *cold.Files
	readers *cold.Readers
	lines   map[string]*Line // by the path of the segment
}

func (s *restoring) fetch(ctx context.Context, _ uint32, seg *storagev1.Segment) (err error) {
	l := s.lines[seg.GetPath()]
	if l == nil {
		return dberr.New(dberr.Internal, "segment %s is none of the backup", seg.GetPath())
	}
	t, err := s.reader.targetOf(l)
	if err != nil {
		return err
	}
	f, err := t.Open(l.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	plain, err := sealedfile.NewReader(&cancelReader{ctx: ctx, from: f}, func(string) (cipher.AEAD, error) { return s.reader.key(ctx, l, s.perUser) })
	if err != nil {
		return inFile(l.Path, err)
	}
	to, err := s.files.Create(seg.GetPath())
	if err != nil {
		return err
	}
	if _, err := copyBuffer(to, plain); err != nil {
		return errors.Join(inFile(l.Path, err), to.Abort())
	}
	return inFile(l.Path, to.Commit(seg))
}

// inFile names the file that an error is about.
func inFile(path string, err error) error {
	if err == nil {
		return nil
	}
	return dberr.New(dberr.CodeOf(copyErr("read", err)), "the file %s of the backup: %w", path, err)
}

func (m *merged) advanceHot(ctx context.Context) (err error) {
	m.hotRow, err = m.hot.next(ctx)
	return err
}

func (m *merged) advanceCold(ctx context.Context) error {
	m.coldRow = nil
	if m.cold == nil {
		return nil
	}
	key, v, ok, err := m.cold.Next(ctx)
	if ok && err == nil {
		m.coldRow = &row{key, v}
	}
	return err
}

// next is the next row: of one key that is in both, the newer version.
func (m *merged) next(ctx context.Context) (key []byte, v keycodec.Version, ok bool, err error) {
	var hot, cold *row = m.hotRow, m.coldRow
	order := 0
	switch {
	case hot == nil && cold == nil:
		return nil, v, false, nil
	case cold == nil:
		order = -1
	case hot == nil:
		order = 1
	default:
		order = bytes.Compare(hot.key, cold.key)
	}
	out := hot
	if order > 0 || order == 0 && cold.version.Seq > hot.version.Seq {
		out = cold
	}
	if order <= 0 {
		err = m.advanceHot(ctx)
	}
	if order >= 0 && err == nil {
		err = m.advanceCold(ctx)
	}
	return out.key, out.version, err == nil, err
}

func (m *merged) close() error {
	if m.cold != nil {
		m.cold.Close()
	}
	if m.files == nil {
		return nil
	}
	if m.files.readers != nil {
		m.files.readers.Close()
	}
	if err := m.reader.fs.RemoveAll(m.files.dir); err != nil {
		return dberr.New(dberr.Unavailable, "remove what was decrypted to restore: %w", err)
	}
	return nil
}

// hotRows reads blocks of hot rows one after the other: together they are in order of keys.
type hotRows struct {
	reader  *Reader
	perUser bool
	lines   []*Line
	block   []byte
	path    string
}

func (h *hotRows) next(ctx context.Context) (*row, error) {
	for len(h.block) == 0 {
		if len(h.lines) == 0 {
			return nil, nil
		}
		if err := h.load(ctx, h.lines[0]); err != nil {
			return nil, err
		}
		h.lines = h.lines[1:]
	}
	key, ok := h.cut()
	value, ok2 := h.cut()
	if !ok || !ok2 {
		return nil, damaged(h.path, "a block of rows is malformed")
	}
	v, err := keycodec.DecodeVersion(value)
	return &row{key, v}, err
}

// cut takes bytes behind their length off the block.
func (h *hotRows) cut() ([]byte, bool) {
	n, w := binary.Uvarint(h.block)
	if w <= 0 || n > uint64(len(h.block)-w) {
		return nil, false
	}
	b := h.block[w : w+int(n) : w+int(n)]
	h.block = h.block[w+int(n):]
	return b, true
}

func (h *hotRows) load(ctx context.Context, l *Line) (err error) {
	t, err := h.reader.targetOf(l)
	if err != nil {
		return err
	}
	f, err := t.Open(l.Path)
	if err != nil {
		return err
	}
	sealed, err := readBlock(f, l)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	aead, err := h.reader.key(ctx, l, h.perUser)
	if err != nil {
		return err
	}
	h.path = l.Path
	h.block, err = keyring.OpenWith(aead, hotPurpose(l.Table, l.Owner), sealed)
	return inFile(l.Path, err)
}

func (r *Reader) targetOf(l *Line) (Target, error) {
	if l.Backup == "" {
		return r.target, nil
	}
	if t, ok := r.others[l.Backup]; ok {
		return t, nil
	}
	t, err := r.find(l.Backup)
	if err == nil {
		r.others[l.Backup] = t
	}
	return t, err
}

// key is what a line's file is sealed with: its owner's, or that of the backup that has the file.
func (r *Reader) key(ctx context.Context, l *Line, perUser bool) (cipher.AEAD, error) {
	if perUser {
		return r.userKey(ctx, l.Owner)
	}
	if a, ok := r.own[l.Backup]; ok {
		return a, nil
	}
	d := r.d
	if l.Backup != "" {
		t, err := r.targetOf(l)
		if err != nil {
			return nil, err
		}
		if d, err = ReadDescription(t); err != nil {
			return nil, err
		}
	}
	a, err := d.OwnKey(ctx, r.open)
	if err == nil {
		r.own[l.Backup] = a
	}
	return a, err
}

// OwnKey is the key of the backup itself.
func (d *Description) OwnKey(ctx context.Context, open OpenKey) (cipher.AEAD, error) {
	plain, err := open(ctx, d.ClusterKey, KeyPurpose(d.ID), d.Key)
	if err != nil {
		return nil, err
	}
	return keyring.AEAD(plain)
}

func (r *Reader) userKey(ctx context.Context, user string) (cipher.AEAD, error) {
	slot := shardmap.UserSlot(user)
	keys, ok := r.slots.Get(slot)
	if !ok {
		var err error
		if keys, err = readSlotKeys(r.target, slot); err != nil {
			return nil, err
		}
		r.slots.Add(slot, keys)
	}
	sealed, ok := keys[user]
	if !ok {
		return nil, errNoKey
	}
	plain, err := r.open(ctx, r.d.ClusterKey, userKeyPurpose(user), sealed)
	if err != nil {
		return nil, err
	}
	return keyring.AEAD(plain)
}
