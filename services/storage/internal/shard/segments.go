package shard

import (
	"context"
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/command"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

// SegmentsChange is a change of the segments of one partition. Files of Added must be durable where the shard's
// replicas find them.
type SegmentsChange struct {
	Table uint32
	// User is the owner in the keys of the partition's rows.
	User  string
	Added []*storagev1.Segment
	// CoveredSeq is the position of the state that Added were written from when they come from the hot store: their rows
	// leave it, unless they have changed since. Zero when they come from other segments, which are Removed.
	CoveredSeq uint64
	Removed    []uint64
}

// ChangedSegments tells that the segments of a partition have changed.
type ChangedSegments struct {
	Table uint32
	Owner string
	Added []*storagev1.Segment
}

// office is the term in which this node serves. Who reads the state to change it later takes it first, and the entry is refused in any
// other: another leader may have deleted and forgotten rows in between.
func (s *Shard) office() (term uint64, err error) {
	if term = s.term.Load(); term == 0 {
		return 0, s.NotLeader()
	}
	return term, s.checkServing()
}

// useSegments returns once entries of version 4 may be written.
func (s *Shard) useSegments(ctx context.Context) error {
	if s.cfg.UseSegments != nil {
		if err := s.cfg.UseSegments(ctx); err != nil {
			return err
		}
	}
	if f := s.format(); f < command.VersionSegments {
		return dberr.New(dberr.Unavailable, "a storage node of an earlier version, which does not know segments, is part of the cluster (format %d)", f)
	}
	return nil
}

// useStorages returns once segments may be named that are not on the replicas' disks.
func (s *Shard) useStorages(ctx context.Context, added []*storagev1.Segment) error {
	remote := slices.ContainsFunc(added, func(seg *storagev1.Segment) bool { return seg.GetStorageId() != "" })
	if !remote || s.cfg.UseStorages == nil {
		return nil
	}
	return s.cfg.UseStorages(ctx)
}

// useFormat returns once entries of a version above that of segments may be written; what says what they are for.
func (s *Shard) useFormat(ctx context.Context, version uint32, what string) error {
	if s.cfg.UseFormat != nil {
		if err := s.cfg.UseFormat(ctx, version); err != nil {
			return err
		}
	}
	if f := s.format(); f < version {
		return dberr.New(dberr.Unavailable, "a storage node of an earlier version, which does not know %s, is part of the cluster (format %d)", what, f)
	}
	return nil
}

// ChangeSegments logs a change that was decided in a term, and returns when it is applied. It fails with Conflict when a segment to
// be removed is not there any more.
func (s *Shard) ChangeSegments(ctx context.Context, term uint64, c SegmentsChange) error {
	if err := s.checkServing(); err != nil {
		return err
	}
	if err := s.useSegments(ctx); err != nil {
		return err
	}
	if err := s.useStorages(ctx, c.Added); err != nil {
		return err
	}
	cmd := &command.Command{Kind: command.Segments, Term: term, Table: c.Table, User: c.User, CoveredSeq: c.CoveredSeq, Removed: c.Removed}
	for _, seg := range c.Added {
		raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(seg)
		if err != nil {
			return dberr.New(dberr.Internal, "encode a segment: %w", err)
		}
		cmd.Added = append(cmd.Added, raw)
	}
	pend, err := s.admit(ctx, &plan{})
	if err != nil {
		return err
	}
	if err := s.log(pend, cmd, nil); err != nil {
		return err
	}
	_, err = pend.Wait(ctx)
	return err
}

// segments applies a change. Everything before it is committed, so it may read: its cost is bounded by the rows of the
// segments and not by the table, and what it reads is the same on every replica.
func (a *application) segments(c *command.Command) error {
	if a.shard.dropped[c.Table] {
		return dberr.New(dberr.TableNotFound, "table %d was dropped", c.Table)
	}
	id := a.shard.cfg.ID
	a.reshapes = true
	for _, removed := range c.Removed { // all are there, or nothing happens
		_, closer, err := a.shard.cfg.DB.Get(keycodec.SegmentKey(nil, id, c.Table, c.User, removed))
		if errors.Is(err, pebble.ErrNotFound) {
			return dberr.New(dberr.Conflict, "a segment of table %d that was to be replaced is not there any more", c.Table)
		}
		if err != nil {
			return batchFailed(err)
		}
		if err := closer.Close(); err != nil {
			return batchFailed(err)
		}
	}
	for _, removed := range c.Removed {
		if err := a.batch.Delete(keycodec.SegmentKey(nil, id, c.Table, c.User, removed), nil); err != nil {
			return batchFailed(err)
		}
	}
	a.segmented = append(a.segmented, ChangedSegments{Table: c.Table, Owner: c.User})
	for i, raw := range c.Added {
		if err := a.addSegment(c, snowflake.At(c.FirstSeq, i), raw); err != nil {
			return err
		}
	}
	// An id must never come again: a leader to come begins behind it, though its clock may be behind.
	a.applied.Seq = max(a.applied.Seq, snowflake.At(c.FirstSeq, max(len(c.Added)-1, 0)))
	return nil
}

func (a *application) addSegment(c *command.Command, id uint64, raw []byte) error {
	seg := new(storagev1.Segment)
	if err := proto.Unmarshal(raw, seg); err != nil {
		return batchFailed(err)
	}
	changed := &a.segmented[len(a.segmented)-1]
	changed.Added = append(changed.Added, seg)
	if c.CoveredSeq > 0 {
		if err := a.dropCovered(c, seg); err != nil {
			return batchFailed(err)
		}
	}
	if err := a.batch.Set(keycodec.SegmentKey(nil, a.shard.cfg.ID, c.Table, c.User, id), raw, nil); err != nil {
		return batchFailed(err)
	}
	return nil
}

// rangeDeleteMin is from how many rows in a row on one range deletion takes the place of a deletion for each: reading passes over it at once,
// where a deletion of its own costs as much as the row did. Range deletions cost others something while they are in memory, so that few
// rows, as most partitions have, go one by one.
const rangeDeleteMin = 1024

// dropCovered removes the hot rows that a segment has. Every row up to CoveredSeq was in the state the segment was written
// from, as positions follow the log; what was written since has a higher _seq.
func (a *application) dropCovered(c *command.Command, seg *storagev1.Segment) error {
	prefix := keycodec.PartitionPrefix(nil, a.shard.cfg.ID, c.Table, c.User)
	start := append(prefix[:len(prefix):len(prefix)], seg.GetKeyMin()...)
	end := keycodec.PrefixEnd(append(prefix[:len(prefix):len(prefix)], seg.GetKeyMax()...))
	it, err := a.shard.cfg.DB.NewIter(&pebble.IterOptions{LowerBound: start, UpperBound: end})
	if err != nil {
		return err
	}
	run := coveredRun{batch: a.batch}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		var value []byte
		if value, err = it.ValueAndErr(); err != nil {
			break
		}
		var v keycodec.Version
		if v, err = keycodec.DecodeVersion(value); err != nil {
			break
		}
		if v.Seq <= c.CoveredSeq {
			run.add(it.Key())
		} else {
			err = run.end()
		}
	}
	if err == nil {
		err = run.end()
	}
	return errors.Join(err, it.Error(), it.Close())
}

// coveredRun are rows to remove that follow each other in the store.
type coveredRun struct {
	batch *pebble.Batch
	// keys are those of a run that is short so far; of a longer one first and last are known, and count.
	keys        []byte
	ends        []int
	first, last []byte
	count       int
}

func (r *coveredRun) add(key []byte) {
	if r.count++; r.count == 1 {
		r.first = append(r.first[:0], key...)
	}
	r.last = append(r.last[:0], key...)
	if r.count < rangeDeleteMin {
		r.keys = append(r.keys, key...)
		r.ends = append(r.ends, len(r.keys))
	}
}

// end removes the run.
func (r *coveredRun) end() (err error) {
	if r.count >= rangeDeleteMin {
		err = r.batch.DeleteRange(r.first, append(r.last, 0), nil)
	} else {
		start := 0
		for _, end := range r.ends {
			if err == nil {
				err = r.batch.Delete(r.keys[start:end], nil)
			}
			start = end
		}
	}
	r.keys, r.ends, r.count = r.keys[:0], r.ends[:0], 0
	return err
}
