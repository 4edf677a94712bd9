package shard

import (
	"context"
	"slices"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/changelog"
)

// A transaction reads first and writes everything at its end. It is logged only if no command with a place before
// its own changed a table that it read, after it read it: the transaction might as well have run in one moment, at
// that place (optimistic concurrency control with backward validation; Kung and Robinson, 1981). The grain is a table of
// one partition. Rows would let more transactions pass, and would need the conditions of their reads here, as
// somebody may write a row that a condition would have found.

// tableReadsMax bounds what one transaction may have read; each costs a look into the change log while other writes
// wait.
const tableReadsMax = 256

// tableRead is a table that a transaction read at a position. user is empty when the table has no partitions.
type tableRead struct {
	table    uint32
	user     string
	position uint64
}

// BeginCommit is Begin for a transaction: it is refused with Conflict if what it read has changed.
func (s *Shard) BeginCommit(ctx context.Context, req *storagev1.CommitRequest) (*Pending, error) {
	write := req.GetWrite()
	if err := s.WaitCatalog(ctx, write.GetCatalogVersion()); err != nil {
		return nil, err
	}
	reads, err := s.readsOf(req)
	if err != nil {
		return nil, err
	}
	return s.begin(ctx, write, reads)
}

// Remembered reports whether the request was done before, or was under way, when this attempt of it came.
func (p *Pending) Remembered() bool { return p.remembered }

// readsOf checks what the request says it read: it must be of the partition it writes.
func (s *Shard) readsOf(req *storagev1.CommitRequest) ([]tableRead, error) {
	if n := len(req.GetReads()); n > tableReadsMax {
		return nil, dberr.New(dberr.LimitExceeded, "a transaction that read %d tables, the limit is %d (tableReadsMax)", n, tableReadsMax)
	}
	p := planner{shard: s.cfg.ID, shards: s.cfg.Shards, tables: s.cfg.Tables, open: s.checkOpen}
	reads := make([]tableRead, len(req.GetReads()))
	for i, r := range req.GetReads() {
		t, ok := s.cfg.Tables.Table(r.GetTableId())
		if !ok {
			return nil, dberr.New(dberr.Conflict, "table %d was dropped after the transaction read it", r.GetTableId())
		}
		place, err := p.place(t, req.GetWrite())
		if err != nil {
			return nil, err
		}
		if place.Shard != s.cfg.ID {
			return nil, dberr.New(dberr.InvalidArgument, "%s is read in shard %d, not %d", t.QualifiedName(), place.Shard, s.cfg.ID)
		}
		reads[i] = tableRead{table: t.ID, position: r.GetPosition()}
		if t.Owned() {
			reads[i].user = req.GetWrite().GetUserId()
		}
	}
	return reads, nil
}

// checkReads refuses what depends on rows that have changed. propose is held: a command with a place before is either
// pending, or applied and in the change log.
func (s *Shard) checkReads(reads []tableRead) error {
	if len(reads) == 0 {
		return nil
	}
	if table, changing := s.pendingChange(reads); changing {
		return s.changedSinceRead(table)
	}
	log := changelog.Log{Reader: s.cfg.DB, Shard: s.cfg.ID}
	for _, r := range reads {
		changed, err := log.Changed(r.table, r.user, r.position)
		if err != nil && !dberr.Is(err, dberr.PositionGone) {
			return err
		}
		if changed || err != nil { // what happened after a position that is gone is not known
			return s.changedSinceRead(r.table)
		}
	}
	return nil
}

// pendingChange finds a table read that a command under way changes. Apply commits a command's rows before it takes
// it from those pending, so one that is not here can be seen in the change log.
func (s *Shard) pendingChange(reads []tableRead) (table uint32, changing bool) {
	s.waiting.Lock()
	defer s.waiting.Unlock()
	for _, p := range s.pending {
		for _, r := range reads {
			if (r.user == "" || r.user == p.user) && slices.Contains(p.wrote, r.table) {
				return r.table, true
			}
		}
	}
	return 0, false
}

func (s *Shard) changedSinceRead(table uint32) error {
	name := "a table"
	if t, ok := s.cfg.Tables.Table(table); ok {
		name = t.QualifiedName()
	}
	return dberr.New(dberr.Conflict, "rows of %s changed after the transaction read it: nothing was written", name)
}

// unlessReadsChanged is why a transaction was refused: a row in its way that came after it had looked is not its fault, and
// running it again helps.
func (s *Shard) unlessReadsChanged(refused error, reads []tableRead) error {
	s.propose.Lock()
	defer s.propose.Unlock()
	if err := s.checkReads(reads); err != nil {
		return err
	}
	return refused
}
