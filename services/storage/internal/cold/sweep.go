package cold

import (
	"errors"
	"time"

	"github.com/cockroachdb/errors/oserror"
)

// walk visits folders, those below before the one above. names are the files in it.
func (f *Files) walk(dir string, visit func(dir string, names []string) error) error {
	list, err := f.fs.List(f.below(dir))
	if oserror.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fileFailed("list the folder of", dir, err)
	}
	var names []string
	for _, name := range list {
		info, err := f.fs.Stat(f.below(join(dir, name)))
		switch {
		case oserror.IsNotExist(err):
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

// Sweep removes files that nobody needs and that are older than an age, and the folders that are empty then. It returns how
// many files went. A file that is being written, or was written and is not yet part of a partition, is young: what this
// process made is judged by a clock that does not jump.
func (f *Files) Sweep(needed func(path string) bool, age time.Duration) (removed int, err error) {
	now := time.Now()
	f.forgetMade(now.Add(-age))
	before := now.Round(0).Add(-age)
	err = f.walk("", func(dir string, names []string) error {
		kept := 0
		for _, name := range names {
			p := join(dir, name)
			info, err := f.fs.Stat(f.below(p))
			if oserror.IsNotExist(err) {
				continue
			}
			if err != nil {
				return fileFailed("look at", p, err)
			}
			if needed(p) || f.madeLately(p) || !info.ModTime().Before(before) {
				kept++
				continue
			}
			if err := f.fs.Remove(f.below(p)); err != nil && !oserror.IsNotExist(err) {
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

// removeEmpty removes a folder unless something is in it: its name may be all that is left of a user.
func (f *Files) removeEmpty(dir string) error {
	f.dirs.Lock()
	defer f.dirs.Unlock()
	list, err := f.fs.List(f.below(dir))
	if oserror.IsNotExist(err) || len(list) > 0 {
		return nil
	}
	if err = errors.Join(err, f.fs.Remove(f.below(dir))); err != nil {
		return fileFailed("remove the folder", dir, err)
	}
	return nil
}

// noteMade remembers when a file got its name.
func (f *Files) noteMade(name string) {
	f.making.Lock()
	defer f.making.Unlock()
	if f.made == nil {
		f.made = map[string]time.Time{}
	}
	f.made[name] = time.Now()
}

func (f *Files) forgetMade(before time.Time) {
	f.making.Lock()
	defer f.making.Unlock()
	for name, at := range f.made {
		if at.Before(before) {
			delete(f.made, name)
		}
	}
}

func (f *Files) madeLately(p string) bool {
	f.making.Lock()
	defer f.making.Unlock()
	_, ok := f.made[f.below(p)]
	return ok
}
