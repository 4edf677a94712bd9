package storage

import (
	"context"
	"time"

	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/replica"
)

// purgeRetry is the pause after a purge that failed, e.g. because a shard has no leader, and after finding that
// another node leads the catalog.
const purgeRetry = time.Second

// purgeDropped removes the rows of dropped tables, on the leader of the catalog: in every shard through its log,
// then the catalog is told. A crash in between repeats the purge, which is harmless.
func (s *Storage) purgeDropped(ctx context.Context) {
	for {
		retry := s.purgeAll(ctx)
		var again <-chan time.Time
		if retry {
			again = time.After(purgeRetry)
		}
		select {
		case <-ctx.Done():
			return
		case <-s.catalog.Dropped():
		case <-again:
		}
	}
}

// purgeAll reports whether something is left to do.
func (s *Storage) purgeAll(ctx context.Context) (retry bool) {
	ids, err := s.catalog.ToPurge()
	if err != nil {
		s.cfg.Logger.WarnContext(ctx, "list dropped tables", "error", err)
		return true
	}
	if len(ids) > 0 && s.catalogGroup.Term() == 0 {
		return true // the leader does it; this node may be the next one
	}
	for _, id := range ids {
		if err := s.purge(ctx, id); err != nil {
			if ctx.Err() == nil {
				s.cfg.Logger.WarnContext(ctx, "remove the rows of a dropped table", "table_id", id, "error", err)
			}
			retry = true
		}
	}
	return retry
}

func (s *Storage) purge(ctx context.Context, table uint32) error {
	_, shards := s.catalog.Cluster()
	for id := range shards {
		_, err := storagev1.NewStorageServiceClient(s.router.Shard(id)).Purge(ctx,
			&storagev1.PurgeRequest{Shard: id, TableId: table, CatalogVersion: s.catalog.Version()})
		if err != nil {
			return err
		}
	}
	_, err := s.commands.Apply(ctx, &catalogv1.ApplyRequest{Command: &catalogv1.Command{
		Command: &catalogv1.Command_TablePurged{TablePurged: &catalogv1.TablePurged{TableId: table}}}})
	return err
}

// flushShard asks the leader of a shard to move a table's rows into segments.
func (s *Storage) flushShard(ctx context.Context, req *storagev1.FlushRequest) (*storagev1.FlushResponse, error) {
	return storagev1.NewStorageServiceClient(s.router.Shard(req.GetShard())).Flush(ctx, req)
}

// compactShard asks the leader of a shard to merge a table's segments.
func (s *Storage) compactShard(ctx context.Context, req *storagev1.CompactRequest) (*storagev1.CompactResponse, error) {
	return storagev1.NewStorageServiceClient(s.router.Shard(req.GetShard())).Compact(ctx, req)
}

// forgetDeleted removes the rows that were deleted longer ago than their tables keep them, in the shards this node leads.
func (s *Storage) forgetDeleted(ctx context.Context) {
	tick := time.NewTicker(time.Duration(s.cfg.ForgetInterval))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, r := range s.replicas.All() {
			if r.Shard.Leads() {
				s.forget(ctx, r)
			}
		}
	}
}

func (s *Storage) forget(ctx context.Context, r *replica.Replica) {
	began := time.Now()
	n, err := r.Shard.Forget(ctx, s.holder(r))
	s.metrics.forgot(n)
	if err != nil && ctx.Err() == nil {
		s.cfg.Logger.WarnContext(ctx, "forget deleted rows", "shard", r.Shard.ID(), "error", err)
	}
	if n > 0 {
		s.cfg.Logger.InfoContext(ctx, "deleted rows were forgotten", "shard", r.Shard.ID(), "versions", n, "took", time.Since(began))
	}
}

// pruneChanges drops changes older than the retention, hour by hour.
func (s *Storage) pruneChanges(ctx context.Context) {
	tick := time.NewTicker(time.Duration(s.cfg.PruneInterval))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		before := s.cfg.Now().Add(-time.Duration(s.cfg.ChangeLogRetention))
		for _, r := range s.replicas.All() {
			if _, err := r.Shard.Prune(before); err != nil {
				s.cfg.Logger.WarnContext(ctx, "prune the change log", "shard", r.Shard.ID(), "error", err)
			}
		}
	}
}
