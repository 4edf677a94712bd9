package backup

import (
	"bufio"
	"crypto/cipher"
	"errors"
	"io"

	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/sealedfile"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// WriteAccounts writes accounts, which next yields, nil at the end. They are sealed: password hashes are in them.
func WriteAccounts(t Target, path, backupID string, aead cipher.AEAD, next func() (*catalogv1.User, error)) (*Sum, error) {
	w := Writer{Target: t}
	f, err := w.create(path)
	if err != nil {
		return nil, err
	}
	if err := sealAccounts(f, backupID, aead, next); err != nil {
		return nil, errors.Join(err, f.Abort())
	}
	sum, err := f.commit()
	return &sum, err
}

func sealAccounts(f io.Writer, backupID string, aead cipher.AEAD, next func() (*catalogv1.User, error)) error {
	sealed, err := sealedfile.NewWriter(f, aead, backupKeyID(backupID))
	if err != nil {
		return err
	}
	for {
		u, err := next()
		if err != nil {
			return err
		}
		if u == nil {
			return sealed.Close()
		}
		if _, err := protodelim.MarshalTo(sealed, u); err != nil {
			return copyErr("write the accounts", err)
		}
	}
}

// ReadAccounts visits the accounts of a backup, which are in the file of that path.
func ReadAccounts(t Target, path string, aead cipher.AEAD, visit func(*catalogv1.User) error) (err error) {
	f, err := t.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	plain, err := sealedfile.NewReader(f, func(string) (cipher.AEAD, error) { return aead, nil })
	if err != nil {
		return inFile(path, err)
	}
	in := bufio.NewReader(plain)
	for {
		u := new(catalogv1.User)
		err := protodelim.UnmarshalFrom(in, u)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return inFile(path, dberr.New(dberr.Corrupt, "an account: %w", err))
		}
		if err := visit(u); err != nil {
			return err
		}
	}
}
