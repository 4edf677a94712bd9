package raftgroup

import (
	"errors"
	"os"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/raftlog"
)

// Destroy removes a group, which is not open, from this node: log, votes and snapshot metadata in one durable
// step, then spool files, then its state by removeState, which is durable when it returns. A crash in between
// leaves a mark (raftlog.DB.Doomed); Destroy must then be repeated before the group is opened again.
func Destroy(log *raftlog.DB, fs vfs.FS, spoolDir string, group uint32, removeState func() error) error {
	if fs == nil {
		fs = vfs.Default
	}
	if err := log.Doom(group); err != nil {
		return err
	}
	names, err := fs.List(spoolDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return dberr.New(dberr.Unavailable, "list the snapshot directory: %w", err)
	}
	for _, name := range names {
		if !strings.HasPrefix(name, spoolPrefix(group)) {
			continue
		}
		if err := fs.Remove(fs.PathJoin(spoolDir, name)); err != nil {
			return dberr.New(dberr.Unavailable, "remove a snapshot file of group %d: %w", group, err)
		}
	}
	if err := removeState(); err != nil {
		return err
	}
	return log.Forget(group)
}
