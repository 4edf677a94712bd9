package raftgroup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/raftlog"
)

// snapshotMeta is what is stored of a group's only snapshot. The state itself is the snapshot: it was
// made durable before this was written. Only a snapshot received from a leader has a spool file, until
// its restore has ended.
type snapshotMeta struct {
	Format             int
	ID                 string
	Index, Term        uint64
	Configuration      []byte
	ConfigurationIndex uint64
	// Spool is the file of a received snapshot, relative to the spool directory.
	Spool string
	Size  int64
}

const metaFormat = 1

// snapshots implements raft.SnapshotStore.
type snapshots struct {
	group uint32
	log   *raftlog.Store
	fs    vfs.FS
	dir   string
	state State

	mu   sync.Mutex
	seq  int // makes spool names unique within this process
	meta *snapshotMeta
}

func openSnapshots(group uint32, log *raftlog.Store, fs vfs.FS, dir string, state State) (*snapshots, error) {
	s := &snapshots{group: group, log: log, fs: fs, dir: dir, state: state}
	if err := errors.Join(fs.MkdirAll(dir, 0o700), syncDir(fs, fs.PathDir(dir))); err != nil {
		return nil, dberr.New(dberr.Unavailable, "make the snapshot directory: %w", err)
	}
	raw, err := log.Snapshot()
	if err != nil {
		return nil, err
	}
	if raw != nil {
		m := &snapshotMeta{}
		if err := json.Unmarshal(raw, m); err != nil || m.Format != metaFormat {
			return nil, dberr.New(dberr.Corrupt, "snapshot metadata of group %d: format %d, this version reads %d", group, m.Format, metaFormat)
		}
		s.meta = m
	}
	return s, s.sweep()
}

// sweep removes spool files an earlier process left.
func (s *snapshots) sweep() error {
	names, err := s.fs.List(s.dir)
	if err != nil {
		return dberr.New(dberr.Unavailable, "list the snapshot directory: %w", err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, spoolPrefix(s.group)) && (s.meta == nil || name != s.meta.Spool) {
			if err := s.fs.Remove(s.path(name)); err != nil {
				return dberr.New(dberr.Unavailable, "remove an old snapshot file: %w", err)
			}
		}
	}
	return nil
}

// repair finishes a restore that a crash interrupted or kept from starting, before Raft runs.
func (s *snapshots) repair() error {
	torn, err := s.state.Torn()
	if err != nil {
		return err
	}
	if s.meta == nil || s.meta.Spool == "" {
		if torn {
			return dberr.New(dberr.Corrupt, "the state of group %d is half restored and the snapshot is gone: remove this node's data and let it join again", s.group)
		}
		return nil
	}
	if torn || s.state.Applied() < s.meta.Index {
		f, err := s.fs.Open(s.path(s.meta.Spool))
		if err != nil {
			return dberr.New(dberr.Corrupt, "open the received snapshot of group %d: %w", s.group, err)
		}
		err = s.state.Restore(newChunkReader(f))
		if err := errors.Join(err, f.Close()); err != nil {
			return dberr.New(dberr.Corrupt, "restore the received snapshot of group %d: %w", s.group, err)
		}
	}
	return s.restored()
}

// restored turns a received snapshot into a local one: the state holds it now.
func (s *snapshots) restored() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.meta == nil || s.meta.Spool == "" {
		return nil
	}
	m := *s.meta
	m.Spool, m.Size = "", 0
	old := s.meta.Spool
	if err := s.save(&m); err != nil {
		return err
	}
	if err := s.fs.Remove(s.path(old)); err != nil {
		return dberr.New(dberr.Unavailable, "remove a restored snapshot file: %w", err)
	}
	return nil
}

// save replaces the metadata. mu is held.
func (s *snapshots) save(m *snapshotMeta) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return dberr.New(dberr.Internal, "encode snapshot metadata: %w", err)
	}
	if err := s.log.SetSnapshot(raw); err != nil {
		return err
	}
	s.meta = m
	return nil
}

func (s *snapshots) path(name string) string { return s.fs.PathJoin(s.dir, name) }

func spoolPrefix(group uint32) string { return fmt.Sprintf("group-%d-", group) }

func (s *snapshots) spoolName() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		s.seq++
		name := fmt.Sprintf("%s%d.snap", spoolPrefix(s.group), s.seq)
		if s.meta == nil || name != s.meta.Spool {
			return name
		}
	}
}

// List returns the snapshot, if there is one.
func (s *snapshots) List() ([]*raft.SnapshotMeta, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.meta == nil {
		return nil, nil
	}
	return []*raft.SnapshotMeta{s.meta.raft()}, nil
}

func (m *snapshotMeta) raft() *raft.SnapshotMeta {
	return &raft.SnapshotMeta{Version: raft.SnapshotVersionMax, ID: m.ID, Index: m.Index, Term: m.Term,
		Configuration: raft.DecodeConfiguration(m.Configuration), ConfigurationIndex: m.ConfigurationIndex, Size: m.Size}
}

// Open returns a snapshot's content: the spool file of a received one, else the state as it is now,
// which is at least as new as the metadata says. A receiver that is then given entries the state
// already holds skips them by its applied index.
func (s *snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.mu.Lock()
	m := s.meta
	s.mu.Unlock()
	if m == nil || m.ID != id {
		return nil, nil, dberr.New(dberr.NotFound, "snapshot %s of group %d is gone", id, s.group)
	}
	if m.Spool != "" {
		f, err := s.fs.Open(s.path(m.Spool))
		if err != nil {
			return nil, nil, dberr.New(dberr.Unavailable, "open snapshot %s of group %d: %w", id, s.group, err)
		}
		return m.raft(), f, nil
	}
	name := s.spoolName()
	size, err := s.spool(name)
	if err != nil {
		return nil, nil, err
	}
	f, err := s.fs.Open(s.path(name))
	if err != nil {
		err = errors.Join(err, s.fs.Remove(s.path(name)))
		return nil, nil, dberr.New(dberr.Unavailable, "open snapshot %s of group %d: %w", id, s.group, err)
	}
	meta := m.raft()
	meta.Size = size
	return meta, &spoolFile{File: f, fs: s.fs, path: s.path(name)}, nil
}

// spool writes the state into a file, as Raft announces a snapshot's size before sending it. A file that could not be
// written whole is removed: on a disk that is full it would be in the way of everything else until the next start.
func (s *snapshots) spool(name string) (int64, error) {
	f, err := s.fs.Create(s.path(name), vfs.WriteCategoryUnspecified)
	if err != nil {
		return 0, dberr.New(dberr.Unavailable, "create a snapshot file: %w", err)
	}
	cw := newChunkWriter(f)
	err = s.state.WriteSnapshot(cw)
	if err == nil {
		err = cw.Close()
	}
	size := int64(0)
	if err == nil {
		var info vfs.FileInfo
		if info, err = f.Stat(); err == nil {
			size = info.Size()
		}
	}
	if err := errors.Join(err, f.Close()); err != nil {
		err = errors.Join(err, s.fs.Remove(s.path(name)))
		return 0, dberr.New(dberr.Unavailable, "write a snapshot of group %d: %w", s.group, err)
	}
	return size, nil
}

// spoolFile is removed when it is closed.
type spoolFile struct {
	vfs.File
	fs   vfs.FS
	path string
}

func (f *spoolFile) Close() error { return errors.Join(f.File.Close(), f.fs.Remove(f.path)) }

// Create begins a snapshot. One that is written to was received from a leader; one that is not is
// local, and its state has been made durable before Close.
func (s *snapshots) Create(_ raft.SnapshotVersion, index, term uint64, configuration raft.Configuration,
	configurationIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	return &sink{store: s, meta: snapshotMeta{Format: metaFormat, ID: fmt.Sprintf("%d-%d", term, index),
		Index: index, Term: term, Configuration: raft.EncodeConfiguration(configuration),
		ConfigurationIndex: configurationIndex}}, nil
}

type sink struct {
	store *snapshots
	meta  snapshotMeta
	file  vfs.File
}

// ID names the snapshot.
func (k *sink) ID() string { return k.meta.ID }

// Write takes bytes from a leader.
func (k *sink) Write(p []byte) (int, error) {
	if k.file == nil {
		k.meta.Spool = k.store.spoolName()
		f, err := k.store.fs.Create(k.store.path(k.meta.Spool), vfs.WriteCategoryUnspecified)
		if err != nil {
			return 0, dberr.New(dberr.Unavailable, "create a snapshot file: %w", err)
		}
		k.file = f
	}
	n, err := k.file.Write(p)
	k.meta.Size += int64(n)
	return n, err
}

// Close makes the snapshot the group's, if it has no newer one.
func (k *sink) Close() error {
	if k.file != nil {
		err := errors.Join(k.file.Sync(), k.file.Close(), syncDir(k.store.fs, k.store.dir))
		k.file = nil
		if err != nil { // Raft does not cancel what it has closed
			err = errors.Join(err, k.store.fs.Remove(k.store.path(k.meta.Spool)))
			return dberr.New(dberr.Unavailable, "store a received snapshot: %w", err)
		}
	}
	return k.store.publish(&k.meta)
}

// publish makes a snapshot the group's only one, unless that is newer: a local one and one from the leader may be
// under way at the same time. A local one is left aside then. One that was received has to be refused, as Raft would
// take the state back to it.
func (s *snapshots) publish(m *snapshotMeta) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.meta; old != nil && old.Index > m.Index {
		if m.Spool == "" {
			return nil
		}
		return errors.Join(dberr.New(dberr.Unavailable, "group %d has a snapshot at %d, one at %d is too old", s.group, old.Index, m.Index),
			s.fs.Remove(s.path(m.Spool)))
	} else if old != nil && old.Spool != "" && m.Spool == "" && old.Index == m.Index {
		return nil // its restore may be under way
	}
	replaced := s.meta
	if err := s.save(m); err != nil {
		return err
	}
	if replaced == nil || replaced.Spool == "" {
		return nil
	}
	if err := s.fs.Remove(s.path(replaced.Spool)); err != nil { // its restore failed
		return dberr.New(dberr.Unavailable, "remove a received snapshot that a newer one replaces: %w", err)
	}
	return nil
}

// syncDir makes new names in a directory durable.
func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Cancel drops what was received.
func (k *sink) Cancel() error {
	if k.file == nil {
		return nil
	}
	err := errors.Join(k.file.Close(), k.store.fs.Remove(k.store.path(k.meta.Spool)))
	k.file = nil
	return err
}
