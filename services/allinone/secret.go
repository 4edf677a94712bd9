package allinone

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Files in the data directory that hold secrets, readable by the server's account only.
const (
	// RootPasswordFile is where tools on the same machine find root's first password.
	RootPasswordFile = "root-password"
	jwtSecretFile    = "jwt-secret"
)

// secret returns the content of a secret file, which it makes with random content of n bytes (base64)
// when absent. The file is durable before secret returns: what is derived from it may be stored then.
func secret(dir, name string, n int) (value string, created bool, err error) {
	path := filepath.Join(dir, name)
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
	return value, true, writeSecret(path, value)
}

// writeSecret writes a file that is either absent or whole, also after a power cut.
func writeSecret(path, value string) error {
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
