package storage

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

const (
	// dataFormat is the version of everything in the data directory. A newer one is refused.
	dataFormat   = 1
	formatFile   = "FORMAT"
	formatPrefix = "kalamdb data format "
	lockFile     = "LOCK"
	dirMode      = 0o700
)

// dataDir is the role's directory, locked against other processes.
type dataDir struct {
	fs   vfs.FS
	path string
	lock io.Closer
	// catalogDir is on the real file system; temporary says that it goes with the process.
	catalogDir string
	temporary  bool
}

// openDataDir makes, locks and checks the directory.
func openDataDir(fs vfs.FS, path string) (*dataDir, error) {
	d := &dataDir{fs: fs, path: path, catalogDir: path}
	if fs == nil {
		d.fs = vfs.Default
	}
	if err := errors.Join(d.fs.MkdirAll(path, dirMode), syncDir(d.fs, d.fs.PathDir(path))); err != nil {
		return nil, dberr.New(dberr.Unavailable, "make the data directory: %w", err)
	}
	lock, err := d.fs.Lock(d.join(lockFile))
	if err != nil {
		return nil, dberr.New(dberr.Unavailable, "lock the data directory %s: another process uses it: %w", path, err)
	}
	d.lock = lock
	err = d.checkFormat()
	if err == nil && fs != nil && fs != vfs.Default {
		d.temporary = true
		if d.catalogDir, err = os.MkdirTemp("", "kalamdb-catalog-"); err != nil {
			err = dberr.New(dberr.Unavailable, "make a temporary directory for the catalog: %w", err)
		}
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return d, nil
}

func (d *dataDir) join(name string) string { return d.fs.PathJoin(d.path, name) }

func (d *dataDir) close() error {
	var err error
	if d.temporary {
		err = os.RemoveAll(d.catalogDir)
	}
	return errors.Join(err, d.lock.Close())
}

// checkFormat reads the format file, or writes it in a new directory.
func (d *dataDir) checkFormat() error {
	f, err := d.fs.Open(d.join(formatFile))
	if errors.Is(err, os.ErrNotExist) {
		return d.writeFormat()
	}
	if err != nil {
		return dberr.New(dberr.Unavailable, "read the data format: %w", err)
	}
	raw, err := io.ReadAll(io.LimitReader(f, 1<<10)) // far more than it ever holds
	if err := errors.Join(err, f.Close()); err != nil {
		return dberr.New(dberr.Unavailable, "read the data format: %w", err)
	}
	text, ok := strings.CutPrefix(string(raw), formatPrefix)
	var v int
	if _, err := fmt.Sscan(text, &v); !ok || err != nil || v < 1 {
		return dberr.New(dberr.Corrupt, "%s does not hold a data format", d.join(formatFile))
	}
	if v > dataFormat {
		return dberr.New(dberr.Unsupported, "the data in %s has format %d, this version reads up to %d: use a newer version", d.path, v, dataFormat)
	}
	return nil
}

func (d *dataDir) writeFormat() error {
	temp := d.join(formatFile + ".tmp")
	f, err := d.fs.Create(temp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return dberr.New(dberr.Unavailable, "write the data format: %w", err)
	}
	_, err = fmt.Fprintf(f, "%s%d\n", formatPrefix, dataFormat)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = d.fs.Rename(temp, d.join(formatFile))
	}
	if err == nil {
		err = syncDir(d.fs, d.path)
	}
	if err != nil {
		return dberr.New(dberr.Unavailable, "write the data format: %w", err)
	}
	return nil
}

// syncDir makes new names in a directory durable.
func syncDir(fs vfs.FS, path string) error {
	dir, err := fs.OpenDir(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
