package shard

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/undo"
)

// snapshot returns the state as of now, of a leader that is certain to lead, and its position.
func (s *Shard) snapshot(ctx context.Context) (*pebble.Snapshot, uint64, error) {
	if err := s.ReadBarrier(ctx); err != nil {
		return nil, 0, err
	}
	snap := s.cfg.DB.NewSnapshot()
	applied, err := readApplied(snap, s.cfg.ID)
	if err != nil {
		return nil, 0, errors.Join(err, snap.Close())
	}
	return snap, applied.Seq, nil
}

// CheckRestore refuses to restore a user's rows to a moment that the change log does not reach, or, thorough, of which it cannot tell all
// rows. It returns the shard's position.
func (s *Shard) CheckRestore(ctx context.Context, tables []*catalog.Table, user string, moment time.Time, thorough bool) (position uint64, err error) {
	snap, position, err := s.snapshot(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, snap.Close()) }()
	if err := undo.CheckReach(snap, s.cfg.ID, moment); err != nil {
		return 0, err
	}
	for _, t := range tables {
		if !thorough {
			break
		}
		if _, err := undo.Read(ctx, snap, undo.Partition{Shard: s.cfg.ID, Table: t, User: user}, undo.After(moment), position, undo.Limits{}); err != nil {
			return 0, err
		}
	}
	return position, nil
}

// CheckEmpty refuses to restore into partitions that have rows. It returns the shard's position.
func (s *Shard) CheckEmpty(ctx context.Context, tables []*catalog.Table, user string) (position uint64, err error) {
	snap, position, err := s.snapshot(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, snap.Close()) }()
	for _, t := range tables {
		err := s.eachRow(ctx, snap, t, user, func([]byte, []byte) error {
			return dberr.New(dberr.InvalidOperation, "user '%s' has rows in %s: rows are restored into a user without any; delete them, or name another user",
				user, t.QualifiedName())
		})
		if err != nil {
			return 0, err
		}
	}
	return position, nil
}

// RestoreUser makes a user's rows of a table what they were at a moment. Rows written after position, where the restore began, stay, but
// for those that it has written itself.
func (s *Shard) RestoreUser(ctx context.Context, table uint32, user string, moment time.Time, position uint64) (counts *storagev1.RestoredRows, err error) {
	snap, _, err := s.snapshot(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, snap.Close()) }()
	t, err := s.userTable(table)
	if err != nil {
		return nil, err
	}
	// In this view no change goes: what retention drops meanwhile can still be read.
	of := undo.Partition{Shard: s.cfg.ID, Table: t, User: user}
	if err := undo.CheckReach(snap, s.cfg.ID, moment); err != nil {
		return nil, err
	}
	plan, err := undo.Read(ctx, snap, of, undo.After(moment), position, undo.Limits{})
	if err != nil {
		return nil, err
	}
	r := &undoer{shard: s, table: table, user: user, position: position, past: plan.Row}
	if err := r.run(ctx, plan.Keys()); err != nil {
		return nil, err
	}
	newer, err := s.changedSince(ctx, plan, position)
	r.counts.Newer += newer
	return &r.counts, err
}

// changedSince counts rows that the plan does not have and that were written after a position. It is told to people only: what cannot be
// counted is left out.
func (s *Shard) changedSince(ctx context.Context, plan *undo.Plan, position uint64) (n uint64, err error) {
	snap := s.cfg.DB.NewSnapshot()
	defer func() { err = errors.Join(err, snap.Close()) }()
	n, err = plan.Changed(ctx, snap, position)
	if dberr.Is(err, dberr.LimitExceeded) || dberr.Is(err, dberr.PositionGone) {
		return 0, nil
	}
	return n, err
}

// userTable is a USER table as it is now.
func (s *Shard) userTable(id uint32) (*catalog.Table, error) {
	t, ok := s.cfg.Tables.Table(id)
	if !ok {
		return nil, dberr.New(dberr.TableNotFound, "table %d does not exist", id)
	}
	if t.Kind != catalog.UserTable {
		return nil, dberr.New(dberr.InvalidOperation, "%s is not a USER table: it has no rows of one user to restore", t.QualifiedName())
	}
	return t, nil
}

// PastRows hands out a user's rows as they were at a moment, encoded as they are stored, in batches.
func (s *Shard) PastRows(ctx context.Context, table uint32, user string, moment time.Time, send func(rows [][]byte) error) (err error) {
	snap, position, err := s.snapshot(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, snap.Close()) }()
	t, err := s.userTable(table)
	if err != nil {
		return err
	}
	if err := undo.CheckReach(snap, s.cfg.ID, moment); err != nil {
		return err
	}
	plan, err := undo.Read(ctx, snap, undo.Partition{Shard: s.cfg.ID, Table: t, User: user}, undo.After(moment), position, undo.Limits{})
	if err != nil {
		return err
	}
	b := &rowBatch{send: send}
	for _, key := range plan.Keys() {
		row, _, err := plan.Row(key)
		if err == nil && row != nil {
			err = b.add(row)
		}
		if err != nil {
			return err
		}
	}
	err = s.eachRow(ctx, snap, t, user, func(key, row []byte) error {
		if plan.Has(string(key)) {
			return nil
		}
		return b.add(row)
	})
	if err != nil {
		return err
	}
	return b.flush()
}

// rowBatch collects rows until a batch is full.
type rowBatch struct {
	send func([][]byte) error
	rows [][]byte
	size int
}

func (b *rowBatch) add(row []byte) error {
	b.rows, b.size = append(b.rows, bytes.Clone(row)), b.size+len(row)
	if len(b.rows) < undoneRows && b.size < undoneBytes {
		return nil
	}
	return b.flush()
}

func (b *rowBatch) flush() error {
	if len(b.rows) == 0 {
		return nil
	}
	err := b.send(b.rows)
	b.rows, b.size = nil, 0
	return err
}

// RestoreRows writes rows, encoded as they were stored, into a user's partition. What the user has written there after position stays.
func (s *Shard) RestoreRows(ctx context.Context, table uint32, user string, position uint64, rows [][]byte) (*storagev1.RestoredRows, error) {
	t, err := s.userTable(table)
	if err != nil {
		return nil, err
	}
	past, keys := make(map[string][]byte, len(rows)), make([]string, 0, len(rows))
	row := rowcodec.NewRow(t)
	for _, src := range rows {
		if err := rowcodec.DecodeStored(src, t, &row); err != nil {
			return nil, err
		}
		values := make([]datum.Datum, 0, len(t.Key()))
		for _, i := range t.Key() {
			values = append(values, row.Values[i])
		}
		key := string(keycodec.AppendKeyValues(nil, values))
		past[key], keys = src, append(keys, key)
	}
	r := &undoer{shard: s, table: table, user: user, position: position, past: func(key string) ([]byte, bool, error) {
		src, ok := past[key]
		return src, ok, nil
	}}
	if err := r.run(ctx, keys); err != nil {
		return nil, err
	}
	return &r.counts, nil
}

// eachRow visits the live rows of a partition in a view, by key; what it gets is good until it returns.
func (s *Shard) eachRow(ctx context.Context, snap *pebble.Snapshot, t *catalog.Table, user string, visit func(key, row []byte) error) (err error) {
	entries, err := manifest.Read(snap, s.cfg.ID, t.ID, user)
	if err != nil {
		return err
	}
	merge := s.cfg.Cold.NewMerge(s.cfg.ID, entries, cold.Range{Table: t})
	defer merge.Close()
	prefix := keycodec.PartitionPrefix(nil, s.cfg.ID, t.ID, user)
	span := keycodec.PrefixSpan(prefix)
	it, err := snap.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
	if err != nil {
		return readFailed(err)
	}
	defer func() {
		if closeErr := it.Close(); closeErr != nil && err == nil {
			err = readFailed(closeErr)
		}
	}()
	coldKey, coldRow, hasCold, err := merge.Next(ctx)
	if err != nil {
		return err
	}
	for hot := it.First(); hot || hasCold; {
		if err := ctx.Err(); err != nil {
			return dberr.FromStatus(err)
		}
		order := 1
		switch {
		case hot && hasCold:
			order = bytes.Compare(it.Key()[len(prefix):], coldKey)
		case hot:
			order = -1
		}
		key, v := coldKey, coldRow
		if order <= 0 {
			if key, v, err = hotRow(it, len(prefix)); err != nil {
				return err
			}
			if order == 0 && coldRow.Seq > v.Seq {
				v = coldRow
			}
		}
		if !v.Deleted {
			if err := visit(key, v.Row); err != nil {
				return err
			}
		}
		if order <= 0 {
			hot = it.Next()
		}
		if order >= 0 {
			if coldKey, coldRow, hasCold, err = merge.Next(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func hotRow(it *pebble.Iterator, prefix int) (key []byte, v keycodec.Version, err error) {
	value, err := it.ValueAndErr()
	if err != nil {
		return nil, v, readFailed(err)
	}
	v, err = keycodec.DecodeVersion(value)
	return it.Key()[prefix:], v, err
}
