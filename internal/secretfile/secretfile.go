// Package secretfile keeps secrets the server makes for itself in files that only its account can read.
package secretfile

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

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
