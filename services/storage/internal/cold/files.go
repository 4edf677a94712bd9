package cold

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sync/singleflight"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

const (
	dirMode = 0o700
	// tempExtension ends the name of a file that is being written.
	tempExtension = ".tmp"
	// copyBytes is how much is read or sent at a time.
	copyBytes = 1 << 20
)

// Files are the segments a node has on its disk, below one folder.
type Files struct {
	// Allow refuses files of users whose accounts are closed for good; nil refuses none. Set it before use.
	Allow func(user string) error

	fs   vfs.FS
	root string
	// dirs keeps folders that are being written to from being removed as empty.
	dirs   sync.RWMutex
	making singleflight.Group
	// unfinished numbers files that are being written: two may be on their way to one name.
	unfinished atomic.Uint64
	// unneeded are the files that sweeps found nobody to need, and since when.
	sweeping sync.Mutex
	unneeded map[string]time.Time
}

// NewFiles keeps segments below root, which is made when it is needed.
func NewFiles(fs vfs.FS, root string) *Files { return &Files{fs: fs, root: root} }

// name is where a segment's path leads. Paths come from other nodes, too.
func (f *Files) name(p string) (string, error) {
	if p == "" || path.IsAbs(p) || path.Clean(p) != p || p == ".." || strings.HasPrefix(p, "../") || strings.ContainsAny(p, "\\\x00") {
		return "", dberr.New(dberr.InvalidArgument, "%q is not the path of a segment", p)
	}
	return f.below(p), nil
}

// below is a path in the file system.
func (f *Files) below(p string) string {
	return f.fs.PathJoin(append([]string{f.root}, strings.Split(p, "/")...)...)
}

// NewFile is a segment's file that is being written. It is visible after Commit.
type NewFile struct {
	files *Files
	file  vfs.File
	name  string
	temp  string
	sum   hash.Hash
	bytes uint64
	buf   []byte
}

// Create begins a file, in place of an unfinished or damaged one.
func (f *Files) Create(p string) (*NewFile, error) {
	name, err := f.name(p)
	if err != nil {
		return nil, err
	}
	f.dirs.RLock()
	defer f.dirs.RUnlock()
	if err := f.checkOpen(p); err != nil {
		return nil, err
	}
	if err := f.makeDir(f.fs.PathDir(name)); err != nil {
		return nil, fileFailed("make the folder of", p, err)
	}
	temp := fmt.Sprintf("%s.%d%s", name, f.unfinished.Add(1), tempExtension)
	file, err := f.fs.Create(temp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, fileFailed("create", p, err)
	}
	return &NewFile{files: f, file: file, name: name, temp: temp, sum: sha256.New()}, nil
}

// makeDir makes a folder and those above it, durably: who finds that another is making it waits for that.
func (f *Files) makeDir(dir string) error {
	_, err, _ := f.making.Do(dir, func() (any, error) { return nil, f.makeOneDir(dir) })
	return err
}

func (f *Files) makeOneDir(dir string) error {
	if _, err := f.fs.Stat(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := f.fs.PathDir(dir)
	if parent != dir {
		if err := f.makeDir(parent); err != nil {
			return err
		}
	}
	return errors.Join(f.fs.MkdirAll(dir, dirMode), f.syncDir(parent))
}

func (f *Files) syncDir(dir string) error {
	d, err := f.fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Write appends. The file system may change what it is given, so it gets a copy.
func (n *NewFile) Write(p []byte) (int, error) {
	_, _ = n.sum.Write(p) // a hash never fails
	n.buf = append(n.buf[:0], p...)
	w, err := n.file.Write(n.buf)
	n.bytes += uint64(w)
	return w, err
}

// Bytes is how much was written.
func (n *NewFile) Bytes() uint64 { return n.bytes }

// Commit makes the file durable and visible, if it is what the segment says.
func (n *NewFile) Commit(seg *storagev1.Segment) error {
	if n.bytes != seg.GetBytes() || !bytes.Equal(n.sum.Sum(nil), seg.GetSha256()) {
		return errors.Join(damaged(seg), n.Abort())
	}
	return n.publish(seg.GetPath())
}

// publish makes the file durable and visible.
func (n *NewFile) publish(p string) error {
	err := n.file.Sync()
	n.files.dirs.RLock()
	defer n.files.dirs.RUnlock()
	if err = errors.Join(err, n.file.Close(), n.files.checkOpen(p)); err == nil {
		err = n.files.fs.Rename(n.temp, n.name)
	}
	if err != nil { // the disk may be full: leave nothing behind
		return errors.Join(fileFailed("finish", p, err), n.remove())
	}
	if err := n.files.syncDir(n.files.fs.PathDir(n.name)); err != nil {
		return fileFailed("finish", p, err)
	}
	return nil
}

// Abort removes an unfinished file.
func (n *NewFile) Abort() error {
	return errors.Join(n.file.Close(), n.remove())
}

func (n *NewFile) remove() error {
	if err := n.files.fs.Remove(n.temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fileFailed("remove the unfinished file of", n.name, err)
	}
	return nil
}

// Replace writes a small file whole: who reads it, also after a crash, finds what was there before or all of data.
func (f *Files) Replace(p string, data []byte) error {
	n, err := f.Create(p)
	if err != nil {
		return err
	}
	if _, err := n.Write(data); err != nil {
		return errors.Join(fileFailed("write", p, err), n.Abort())
	}
	return n.publish(p)
}

// ReadAll reads a small file; NotFound when it is not there.
func (f *Files) ReadAll(p string) (data []byte, err error) {
	file, size, err := f.Open(p)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if data, err = io.ReadAll(io.LimitReader(&readerAt{from: file}, size)); err != nil {
		return nil, fileFailed("read", p, err)
	}
	return data, nil
}

// Open opens a file; NotFound when it is not there.
func (f *Files) Open(p string) (vfs.File, int64, error) {
	name, err := f.name(p)
	if err != nil {
		return nil, 0, err
	}
	file, err := f.fs.Open(name)
	if err != nil {
		return nil, 0, fileFailed("open", p, err)
	}
	info, err := file.Stat()
	if err != nil {
		return nil, 0, errors.Join(fileFailed("look at", p, err), file.Close())
	}
	return file, info.Size(), nil
}

// Has reports whether a segment's file is there in its full length.
func (f *Files) Has(seg *storagev1.Segment) bool {
	name, err := f.name(seg.GetPath())
	if err != nil {
		return false
	}
	info, err := f.fs.Stat(name)
	return err == nil && info.Size() == int64(seg.GetBytes())
}

// OpenChecked opens a file that is what the segment says; NotFound when it is not there, Corrupt when it is another.
func (f *Files) OpenChecked(seg *storagev1.Segment) (vfs.File, error) {
	file, _, err := f.Open(seg.GetPath())
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	n, err := io.CopyBuffer(sum, &readerAt{from: file}, make([]byte, copyBytes))
	if err != nil {
		return nil, errors.Join(fileFailed("read", seg.GetPath(), err), file.Close())
	}
	if uint64(n) != seg.GetBytes() || !bytes.Equal(sum.Sum(nil), seg.GetSha256()) {
		return nil, errors.Join(damaged(seg), file.Close())
	}
	return file, nil
}

// readerAt reads a file from its beginning without moving its position.
type readerAt struct {
	from io.ReaderAt
	at   int64
}

func (r *readerAt) Read(p []byte) (int, error) {
	n, err := r.from.ReadAt(p, r.at)
	r.at += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

func damaged(seg *storagev1.Segment) error {
	return dberr.New(dberr.Corrupt, "the file of segment %s is not what was written (%d bytes, SHA-256 %x)", seg.GetPath(), seg.GetBytes(), seg.GetSha256())
}

func fileFailed(what, p string, err error) error {
	code := dberr.Unavailable
	if errors.Is(err, fs.ErrNotExist) {
		code = dberr.NotFound
	}
	return dberr.New(code, "%s segment %s: %w", what, p, err)
}

// Each visits the files, in no order.
func (f *Files) Each(visit func(path string, bytes int64) error) error {
	return f.walk("", func(dir string, names []string) error {
		for _, name := range names {
			info, err := f.fs.Stat(f.below(join(dir, name)))
			if err != nil {
				return fileFailed("look at", join(dir, name), err)
			}
			if err := visit(join(dir, name), info.Size()); err != nil {
				return err
			}
		}
		return nil
	})
}

// Remove removes a file. One that is not there is no error.
func (f *Files) Remove(p string) error {
	name, err := f.name(p)
	if err != nil {
		return err
	}
	if err := f.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fileFailed("remove", p, err)
	}
	return nil
}

// Adopt moves a file here from other files of the same file system.
func (f *Files) Adopt(from *Files, p, as string) error {
	source, err := from.name(p)
	if err != nil {
		return err
	}
	name, err := f.name(as)
	if err != nil {
		return err
	}
	f.dirs.RLock()
	defer f.dirs.RUnlock()
	if err := f.makeDir(f.fs.PathDir(name)); err != nil {
		return fileFailed("make the folder of", as, err)
	}
	if err := errors.Join(f.fs.Rename(source, name), f.syncDir(f.fs.PathDir(name))); err != nil {
		return fileFailed("move", p, err)
	}
	return nil
}
