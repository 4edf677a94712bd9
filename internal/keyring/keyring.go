// Package keyring keeps secrets that are stored: a master key, which the cluster never stores, wraps the cluster key, which
// is kept in the catalog, and that one seals whatever else must not be readable in a file.
//
// Sealed data: version u8 (1), nonce (12 bytes), AES-256-GCM ciphertext with its tag. The additional data is the purpose, so
// that what was sealed for one cannot be put in the place of another.
package keyring

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"sync"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

const (
	// KeyBytes is the length of every key.
	KeyBytes = 32

	version1   = 1
	nonceBytes = 12
	// Overhead is how much longer sealed data is than what it holds, in bytes.
	Overhead = 1 + nonceBytes + 16
)

// Master wraps keys: one in this process (Local), or a key management service. Both must be safe for concurrent use.
type Master interface {
	// ID names the key, so that people can tell which one something needs. It is no secret.
	ID() string
	// Wrap and Unwrap encrypt and decrypt at most 64 bytes.
	Wrap(ctx context.Context, plain []byte) ([]byte, error)
	Unwrap(ctx context.Context, wrapped []byte) ([]byte, error)
}

// WrappedKey is a cluster key as it is stored.
type WrappedKey struct {
	Wrapped  []byte
	MasterID string
}

// Store is where the cluster key is.
type Store interface {
	// ClusterKey is the one that is stored; its Wrapped is nil when there is none.
	ClusterKey() WrappedKey
	// SetClusterKey stores one unless another has come first, or, when replaced is not nil, unless that is not what is stored.
	SetClusterKey(ctx context.Context, k WrappedKey, replaced []byte) error
}

// Ring seals and opens with the cluster key. It is safe for concurrent use.
type Ring struct {
	master Master // nil: there is none
	// previous unwraps what the master key before this one has wrapped; nil: there is none.
	previous Master
	store    Store

	mu   sync.Mutex
	of   string      // the wrapped key that aead was made of
	aead cipher.AEAD // nil: not known yet
}

// New makes a ring. Without a master key it seals and opens nothing. previous may be nil.
func New(master, previous Master, store Store) *Ring {
	return &Ring{master: master, previous: previous, store: store}
}

// Check reports whether the master key opens the cluster key, if both are there.
func (r *Ring) Check(ctx context.Context) error {
	if r.master == nil || r.store.ClusterKey().Wrapped == nil {
		return nil
	}
	_, err := r.current(ctx)
	return err
}

// Seal encrypts data that only this cluster shall read; purpose says what it is, and Open has to say the same. It makes the
// cluster key when there is none. InvalidOperation when there is no master key.
func (r *Ring) Seal(ctx context.Context, purpose string, plain []byte) ([]byte, error) {
	if r.master == nil {
		return nil, noMaster()
	}
	if r.store.ClusterKey().Wrapped == nil {
		if err := r.makeKey(ctx); err != nil {
			return nil, err
		}
	}
	aead, err := r.current(ctx)
	if err != nil {
		return nil, err
	}
	return SealWith(aead, purpose, plain), nil
}

// Open decrypts what Seal has made for the same purpose; Corrupt when it is something else.
func (r *Ring) Open(ctx context.Context, purpose string, sealed []byte) ([]byte, error) {
	if r.master == nil {
		return nil, noMaster()
	}
	aead, err := r.current(ctx)
	if err != nil {
		return nil, err
	}
	return OpenWith(aead, purpose, sealed)
}

// OpenForeign decrypts what another cluster has sealed, whose cluster key this master key, or the one before, unwraps.
func (r *Ring) OpenForeign(ctx context.Context, key WrappedKey, purpose string, sealed []byte) ([]byte, error) {
	if r.master == nil {
		return nil, noMaster()
	}
	aead, _, err := r.unwrap(ctx, key)
	if err != nil {
		return nil, err
	}
	return OpenWith(aead, purpose, sealed)
}

// Foreign unwraps the cluster key of another cluster once, to open much of what it has sealed.
func (r *Ring) Foreign(ctx context.Context, key WrappedKey) (cipher.AEAD, error) {
	if r.master == nil {
		return nil, noMaster()
	}
	aead, _, err := r.unwrap(ctx, key)
	return aead, err
}

// Rewrap has the master key wrap a cluster key that the previous one has wrapped. It reports whether that was necessary.
func (r *Ring) Rewrap(ctx context.Context) (bool, error) {
	key := r.store.ClusterKey()
	if r.master == nil || r.previous == nil || key.Wrapped == nil || key.MasterID == r.master.ID() {
		return false, nil
	}
	_, plain, err := r.unwrap(ctx, key)
	if err != nil {
		return false, err
	}
	wrapped, err := r.master.Wrap(ctx, plain)
	if err != nil {
		return false, err
	}
	return true, r.store.SetClusterKey(ctx, WrappedKey{Wrapped: wrapped, MasterID: r.master.ID()}, key.Wrapped)
}

func noMaster() error {
	return dberr.New(dberr.InvalidOperation, "this needs a master key, and there is none: give all storage nodes the same one (storage.master_key_file)")
}

func (r *Ring) makeKey(ctx context.Context) error {
	wrapped, err := r.master.Wrap(ctx, NewKey())
	if err != nil {
		return err
	}
	return r.store.SetClusterKey(ctx, WrappedKey{Wrapped: wrapped, MasterID: r.master.ID()}, nil)
}

// current is the cluster key.
func (r *Ring) current(ctx context.Context) (cipher.AEAD, error) {
	key := r.store.ClusterKey()
	if key.Wrapped == nil {
		return nil, dberr.New(dberr.Corrupt, "there is no cluster key: nothing can have been sealed with it")
	}
	r.mu.Lock()
	defer r.mu.Unlock() // also while a master key far away is asked: the others would ask it, too
	if r.aead != nil && r.of == string(key.Wrapped) {
		return r.aead, nil
	}
	aead, _, err := r.unwrap(ctx, key)
	if err != nil {
		return nil, err
	}
	r.aead, r.of = aead, string(key.Wrapped)
	return aead, nil
}

func (r *Ring) unwrap(ctx context.Context, key WrappedKey) (cipher.AEAD, []byte, error) {
	master := r.master
	if r.previous != nil && key.MasterID == r.previous.ID() {
		master = r.previous
	}
	if key.MasterID != master.ID() {
		return nil, nil, dberr.New(dberr.InvalidOperation, "the cluster key was wrapped by master key %s, this node has %s: give it that one (storage.master_key_file, or storage.previous_master_key_file to change it)",
			key.MasterID, master.ID())
	}
	plain, err := master.Unwrap(ctx, key.Wrapped)
	if err != nil {
		return nil, nil, err
	}
	aead, err := AEAD(plain)
	return aead, plain, err
}

// NewKey is a random key.
func NewKey() []byte {
	key := make([]byte, KeyBytes)
	_, _ = rand.Read(key) // never fails
	return key
}

// AEAD is AES-256-GCM with a key of KeyBytes.
func AEAD(key []byte) (cipher.AEAD, error) {
	if len(key) != KeyBytes {
		return nil, dberr.New(dberr.Corrupt, "a key of %d bytes, it has %d", len(key), KeyBytes)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, dberr.New(dberr.Internal, "make a cipher: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, dberr.New(dberr.Internal, "make a cipher: %w", err)
	}
	return aead, nil
}

// SealWith is Seal with a key of the caller's.
func SealWith(aead cipher.AEAD, purpose string, plain []byte) []byte {
	out := make([]byte, 1+nonceBytes, len(plain)+Overhead)
	out[0] = version1
	_, _ = rand.Read(out[1:]) // never fails
	return aead.Seal(out, out[1:1+nonceBytes], plain, []byte(purpose))
}

// OpenWith is Open with a key of the caller's.
func OpenWith(aead cipher.AEAD, purpose string, sealed []byte) ([]byte, error) {
	if len(sealed) < Overhead || sealed[0] != version1 {
		return nil, dberr.New(dberr.Corrupt, "%d bytes are not sealed data of a version known here", len(sealed))
	}
	plain, err := aead.Open(nil, sealed[1:1+nonceBytes], sealed[1+nonceBytes:], []byte(purpose))
	if err != nil {
		return nil, dberr.New(dberr.Corrupt, "what was sealed for %s is damaged, or was sealed with another key or for something else", purpose)
	}
	return plain, nil
}
