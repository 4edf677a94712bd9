// Package storagefake is a storage role for tests: rows and changes in memory behind the same services
// as the real one, with its rules (positions, order, pruning) and with faults on command. It serves on
// an rpcnet.Network, so that what is tested cannot tell.
package storagefake

import (
	"sync"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// FirstSeq is the position of an empty storage: a _seq of the year 2026, so that NOW() means something.
const FirstSeq = uint64(1) << 57

// Storage is the fake.
type Storage struct {
	network rpcnet.Network

	mu     sync.Mutex
	nodes  []*Node
	leader *Node // of the only shard; nil while there is none

	seq        uint64
	tables     map[uint32]*catalog.Table
	users      map[string]*catalogv1.User
	version    uint64
	catalog    []chan *catalogv1.WatchResponse
	partitions map[partitionKey]*partition
	sessions   map[*session]struct{}
	refuse     bool          // watches are answered with Unavailable
	scans      int           // scans served
	beforeScan func()        // called before a scan reads, without the lock
	scanRows   uint64        // scans for more are refused, unless zero
	view       *view         // scans read it instead of what is there now
	held       chan struct{} // watch streams send nothing until it is closed
}

type partitionKey struct {
	table uint32
	user  string
}

// partition is one partition: its rows by key, and its change log.
type partition struct {
	rows    map[int64]*row
	log     []*storagev1.Change
	pruned  uint64 // changes up to here are gone
	watches map[*watch]struct{}
}

type row struct {
	values []datum.Datum
	seq    uint64
}

// Start serves an empty storage as "storage".
func Start(network rpcnet.Network) (*Storage, error) {
	return StartNodes(network, "storage")
}

// Stop ends everything at once.
func (s *Storage) Stop() {
	s.Break()
	for _, n := range s.nodes {
		n.Stop()
	}
}

// Break cuts all watch streams; what is watched is opened again by those who want it.
func (s *Storage) Break() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ss := range s.sessions {
		ss.broken = true // nothing that happens from now on is sent, however late the stream notices
		for _, w := range ss.watches {
			delete(w.part.watches, w)
		}
		clear(ss.watches)
		ss.cancel()
	}
}

// Refuse makes new watches end with Unavailable, or not any more.
func (s *Storage) Refuse(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = on
}

// Hold stops all watch streams from sending until the result is called.
func (s *Storage) Hold() (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := make(chan struct{})
	s.held = held
	return func() {
		s.mu.Lock()
		s.held = nil
		s.mu.Unlock()
		close(held)
	}
}

// BeforeScan sets a function that is called before every scan reads.
func (s *Storage) BeforeScan(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.beforeScan = f
}

// LimitScans refuses scans that ask for more than n rows with LimitExceeded.
func (s *Storage) LimitScans(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scanRows = n
}

// view is the rows at a position.
type view struct {
	seq  uint64
	rows map[partitionKey][]*row
}

// FreezeScans makes scans read what is there now until the result is called, as a replica that is
// behind would.
func (s *Storage) FreezeScans() (thaw func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view = &view{seq: s.seq, rows: map[partitionKey][]*row{}}
	for key, p := range s.partitions {
		for _, r := range p.rows {
			s.view.rows[key] = append(s.view.rows[key], r)
		}
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.view = nil
	}
}

// now is the view of what is there. s.mu is held.
func (s *Storage) now(key partitionKey) (rows []*row, seq uint64) {
	if s.view != nil {
		return s.view.rows[key], s.view.seq
	}
	for _, r := range s.partition(key).rows {
		rows = append(rows, r)
	}
	return rows, s.seq
}

// Scans is the number of scans served.
func (s *Storage) Scans() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.scans
}

// Watches is the number of open watches.
func (s *Storage) Watches() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, p := range s.partitions {
		n += len(p.watches)
	}
	return n
}

// Prune forgets the changes of a partition so far.
func (s *Storage) Prune(table uint32, user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.partition(partitionKey{table, user})
	p.log, p.pruned = nil, s.seq
}

// SetPosition sets the last _seq given out, also to zero, as a storage that was never written to has it.
func (s *Storage) SetPosition(seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq = seq
}

// Position is the last _seq given out.
func (s *Storage) Position() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seq
}

func (s *Storage) partition(key partitionKey) *partition {
	p := s.partitions[key]
	if p == nil {
		p = &partition{rows: map[int64]*row{}, watches: map[*watch]struct{}{}}
		s.partitions[key] = p
	}
	return p
}

// Put inserts or updates a row; values are in the order of the table's columns, the first one the key,
// an integer. It returns the row's _seq.
func (s *Storage) Put(table uint32, user string, values ...datum.Datum) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, t := s.partition(partitionKey{table, user}), s.tables[table]
	s.seq++
	ch := &storagev1.Change{Kind: storagev1.ChangeKind_CHANGE_KIND_INSERT, Seq: s.seq, SchemaVersion: t.SchemaVersion, Row: encode(t, values)}
	key := values[0].AsInt()
	if old := p.rows[key]; old != nil {
		ch.Kind, ch.OldRow, ch.OldSeq = storagev1.ChangeKind_CHANGE_KIND_UPDATE, encode(t, old.values), old.seq
	}
	p.rows[key] = &row{values: values, seq: s.seq}
	s.publish(p, ch)
	return s.seq
}

// Delete deletes a row and returns the deletion's _seq; zero when there is no such row.
func (s *Storage) Delete(table uint32, user string, key int64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, t := s.partition(partitionKey{table, user}), s.tables[table]
	old := p.rows[key]
	if old == nil {
		return 0
	}
	s.seq++
	delete(p.rows, key)
	s.publish(p, &storagev1.Change{Kind: storagev1.ChangeKind_CHANGE_KIND_DELETE, Seq: s.seq, SchemaVersion: t.SchemaVersion,
		OldRow: encode(t, old.values), OldSeq: old.seq})
	return s.seq
}

// PutRaw appends a change that may be nonsense.
func (s *Storage) PutRaw(table uint32, user string, ch *storagev1.Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	ch.Seq = s.seq
	s.publish(s.partition(partitionKey{table, user}), ch)
}

// Rows returns a partition's rows as text, by key.
func (s *Storage) Rows(table uint32, user string) map[int64][]datum.Datum {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[int64][]datum.Datum{}
	for k, r := range s.partition(partitionKey{table, user}).rows {
		out[k] = r.values
	}
	return out
}

func (s *Storage) publish(p *partition, ch *storagev1.Change) {
	p.log = append(p.log, ch)
	for w := range p.watches {
		w.session.touch(w)
	}
}

func encode(t *catalog.Table, values []datum.Datum) []byte {
	r := rowcodec.NewRow(t)
	for i, d := range values {
		r.Put(i, d)
	}
	return rowcodec.Append(nil, t, &r)
}
