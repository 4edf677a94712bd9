package storage

import (
	"context"
	"time"

	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// purgeRetry is the pause after a purge that failed, e.g. because a shard has no leader.
const purgeRetry = time.Second

// purgeDropped removes the rows of dropped tables: in every shard through its log, then the catalog is
// told. A crash in between repeats the purge, which is harmless.
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
	for _, r := range s.shards {
		r.stream.DropTable(table)
		if err := r.shard.Purge(ctx, table); err != nil {
			return err
		}
	}
	_, err := s.commands.Apply(ctx, &catalogv1.ApplyRequest{Command: &catalogv1.Command{
		Command: &catalogv1.Command_TablePurged{TablePurged: &catalogv1.TablePurged{TableId: table}}}})
	return err
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
		for _, r := range s.shards {
			if _, err := r.shard.Prune(before); err != nil {
				s.cfg.Logger.WarnContext(ctx, "prune the change log", "shard", r.shard.ID(), "error", err)
			}
		}
	}
}
