package stream

import (
	"sort"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

const (
	// writeRowsMax bounds the rows of one write, as in other tables.
	writeRowsMax = 100_000
	// keyBytesMax bounds a row's key, as in other tables.
	keyBytesMax = 16 << 10
)

// statement is one write on its way: prepare needs only the rows, decide the state, apply cannot fail.
type statement struct {
	table    *catalog.Table
	user     string
	deleting bool
	skip     bool // on conflict, do nothing
	rows     []pending

	keep  bool
	bytes int
}

// pending is one row to write. old is the row a delete removes.
type pending struct {
	key      string
	row      []byte
	expected uint64
	old      *entry
}

func (s *Store) prepare(t *catalog.Table, user string, w *storagev1.TableWrite) (*statement, error) {
	if w.GetSchemaVersion() != t.SchemaVersion {
		return nil, dberr.New(dberr.SchemaChanged, "%s has schema version %d, the statement was bound to %d",
			t.QualifiedName(), t.SchemaVersion, w.GetSchemaVersion())
	}
	if len(w.GetRows()) > writeRowsMax {
		return nil, dberr.New(dberr.LimitExceeded, "a write of %d rows, the limit is %d (writeRowsMax): use several", len(w.GetRows()), writeRowsMax)
	}
	st := &statement{table: t, user: user, rows: make([]pending, 0, len(w.GetRows())),
		skip: w.GetOnConflict() == storagev1.OnConflict_ON_CONFLICT_DO_NOTHING}
	switch w.GetOperation() {
	case storagev1.Operation_OPERATION_INSERT:
	case storagev1.Operation_OPERATION_DELETE:
		st.deleting = true
	case storagev1.Operation_OPERATION_UPDATE:
		return nil, dberr.New(dberr.InvalidOperation, "UPDATE is not supported for STREAM tables")
	default:
		return nil, dberr.New(dberr.InvalidArgument, "unknown operation %d", w.GetOperation())
	}
	if n := len(w.GetExpectedSeqs()); n != 0 && n != len(w.GetRows()) {
		return nil, dberr.New(dberr.InvalidArgument, "%d rows with %d expected versions", len(w.GetRows()), n)
	}
	row := rowcodec.NewRow(t)
	for i, src := range w.GetRows() {
		if err := rowcodec.Decode(src, t, &row); err != nil {
			return nil, err
		}
		var p pending
		if len(w.GetExpectedSeqs()) > 0 {
			p.expected = w.GetExpectedSeqs()[i]
		}
		if err := s.complete(st, &p, &row, i+1); err != nil {
			return nil, err
		}
		st.rows = append(st.rows, p)
	}
	return st, nil
}

func (s *Store) complete(st *statement, p *pending, row *rowcodec.Row, n int) error {
	t := st.table
	if !st.deleting {
		if err := s.cfg.Complete(t, st.user, row, n); err != nil {
			return err
		}
		p.row = rowcodec.Append(nil, t, row)
	}
	var kbuf [4]datum.Datum
	key := kbuf[:0]
	for _, i := range t.Key() {
		if row.Values[i].IsNull() {
			return dberr.New(dberr.NotNullViolation, "NOT NULL constraint violation: column '%s' cannot be NULL (row %d)", t.Columns[i].Name, n)
		}
		key = append(key, row.Values[i])
	}
	p.key = string(keycodec.AppendKeyValues(nil, key))
	if len(p.key) > keyBytesMax {
		return dberr.New(dberr.LimitExceeded, "a key of %s is longer than %d bytes (keyBytesMax)", t.QualifiedName(), keyBytesMax)
	}
	return nil
}

// decide drops the rows that change nothing, and refuses the statement if a row conflicts or memory is full.
func (st *statement) decide(s *Store) error {
	st.keep = !st.table.Options.Ephemeral || s.cfg.Hub.Watched(st.table.ID, st.user)
	p := s.current(st.partition(), st.table)
	if !st.keep && p != nil { // the last watch has just gone
		s.forget(st.partition())
		p = nil
	}
	accept := st.acceptInsert
	if st.deleting {
		accept = st.acceptDelete
	}
	seen := make(map[string]bool, len(st.rows))
	kept := st.rows[:0]
	for _, r := range st.rows {
		var old *entry
		if p != nil {
			old = p.rows[r.key]
		}
		ok, err := accept(&r, old, seen[r.key])
		if err != nil {
			return err
		}
		if ok {
			seen[r.key] = true
			kept = append(kept, r)
		}
	}
	st.rows = kept
	return st.reserve(s)
}

func (st *statement) partition() partitionKey { return partitionKey{st.table.ID, st.user} }

func (st *statement) acceptInsert(r *pending, old *entry, again bool) (bool, error) {
	if old == nil && !again {
		return true, nil
	}
	if st.skip {
		return false, nil
	}
	return false, dberr.New(dberr.PrimaryKeyViolation, "Primary key violation: a row of %s with this key exists", st.table.QualifiedName())
}

func (st *statement) acceptDelete(r *pending, old *entry, again bool) (bool, error) {
	if old == nil || again { // never there, or expired since it was read
		return false, nil
	}
	if r.expected != 0 && r.expected != old.change.GetSeq() {
		return false, dberr.New(dberr.Conflict, "a row of %s changed since it was read", st.table.QualifiedName())
	}
	r.old = old
	return true, nil
}

// reserve takes memory for the statement. What has expired elsewhere in the shard makes room first.
func (st *statement) reserve(s *Store) error {
	if !st.keep {
		return nil
	}
	st.bytes = 0
	for i := range st.rows {
		r := &st.rows[i]
		st.bytes += (&entry{key: r.key, change: st.change(r, 0)}).bytes()
	}
	err := s.cfg.Memory.reserve(st.bytes)
	if err == nil {
		return nil
	}
	s.evictLocked()
	return s.cfg.Memory.reserve(st.bytes)
}

func (st *statement) change(r *pending, seq uint64) *storagev1.Change {
	ch := &storagev1.Change{Kind: storagev1.ChangeKind_CHANGE_KIND_INSERT, Seq: seq,
		SchemaVersion: st.table.SchemaVersion, Row: r.row}
	if st.deleting {
		ch.Kind, ch.OldRow, ch.OldSeq = storagev1.ChangeKind_CHANGE_KIND_DELETE, r.old.change.GetRow(), r.old.change.GetSeq()
	}
	return ch
}

// apply makes the changes and publishes them.
func (st *statement) apply(s *Store, returnRows bool) *storagev1.TableWriteResult {
	res := &storagev1.TableWriteResult{RowsAffected: uint64(len(st.rows)), Seqs: make([]uint64, 0, len(st.rows))}
	if len(st.rows) == 0 {
		return res
	}
	var p *partition
	if st.keep {
		p = st.open(s)
	}
	changes := make([]*storagev1.Change, len(st.rows))
	for i := range st.rows {
		r := &st.rows[i]
		ch := st.change(r, s.cfg.NextSeq())
		changes[i] = ch
		res.Seqs = append(res.Seqs, ch.GetSeq())
		if returnRows {
			res.Rows = append(res.Rows, shown(ch))
		}
		if p != nil {
			s.cfg.Memory.release(st.put(p, r, ch))
		}
	}
	s.written = changes[len(changes)-1].GetSeq()
	s.position = max(s.position, s.written)
	s.cfg.Hub.PublishUnlogged(st.table.ID, st.user, changes)
	return res
}

// shown is the row as RETURNING shows it.
func shown(ch *storagev1.Change) []byte {
	if ch.GetKind() == storagev1.ChangeKind_CHANGE_KIND_DELETE {
		return ch.GetOldRow()
	}
	return ch.GetRow()
}

func (st *statement) put(p *partition, r *pending, ch *storagev1.Change) (freed int) {
	e := &entry{change: ch, key: r.key}
	if st.deleting {
		return p.remove(r.old, e)
	}
	return p.insert(e)
}

// open returns the partition to write to, a new one if need be: its history starts here.
func (st *statement) open(s *Store) *partition {
	k := st.partition()
	p := s.partitions[k]
	if p == nil {
		p = newPartition(s.absentFloor(st.table))
		s.partitions[k] = p
	}
	p.configure(st.table, s.cfg.RowsMax)
	return p
}

// after returns the number of entries up to a position.
func (p *partition) after(seq uint64) int {
	return sort.Search(len(p.entries), func(i int) bool { return p.entries[i].change.GetSeq() > seq })
}

// oldestVisible is the position up to which everything has expired. The bits below a _seq's milliseconds
// are left at zero, which is at most a millisecond too careful.
func oldestVisible(now time.Time, ttl time.Duration) uint64 {
	return seqAt(now.Add(-ttl))
}

// seqAt is the lowest _seq of a time.
func seqAt(t time.Time) uint64 {
	const seqTimeShift = 22 // of the snowflake layout, see the RFC
	ms := t.Sub(snowflake.SeqEpoch).Milliseconds()
	if ms < 0 {
		return 0
	}
	return uint64(ms) << seqTimeShift
}
