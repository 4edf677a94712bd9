// Package backup writes, reads and checks backups: RFC 0004 says what is in one. Who decides the cut, and who restores, is elsewhere.
package backup

import (
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
)

// Target is where one backup is.
type Target interface {
	// Create begins a file, in place of one of that name.
	Create(path string) (File, error)
	// Open reads a file; NotFound when there is none.
	Open(path string) (Source, error)
	// Remove removes a file. One that is not there is no error.
	Remove(path string) error
	// Exists reports whether a file is there.
	Exists(path string) (bool, error)
}

// File is being written. It is visible, and durable, after Commit.
type File interface {
	io.Writer
	Commit() error
	Abort() error
}

// Source is a file to read.
type Source interface {
	io.Reader
	io.ReaderAt
	io.Closer
}

// Targets finds targets by the paths of statements.
type Targets struct {
	FS vfs.FS
	// Paths are the folders that may hold backups; a relative path lies in the first.
	Paths []string
	// Real says that FS is the file system of the operating system, which has symbolic links.
	Real bool
}

// Open finds the target that a statement names.
func (t *Targets) Open(path string) (Target, error) {
	dir, err := t.resolve(path)
	if err != nil {
		return nil, err
	}
	return &folder{files: cold.NewFiles(t.FS, dir), name: path}, nil
}

const storagePrefix = "storage:"

func (t *Targets) resolve(path string) (string, error) {
	switch {
	case strings.TrimSpace(path) == "" || strings.ContainsRune(path, 0):
		return "", dberr.New(dberr.InvalidArgument, "%q is no path of a backup", path)
	case strings.HasPrefix(path, storagePrefix):
		return "", dberr.New(dberr.Unsupported, "a backup in a storage (%s) is not supported yet: name a folder below one of storage.backup_paths", path)
	case slices.Contains(strings.FieldsFunc(path, func(r rune) bool { return r == '/' || r == filepath.Separator }), ".."):
		return "", dberr.New(dberr.InvalidArgument, "%q: a path of a backup has no '..'", path)
	}
	dir := path
	if !filepath.IsAbs(path) {
		dir = filepath.Join(t.Paths[0], path)
	}
	dir = filepath.Clean(dir)
	for _, root := range t.Paths {
		rel, err := filepath.Rel(filepath.Clean(root), dir)
		if err == nil && rel != "." && filepath.IsLocal(rel) {
			return dir, t.checkLinks(root, rel, path)
		}
	}
	return "", dberr.New(dberr.InvalidArgument, "%q is not below one of the folders for backups, %s: storage.backup_paths names them", path, strings.Join(t.Paths, ", "))
}

// checkLinks refuses a path that leads elsewhere.
func (t *Targets) checkLinks(root, rel, path string) error {
	if !t.Real {
		return nil
	}
	at := root
	for _, part := range strings.Split(rel, string(filepath.Separator)) {
		at = filepath.Join(at, part)
		info, err := os.Lstat(at)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return dberr.New(dberr.Unavailable, "look at %s: %w", at, err)
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			return dberr.New(dberr.InvalidArgument, "%q: %s is a symbolic link, which could lead out of the folders of storage.backup_paths", path, at)
		}
	}
	return nil
}

// folder is a target in a file system.
type folder struct {
	files *cold.Files
	name  string
}

func (f *folder) Create(path string) (File, error) {
	n, err := f.files.Create(path)
	if err != nil {
		return nil, f.failed(path, err)
	}
	return &folderFile{folder: f, file: n, path: path, sum: sha256.New()}, nil
}

func (f *folder) Open(path string) (Source, error) {
	file, _, err := f.files.Open(path)
	if err != nil {
		return nil, f.failed(path, err)
	}
	return file, nil
}

func (f *folder) Exists(path string) (bool, error) {
	file, _, err := f.files.Open(path)
	if dberr.Is(err, dberr.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, f.failed(path, err)
	}
	return true, file.Close()
}

func (f *folder) Remove(path string) error {
	if err := f.files.Remove(path); err != nil {
		return f.failed(path, err)
	}
	return nil
}

// failed adds the backup to an error about one of its files.
func (f *folder) failed(path string, err error) error {
	return dberr.New(dberr.CodeOf(err), "backup %s, file %s: %w", f.name, path, err)
}

type folderFile struct {
	folder *folder
	file   *cold.NewFile
	path   string
	sum    hash.Hash
}

func (f *folderFile) Write(p []byte) (int, error) {
	_, _ = f.sum.Write(p) // a hash never fails
	n, err := f.file.Write(p)
	if err != nil {
		err = dberr.New(dberr.Unavailable, "write %s of backup %s: %w", f.path, f.folder.name, err)
	}
	return n, err
}

func (f *folderFile) Commit() error {
	if err := f.file.Commit(&storagev1.Segment{Path: f.path, Bytes: f.file.Bytes(), Sha256: f.sum.Sum(nil)}); err != nil {
		return f.folder.failed(f.path, err)
	}
	return nil
}

func (f *folderFile) Abort() error { return f.file.Abort() }
