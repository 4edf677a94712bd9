// Package transaction holds what the statements between BEGIN and COMMIT of one request have read and want to write.
//
// Nothing is sent before COMMIT. A statement sees the rows of those before it: its scans are laid under the rows staged
// here. At COMMIT everything is one request to the leader of one partition, which makes one entry of its log, if no
// table that was read has changed since; otherwise the statements run again from the first. So transactions are
// serializable, and one that fails has no effect.
package transaction

import (
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/partition"
	"github.com/kalamdb/kalamdb-go/internal/requestid"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

const (
	// RowsMax and BytesMax bound what a transaction may write: it is one Raft entry, and the entry must fit the
	// storage role's limits (100,000 rows, 64 MiB).
	RowsMax  = 100_000
	BytesMax = 48 << 20
	// stagedBit marks the _seq of a row that has none yet: it is that of a node number which no storage node has. Below
	// it is the row's ordinal.
	stagedBit = 1 << 21
	timeShift = 22
)

// Transaction is one attempt of a transaction. Its statements run one after the other, but the scans of one may run
// at the same time: what they call, Enter, Read and Table, is safe for that.
type Transaction struct {
	now time.Time

	mu sync.Mutex // guards what scans change: entered, place, id, reads
	// entered says that the first statement has decided whose partition this is about.
	entered bool
	place   partition.Place
	id      catalog.Identity
	version uint64 // the highest catalog version a write was bound to

	writes []*storagev1.TableWrite
	reads  []*storagev1.TableRead
	tables map[uint32]*Table
	rows   int
	bytes  int
}

// New begins a transaction; now is the time its rows show as _updated until it is committed.
func New(now time.Time) *Transaction {
	return &Transaction{now: now, tables: map[uint32]*Table{}}
}

// IsStaged reports whether a _seq stands for a row that the transaction itself wrote.
func IsStaged(seq uint64) bool { return seq&stagedBit != 0 }

// Writes reports whether anything is staged.
func (t *Transaction) Writes() bool { return t.rows > 0 }

// Enter says that a statement is about a partition; a transaction is about one.
func (t *Transaction) Enter(id catalog.Identity, table *catalog.Table, place partition.Place) error {
	if table.Kind == catalog.StreamTable {
		return dberr.New(dberr.InvalidOperation, "%s is a STREAM table: it cannot be part of a transaction", table.QualifiedName())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.entered {
		t.entered, t.place, t.id = true, place, id
		return nil
	}
	if id.UserID != t.id.UserID {
		return dberr.New(dberr.InvalidOperation, "a transaction acts for one user: this one began as %s", t.id.UserID)
	}
	if place != t.place {
		return dberr.New(dberr.InvalidOperation, "a transaction covers the tables of one user, or one partition of a SHARED table: "+
			"%s belongs to another partition than the tables before it", table.QualifiedName())
	}
	return nil
}

// Read notes that a table was read at a position. The first reading counts: what has changed since then makes
// the transaction fail.
func (t *Transaction) Read(table *catalog.Table, position uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.reads {
		if r.GetTableId() == table.ID {
			r.Position = min(r.GetPosition(), position)
			return
		}
	}
	t.reads = append(t.reads, &storagev1.TableRead{TableId: table.ID, Position: position})
}

// Table returns what is staged of a table; nil when nothing is.
func (t *Transaction) Table(table *catalog.Table) (*Table, error) {
	s := t.tables[table.ID]
	if s != nil && s.table.SchemaVersion != table.SchemaVersion {
		return nil, dberr.New(dberr.SchemaChanged, "%s changed while the transaction ran", table.QualifiedName())
	}
	return s, nil
}

// Stage adds a statement's write and returns its number and what stands for the _seq of its rows until the
// transaction is committed. Rows must be complete.
func (t *Transaction) Stage(table *catalog.Table, version uint64, w *storagev1.TableWrite) (n int, seqs []uint64, err error) {
	s, err := t.Table(table)
	if err != nil {
		return 0, nil, err
	}
	if s == nil {
		s = newTable(table)
		t.tables[table.ID] = s
	}
	for i, encoded := range w.GetRows() {
		t.rows++
		t.bytes += len(encoded)
		if t.rows > RowsMax {
			return 0, nil, dberr.New(dberr.LimitExceeded, "one transaction writes at most %d rows (limit transaction_rows_max)", RowsMax)
		}
		if t.bytes > BytesMax {
			return 0, nil, dberr.New(dberr.LimitExceeded, "one transaction writes at most %d bytes of rows (limit transaction_bytes_max)", BytesMax)
		}
		row := s.empty.Another()
		if err := rowcodec.Decode(encoded, table, &row.Row); err != nil {
			return 0, nil, err
		}
		row.Seq, row.Deleted = t.seq(), w.GetOperation() == storagev1.Operation_OPERATION_DELETE
		if err := s.put(row, w.GetOperation() == storagev1.Operation_OPERATION_INSERT, i+1); err != nil {
			return 0, nil, err
		}
		seqs = append(seqs, row.Seq)
	}
	t.version = max(t.version, version)
	t.writes = append(t.writes, w)
	return len(t.writes) - 1, seqs, nil
}

func (t *Transaction) seq() uint64 {
	ms := uint64(t.now.Sub(snowflake.SeqEpoch).Milliseconds())
	return ms<<timeShift | stagedBit | uint64(t.rows)
}

// Request is what commits the transaction; nil when it touched nothing. A fence makes it remembered even if it writes
// nothing.
func (t *Transaction) Request(id requestid.ID, fence, returnRows bool) *storagev1.CommitRequest {
	if !t.entered {
		return nil
	}
	return &storagev1.CommitRequest{Reads: t.reads, Write: &storagev1.WriteRequest{Identity: catalog.IdentityToProto(t.id),
		Shard: t.place.Shard, UserId: t.place.Owner, Writes: t.writes, ReturnRows: returnRows, RequestId: id[:],
		CatalogVersion: t.version, Fence: fence}}
}

// Confirmation is a request that writes nothing: it succeeds if what was read was so at one moment. Nil when nothing was
// read.
func (t *Transaction) Confirmation() *storagev1.CommitRequest {
	if len(t.reads) == 0 {
		return nil
	}
	return &storagev1.CommitRequest{Reads: t.reads, Write: &storagev1.WriteRequest{Identity: catalog.IdentityToProto(t.id),
		Shard: t.place.Shard, UserId: t.place.Owner, CatalogVersion: t.version}}
}
