// Package dml turns INSERT, UPDATE, DELETE and batches of rows into writes of the storage role.
//
// One statement is one WriteRequest for one shard, hence one Raft entry: all or nothing. Only a statement that writes
// several partitions of a partitioned table is one request for each, and all or nothing in each. UPDATE and
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
	"github.com/kalamdb/kalamdb-go/internal/shardmap"
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

// target is a table bound for writing.
type target struct {
	table  *catalog.Table
	id     catalog.Identity
	shards shardmap.Map
	// version of the catalog it was bound to.
	version uint64
}

// bind checks the caller's right.
func bind(state *catalogview.State, id catalog.Identity, t *catalog.Table) (target, error) {
	if err := access.Write(id, t); err != nil {
		return target{}, err
	}
	return target{table: t, id: id, shards: state.Shards, version: state.Version}, nil
}

// again reports whether another attempt may succeed: something changed since this one read.
func again(err error) bool {
	return dberr.Is(err, dberr.Conflict) || dberr.Is(err, dberr.SchemaChanged)
}

// Retry runs an attempt of a statement or a transaction again while it fails because something changed since it read.
func Retry(ctx context.Context, attempt func() error) error {
	wait := pause.Growing{Min: backoffMin, Max: backoffMax}
	for n := 1; ; n++ {
		err := attempt()
		if err == nil || n == attemptsMax || !again(err) {
			return err
		}
		if err := wait.Wait(ctx); err != nil {
			return err
		}
	}
}
