package shard

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

const (
	// unflushedMax bounds the partitions whose hot rows a leader counts in a shard, about 150 bytes each. The others are found
	// when it counts again.
	unflushedMax = 100_000
	// recountInterval is how long a leader that knows not all partitions waits before it counts again: that reads all hot rows.
	recountInterval = 10 * time.Minute
	// flushRetry is the pause before a partition whose flush failed is due again.
	flushRetry = 30 * time.Second
)

// unflushed counts the row versions written to partitions of tables that have a flush policy, on the shard's leader. A
// partition without any is not here, so an idle user costs nothing. It is memory only: a new leader counts what the hot store has.
type unflushed struct {
	mu         sync.Mutex
	partitions map[keyPartition]*unflushedRows
	// overflow: some partitions are not here; counted is when all were last looked at.
	overflow bool
	counted  time.Time
}

type unflushedRows struct {
	rows uint64
	// oldest is the lowest _seq.
	oldest uint64
	// notBefore is when to try again.
	notBefore time.Time
}

// Due is a partition whose rows should be flushed.
type Due struct {
	Table *catalog.Table
	Owner string
	rows  unflushedRows
}

// hasPolicy reports whether a table's rows are flushed by themselves.
func hasPolicy(t *catalog.Table) bool {
	return t.Options.FlushRows > 0 || t.Options.FlushIntervalSeconds > 0
}

func (r *unflushedRows) due(t *catalog.Table, now time.Time) bool {
	o := &t.Options
	switch {
	case now.Before(r.notBefore):
		return false
	case o.FlushRows > 0 && r.rows >= o.FlushRows:
		return true
	}
	age := now.Sub(snowflake.Time(r.oldest, snowflake.SeqEpoch))
	return o.FlushIntervalSeconds > 0 && age >= time.Duration(o.FlushIntervalSeconds)*time.Second
}

func (u *unflushed) reset() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.partitions, u.overflow, u.counted = map[keyPartition]*unflushedRows{}, false, time.Time{}
}

// add counts rows of a partition whose table has a policy.
func (u *unflushed) add(p keyPartition, r unflushedRows) {
	u.mu.Lock()
	defer u.mu.Unlock()
	known, ok := u.partitions[p]
	switch {
	case u.partitions == nil: // this node never led
	case ok:
		known.rows, known.oldest = known.rows+r.rows, min(known.oldest, r.oldest)
		known.notBefore = maxTime(known.notBefore, r.notBefore)
	case len(u.partitions) >= unflushedMax:
		u.overflow = true
	default:
		u.partitions[p] = &r
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// noteWritten counts a batch's rows.
func (s *Shard) noteWritten(changes []published) {
	for i := range changes {
		c := &changes[i]
		if t, ok := s.cfg.Tables.Table(c.table); ok && hasPolicy(t) {
			s.unflushed.add(keyPartition{c.table, c.user}, unflushedRows{rows: 1, oldest: c.change.GetSeq()})
		}
	}
}

// TakeDue returns up to max partitions that are due, the longest waiting first, and forgets them: what is written from now on
// counts anew. Give back what could not be flushed. It is empty where this node does not lead.
func (s *Shard) TakeDue(limit int) []Due {
	if !s.Leads() {
		return nil
	}
	now := s.cfg.Now()
	u := &s.unflushed
	u.mu.Lock()
	defer u.mu.Unlock()
	var list []Due
	for p, r := range u.partitions {
		t, ok := s.cfg.Tables.Table(p.table)
		if !ok {
			delete(u.partitions, p) // dropped
			continue
		}
		if r.due(t, now) {
			list = append(list, Due{Table: t, Owner: p.user, rows: *r})
		}
	}
	slices.SortFunc(list, func(a, b Due) int { return cmp.Compare(a.rows.oldest, b.rows.oldest) })
	list = list[:min(len(list), limit)]
	for i := range list {
		delete(u.partitions, keyPartition{list[i].Table.ID, list[i].Owner})
	}
	return list
}

// GiveBack counts a partition's rows again whose flush failed, and lets it wait.
func (s *Shard) GiveBack(d Due) {
	d.rows.notBefore = s.cfg.Now().Add(flushRetry)
	s.unflushed.add(keyPartition{d.Table.ID, d.Owner}, d.rows)
}

// CountUnflushed counts all hot rows of tables with a policy, when this node has begun to lead, or when there were more partitions
// than it keeps and some time has passed.
func (s *Shard) CountUnflushed() error {
	u := &s.unflushed
	u.mu.Lock()
	wanted := s.Leads() && (u.counted.IsZero() || u.overflow && s.cfg.Steady().Sub(u.counted) >= recountInterval)
	if wanted { // from here on apply counts; a row it counts and that is found below as well counts twice, and is flushed early
		u.partitions, u.overflow, u.counted = map[keyPartition]*unflushedRows{}, false, s.cfg.Steady()
	}
	u.mu.Unlock()
	if !wanted {
		return nil
	}
	snap := s.cfg.DB.NewSnapshot()
	return errors.Join(s.countIn(snap), snap.Close())
}

func (s *Shard) countIn(snap *pebble.Snapshot) (err error) {
	span := keycodec.PrefixSpan(keycodec.RowPrefix(s.cfg.ID))
	it, err := snap.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
	if err != nil {
		return readFailed(err)
	}
	for ok := it.First(); ok && err == nil; {
		ok, err = s.countPartition(it)
	}
	if closeErr := errors.Join(it.Error(), it.Close()); closeErr != nil && err == nil {
		return readFailed(closeErr)
	}
	return err
}

// countPartition counts the rows of the partition an iterator stands on, and leaves it on the next one. Tables without a policy are
// passed over in one step.
func (s *Shard) countPartition(it *pebble.Iterator) (more bool, err error) {
	prefix, owner, err := keycodec.UserOf(it.Key())
	if err != nil {
		return false, err
	}
	id, err := keycodec.TableOf(it.Key())
	if err != nil {
		return false, err
	}
	if t, ok := s.cfg.Tables.Table(id); !ok || !hasPolicy(t) {
		return it.SeekGE(keycodec.PrefixEnd(keycodec.TablePrefix(s.cfg.ID, id))), nil
	}
	end, r := keycodec.PrefixEnd(prefix), unflushedRows{}
	for more = true; more && string(it.Key()) < string(end); more = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return false, readFailed(err)
		}
		v, err := keycodec.DecodeVersion(value)
		if err != nil {
			return false, err
		}
		if r.rows++; r.rows == 1 || v.Seq < r.oldest {
			r.oldest = v.Seq
		}
	}
	s.unflushed.add(keyPartition{id, owner}, r)
	return more, nil
}
