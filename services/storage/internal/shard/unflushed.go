package shard

import (
	"container/heap"
	"errors"
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
// partition without any is not here, so an idle user costs nothing; one that is not due costs nothing to pass over. It is memory
// only: a new leader counts what the hot store has.
type unflushed struct {
	mu         sync.Mutex
	partitions map[keyPartition]*unflushedRows
	// ready are due, in the order in which they became so. timed become so at a time; what was flushed since is in it still.
	ready []keyPartition
	timed timedPartitions
	// overflow: some partitions are not here; counted is when all were last looked at.
	overflow bool
	counted  time.Time
}

type unflushedRows struct {
	rows uint64
	// oldest is the lowest _seq.
	oldest uint64
	// listed: it is among the ready ones. held: its flush failed, and it waits for its time.
	listed, held bool
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

func (u *unflushed) reset() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.forgetAll()
	u.counted = time.Time{}
}

// missed notes that there are rows that were not counted.
func (u *unflushed) missed() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.overflow = true
}

// forgetAll begins anew. mu is held.
func (u *unflushed) forgetAll() {
	u.partitions, u.ready, u.timed, u.overflow = map[keyPartition]*unflushedRows{}, nil, nil, false
}

// add counts rows of a partition of t, which has a policy.
func (u *unflushed) add(t *catalog.Table, owner string, rows, oldest uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	p := keyPartition{t.ID, owner}
	if r := u.count(p, t, rows, oldest); r != nil && !r.held && t.Options.FlushRows > 0 && r.rows >= t.Options.FlushRows {
		u.list(p, r)
	}
}

// count enters rows, nil when there is no room for another partition. mu is held.
func (u *unflushed) count(p keyPartition, t *catalog.Table, rows, oldest uint64) *unflushedRows {
	if u.partitions == nil { // this node never led
		return nil
	}
	r, ok := u.partitions[p]
	if ok {
		r.rows, r.oldest = r.rows+rows, min(r.oldest, oldest)
		return r
	}
	due := t.Options.FlushRows > 0 && rows >= t.Options.FlushRows // and soon gone
	if len(u.partitions) >= unflushedMax && !due {
		u.overflow = true
		return nil
	}
	r = &unflushedRows{rows: rows, oldest: oldest}
	u.partitions[p] = r
	if s := t.Options.FlushIntervalSeconds; s > 0 {
		heap.Push(&u.timed, timedPartition{at: snowflake.Time(oldest, snowflake.SeqEpoch).Add(time.Duration(s) * time.Second), partition: p, rows: r})
	}
	return r
}

// list makes a partition ready. mu is held.
func (u *unflushed) list(p keyPartition, r *unflushedRows) {
	if !r.listed {
		r.listed = true
		u.ready = append(u.ready, p)
	}
}

// noteWritten counts a batch's rows.
func (s *Shard) noteWritten(changes []published) {
	for i := range changes {
		c := &changes[i]
		if t, ok := s.cfg.Tables.Table(c.table); ok && hasPolicy(t) {
			s.unflushed.add(t, c.user, 1, c.change.GetSeq())
		}
	}
}

// TakeDue returns up to limit partitions that are due, the longest waiting first, and forgets them: what is written from now on
// counts anew. Give back what could not be flushed. It is empty where this node does not lead.
func (s *Shard) TakeDue(limit int) (due []Due) {
	if !s.Leads() {
		return nil
	}
	now := s.cfg.Now()
	u := &s.unflushed
	u.mu.Lock()
	defer u.mu.Unlock()
	for len(u.timed) > 0 && !u.timed[0].at.After(now) {
		w := heap.Pop(&u.timed).(timedPartition)
		if u.partitions[w.partition] != w.rows || w.rows.held && !w.again {
			continue // it was flushed meanwhile, or has to wait since its flush failed
		}
		w.rows.held = false
		u.list(w.partition, w.rows)
	}
	for len(u.ready) > 0 && len(due) < limit {
		p := u.ready[0]
		u.ready = u.ready[1:]
		r := u.partitions[p]
		delete(u.partitions, p)
		if t, ok := s.cfg.Tables.Table(p.table); ok && r != nil { // else it was dropped
			due = append(due, Due{Table: t, Owner: p.user, rows: *r})
		}
	}
	return due
}

// GiveBack counts a partition's rows again whose flush failed, and lets it wait.
func (s *Shard) GiveBack(d Due) {
	u := &s.unflushed
	u.mu.Lock()
	defer u.mu.Unlock()
	p := keyPartition{d.Table.ID, d.Owner}
	if r := u.count(p, d.Table, d.rows.rows, d.rows.oldest); r != nil && !r.listed {
		r.held = true
		heap.Push(&u.timed, timedPartition{at: s.cfg.Now().Add(flushRetry), partition: p, rows: r, again: true})
	}
}

// timedPartition is due at a time, if its rows are still those.
type timedPartition struct {
	at        time.Time
	partition keyPartition
	rows      *unflushedRows
	// again: a flush failed, and this is the end of the pause.
	again bool
}

// timedPartitions is a heap: the next one first.
type timedPartitions []timedPartition

func (h timedPartitions) Len() int           { return len(h) }
func (h timedPartitions) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h timedPartitions) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *timedPartitions) Push(x any) { *h = append(*h, x.(timedPartition)) }

// Pop implements heap.Interface.
func (h *timedPartitions) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}

// CountUnflushed counts all hot rows of tables with a policy, when this node has begun to lead, or when there were more partitions
// than it keeps and some time has passed.
func (s *Shard) CountUnflushed() error {
	u := &s.unflushed
	u.mu.Lock()
	wanted := s.Leads() && (u.counted.IsZero() || u.overflow && s.cfg.Steady().Sub(u.counted) >= recountInterval)
	if wanted { // from here on apply counts; a row it counts and that is found below as well counts twice, and is flushed early
		u.forgetAll()
		u.counted = s.cfg.Steady()
	}
	u.mu.Unlock()
	if !wanted {
		return nil
	}
	snap := s.cfg.DB.NewSnapshot()
	err := errors.Join(s.countIn(snap), snap.Close())
	if err != nil {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.counted = time.Time{} // again next time
	}
	return err
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
	t, ok := s.cfg.Tables.Table(id)
	if !ok || !hasPolicy(t) {
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
	s.unflushed.add(t, owner, r.rows, r.oldest)
	return more, nil
}
