package cold

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"path"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// UserDir is the folder of everything a user has.
func UserDir(user string) string { return path.Join(userRoot, escape(user)) }

// OwnerOf is the user in whose folder a path is; false for what is nobody's.
func OwnerOf(p string) (user string, ok bool) {
	rest, ok := strings.CutPrefix(p, userRoot+"/")
	if !ok {
		return "", false
	}
	escaped, more := "", true
	for more { // a part that ends in % goes on in the next one
		var part string
		if part, rest, ok = strings.Cut(rest, "/"); !ok {
			return "", false
		}
		escaped, more = strings.CutSuffix(escaped+part, "%")
	}
	return decodeName(escaped)
}

// decodeName undoes escape, of a name whose parts are together again.
func decodeName(escaped string) (name string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(escaped); i++ {
		if escaped[i] != '%' {
			b.WriteByte(escaped[i])
			continue
		}
		if i+2 >= len(escaped) {
			return "", false
		}
		raw, err := hex.DecodeString(escaped[i+1 : i+3])
		if err != nil {
			return "", false
		}
		b.Write(raw)
		i += 2
	}
	return b.String(), true
}

// checkOpen refuses files of a user whose account is closed for good. dirs is held: RemoveUser goes before or behind whoever asks.
func (f *Files) checkOpen(p string) error {
	if f.Allow == nil {
		return nil
	}
	if user, ok := OwnerOf(p); ok {
		return f.Allow(user)
	}
	return nil
}

// RemoveUser removes all files of a user at once, unfinished ones too, and the folders, and returns how many files there were. Nobody can
// make another meanwhile, or afterwards, as long as the account is closed.
func (f *Files) RemoveUser(user string) (removed int, err error) {
	f.dirs.Lock()
	defer f.dirs.Unlock()
	dir := UserDir(user)
	removed, err = f.removeBelow(dir)
	if err == nil {
		err = f.removeAbove(dir)
	}
	return removed, err
}

// RemoveFolder removes a folder and all that is in it.
func (f *Files) RemoveFolder(dir string) error {
	f.dirs.Lock()
	defer f.dirs.Unlock()
	_, err := f.removeBelow(dir)
	return err
}

// removeBelow removes a folder and what is in it. dirs is held.
func (f *Files) removeBelow(dir string) (removed int, err error) {
	err = f.walk(dir, func(dir string, names []string) error {
		for _, name := range names {
			if err := f.fs.Remove(f.below(join(dir, name))); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fileFailed("remove", join(dir, name), err)
			}
			removed++
		}
		return f.removeFolder(dir)
	})
	return removed, err
}

// removeFolder removes a folder, which may be gone, and not one with something in it: where a long name goes on, another user's may too.
func (f *Files) removeFolder(dir string) error {
	list, err := f.fs.List(f.below(dir))
	if errors.Is(err, fs.ErrNotExist) || len(list) > 0 {
		return nil
	}
	if err == nil {
		err = f.fs.Remove(f.below(dir))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fileFailed("remove the folder", dir, err)
	}
	return nil
}

// removeAbove removes the folders of a long name's beginning, and makes what is gone durable.
func (f *Files) removeAbove(dir string) error {
	for dir = path.Dir(dir); dir != userRoot && dir != "."; dir = path.Dir(dir) {
		if err := f.removeFolder(dir); err != nil {
			return err
		}
	}
	if _, err := f.fs.Stat(f.below(userRoot)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := f.syncDir(f.below(userRoot)); err != nil {
		return dberr.New(dberr.Unavailable, "remove the files of a user: %w", err)
	}
	return nil
}

// ForgetUser closes the segments of a user and lets go of what was decoded of them, as far as nobody reads them; also of all that are in
// storages, where names do not say whose a file is.
func (r *Readers) ForgetUser(user string) {
	prefix := UserDir(user) + "/"
	whose := func(name string) bool { return strings.HasPrefix(name, prefix) || strings.Contains(name, remoteMark) }
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.open.Keys() {
		if whose(p) {
			r.open.Remove(p)
		}
	}
	r.blocks.forget(whose)
}
