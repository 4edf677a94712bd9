package raftgroup

import (
	"context"
	"errors"
	"os"
	"path"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Cut takes a snapshot and truncates this replica's log behind an entry that is applied, however few entries stay: a follower that has not
// got so far is sent the state. It returns up to where the log is cut. It goes on without the caller when ctx ends first.
func (g *Group) Cut(ctx context.Context, index uint64) (upTo uint64, err error) {
	done := make(chan error, 1)
	if !g.spawn(func() { done <- g.cut(index) }) {
		return 0, g.closing()
	}
	select {
	case err := <-done:
		if err != nil {
			return 0, err
		}
	case <-ctx.Done():
		return 0, g.failed(ctx.Err(), "cut the log of group %d", g.cfg.Group)
	}
	first, err := g.log.FirstIndex()
	if err != nil {
		return 0, err
	}
	if first == 0 { // nothing is left of it
		return g.raft.LastIndex(), nil
	}
	if first <= index {
		return 0, dberr.New(dberr.Unavailable, "the log of group %d still begins at entry %d, it should begin behind %d", g.cfg.Group, first, index)
	}
	return first - 1, nil
}

func (g *Group) cut(index uint64) error {
	g.cutting.Lock()
	defer g.cutting.Unlock()
	if first, err := g.log.FirstIndex(); err != nil || first > index {
		return err // it is cut already
	}
	conf := g.raft.ReloadableConfig()
	before := conf.TrailingLogs
	last := g.raft.LastIndex()
	if last < index {
		return dberr.New(dberr.Unavailable, "group %d has no entry %d here yet", g.cfg.Group, index)
	}
	stored, err := g.log.LastIndex() // behind what a snapshot from the leader brought, it is below last
	if err != nil {
		return err
	}
	conf.TrailingLogs = min(stored-min(stored, index), before)
	if err := g.raft.ReloadConfig(conf); err != nil {
		return dberr.New(dberr.Internal, "cut the log of group %d: %w", g.cfg.Group, err)
	}
	err = g.takeSnapshot()
	conf.TrailingLogs = before
	return errors.Join(err, g.raft.ReloadConfig(conf))
}

// Mark appends an entry that says nothing, so that the log need not end with the one before, and waits until it is applied. Only the
// leader can.
func (g *Group) Mark(ctx context.Context) error {
	done := make(chan error, 1)
	if !g.spawn(func() { done <- g.await(g.raft.Barrier(0)) }) {
		return g.closing()
	}
	select {
	case err := <-done:
		if err != nil {
			return dberr.New(dberr.Unavailable, "append to the log of group %d: %w", g.cfg.Group, err)
		}
		return nil
	case <-ctx.Done():
		return g.failed(ctx.Err(), "append to the log of group %d", g.cfg.Group)
	}
}

// Spooled reports whether a snapshot of a group is on its way to or from this node, in a file.
func Spooled(fs vfs.FS, spoolDir string, group uint32) (bool, error) {
	names, err := fs.List(spoolDir)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, dberr.New(dberr.Unavailable, "list the snapshot directory: %w", err)
	}
	for _, name := range names {
		if strings.HasPrefix(path.Base(name), spoolPrefix(group)) {
			return true, nil
		}
	}
	return false, nil
}
