package raftgroup

import (
	"errors"
	"os"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/raftlog"
)

// Destroy removes what a group, which is not open, has on this node besides its state: spool files, then log,
// votes and snapshot metadata in one durable step. What a crash left is removed by doing it again.
func Destroy(log *raftlog.DB, fs vfs.FS, spoolDir string, group uint32) error {
	if fs == nil {
		fs = vfs.Default
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
	return log.Destroy(group)
}
