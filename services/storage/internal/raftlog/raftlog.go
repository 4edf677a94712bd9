// Package raftlog keeps the Raft logs, votes and snapshot metadata of all groups of a node in one
// Pebble instance, so that appends of different groups share one write-ahead log and one fsync.
//
// Keys: a space byte and the group, big-endian; then for the log space the index, big-endian, for the
// stable space Raft's own key. This is a disk format.
package raftlog

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/scrub"
)

// The spaces.
const (
	spaceLog      byte = 0x01 // group index → entry
	spaceStable   byte = 0x02 // group key → value
	spaceSnapshot byte = 0x03 // group → snapshot metadata
	spaceDoomed   byte = 0x04 // group whose state is still to be removed → a mark
)

const (
	// DefaultMemTableBytes bounds what recovery replays from the write-ahead log, and how much log is written
	// to tables at once: larger means fewer, and entries truncated meanwhile are never compacted.
	DefaultMemTableBytes = 32 << 20
	// cacheBytes serves lagging replicas only; live replication reads raft.LogCache.
	cacheBytes = 8 << 20
	// format is fixed, so that a library upgrade alone never makes a directory unreadable to the
	// version before it.
	format = pebble.FormatValueSeparation
)

// Options configure Open. The zero value works.
type Options struct {
	// FS is the file system; nil means the real one.
	FS vfs.FS
	// MemTableBytes is the size of one memtable, of which up to four exist; 0 means DefaultMemTableBytes.
	MemTableBytes uint64

	Logger pebble.Logger
	Events *pebble.EventListener
}

// DB is the shared store.
type DB struct {
	db    *pebble.DB
	store scrub.Store
}

// Open opens or creates the store in dir.
func Open(dir string, opt Options) (*DB, error) {
	if opt.FS == nil {
		opt.FS = vfs.Default
	}
	if opt.MemTableBytes == 0 {
		opt.MemTableBytes = DefaultMemTableBytes
	}
	cache := pebble.NewCache(cacheBytes)
	defer cache.Unref()
	db, err := pebble.Open(dir, &pebble.Options{FS: opt.FS, Cache: cache, MemTableSize: opt.MemTableBytes,
		MemTableStopWritesThreshold: 4, FormatMajorVersion: format, Logger: opt.Logger, EventListener: opt.Events,
		Cleaner: scrub.Cleaner{}}) // a log that is written over keeps the end of what was in it
	if err != nil {
		return nil, dberr.New(dberr.Unavailable, "open the Raft log in %s: %w", dir, err)
	}
	return &DB{db: db, store: scrub.Store{DB: db, FS: opt.FS, Dir: dir, Logged: true}}, nil
}

// Close closes the store; all groups must have stopped.
func (d *DB) Close() error { return d.db.Close() }

// Clean removes what was truncated of a group's log up to an index, or (0) all that was, from the disk, whether the group is here or was.
// Compacting takes the entries from the tables; a new write-ahead log takes the place of those that have them.
func (d *DB) Clean(ctx context.Context, group uint32, upTo uint64) error {
	s := Store{group: group}
	span := keycodec.Span{Start: s.logKey(nil, 0), End: s.prefixEnd()}
	if upTo != 0 {
		span.End = s.logKey(nil, upTo+1)
	}
	return d.store.Clean(ctx, []keycodec.Span{span})
}

// Metrics returns Pebble's figures.
func (d *DB) Metrics() *pebble.Metrics { return d.db.Metrics() }

// Group returns the store of one group. It implements raft.LogStore and raft.StableStore.
func (d *DB) Group(id uint32) (*Store, error) {
	s := &Store{db: d.db, group: id}
	if err := s.loadBounds(); err != nil {
		return nil, dberr.New(dberr.Corrupt, "read the bounds of group %d's log: %w", id, err)
	}
	return s, nil
}

// Groups lists the groups that have anything here, ascending.
func (d *DB) Groups() ([]uint32, error) {
	found := map[uint32]bool{}
	for _, space := range []byte{spaceLog, spaceStable, spaceSnapshot} {
		if err := d.groupsIn(space, found); err != nil {
			return nil, dberr.New(dberr.Unavailable, "list the groups of the Raft log: %w", err)
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// groupsIn jumps from group to group.
func (d *DB) groupsIn(space byte, found map[uint32]bool) error {
	it, err := d.db.NewIter(&pebble.IterOptions{LowerBound: []byte{space}, UpperBound: []byte{space + 1}})
	if err != nil {
		return err
	}
	for ok := it.First(); ok; {
		id := binary.BigEndian.Uint32(it.Key()[1:])
		found[id] = true
		if id == math.MaxUint32 {
			break
		}
		ok = it.SeekGE(groupKey(space, id+1))
	}
	return errors.Join(it.Error(), it.Close())
}

// Doom removes everything of a group, durably and at once, and marks that its state is to be removed too: until
// Forget, the group must not be opened. No Store of it may be in use.
func (d *DB) Doom(id uint32) error {
	b := d.db.NewBatch()
	var err error
	for _, space := range []byte{spaceLog, spaceStable, spaceSnapshot} {
		from := groupKey(space, id)
		to := []byte{space + 1}
		if id != math.MaxUint32 {
			to = groupKey(space, id+1)
		}
		err = errors.Join(err, b.DeleteRange(from, to, nil))
	}
	err = errors.Join(err, b.Set(groupKey(spaceDoomed, id), nil, nil))
	if err == nil {
		err = b.Commit(pebble.Sync)
	}
	if err = errors.Join(err, b.Close()); err != nil {
		return dberr.New(dberr.Unavailable, "remove the log of group %d: %w", id, err)
	}
	return nil
}

// Doomed lists the groups that Doom was called for and Forget was not.
func (d *DB) Doomed() ([]uint32, error) {
	found := map[uint32]bool{}
	if err := d.groupsIn(spaceDoomed, found); err != nil {
		return nil, dberr.New(dberr.Unavailable, "list the groups to be removed: %w", err)
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// Forget ends what Doom began.
func (d *DB) Forget(id uint32) error {
	if err := d.db.Delete(groupKey(spaceDoomed, id), pebble.Sync); err != nil {
		return dberr.New(dberr.Unavailable, "end the removal of group %d: %w", id, err)
	}
	return nil
}

func groupKey(space byte, id uint32) []byte { return binary.BigEndian.AppendUint32([]byte{space}, id) }

// Store is one group's log, stable values and snapshot metadata.
type Store struct {
	db    *pebble.DB
	group uint32

	// mu guards first and last, which follow what is durable.
	mu          sync.RWMutex
	first, last uint64 // both zero while the log is empty

	ahead readAhead
}

func (s *Store) prefix(space byte) []byte {
	return groupKey(space, s.group)
}

func (s *Store) logKey(dst []byte, index uint64) []byte {
	dst = binary.BigEndian.AppendUint32(append(dst, spaceLog), s.group)
	return binary.BigEndian.AppendUint64(dst, index)
}

func (s *Store) loadBounds() error {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: s.logKey(nil, 0), UpperBound: s.prefixEnd()})
	if err != nil {
		return err
	}
	s.first, s.last = 0, 0
	if it.First() {
		s.first = indexOf(it.Key())
	}
	if it.Last() {
		s.last = indexOf(it.Key())
	}
	return errors.Join(it.Error(), it.Close())
}

// prefixEnd is the first key after the group's log.
func (s *Store) prefixEnd() []byte {
	return append(s.logKey(nil, ^uint64(0)), 0)
}

func indexOf(key []byte) uint64 { return binary.BigEndian.Uint64(key[len(key)-8:]) }

// FirstIndex returns the first index, 0 when the log is empty.
func (s *Store) FirstIndex() (uint64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.first, nil
}

// LastIndex returns the last index, 0 when the log is empty.
func (s *Store) LastIndex() (uint64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.last, nil
}

func (s *Store) getOne(index uint64, l *raft.Log) error {
	v, closer, err := s.db.Get(s.logKey(nil, index))
	if errors.Is(err, pebble.ErrNotFound) {
		return raft.ErrLogNotFound
	}
	if err != nil {
		return dberr.New(dberr.Unavailable, "read entry %d of group %d: %w", index, s.group, err)
	}
	defer func() { _ = closer.Close() }() // only returns the block to the cache
	if err := decodeEntry(v, l); err != nil {
		return dberr.New(dberr.Corrupt, "read entry %d of group %d: %w", index, s.group, err)
	}
	l.Index = index
	return nil
}

// StoreLog appends one entry durably.
func (s *Store) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs appends entries durably: it returns after the fsync they share with other groups.
func (s *Store) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	size := 0
	for _, l := range logs {
		size += len(l.Data) + len(l.Extensions) + entryOverheadBytes
	}
	b := s.db.NewBatchWithSize(size)
	for _, l := range logs {
		if err := appendEntry(b, s.logKey(make([]byte, 0, logKeyBytes), l.Index), l); err != nil {
			return errors.Join(err, b.Close())
		}
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return dberr.New(dberr.Unavailable, "append to the log of group %d: %w", s.group, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first == 0 {
		s.first = logs[0].Index
	}
	s.last = max(s.last, logs[len(logs)-1].Index)
	s.ahead.forget(logs[0].Index)
	return b.Close()
}

// DeleteRange removes the entries from lo to hi, both included, at one end of the log.
func (s *Store) DeleteRange(lo, hi uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	end := s.prefixEnd()
	if hi != ^uint64(0) {
		end = s.logKey(nil, hi+1)
	}
	if err := s.db.DeleteRange(s.logKey(nil, lo), end, pebble.Sync); err != nil {
		return dberr.New(dberr.Unavailable, "truncate the log of group %d: %w", s.group, err)
	}
	s.ahead.forget(0)
	return s.loadBounds()
}

// Set stores a value of Raft's own.
func (s *Store) Set(key, value []byte) error {
	if err := s.db.Set(append(s.prefix(spaceStable), key...), value, pebble.Sync); err != nil {
		return dberr.New(dberr.Unavailable, "store %q of group %d: %w", key, s.group, err)
	}
	return nil
}

// Get reads a value; nil when there is none.
func (s *Store) Get(key []byte) ([]byte, error) {
	return s.get(append(s.prefix(spaceStable), key...))
}

// SetUint64 stores a number.
func (s *Store) SetUint64(key []byte, v uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, v))
}

// GetUint64 reads a number; 0 when there is none.
func (s *Store) GetUint64(key []byte) (uint64, error) {
	v, err := s.Get(key)
	if err != nil || v == nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, dberr.New(dberr.Corrupt, "value %q of group %d has %d bytes", key, s.group, len(v))
	}
	return binary.BigEndian.Uint64(v), nil
}

// SetSnapshot stores the group's snapshot metadata durably, replacing the last.
func (s *Store) SetSnapshot(meta []byte) error {
	if err := s.db.Set(s.prefix(spaceSnapshot), meta, pebble.Sync); err != nil {
		return dberr.New(dberr.Unavailable, "store the snapshot metadata of group %d: %w", s.group, err)
	}
	return nil
}

// Snapshot reads the group's snapshot metadata; nil when there is none.
func (s *Store) Snapshot() ([]byte, error) { return s.get(s.prefix(spaceSnapshot)) }

func (s *Store) get(key []byte) ([]byte, error) {
	v, closer, err := s.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, dberr.New(dberr.Unavailable, "read the Raft log store: %w", err)
	}
	out := append([]byte{}, v...)
	return out, closer.Close()
}
