package shard

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/sync/errgroup"

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

func (f *Flushed) add(o Flushed) {
	f.Rows, f.Bytes, f.Segments, f.Partitions = f.Rows+o.Rows, f.Bytes+o.Bytes, f.Segments+o.Segments, f.Partitions+o.Partitions
}

// flushesAtOnce is how many partitions of a table one flush writes at a time in a shard: each holds a row group.
const flushesAtOnce = 8

// Flush moves the rows that a table has in the hot store into segments: those of one owner, or of all. Rows written
// meanwhile stay. What was moved when it fails stays moved: flushing again goes on. Only the leader can.
func (s *Shard) Flush(ctx context.Context, t *catalog.Table, owner string, hold Hold) (f Flushed, err error) {
	term, err := s.office()
	if err != nil {
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
	v := &flushing{shard: s, term: term, snap: s.cfg.DB.NewSnapshot(), table: t, hold: hold}
	defer func() { err = errors.Join(err, v.snap.Close()) }()
	if v.table, err = s.newest(t); err != nil { // behind the snapshot: no row in it is of a later version that was decided here
		return f, err
	}
	applied, err := readApplied(v.snap, s.cfg.ID)
	if err != nil {
		return f, err
	}
	v.covered = applied.Seq
	if owner != "" || !t.Owned() {
		return v.partition(ctx, owner)
	}
	return v.owners(ctx)
}

// newest is a table as this node knows it now.
func (s *Shard) newest(t *catalog.Table) (*catalog.Table, error) {
	now, ok := s.cfg.Tables.Table(t.ID)
	if !ok {
		return nil, dberr.New(dberr.TableNotFound, "table %s does not exist any more", t.QualifiedName())
	}
	return now, nil
}

// flushing is a flush of a table under way: what it sees, and since when.
type flushing struct {
	shard   *Shard
	term    uint64
	snap    *pebble.Snapshot
	covered uint64
	table   *catalog.Table
	hold    Hold
}

// owners flushes all partitions of a table, several at a time: a small one is mostly waiting for the disk. It goes on behind those
// that fail.
func (v *flushing) owners(ctx context.Context) (total Flushed, err error) {
	var mu sync.Mutex
	var failed error // the first
	var g errgroup.Group
	g.SetLimit(flushesAtOnce)
	err = v.shard.eachOwner(v.snap, v.table, func(owner string) error {
		g.Go(func() error {
			f, err := v.partition(ctx, owner)
			mu.Lock()
			defer mu.Unlock()
			if total.add(f); failed == nil {
				failed = err
			}
			return nil
		})
		if ctx.Err() != nil {
			return dberr.FromStatus(ctx.Err())
		}
		return nil
	})
	_ = g.Wait() // errors are in failed
	if failed != nil {
		err = failed
	}
	return total, err
}

func (v *flushing) partition(ctx context.Context, owner string) (f Flushed, err error) {
	out := v.shard.output(func(ctx context.Context, seg *storagev1.Segment) error {
		if err := v.shard.checkOpen(owner); err != nil { // before its file goes anywhere else
			return err
		}
		if err := v.hold(ctx, seg); err != nil {
			return err
		}
		err := v.shard.ChangeSegments(ctx, v.term, SegmentsChange{Table: v.table.ID, User: owner, Added: []*storagev1.Segment{seg}, CoveredSeq: v.covered})
		if err == nil {
			f.Rows, f.Bytes, f.Segments = f.Rows+seg.GetRows(), f.Bytes+seg.GetBytes(), f.Segments+1
		}
		return err
	})
	out.RowsMax = v.shard.cfg.SegmentRows
	segments, err := out.Flush(ctx, v.snap, cold.Partition{Shard: v.shard.cfg.ID, Table: v.table, Owner: owner})
	if len(segments) > 0 {
		f.Partitions++
	}
	if v.shard.erasing(owner) != "" { // that it failed is nobody else's affair
		return f, nil
	}
	return f, err
}

// output writes segments, whose names no other leader gives.
func (s *Shard) output(commit func(context.Context, *storagev1.Segment) error) *cold.Output {
	return &cold.Output{Files: s.cfg.Cold.Files(), Now: s.cfg.Now, Commit: commit, Place: s.cfg.Place,
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
