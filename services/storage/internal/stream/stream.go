// Package stream holds STREAM tables: in the memory of the shard's leader, not replicated, gone after
// their time to live.
//
// A row is invisible once its _seq is older than the table's TTL, and removed when its partition is next
// touched or by the eviction; a user without rows costs nothing. Of each partition the newest MAX_BUFFER
// rows are kept, of an EPHEMERAL table only while somebody watches the partition. Changes go to the
// shard's watch.Hub like those of other tables, but move no position of the shard; what memory holds of
// them is the history watches and resuming subscribers read.
package stream

import (
	"context"
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/command"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/watch"
)

const (
	// rowsMaxDefault is MAX_BUFFER where the table says nothing (spec 6.3).
	rowsMaxDefault = 10_000
	// rowsMaxLimit bounds MAX_BUFFER: a scan sorts the rows of a partition.
	rowsMaxLimit = 1_000_000
)

// Tables finds the newest version of a table.
type Tables interface {
	Table(id uint32) (*catalog.Table, bool)
}

// Config is what a Store needs.
type Config struct {
	Shard  uint32
	Hub    *watch.Hub
	Memory *Memory
	Tables Tables
	// NextSeq makes the _seq of a new row version: the shard's generator.
	NextSeq func() uint64
	// Applied is the highest _seq the shard applied: the positions that watches are told include it. Nil means that
	// the shard has no other tables.
	Applied func() uint64
	// Complete fills in the defaults of an inserted row and checks it; n counts the statement's rows from 1.
	Complete func(t *catalog.Table, user string, row *rowcodec.Row, n int) error
	// Open refuses users whose accounts are closed for good; nil refuses nobody.
	Open func(user string) error
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// RowsMax is MAX_BUFFER of tables that do not say; zero means 10,000.
	RowsMax int
}

type partitionKey struct {
	table uint32
	user  string
}

// Store holds the STREAM tables of one shard. It is safe for concurrent use.
type Store struct {
	cfg Config

	mu         sync.Mutex
	partitions map[partitionKey]*partition
	// leads: this node serves the shard. Between two leaderships nothing is kept, so nothing is answered.
	leads bool
	// start is the position before which this memory knows nothing; zero until it is used.
	start uint64
	// written is the newest _seq written here, or start. position is that or the shard's: what Position tells.
	written  uint64
	position uint64
	repeats  repeats
}

var _ watch.Unlogged = (*Store)(nil)

// New makes an empty store and connects it to its hub and memory.
func New(cfg Config) *Store {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.RowsMax == 0 {
		cfg.RowsMax = rowsMaxDefault
	}
	s := &Store{cfg: cfg, partitions: map[partitionKey]*partition{}}
	cfg.Hub.ServeUnlogged(s)
	cfg.Memory.add(s)
	return s
}

// begin fixes the start of history at the first use: the shard serves by then, so the generator is above
// everything an earlier process made. It moves the position to the shard's: both get their _seq from one generator,
// and what this memory was given a lower one for is written, as mu is held meanwhile.
func (s *Store) begin() {
	if s.start == 0 {
		s.start = s.cfg.NextSeq()
		s.written, s.position = s.start, s.start
	}
	if s.cfg.Applied != nil {
		s.position = max(s.position, s.cfg.Applied())
	}
}

// Lead begins to serve. The shard leads by then.
func (s *Store) Lead() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leads, s.start = true, 0
}

// Reset forgets everything, and serves nothing until Lead: this node no longer leads the shard.
func (s *Store) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.partitions {
		s.forget(k)
	}
	s.leads, s.start = false, 0
	s.repeats.reset()
}

func (s *Store) notLeader() error {
	return dberr.New(dberr.NotLeader, "this node does not lead shard %d", s.cfg.Shard)
}

// DropTable forgets a table's rows.
func (s *Store) DropTable(table uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.partitions {
		if k.table == table {
			s.forget(k)
		}
	}
}

// RowsOf counts a user's rows by table, expired ones that were not yet removed included.
func (s *Store) RowsOf(user string) map[uint32]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	rows := map[uint32]int{}
	for k, p := range s.partitions {
		if k.user == user {
			rows[k.table] = len(p.rows)
		}
	}
	return rows
}

// EraseUser forgets all that a user has, and what was answered to the user.
func (s *Store) EraseUser(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.partitions {
		if k.user == user {
			s.forget(k)
		}
	}
	s.repeats.forgetUser(user)
}

// Forget is called by the hub when the last watch of a partition has gone: an EPHEMERAL one ends.
func (s *Store) Forget(table uint32, user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := partitionKey{table, user}
	if p := s.partitions[k]; p != nil && p.ephemeral && !s.cfg.Hub.Watched(table, user) {
		s.forget(k)
	}
}

func (s *Store) forget(k partitionKey) {
	s.cfg.Memory.release(s.partitions[k].bytes)
	delete(s.partitions, k)
}

// evict removes what has expired, and partitions that are empty.
func (s *Store) evict() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.evictLocked()
}

func (s *Store) evictLocked() {
	now := s.cfg.Now()
	for k, p := range s.partitions {
		s.cfg.Memory.release(p.expire(now))
		if p.idle(now) {
			s.forget(k)
		}
	}
}

// current returns a partition without its expired rows, or nil.
func (s *Store) current(k partitionKey, t *catalog.Table) *partition {
	p := s.partitions[k]
	if p == nil {
		return nil
	}
	now := s.cfg.Now()
	p.configure(t, s.cfg.RowsMax)
	s.cfg.Memory.release(p.expire(now))
	if p.idle(now) {
		s.forget(k)
		return nil
	}
	return p
}

// Position is one that every write up to it has been published at, and none is later than.
func (s *Store) Position() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begin()
	return s.position
}

// Row is one row of a partition.
type Row struct {
	// Key is the primary key as keycodec.AppendKeyValues encodes it.
	Key     string
	Version keycodec.Version
}

// Rows returns a partition's rows in no order, and the position they are at: every write up to it is in
// them, none after.
func (s *Store) Rows(t *catalog.Table, user string) (rows []Row, position uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.leads {
		return nil, 0, s.notLeader()
	}
	s.begin()
	p := s.current(partitionKey{t.ID, user}, t)
	if p == nil {
		return nil, s.position, nil
	}
	rows = make([]Row, 0, len(p.rows))
	for key, e := range p.rows {
		rows = append(rows, Row{Key: key, Version: keycodec.Version{Seq: e.change.GetSeq(),
			SchemaVersion: e.change.GetSchemaVersion(), Row: e.change.GetRow()}})
	}
	return rows, s.position, nil
}

// readMax bounds the changes of one Read; each is only a pointer.
const readMax = 512

// Read returns the partition's next changes after a position. What memory no longer holds, or never did,
// is answered with PositionGone.
func (s *Store) Read(table uint32, user string, afterSeq uint64) (changes []*storagev1.Change, more bool, err error) {
	t, ok := s.cfg.Tables.Table(table)
	if !ok {
		return nil, false, dberr.New(dberr.NotFound, "the table was dropped")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.leads {
		return nil, false, s.notLeader()
	}
	s.begin()
	if afterSeq > s.position {
		return nil, false, dberr.New(dberr.PositionGone, "position %d is ahead of the STREAM tables of shard %d, which are at %d: read the table again",
			afterSeq, s.cfg.Shard, s.position)
	}
	p := s.current(partitionKey{table, user}, t)
	floor := s.absentFloor(t)
	if p != nil {
		floor = p.floor
	}
	if afterSeq < floor {
		return nil, false, dberr.New(dberr.PositionGone, "position %d is older than what memory holds of %s, which starts after %d: read the table again",
			afterSeq, t.QualifiedName(), floor)
	}
	if p == nil {
		return nil, false, nil
	}
	for _, e := range p.entries[p.after(afterSeq):] {
		if len(changes) == readMax {
			return changes, true, nil
		}
		changes = append(changes, e.change)
	}
	return changes, false, nil
}

// absentFloor is the position up to which changes of a partition that is not held are unknown: there were
// none that are still within the time to live, and an EPHEMERAL table keeps none while nobody watches.
func (s *Store) absentFloor(t *catalog.Table) uint64 {
	if t.Options.Ephemeral {
		return s.written
	}
	return max(s.start, oldestVisible(s.cfg.Now(), ttlOf(t)))
}

// Stats returns how many rows of a table are held, expired ones that were not yet removed included, and
// their bytes.
func (s *Store) Stats(table uint32) (rows, bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, p := range s.partitions {
		if k.table == table {
			rows += len(p.rows)
			bytes += p.bytes
		}
	}
	return rows, bytes
}

// Write inserts or deletes the rows of one statement, all or none. The caller has checked that the user may;
// returnRows asks for the rows as stored.
func (s *Store) Write(ctx context.Context, t *catalog.Table, user string, w *storagev1.TableWrite, returnRows bool) (*storagev1.TableWriteResult, error) {
	return s.WriteOnce(ctx, nil, t, user, w, returnRows)
}

// WriteOnce is Write for a request with an id: another attempt is answered as the first, as long as this node
// leads and remembers it. A request that was refused is tried anew.
func (s *Store) WriteOnce(ctx context.Context, id []byte, t *catalog.Table, user string, w *storagev1.TableWrite, returnRows bool) (*storagev1.TableWriteResult, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(id) != 0 && len(id) != command.RequestIDBytes {
		return nil, dberr.New(dberr.InvalidArgument, "a request id of %d bytes, it must have %d", len(id), command.RequestIDBytes)
	}
	st, err := s.prepare(t, user, w)
	if err != nil {
		return nil, err
	}
	defer s.cfg.Hub.HoldProgress()() // from choosing the _seqs until they are published
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.leads {
		return nil, s.notLeader()
	}
	if s.cfg.Open != nil { // under mu: what EraseUser finds is all there will be
		if err := s.cfg.Open(user); err != nil {
			return nil, err
		}
	}
	key := repeatKey(id, user)
	if answer := s.repeats.get(key); answer != nil {
		return answer, nil
	}
	s.begin()
	if err := st.decide(s); err != nil {
		return nil, err
	}
	answer := st.apply(s, returnRows)
	s.repeats.put(key, answer)
	return answer, nil
}
