// Package catalogstate is the state of group 0: namespaces, tables, users, nodes and where replicas are.
//
// Everything is in one bbolt file, changed in one transaction per batch of entries together with the
// applied index. All but users, of which there may be millions, is also in memory, as an immutable model
// that is replaced by each change.
package catalogstate

import (
	"cmp"
	"encoding/binary"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
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

	// Since RFC 0002; files from before get them when they are opened.
	bucketNodes      = []byte("nodes")        // node id → Node
	bucketPlacements = []byte("placements")   // group → Placement
	bucketRetired    = []byte("retired")      // id of a removed stateless node → when, u64 µs
	bucketFormer     = []byte("former")       // server id of a storage node that was removed or replaced → when, u64 µs
	bucketRequests   = []byte("requests")     // request id → index, outcome
	bucketRequestLog = []byte("requests_log") // index → request id
)

// buckets are all of them.
var buckets = [][]byte{bucketMeta, bucketNamespaces, bucketTables, bucketUsers, bucketDropped,
	bucketNodes, bucketPlacements, bucketRetired, bucketFormer, bucketRequests, bucketRequestLog}

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
	keyFactor    = []byte("replication_factor")
	keyLogFormat = []byte("log_format") // the highest Format of a command in the log
	keyRequests  = []byte("requests")   // how many ids bucketRequests holds
)

const (
	// format of the file. It did not change with the buckets of RFC 0002: they are made where they are missing, and
	// a version that does not know them serves the rest of the file as it did.
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

	// file guards db against Restore and Compact, which replace it.
	file sync.RWMutex
	db   *bbolt.DB
	// writing keeps what is applied from being lost while Compact copies the file. Lock order: writing, committing, file.
	writing sync.Mutex

	// committing is held from before entries are in the file until they are published. bbolt shows a transaction before it has returned:
	// who reads from the file what others then look for in the model takes it.
	committing sync.RWMutex

	// mu orders publishing with new watchers. It guards watchers.
	mu       sync.Mutex
	watchers map[*watcher]struct{}
	model    atomic.Pointer[model]
	applied  atomic.Uint64
	broken   atomic.Bool   // an entry could not be applied, or a restore did not end
	moved    chan struct{} // closed and replaced by each change; guarded by mu

	sums sums

	dropped chan struct{} // one token: a table waits to be purged
	jobs    chan struct{} // one token: a job was made or moved
	left    chan struct{} // one token: a user was dropped
}

// model is one version of what is held in memory. It and all it points to are immutable.
type model struct {
	version    uint64
	clusterID  string
	shards     uint32
	namespaces map[string]*catalogv1.Namespace
	tables     map[uint32]*entry
	byName     map[string]*entry // namespace.name
	factor     uint32            // replication factor; 0 in a catalog from before there was one
	logFormat  uint32
	clusterKey *catalogv1.ClusterKey // nil: there is none
	nodes      map[uint32]*catalogv1.Node
	placements map[uint32]*catalogv1.Placement
	erasing    map[string]string             // user → job
	storages   map[string]*catalogv1.Storage // without local
}

// entry is a table in both forms.
type entry struct {
	proto *catalogv1.Table
	table *catalog.Table
}

// Open opens or creates the state.
func Open(cfg Config) (*State, error) {
	for _, suffix := range []string{restoreSuffix, compactSuffix} {
		if err := os.Remove(cfg.Path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, dberr.New(dberr.Unavailable, "remove an unfinished file of the catalog: %w", err)
		}
	}
	s := &State{cfg: cfg, watchers: map[*watcher]struct{}{}, dropped: make(chan struct{}, 1), jobs: make(chan struct{}, 1),
		left: make(chan struct{}, 1), moved: make(chan struct{})}
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

// prepare makes the buckets of a new file and those an older file lacks, and refuses one of a newer version.
func prepare(db *bbolt.DB) error {
	missing := false
	err := db.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket(bucketMeta); b != nil {
			if f := number(b, keyFormat); f != format {
				return dberr.New(dberr.Unsupported, "the catalog has format %d, this version reads %d", f, format)
			}
		}
		for _, name := range buckets {
			missing = missing || tx.Bucket(name) == nil
		}
		return nil
	})
	if err != nil || !missing {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range buckets {
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
	m := &model{namespaces: map[string]*catalogv1.Namespace{}, tables: map[uint32]*entry{}, byName: map[string]*entry{},
		nodes: map[uint32]*catalogv1.Node{}, placements: map[uint32]*catalogv1.Placement{}, erasing: map[string]string{},
		storages: map[string]*catalogv1.Storage{}}
	var applied uint64
	err := db.View(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		applied, m.version = number(meta, keyApplied), number(meta, keyVersion)
		m.shards, m.clusterID = uint32(number(meta, keyShards)), string(meta.Get(keyClusterID))
		m.factor, m.logFormat = uint32(number(meta, keyFactor)), uint32(number(meta, keyLogFormat))
		var err error
		if m.clusterKey, err = readClusterKey(meta.Get(keyClusterKey)); err != nil {
			return err
		}
		return errors.Join(
			each(tx, bucketNamespaces, func(n *catalogv1.Namespace) { m.namespaces[n.GetName()] = n }),
			each(tx, bucketTables, m.putTable),
			each(tx, bucketNodes, func(n *catalogv1.Node) { m.nodes[n.GetNodeId()] = n }),
			each(tx, bucketPlacements, func(p *catalogv1.Placement) { m.placements[p.GetGroup()] = p }),
			loadErasing(tx, m), loadStorages(tx, m))
	})
	if err != nil {
		return dberr.New(dberr.Corrupt, "read the catalog: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.model.Store(m)
	s.applied.Store(applied)
	s.wakeLocked()
	return nil
}

// each decodes every value of a bucket.
func each[M any, P interface {
	*M
	proto.Message
}](tx *bbolt.Tx, bucket []byte, f func(P)) error {
	return tx.Bucket(bucket).ForEach(func(_, v []byte) error {
		m := P(new(M))
		if err := proto.Unmarshal(v, m); err != nil {
			return err
		}
		f(m)
		return nil
	})
}

// Close closes the file, after the group has stopped.
func (s *State) Close() error {
	s.file.Lock()
	defer s.file.Unlock()
	s.EndWatches(dberr.New(dberr.Unavailable, "this node is stopping"))
	s.sums.cancel()
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

// Tables returns the newest versions of all tables that exist, in order of id.
func (s *State) Tables() []*catalog.Table {
	m := s.model.Load()
	out := make([]*catalog.Table, 0, len(m.tables))
	for _, e := range m.tables {
		out = append(out, e.table)
	}
	slices.SortFunc(out, func(a, b *catalog.Table) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Cluster returns the cluster's id and its number of shards; "" and 0 before InitCluster.
func (s *State) Cluster() (id string, shards uint32) {
	m := s.model.Load()
	return m.clusterID, m.shards
}

// Dropped signals that a table may wait to be purged.
func (s *State) Dropped() <-chan struct{} { return s.dropped }

// UsersLeft signals that a user may have been dropped.
func (s *State) UsersLeft() <-chan struct{} { return s.left }

// NextTable is above the ids of all tables there are and were.
func (s *State) NextTable() (next uint32, err error) {
	err = s.view(func(tx *bbolt.Tx) error {
		next = uint32(number(tx.Bucket(bucketMeta), keyNextTable)) + 1
		return nil
	})
	return next, err
}

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
	c := *m
	c.namespaces, c.tables, c.byName = maps.Clone(m.namespaces), maps.Clone(m.tables), maps.Clone(m.byName)
	c.nodes, c.placements, c.storages = maps.Clone(m.nodes), maps.Clone(m.placements), maps.Clone(m.storages)
	c.erasing = maps.Clone(m.erasing)
	return &c
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
	snap := &catalogv1.Snapshot{Shards: m.shards, ClusterId: m.clusterID, ReplicationFactor: m.replicationFactor(),
		Nodes: m.sortedNodes(), Placements: m.sortedPlacements(), Storages: m.shownStorages()}
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

func numberKey(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

func idKey(id uint32) []byte { return binary.BigEndian.AppendUint32(nil, id) }

// stored is how messages are written: replicas compare their bytes.
var stored = proto.MarshalOptions{Deterministic: true}

func putMessage(b *bbolt.Bucket, key []byte, m proto.Message) error {
	raw, err := stored.Marshal(m)
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
