// Package dml turns INSERT, UPDATE, DELETE and batches of rows into writes of the storage role.
//
// One statement is one WriteRequest for one shard, hence one Raft entry: all or nothing. UPDATE and
// DELETE read rows with their _seq and name it in the write; if a row changed in between the storage
// role answers Conflict and the statement is computed again from what is there now.
package dml

import (
	"context"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/pause"
	"github.com/kalamdb/kalamdb-go/internal/requestid"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/access"
)

const (
	// statementRowsMax and statementBytesMax bound what one statement may write: it is one Raft
	// entry, and the entry must fit the storage role's limits (100,000 rows, 64 MiB).
	statementRowsMax  = 100_000
	statementBytesMax = 48 << 20
	// attemptsMax bounds how often a statement is computed again because rows or the schema changed.
	attemptsMax = 12
	// backoffMin and backoffMax bound the pause before the next attempt; it grows and is random, so
	// that statements in conflict do not meet again and again.
	backoffMin = time.Millisecond
	backoffMax = 50 * time.Millisecond
)

// target is a partition bound for writing.
type target struct {
	table *catalog.Table
	id    catalog.Identity
	shard uint32
	user  string // owner of the partition; empty for SHARED tables
	// version of the catalog it was bound to.
	version uint64
}

// bind checks the caller's right and finds the partition.
func bind(state *catalogview.State, id catalog.Identity, t *catalog.Table) (target, error) {
	if err := access.Write(id, t); err != nil {
		return target{}, err
	}
	if t.Kind.PerUser() {
		return target{table: t, id: id, shard: state.Shards.User(id.UserID), user: id.UserID, version: state.Version}, nil
	}
	return target{table: t, id: id, shard: state.Shards.Table(t.ID), version: state.Version}, nil
}

// batch collects the rows of one write.
type batch struct {
	target
	write *storagev1.TableWrite
	bytes int
	row   rowcodec.Row // scratch
}

func (tg target) newBatch(op storagev1.Operation) *batch {
	return &batch{target: tg, row: rowcodec.NewRow(tg.table), write: &storagev1.TableWrite{TableId: tg.table.ID,
		SchemaVersion: tg.table.SchemaVersion, Operation: op}}
}

// add encodes b.row.
func (b *batch) add() error {
	encoded := rowcodec.Append(nil, b.table, &b.row)
	b.bytes += len(encoded)
	if len(b.write.Rows) == statementRowsMax {
		return dberr.New(dberr.LimitExceeded, "one statement writes at most %d rows (limit statement_rows_max)", statementRowsMax)
	}
	if b.bytes > statementBytesMax {
		return dberr.New(dberr.LimitExceeded, "one statement writes at most %d bytes of rows (limit statement_bytes_max)", statementBytesMax)
	}
	b.write.Rows = append(b.write.Rows, encoded)
	return nil
}

// addExpecting encodes b.row for a version that must still be the newest.
func (b *batch) addExpecting(seq uint64) error {
	if err := b.add(); err != nil {
		return err
	}
	b.write.ExpectedSeqs = append(b.write.ExpectedSeqs, seq)
	return nil
}

// request is the write of the batch. A statement is one write in one shard, so its id is the write's, also
// when a conflict makes it compute the rows again: a write that failed was not remembered.
func (b *batch) request(id requestid.ID, returnRows bool) *storagev1.WriteRequest {
	return &storagev1.WriteRequest{Identity: catalog.IdentityToProto(b.id), Shard: b.shard, UserId: b.user,
		Writes: []*storagev1.TableWrite{b.write}, ReturnRows: returnRows, RequestId: id[:], CatalogVersion: b.version}
}

// retry runs attempt again while it fails because something changed since it read.
func retry(ctx context.Context, attempt func() error) error {
	wait := pause.Growing{Min: backoffMin, Max: backoffMax}
	for n := 1; ; n++ {
		err := attempt()
		if err == nil || n == attemptsMax || !dberr.Is(err, dberr.Conflict) && !dberr.Is(err, dberr.SchemaChanged) {
			return err
		}
		if err := wait.Wait(ctx); err != nil {
			return err
		}
	}
}
