package cold

import (
	"errors"
	"io/fs"
	"time"

	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// walk visits folders, those below before the one above. names are the files in it.
func (f *Files) walk(dir string, visit func(dir string, names []string) error) error {
	list, err := f.fs.List(f.below(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fileFailed("list the folder of", dir, err)
	}
	var names []string
	for _, name := range list {
		info, err := f.fs.Stat(f.below(join(dir, name)))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return fileFailed("look at", join(dir, name), err)
		case info.IsDir():
			if err := f.walk(join(dir, name), visit); err != nil {
				return err
			}
		default:
			names = append(names, name)
		}
	}
	return visit(dir, names)
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// Sweep removes files that nobody has needed for an age, and the folders that are empty then. It returns how many files went. How
// long a file was not needed is known from earlier sweeps: neither a file that was written and is not yet part of a partition goes,
// nor one that was replaced while somebody still reads what it was part of.
func (f *Files) Sweep(needed func(path string) bool, age time.Duration) (removed int, err error) {
	f.sweeping.Lock()
	defer f.sweeping.Unlock()
	now, since := time.Now(), f.unneeded
	f.unneeded = map[string]time.Time{}
	err = f.walk("", func(dir string, names []string) error {
		kept := 0
		for _, name := range names {
			p := join(dir, name)
			if needed(p) {
				kept++
				continue
			}
			from, known := since[p]
			if !known {
				from = now
			}
			if now.Sub(from) < age {
				f.unneeded[p] = from
				kept++
				continue
			}
			if err := f.fs.Remove(f.below(p)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fileFailed("remove", p, err)
			}
			removed++
		}
		if kept == 0 && dir != "" {
			return f.removeEmpty(dir)
		}
		return nil
	})
	return removed, err
}

// Keep reports whether a segment's file is there in its full length, and if so makes its age begin anew: it is about to be needed.
func (f *Files) Keep(seg *storagev1.Segment) bool {
	f.sweeping.Lock() // a sweep that has found it old goes first
	defer f.sweeping.Unlock()
	delete(f.unneeded, seg.GetPath())
	return f.Has(seg)
}

// removeEmpty removes a folder unless something is in it: its name may be all that is left of a user.
func (f *Files) removeEmpty(dir string) error {
	f.dirs.Lock()
	defer f.dirs.Unlock()
	list, err := f.fs.List(f.below(dir))
	if errors.Is(err, fs.ErrNotExist) || len(list) > 0 {
		return nil
	}
	if err = errors.Join(err, f.fs.Remove(f.below(dir))); err != nil {
		return fileFailed("remove the folder", dir, err)
	}
	return nil
}
