// Package catalogstate is the state of group 0: namespaces, tables and users.
//
// Everything is in one bbolt file, changed in one transaction per batch of entries together with the
// applied index. Namespaces and tables are also in memory, as an immutable model that is replaced by
// each change; users, of which there may be millions, are not.
package catalogstate

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// The buckets.
var (
	bucketMeta       = []byte("meta")
	bucketNamespaces = []byte("namespaces") // name → Namespace
	bucketTables     = []byte("tables")     // id → Table
	bucketUsers      = []byte("users")      // user id → User
	bucketDropped    = []byte("dropped")    // id of a table whose rows are still being removed → a mark
)

// droppedMark is not empty, so that no reader can take it for absent.
var droppedMark = []byte{1}

// Keys of bucketMeta; numbers are u64 big-endian.
var (
	keyFormat    = []byte("format")
	keyApplied   = []byte("applied")
	keyVersion   = []byte("version")
	keyNextTable = []byte("next_table")
	keyShards    = []byte("shards")
	keyClusterID = []byte("cluster_id")
)

const (
	format = 1
	// openTimeout bounds waiting for the file's lock; the node's own lock comes first, so nobody has it.
	openTimeout = 5 * time.Second
	fileMode    = 0o600
)

// Config describes the state.
type Config struct {
	// Path is the bbolt file. It is always on the real file system.
	Path string
	// Fail reports an error after which this node must not go on.
	Fail   func(error)
	Logger *slog.Logger
}

// State is the replicated catalog of this node. It is a raftgroup.State.
type State struct {
	cfg Config

	// file guards db against Restore, which replaces it.
	file sync.RWMutex
	db   *bbolt.DB

	// mu orders publishing with new watchers. It guards watchers.
	mu       sync.Mutex
	watchers map[*watcher]struct{}
	model    atomic.Pointer[model]
	applied  atomic.Uint64
	broken   bool // an entry could not be applied; apply goroutine only

	dropped chan struct{} // one token: a table waits to be purged
}

// model is one version of what is held in memory. It and all it points to are immutable.
type model struct {
	version    uint64
	clusterID  string
	shards     uint32
	namespaces map[string]*catalogv1.Namespace
	tables     map[uint32]*entry
	byName     map[string]*entry // namespace.name
}

// entry is a table in both forms.
type entry struct {
	proto *catalogv1.Table
	table *catalog.Table
}

// Open opens or creates the state.
func Open(cfg Config) (*State, error) {
	if err := os.Remove(cfg.Path + restoreSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, dberr.New(dberr.Unavailable, "remove an unfinished catalog restore: %w", err)
	}
	s := &State{cfg: cfg, watchers: map[*watcher]struct{}{}, dropped: make(chan struct{}, 1)}
	return s, s.open()
}

func (s *State) open() error {
	db, err := bbolt.Open(s.cfg.Path, fileMode, &bbolt.Options{Timeout: openTimeout})
	if err != nil {
		return dberr.New(dberr.Unavailable, "open the catalog in %s: %w", s.cfg.Path, err)
	}
	if err = prepare(db); err == nil {
		err = s.load(db)
	}
	if err == nil {
		err = syncDir(s.cfg.Path) // the file may be new
	}
	if err != nil {
		return errors.Join(err, db.Close())
	}
	s.db = db
	return nil
}

// prepare makes the buckets of a new file, and refuses one of a newer version.
func prepare(db *bbolt.DB) error {
	var ready bool
	err := db.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket(bucketMeta); b != nil {
			ready = true
			if f := number(b, keyFormat); f != format {
				return dberr.New(dberr.Unsupported, "the catalog has format %d, this version reads %d", f, format)
			}
		}
		return nil
	})
	if err != nil || ready {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketNamespaces, bucketTables, bucketUsers, bucketDropped, bucketMeta} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return putNumber(tx.Bucket(bucketMeta), keyFormat, format)
	})
	if err != nil {
		return dberr.New(dberr.Unavailable, "create the catalog: %w", err)
	}
	return nil
}

func (s *State) load(db *bbolt.DB) error {
	m := &model{namespaces: map[string]*catalogv1.Namespace{}, tables: map[uint32]*entry{}, byName: map[string]*entry{}}
	var applied uint64
	err := db.View(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		applied, m.version = number(meta, keyApplied), number(meta, keyVersion)
		m.shards, m.clusterID = uint32(number(meta, keyShards)), string(meta.Get(keyClusterID))
		err := tx.Bucket(bucketNamespaces).ForEach(func(_, v []byte) error {
			n := &catalogv1.Namespace{}
			if err := proto.Unmarshal(v, n); err != nil {
				return err
			}
			m.namespaces[n.GetName()] = n
			return nil
		})
		if err != nil {
			return err
		}
		return tx.Bucket(bucketTables).ForEach(func(_, v []byte) error {
			t := &catalogv1.Table{}
			if err := proto.Unmarshal(v, t); err != nil {
				return err
			}
			m.putTable(t)
			return nil
		})
	})
	if err != nil {
		return dberr.New(dberr.Corrupt, "read the catalog: %w", err)
	}
	s.model.Store(m)
	s.applied.Store(applied)
	return nil
}

// Close closes the file, after the group has stopped.
func (s *State) Close() error {
	s.file.Lock()
	defer s.file.Unlock()
	s.EndWatches(dberr.New(dberr.Unavailable, "this node is stopping"))
	return s.db.Close()
}

// Table returns the newest version of a table.
func (s *State) Table(id uint32) (*catalog.Table, bool) {
	e, ok := s.model.Load().tables[id]
	if !ok {
		return nil, false
	}
	return e.table, true
}

// Cluster returns the cluster's id and its number of shards; "" and 0 before InitCluster.
func (s *State) Cluster() (id string, shards uint32) {
	m := s.model.Load()
	return m.clusterID, m.shards
}

// Dropped signals that a table may wait to be purged.
func (s *State) Dropped() <-chan struct{} { return s.dropped }

// ToPurge lists tables that are dropped and whose rows are not known to be gone.
func (s *State) ToPurge() (ids []uint32, err error) {
	err = s.view(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketDropped).ForEach(func(k, _ []byte) error {
			ids = append(ids, binary.BigEndian.Uint32(k))
			return nil
		})
	})
	return ids, err
}

// User returns a user, nil when there is none; dropped users are returned.
func (s *State) User(id string) (u *catalogv1.User, err error) {
	err = s.view(func(tx *bbolt.Tx) error {
		u, err = readUser(tx, id)
		return err
	})
	return u, err
}

// Users returns up to limit users after an id, and whether there are more.
func (s *State) Users(after string, limit int) (users []*catalogv1.User, more bool, err error) {
	err = s.view(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketUsers).Cursor()
		k, v := c.Seek([]byte(after))
		if k != nil && string(k) == after {
			k, v = c.Next()
		}
		for ; k != nil; k, v = c.Next() {
			if len(users) == limit {
				more = true
				return nil
			}
			u := &catalogv1.User{}
			if err := proto.Unmarshal(v, u); err != nil {
				return dberr.New(dberr.Corrupt, "read user: %w", err)
			}
			users = append(users, u)
		}
		return nil
	})
	return users, more, err
}

func (s *State) view(f func(*bbolt.Tx) error) error {
	s.file.RLock()
	defer s.file.RUnlock()
	if err := s.db.View(f); err != nil {
		return dberr.New(codeOr(err, dberr.Unavailable), "read the catalog: %w", err)
	}
	return nil
}

// codeOr is err's own code, or another for errors from below.
func codeOr(err error, other dberr.Code) dberr.Code {
	if c := dberr.CodeOf(err); c != dberr.Internal {
		return c
	}
	return other
}

func (m *model) clone() *model {
	c := &model{version: m.version, clusterID: m.clusterID, shards: m.shards,
		namespaces: make(map[string]*catalogv1.Namespace, len(m.namespaces)),
		tables:     make(map[uint32]*entry, len(m.tables)), byName: make(map[string]*entry, len(m.byName))}
	for k, v := range m.namespaces {
		c.namespaces[k] = v
	}
	for k, v := range m.tables {
		c.tables[k] = v
	}
	for k, v := range m.byName {
		c.byName[k] = v
	}
	return c
}

func (m *model) putTable(p *catalogv1.Table) {
	e := &entry{proto: p, table: catalog.TableFromProto(p)}
	m.tables[p.GetId()] = e
	m.byName[p.GetNamespace()+"."+p.GetName()] = e
}

func (m *model) removeTable(e *entry) {
	delete(m.tables, e.table.ID)
	delete(m.byName, e.table.QualifiedName())
}

// snapshot is the model on the wire.
func (m *model) snapshot() *catalogv1.WatchResponse {
	snap := &catalogv1.Snapshot{Shards: m.shards, ClusterId: m.clusterID}
	for _, n := range m.namespaces {
		snap.Namespaces = append(snap.Namespaces, n)
	}
	for _, e := range m.tables {
		snap.Tables = append(snap.Tables, e.proto)
	}
	return &catalogv1.WatchResponse{Version: m.version, Event: &catalogv1.WatchResponse_Snapshot{Snapshot: snap}}
}

func number(b *bbolt.Bucket, key []byte) uint64 {
	v := b.Get(key)
	if len(v) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(v)
}

func putNumber(b *bbolt.Bucket, key []byte, v uint64) error {
	return b.Put(key, binary.BigEndian.AppendUint64(nil, v))
}

func idKey(id uint32) []byte { return binary.BigEndian.AppendUint32(nil, id) }

func putMessage(b *bbolt.Bucket, key []byte, m proto.Message) error {
	raw, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	return b.Put(key, raw)
}

func readUser(tx *bbolt.Tx, id string) (*catalogv1.User, error) {
	v := tx.Bucket(bucketUsers).Get([]byte(id))
	if v == nil {
		return nil, nil
	}
	u := &catalogv1.User{}
	if err := proto.Unmarshal(v, u); err != nil {
		return nil, dberr.New(dberr.Corrupt, "read user: %w", err)
	}
	return u, nil
}

// syncDir makes a rename durable.
func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
