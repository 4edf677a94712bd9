// Package storages is a node's way to the storages of the catalog (CREATE STORAGE): it opens them, puts segments there, fetches them into a
// cache on the node's disk, and removes what no segment names.
package storages

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/objectstore"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
)

// transfersMax bounds the files of a node that are fetched or put at a time: each holds some ranges in memory.
const transfersMax = 8

// purpose binds sealed credentials to their storage.
func purpose(id string) string { return "storage credentials " + id }

// Sealer seals what the catalog keeps of credentials.
type Sealer interface {
	Seal(ctx context.Context, purpose string, plain []byte) ([]byte, error)
	Open(ctx context.Context, purpose string, sealed []byte) ([]byte, error)
}

// Catalog has the storages, with their sealed credentials.
type Catalog interface {
	Storage(id string) (*catalogv1.Storage, bool)
	Storages() []*catalogv1.Storage
	Cluster() (id string, shards uint32)
	User(id string) (*catalogv1.User, error)
}

// Config describes a node's storages.
type Config struct {
	Catalog Catalog
	Keys    Sealer
	Rules   objectstore.Rules
	Limits  objectstore.Limits
	// Local are the segments on this node's disk, among which new ones are written; Cache is where fetched ones are kept, CacheBytes at most
	// (and at least the one that is being fetched).
	Local, Cache *cold.Files
	CacheBytes   int64
	Logger       *slog.Logger
}

// Storages are those of a node. They are safe for concurrent use. Close them.
type Storages struct {
	cfg       Config
	cache     *cache
	fetching  singleflight.Group
	transfers *semaphore.Weighted

	mu   sync.Mutex
	open map[place]*opened

	sweeping sync.Mutex
	unneeded map[string]time.Time
}

// place is one location of a storage.
type place struct {
	id       string
	location uint32
}

// opened is a store that is open. It is closed when the catalog has another revision of it and nobody uses it.
type opened struct {
	store    *objectstore.Store
	revision uint64
	users    int
	stale    bool
}

// New makes a node's storages and finds what is in its cache.
func New(cfg Config) (*Storages, error) {
	c, err := newCache(cfg.Cache, cfg.CacheBytes)
	if err != nil {
		return nil, err
	}
	return &Storages{cfg: cfg, cache: c, transfers: semaphore.NewWeighted(transfersMax), open: map[place]*opened{}, unneeded: map[string]time.Time{}}, nil
}

// Close closes the stores. Nothing may be in use.
func (s *Storages) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for p, o := range s.open {
		errs = append(errs, o.store.Close())
		delete(s.open, p)
	}
	return errors.Join(errs...)
}

// configOf is how to open a storage's location.
func (s *Storages) configOf(ctx context.Context, st *catalogv1.Storage, location uint32) (objectstore.Config, error) {
	cfg := objectstore.Config{Name: "'" + st.GetStorageId() + "'", Rules: s.cfg.Rules, Limits: s.cfg.Limits}
	if int(location) >= len(st.GetLocations()) {
		return cfg, dberr.New(dberr.Corrupt, "storage '%s' has %d locations, a segment names number %d", st.GetStorageId(), len(st.GetLocations()), location)
	}
	kind, err := objectstore.ParseKind(st.GetType())
	if err != nil {
		return cfg, err
	}
	if cfg.Location, err = objectstore.ParseLocation(kind, st.GetLocations()[location]); err != nil {
		return cfg, err
	}
	if err := cfg.Options(st.GetConfig()); err != nil {
		return cfg, err
	}
	if len(st.GetSealedCredentials()) == 0 {
		return cfg, nil
	}
	plain, err := s.cfg.Keys.Open(ctx, purpose(st.GetStorageId()), st.GetSealedCredentials())
	if err != nil {
		return cfg, err
	}
	if json.Unmarshal(plain, &cfg.Secrets) != nil {
		return cfg, dberr.New(dberr.Corrupt, "the credentials of storage '%s' cannot be read", st.GetStorageId())
	}
	return cfg, nil
}

// use opens a storage's location, or finds it open. Call the result when done.
func (s *Storages) use(ctx context.Context, id string, location uint32) (*objectstore.Store, func(), error) {
	st, ok := s.cfg.Catalog.Storage(id)
	if !ok { // this node's catalog may be behind
		return nil, nil, dberr.New(dberr.Unavailable, "storage '%s' does not exist, as far as this node knows", id)
	}
	p := place{id, location}
	if o := s.take(p, st.GetRevision()); o != nil {
		return o.store, func() { s.release(o) }, nil
	}
	cfg, err := s.configOf(ctx, st, location)
	if err != nil {
		return nil, nil, err
	}
	store, err := objectstore.Open(context.WithoutCancel(ctx), cfg) // it outlives the request, and asks nobody
	if err != nil {
		return nil, nil, err
	}
	o := s.keep(p, &opened{store: store, revision: st.GetRevision(), users: 1})
	return o.store, func() { s.release(o) }, nil
}

// take finds an open store of a revision; an older one is let go of.
func (s *Storages) take(p place, revision uint64) *opened {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.open[p]
	if o == nil || o.revision != revision {
		return nil
	}
	o.users++
	return o
}

func (s *Storages) keep(p place, o *opened) *opened {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.open[p]; old != nil {
		old.stale = true
		s.closeUnused(old)
	}
	s.open[p] = o
	return o
}

func (s *Storages) release(o *opened) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o.users--
	s.closeUnused(o)
}

func (s *Storages) closeUnused(o *opened) {
	if o.stale && o.users == 0 {
		if err := o.store.Close(); err != nil {
			s.cfg.Logger.Warn("close a storage", "error", err)
		}
	}
}

func sumOf(seg *storagev1.Segment) objectstore.Sum {
	return objectstore.Sum{Bytes: int64(seg.GetBytes()), SHA256: seg.GetSha256()}
}

// Put makes a segment durable in its storage: its file, which was written here (cold.OutgoingPath), or that was put before and must still be there.
// Then it is in the cache.
func (s *Storages) Put(ctx context.Context, seg *storagev1.Segment) error {
	if err := s.transfers.Acquire(ctx, 1); err != nil {
		return dberr.FromStatus(err)
	}
	defer s.transfers.Release(1)
	store, release, err := s.use(ctx, seg.GetStorageId(), seg.GetLocation())
	if err != nil {
		return err
	}
	defer release()
	s.keepKey(seg)
	file, _, err := s.cfg.Local.Open(cold.OutgoingPath(seg))
	if dberr.Is(err, dberr.NotFound) {
		return s.putBefore(ctx, store, seg)
	}
	if err != nil {
		return err
	}
	err = store.Put(ctx, seg.GetPath(), file, sumOf(seg))
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	return s.cache.adopt(s.cfg.Local, cold.OutgoingPath(seg), seg)
}

func (s *Storages) putBefore(ctx context.Context, store *objectstore.Store, seg *storagev1.Segment) error {
	n, err := store.Stat(ctx, seg.GetPath())
	if dberr.Is(err, dberr.NotFound) || err == nil && n != int64(seg.GetBytes()) {
		return dberr.New(dberr.Unavailable, "segment %s is not in storage '%s' any more", seg.GetPath(), seg.GetStorageId())
	}
	return err
}

// PutSmall writes a file that is not a segment beside those of a storage.
func (s *Storages) PutSmall(ctx context.Context, id string, location uint32, key string, data []byte) error {
	store, release, err := s.use(ctx, id, location)
	if err != nil {
		return err
	}
	defer release()
	return putBytes(ctx, store, key, data)
}
