package keyring

import (
	"context"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

const (
	localPurpose = "cluster-key"
	// idBytes of a digest of the key name it: enough to tell keys apart, and nothing leads back.
	idBytes = 8
)

// local is a master key in this process.
type local struct {
	id   string
	aead cipher.AEAD
}

// Local is a master key that was given as text: 32 bytes in base64, standard or for URLs. Errors do not repeat the text.
func Local(text string) (Master, error) {
	key, err := base64.RawStdEncoding.DecodeString(strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(text, "=")))
	if err != nil || len(key) != KeyBytes {
		return nil, dberr.New(dberr.InvalidArgument, "the master key must be %d random bytes in base64, such as openssl rand -base64 %d makes", KeyBytes, KeyBytes)
	}
	aead, err := AEAD(key)
	if err != nil {
		return nil, err
	}
	digest := hmac.New(sha256.New, key)
	_, _ = digest.Write([]byte("kalamdb master key id")) // a hash never fails
	return &local{id: hex.EncodeToString(digest.Sum(nil)[:idBytes]), aead: aead}, nil
}

func (l *local) ID() string { return l.id }

func (l *local) Wrap(_ context.Context, plain []byte) ([]byte, error) {
	return SealWith(l.aead, localPurpose, plain), nil
}

func (l *local) Unwrap(_ context.Context, wrapped []byte) ([]byte, error) {
	return OpenWith(l.aead, localPurpose, wrapped)
}
