package shard

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/command"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
)

// A deleted row stays as a tombstone for as long as its table keeps deleted rows, and then goes for good. From the hot store it goes by an
// entry of its own; from segments by merging them.

const (
	// deletedRetentionDefault is how long deleted rows can be read (_deleted) where a table does not say.
	deletedRetentionDefault = 7 * 24 * time.Hour
	// forgetKeysMax bounds one entry: apply reads each row.
	forgetKeysMax = 1000
	// forgetCancelRows is how many rows are looked at between two looks at the context.
	forgetCancelRows = 4096
)

// keepsUntil is the time before which what was deleted from a table may go.
func (s *Shard) keepsUntil(t *catalog.Table) time.Time {
	keep := deletedRetentionDefault
	if h := t.Options.DeletedRetentionHours; h > 0 {
		keep = time.Duration(h) * time.Hour
	}
	return s.cfg.Now().Add(-keep)
}

// forgets reports whether a tombstone of a table may go.
func (s *Shard) forgets(t *catalog.Table, seq uint64) bool {
	return snowflake.Time(seq, snowflake.SeqEpoch).Before(s.keepsUntil(t))
}

// Forget removes the deleted rows whose time is over, and returns how many versions of rows went. It looks at all rows of the hot store and at
// the list of segments. Only the leader can.
func (s *Shard) Forget(ctx context.Context, hold Hold) (forgotten uint64, err error) {
	term, err := s.office()
	if err != nil {
		return 0, err
	}
	forgotten, err = s.forgetHot(ctx, term)
	merged, coldErr := s.forgetCold(ctx, &merging{shard: s, term: term, hold: hold})
	return forgotten + merged, errors.Join(err, coldErr)
}

// forgetter collects the tombstones of one table that may go.
type forgetter struct {
	shard *Shard
	term  uint64
	snap  *pebble.Snapshot
	table *catalog.Table
	// before is the _seq below which a tombstone may go.
	before uint64
	// entries are the segments of the partition that prefix begins.
	prefix  []byte
	entries []manifest.Entry
	keys    [][]byte
	count   uint64
}

func (s *Shard) forgetHot(ctx context.Context, term uint64) (total uint64, err error) {
	tables, err := s.hotTables()
	if err != nil {
		return 0, err
	}
	for _, t := range tables {
		n, failed := s.forgetIn(ctx, term, t)
		total, err = total+n, errors.Join(err, failed)
	}
	return total, err
}

// hotTables are the tables that have rows in the hot store; those that were dropped go otherwise.
func (s *Shard) hotTables() (tables []*catalog.Table, err error) {
	span := keycodec.PrefixSpan(keycodec.RowPrefix(s.cfg.ID))
	it, err := s.cfg.DB.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
	if err != nil {
		return nil, readFailed(err)
	}
	for ok := it.First(); ok && err == nil; {
		var id uint32
		if id, err = keycodec.TableOf(it.Key()); err != nil {
			break
		}
		if t, exists := s.cfg.Tables.Table(id); exists {
			tables = append(tables, t)
		}
		ok = it.SeekGE(keycodec.PrefixEnd(keycodec.TablePrefix(s.cfg.ID, id)))
	}
	if closeErr := errors.Join(it.Error(), it.Close()); closeErr != nil && err == nil {
		err = readFailed(closeErr)
	}
	return tables, err
}

// forgetIn keeps flushes of the table out: one that began before a row was deleted would put it into a segment, alive, when
// its tombstone is gone.
func (s *Shard) forgetIn(ctx context.Context, term uint64, t *catalog.Table) (uint64, error) {
	release, err := s.flushes.enter(ctx, t.ID)
	if err != nil {
		return 0, err
	}
	defer release()
	f := s.newForgetter(term, t)
	err = f.walk(ctx)
	return f.count, errors.Join(err, f.snap.Close())
}

func (s *Shard) newForgetter(term uint64, t *catalog.Table) *forgetter {
	return &forgetter{shard: s, term: term, snap: s.cfg.DB.NewSnapshot(), table: t, before: snowflake.FirstAt(s.keepsUntil(t), snowflake.SeqEpoch)}
}

func (f *forgetter) walk(ctx context.Context) error {
	span := keycodec.PrefixSpan(keycodec.TablePrefix(f.shard.cfg.ID, f.table.ID))
	it, err := f.snap.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
	if err != nil {
		return readFailed(err)
	}
	for n, ok := 1, it.First(); ok && err == nil; n, ok = n+1, it.Next() {
		if n%forgetCancelRows == 0 && ctx.Err() != nil {
			err = dberr.FromStatus(ctx.Err())
			break
		}
		err = f.row(ctx, it)
	}
	if closeErr := errors.Join(it.Error(), it.Close()); closeErr != nil && err == nil {
		err = readFailed(closeErr)
	}
	if err != nil {
		return err
	}
	return f.flush(ctx)
}

// row looks at the row under the iterator.
func (f *forgetter) row(ctx context.Context, it *pebble.Iterator) error {
	value, err := it.ValueAndErr()
	if err != nil {
		return readFailed(err)
	}
	v, err := keycodec.DecodeVersion(value)
	if err != nil || !v.Deleted || v.Seq >= f.before {
		return err
	}
	return f.collect(ctx, it.Key(), v.Seq)
}

// collect takes a tombstone, unless a segment may have an older version of its row. No segment can get one later: flushes of the table
// wait, and what is written from now on is newer.
func (f *forgetter) collect(ctx context.Context, key []byte, seq uint64) error {
	prefix, owner, err := keycodec.UserOf(key)
	if err != nil {
		return err
	}
	if string(prefix) != string(f.prefix) {
		if f.entries, err = manifest.Read(f.snap, f.shard.cfg.ID, f.table.ID, owner); err != nil {
			return err
		}
		f.prefix = append(f.prefix[:0], prefix...)
	}
	if mayHaveOlder(f.entries, key[len(prefix):], seq) {
		return nil
	}
	f.keys = append(f.keys, append([]byte(nil), key...))
	if len(f.keys) < forgetKeysMax {
		return nil
	}
	return f.flush(ctx)
}

// flush logs what was collected.
func (f *forgetter) flush(ctx context.Context) error {
	if len(f.keys) == 0 {
		return nil
	}
	s := f.shard
	if err := s.useSegments(ctx); err != nil {
		return err
	}
	pend, err := s.admit(ctx, &plan{})
	if err != nil {
		return err
	}
	cmd := &command.Command{Kind: command.Forget, Term: f.term, Table: f.table.ID, Keys: f.keys, BeforeSeq: f.before}
	if err := s.log(pend, cmd, nil); err != nil {
		return err
	}
	if _, err := pend.Wait(ctx); err != nil && !dberr.Is(err, dberr.TableNotFound) {
		return err
	}
	f.count += uint64(len(f.keys))
	f.keys = nil
	return nil
}

// forget applies an entry. Everything before it is committed, so it may read: a row that was written since it was collected stays.
func (a *application) forget(c *command.Command) error {
	if a.shard.dropped[c.Table] {
		return dberr.New(dberr.TableNotFound, "table %d was dropped", c.Table)
	}
	for _, key := range c.Keys {
		value, closer, err := a.shard.cfg.DB.Get(key)
		if errors.Is(err, pebble.ErrNotFound) {
			continue // it moved to a segment
		}
		if err != nil {
			return batchFailed(err)
		}
		v, err := keycodec.DecodeVersion(value)
		if err == nil && v.Deleted && v.Seq < c.BeforeSeq {
			err = a.batch.Delete(key, nil)
		}
		if err := errors.Join(err, closer.Close()); err != nil {
			return batchFailed(err)
		}
	}
	return nil
}

// forgetShare is the least part of the rows of a merge that are tombstones to be forgotten; forgetPatience how much longer than their
// time fewer wait for company, so that a few deleted rows do not have a partition written anew every hour.
const (
	forgetShare    = 0.1
	forgetPatience = 24 * time.Hour
)

// dueSegments are segments of a partition all of whose tombstones may go.
type dueSegments struct {
	partition cold.Partition
	entries   []manifest.Entry
}

// forgetCold merges the segments all of whose tombstones may go with those over the same keys. It goes on behind what fails.
func (s *Shard) forgetCold(ctx context.Context, w *merging) (forgotten uint64, err error) {
	var list []dueSegments
	if err := manifest.EachOf(s.cfg.DB, s.cfg.ID, func(e manifest.Entry) error {
		t, ok := s.cfg.Tables.Table(e.Table)
		if !ok || e.GetTombstones() == 0 || !s.forgets(t, e.GetSeqMax()) {
			return nil
		}
		if n := len(list); n == 0 || list[n-1].partition.Table != t || list[n-1].partition.Owner != e.User {
			list = append(list, dueSegments{partition: cold.Partition{Shard: s.cfg.ID, Table: t, Owner: e.User}})
		}
		list[len(list)-1].entries = append(list[len(list)-1].entries, e)
		return nil
	}); err != nil {
		return 0, err
	}
	for _, d := range list {
		n, failed := s.forgetPartition(ctx, w, d)
		forgotten, err = forgotten+n, errors.Join(err, failed)
	}
	return forgotten, err
}

func (s *Shard) forgetPartition(ctx context.Context, w *merging, d dueSegments) (forgotten uint64, err error) {
	release, err := s.flushes.enter(ctx, d.partition.Table.ID)
	if err != nil {
		return 0, err
	}
	defer release()
	for _, due := range d.entries {
		all, err := w.entries(d.partition)
		if err != nil {
			return forgotten, err
		}
		picked := slices.DeleteFunc(slices.Clone(all), func(e manifest.Entry) bool {
			return bytes.Compare(e.GetKeyMax(), due.GetKeyMin()) < 0 || bytes.Compare(e.GetKeyMin(), due.GetKeyMax()) > 0
		})
		if !s.worthForgetting(d.partition.Table, due, picked) {
			continue
		}
		m, err := w.again(ctx, d.partition, picked)
		if forgotten += m.Dropped; err != nil {
			return forgotten, err
		}
	}
	return forgotten, nil
}

// worthForgetting reports whether a segment that is still there has enough tombstones, or had to wait for long.
func (s *Shard) worthForgetting(t *catalog.Table, due manifest.Entry, picked []manifest.Entry) bool {
	rows, there := uint64(0), false
	for _, e := range picked {
		rows, there = rows+e.GetRows(), there || e.ID == due.ID
	}
	overdue := s.keepsUntil(t).Sub(snowflake.Time(due.GetSeqMax(), snowflake.SeqEpoch)) >= forgetPatience
	return there && (overdue || float64(due.GetTombstones()) >= forgetShare*float64(rows))
}
