package storage

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/catalogstate"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/command"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/replica"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/shard"
)

// dueMax bounds the partitions of a shard that are taken to be flushed at a time; the others are due a moment later.
const dueMax = 256

// flush moves a table's hot rows into segments, and merges segments where there are many.
func (s *Storage) flush(ctx context.Context, r *replica.Replica, t *catalog.Table, owner string) (shard.Flushed, error) {
	began := time.Now()
	f, err := r.Shard.Flush(ctx, t, owner, s.holder(r))
	s.metrics.flushed(began, f, err)
	if err != nil || f.Segments == 0 {
		return f, err
	}
	_, err = s.merge(ctx, r, t, owner, false)
	if err != nil && ctx.Err() == nil { // the rows are where they should be; the next flush merges
		s.cfg.Logger.WarnContext(ctx, "merge segments", "table", t.QualifiedName(), "shard", r.Shard.ID(), "error", err)
	}
	return f, nil
}

// useSegments has the catalog refuse nodes that do not read segments, before the first entry that changes any.
func (s *Storage) useSegments(ctx context.Context) error {
	return s.useFormat(ctx, command.VersionSegments)
}

// useStorages is useSegments for segments that are in storages besides local.
func (s *Storage) useStorages(ctx context.Context) error {
	return s.useFormat(ctx, catalogstate.FormatStorages)
}

// useFormat has the catalog refuse nodes that do not read a version of shards' entries, before the first one of it: such a node could
// join otherwise, and would stop at the entry.
func (s *Storage) useFormat(ctx context.Context, version uint32) error {
	if s.catalog.LogFormat() >= version {
		return nil
	}
	if all := s.catalog.ReadByAll(entryFormat); all < version {
		return dberr.New(dberr.Unavailable, "a storage node reads only format %d, this needs %d: it can be done when all run this version", all, version)
	}
	resp, err := catalogv1.NewCatalogServiceClient(s.router.Catalog()).Apply(ctx, &catalogv1.ApplyRequest{Command: &catalogv1.Command{
		Command: &catalogv1.Command_UseFormat{UseFormat: &catalogv1.UseFormat{Format: version}}}})
	if err != nil {
		return err
	}
	return s.awaitLogFormat(ctx, version, resp.GetVersion())
}

// awaitLogFormat returns when this node's catalog has the format. UseFormat moves no version, so that of the catalog is not enough.
func (s *Storage) awaitLogFormat(ctx context.Context, format uint32, version uint64) error {
	if err := s.catalog.WaitVersion(ctx, version); err != nil {
		return err
	}
	for {
		moved := s.catalog.Moved()
		if s.catalog.LogFormat() >= format {
			return nil
		}
		select {
		case <-moved:
		case <-time.After(catalogPollPause): // a snapshot moves nothing
		case <-ctx.Done():
			return dberr.New(dberr.CodeOf(dberr.FromStatus(ctx.Err())), "wait for format %d of the catalog: %w", format, ctx.Err())
		}
	}
}

// merge merges a table's segments: as far as levels ask for it, or (whole) as far as it goes.
func (s *Storage) merge(ctx context.Context, r *replica.Replica, t *catalog.Table, owner string, whole bool) (shard.Merged, error) {
	began := time.Now()
	m, err := r.Shard.Merge(ctx, t, owner, whole, s.holder(r))
	s.metrics.merged(began, m, err)
	return m, err
}

// holder makes segments durable: in their storage, or on a majority of a replica's group.
func (s *Storage) holder(r *replica.Replica) shard.Hold {
	return func(ctx context.Context, seg *storagev1.Segment) error {
		if seg.GetStorageId() != "" {
			return s.storages.Put(ctx, seg)
		}
		members, err := r.Group.Members()
		if err != nil {
			return err
		}
		return s.segments.Hold(ctx, r.Shard.ID(), members.Voters, seg)
	}
}

// flushDue flushes the partitions whose policy asks for it, in the shards this node leads, until ctx ends.
func (s *Storage) flushDue(ctx context.Context) {
	workers := semaphore.NewWeighted(int64(s.cfg.FlushWorkers))
	tick := time.NewTicker(time.Duration(s.cfg.FlushCheckInterval))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, r := range s.replicas.All() {
			if err := r.Shard.CountUnflushed(); err != nil {
				s.cfg.Logger.WarnContext(ctx, "count the rows that are not flushed", "shard", r.Shard.ID(), "error", err)
			}
		}
		s.flushRound(ctx, workers)
	}
}

// flushRound flushes what is due now, and returns when it is done. Within a round no partition is flushed twice, so nobody
// who writes much keeps others waiting for longer than one flush.
func (s *Storage) flushRound(ctx context.Context, workers *semaphore.Weighted) {
	var running sync.WaitGroup
	defer running.Wait()
	for _, r := range s.replicas.All() {
		for _, due := range r.Shard.TakeDue(dueMax) {
			if workers.Acquire(ctx, 1) != nil {
				return // the node stops; the next leader counts anew
			}
			running.Go(func() {
				defer workers.Release(1)
				s.flushOne(ctx, r, due)
			})
		}
	}
}

func (s *Storage) flushOne(ctx context.Context, r *replica.Replica, due shard.Due) {
	_, err := s.flush(ctx, r, due.Table, due.Owner)
	if err == nil || ctx.Err() != nil || dberr.Is(err, dberr.TableNotFound) {
		return
	}
	r.Shard.GiveBack(due)
	s.cfg.Logger.WarnContext(ctx, "flush a partition", "table", due.Table.QualifiedName(), "shard", r.Shard.ID(), "error", err)
}
