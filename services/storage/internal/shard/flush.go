package shard

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

// Hold makes a segment's file durable on a majority of the shard's replicas, this one included.
type Hold func(ctx context.Context, seg *storagev1.Segment) error

// Flushed is what a flush did.
type Flushed struct {
	Rows, Bytes          uint64
	Segments, Partitions int
}

// Flush moves the rows that a table has in the hot store into segments: those of one owner, or of all. Rows written
// meanwhile stay. What was moved when it fails stays moved: flushing again goes on. Only the leader can.
func (s *Shard) Flush(ctx context.Context, t *catalog.Table, owner string, hold Hold) (f Flushed, err error) {
	if err := s.checkServing(); err != nil {
		return f, err
	}
	if t.Kind == catalog.StreamTable {
		return f, dberr.New(dberr.InvalidOperation, "%s is a STREAM table: it is in memory only and never flushed", t.QualifiedName())
	}
	release, err := s.flushes.enter(ctx, t.ID)
	if err != nil {
		return f, err
	}
	defer release()
	snap := s.cfg.DB.NewSnapshot()
	defer func() { err = errors.Join(err, snap.Close()) }()
	if t, err = s.newest(t); err != nil { // behind the snapshot: no row in it is of a later version that was decided here
		return f, err
	}
	applied, err := readApplied(snap, s.cfg.ID)
	if err != nil {
		return f, err
	}
	if owner != "" || !t.Owned() {
		return f, s.flushPartition(ctx, snap, applied.Seq, cold.Partition{Shard: s.cfg.ID, Table: t, Owner: owner}, hold, &f)
	}
	return f, s.eachOwner(snap, t, func(owner string) error {
		return s.flushPartition(ctx, snap, applied.Seq, cold.Partition{Shard: s.cfg.ID, Table: t, Owner: owner}, hold, &f)
	})
}

// newest is a table as this node knows it now.
func (s *Shard) newest(t *catalog.Table) (*catalog.Table, error) {
	now, ok := s.cfg.Tables.Table(t.ID)
	if !ok {
		return nil, dberr.New(dberr.TableNotFound, "table %s does not exist any more", t.QualifiedName())
	}
	return now, nil
}

func (s *Shard) flushPartition(ctx context.Context, snap *pebble.Snapshot, covered uint64, p cold.Partition, hold Hold, f *Flushed) error {
	out := s.output(func(ctx context.Context, seg *storagev1.Segment) error {
		if err := hold(ctx, seg); err != nil {
			return err
		}
		err := s.ChangeSegments(ctx, SegmentsChange{Table: p.Table.ID, User: p.Owner, Added: []*storagev1.Segment{seg}, CoveredSeq: covered})
		if err == nil {
			f.Rows, f.Bytes, f.Segments = f.Rows+seg.GetRows(), f.Bytes+seg.GetBytes(), f.Segments+1
		}
		return err
	})
	segments, err := out.Flush(ctx, snap, p)
	if len(segments) > 0 {
		f.Partitions++
	}
	return err
}

// output writes segments, whose names no other leader gives.
func (s *Shard) output(commit func(context.Context, *storagev1.Segment) error) *cold.Output {
	return &cold.Output{Files: s.cfg.Cold.Files(), Now: s.cfg.Now, Commit: commit,
		Name: func() string { return fmt.Sprintf("%016x-%s", s.seq.Next(), s.cfg.ServerID) }}
}

// eachOwner visits the owners that have hot rows in a table.
func (s *Shard) eachOwner(snap *pebble.Snapshot, t *catalog.Table, visit func(owner string) error) (err error) {
	span := keycodec.PrefixSpan(keycodec.TablePrefix(s.cfg.ID, t.ID))
	it, err := snap.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
	if err != nil {
		return readFailed(err)
	}
	for ok := it.First(); ok && err == nil; {
		var partition []byte
		var owner string
		if partition, owner, err = keycodec.UserOf(it.Key()); err == nil {
			end := keycodec.PrefixEnd(partition)
			if err = visit(owner); err == nil {
				ok = it.SeekGE(end)
			}
		}
	}
	if closeErr := errors.Join(it.Error(), it.Close()); closeErr != nil && err == nil {
		return readFailed(closeErr)
	}
	return err
}

// flushes let one flush or merge of a table run at a time in a shard: two would write the same rows twice.
type flushes struct {
	mu      sync.Mutex
	running map[uint32]chan struct{}
}

// enter waits for its turn. Call the result at the end.
func (f *flushes) enter(ctx context.Context, table uint32) (func(), error) {
	for {
		f.mu.Lock()
		ended, busy := f.running[table]
		if !busy {
			if f.running == nil {
				f.running = map[uint32]chan struct{}{}
			}
			ended = make(chan struct{})
			f.running[table] = ended
			f.mu.Unlock()
			return func() {
				f.mu.Lock()
				defer f.mu.Unlock()
				delete(f.running, table)
				close(ended)
			}, nil
		}
		f.mu.Unlock()
		select {
		case <-ended:
		case <-ctx.Done():
			return nil, dberr.New(dberr.CodeOf(dberr.FromStatus(ctx.Err())), "wait for another flush of the table: %w", ctx.Err())
		}
	}
}
