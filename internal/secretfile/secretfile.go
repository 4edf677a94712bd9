// Package secretfile keeps secrets the server makes for itself in files that only its account can read, and reads
// those that others gave it.
package secretfile

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// givenBytesMax bounds a file that holds a secret: keys and passwords are far shorter, and what is longer is some
// other file.
const givenBytesMax = 64 << 10

// Given reads a secret that somebody else put into a file; line ends behind it are not part of it. exposed reports
// that the file is the server's own account's and that others may read it all the same. What an orchestrator mounts is
// another account's, which must let everybody read it.
func Given(path string) (value string, exposed bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", false, dberr.New(dberr.InvalidArgument, "the file of a secret: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", false, dberr.New(dberr.InvalidArgument, "the file of a secret: %w", err)
	}
	raw, err := io.ReadAll(io.LimitReader(f, givenBytesMax+1))
	if err != nil {
		return "", false, dberr.New(dberr.InvalidArgument, "the file of a secret: %w", err)
	}
	if len(raw) > givenBytesMax {
		return "", false, dberr.New(dberr.InvalidArgument, "%s has more than %d bytes: it is no secret", path, givenBytesMax)
	}
	if value = strings.TrimRight(string(raw), "\r\n"); value == "" {
		return "", false, dberr.New(dberr.InvalidArgument, "%s is empty: it should hold a secret", path)
	}
	owner, known := info.Sys().(*syscall.Stat_t)
	return value, known && int(owner.Uid) == os.Geteuid() && info.Mode().Perm()&0o004 != 0, nil
}

// Get returns the content of a secret file, which it makes with random content of n bytes (base64) when
// absent. The file is durable before Get returns: what is derived from it may be stored then.
func Get(path string, n int) (value string, created bool, err error) {
	if b, err := os.ReadFile(path); err == nil {
		if value = strings.TrimSpace(string(b)); value == "" {
			return "", false, dberr.New(dberr.Corrupt, "%s is empty; delete it to have a new one made", path)
		}
		return value, false, nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return "", false, dberr.New(dberr.Internal, "read %s: %w", path, err)
	}
	raw := make([]byte, n)
	if _, err := rand.Read(raw); err != nil {
		return "", false, dberr.New(dberr.Internal, "make a secret: %w", err)
	}
	value = base64.RawURLEncoding.EncodeToString(raw)
	return value, true, Put(path, value)
}

// Put writes a secret file, which is then the old or the new one, whole, also after a power cut.
func Put(path, value string) error {
	wrap := func(err error) error {
		if err == nil {
			return nil
		}
		return dberr.New(dberr.Internal, "write %s: %w", path, err)
	}
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return wrap(err)
	}
	_, err = f.WriteString(value + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return wrap(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return wrap(err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return wrap(err)
	}
	return wrap(errors.Join(dir.Sync(), dir.Close()))
}

// Remove deletes a secret file; one that is absent is no error.
func Remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return dberr.New(dberr.Internal, "delete %s: %w", path, err)
	}
	return nil
}
