package catalogstate

import (
	"errors"
	"io"
	"os"

	"go.etcd.io/bbolt"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// compactSuffix names the file that Compact writes.
const compactSuffix = ".compact"

// compactTxBytes is how much of the file is copied in one transaction.
const compactTxBytes = 16 << 20

// restoreSuffix names the file a restore is written to before it takes the place of the old one.
const restoreSuffix = ".restore"

// Applied is the index of the last command applied.
func (s *State) Applied() uint64 { return s.applied.Load() }

// MakeDurable has nothing to do: every transaction is synced before it is visible. Raft counts an entry as applied
// that was refused; a snapshot behind it would make the next start skip it.
func (s *State) MakeDurable(uint64) error {
	if s.broken.Load() {
		return errFailed
	}
	return nil
}

// WriteSnapshot writes the bbolt file as of now.
func (s *State) WriteSnapshot(w io.Writer) error {
	return s.view(func(tx *bbolt.Tx) error {
		_, err := tx.WriteTo(w)
		return err
	})
}

// Torn is never true: a restore takes effect by one rename.
func (s *State) Torn() (bool, error) { return false, nil }

// Restore replaces the file. r must fail where the stream is incomplete, as the group's does: bbolt maps
// the file and would fault on one that was cut. The rest is checked before the old file goes. What fails from then
// on ends the node, which has no catalog.
func (s *State) Restore(r io.Reader) error {
	if s.broken.Load() {
		return errFailed
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	path := s.cfg.Path + restoreSuffix
	if err := receive(path, r); err != nil {
		return errors.Join(dberr.New(codeOr(err, dberr.Unavailable), "restore the catalog: %w", err), os.Remove(path))
	}
	err := s.replace(path)
	if err != nil {
		s.broken.Store(true)
		s.cfg.Fail(dberr.New(dberr.CodeOf(err), "replace the catalog by its leader's snapshot: %w", err))
	}
	return err
}

func (s *State) replace(path string) error {
	s.file.Lock()
	defer s.file.Unlock()
	s.EndWatches(dberr.New(dberr.Unavailable, "the catalog is being replaced"))
	s.sums.cancel() // they are of the file that goes
	err := s.db.Close()
	if err == nil {
		err = os.Rename(path, s.cfg.Path)
	}
	if err == nil {
		err = syncDir(s.cfg.Path)
	}
	if err != nil {
		return dberr.New(dberr.Unavailable, "restore the catalog: %w", err)
	}
	return s.open()
}

// Compact writes the file anew: bbolt keeps what was removed in free pages, and in the ends of pages in use. Reading goes on until the
// new one takes the place of the old; commands wait.
func (s *State) Compact() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.broken.Load() {
		return errFailed
	}
	path := s.cfg.Path + compactSuffix
	if err := errors.Join(s.copyTo(path), syncDir(path)); err != nil {
		return errors.Join(dberr.New(dberr.Unavailable, "compact the catalog: %w", err), os.Remove(path))
	}
	err := s.swap(path)
	if err != nil { // there may be no file that is open
		s.broken.Store(true)
		s.cfg.Fail(dberr.New(dberr.CodeOf(err), "replace the catalog by its compacted file: %w", err))
	}
	return err
}

func (s *State) copyTo(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	to, err := bbolt.Open(path, fileMode, &bbolt.Options{Timeout: openTimeout, NoSync: true})
	if err != nil {
		return err
	}
	s.file.RLock()
	err = bbolt.Compact(to, s.db, compactTxBytes)
	s.file.RUnlock()
	if err == nil {
		err = to.Sync()
	}
	return errors.Join(err, to.Close())
}

// swap puts a file that says the same in the place of the present one.
func (s *State) swap(path string) error {
	s.file.Lock()
	defer s.file.Unlock()
	s.sums.cancel() // they read the file that goes
	err := s.db.Close()
	if err == nil {
		err = os.Rename(path, s.cfg.Path)
	}
	if err == nil {
		err = syncDir(s.cfg.Path)
	}
	var db *bbolt.DB
	if err == nil {
		db, err = bbolt.Open(s.cfg.Path, fileMode, &bbolt.Options{Timeout: openTimeout})
	}
	if err != nil {
		return dberr.New(dberr.Unavailable, "replace the catalog's file: %w", err)
	}
	s.db = db
	return nil
}

// receive writes a file durably and sees that it is a catalog.
func receive(path string, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, fileMode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	db, err := bbolt.Open(path, fileMode, &bbolt.Options{Timeout: openTimeout})
	if err != nil {
		return dberr.New(dberr.Corrupt, "the snapshot is not a catalog: %w", err)
	}
	return errors.Join(prepare(db), db.Close())
}
