package storage

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/replica"
)

const (
	// pressureInterval is how often the size of the hot store is looked at.
	pressureInterval = 10 * time.Second
	// relievedPercent of the limit is where relieving ends: it would begin again at once otherwise.
	relievedPercent = 90
	// pressureTableBytes is the least that is worth flushing: what is smaller makes many small files and little room.
	pressureTableBytes = 1 << 20
)

// hotPart is what a table has in the hot store of a shard this node leads.
type hotPart struct {
	replica *replica.Replica
	table   *catalog.Table
	bytes   uint64
}

// relieve keeps the hot store within storage.hot_bytes_max, until ctx ends. Followers shrink with their leaders.
func (s *Storage) relieve(ctx context.Context) {
	tick := time.NewTicker(pressureInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := s.relieveOnce(ctx, pressureTableBytes); err != nil && ctx.Err() == nil {
			s.cfg.Logger.WarnContext(ctx, "flush because the hot store is large", "hot_bytes_max", s.cfg.HotBytesMax, "error", err)
		}
	}
}

// relieveOnce flushes tables, whatever their policies, the largest first, while the hot store is too large.
func (s *Storage) relieveOnce(ctx context.Context, least uint64) error {
	if s.cfg.HotBytesMax < 0 || s.hot.Metrics().DiskSpaceUsage() <= uint64(s.cfg.HotBytesMax) {
		return nil
	}
	parts, err := s.hotParts(least)
	if err != nil {
		return err
	}
	for _, p := range parts {
		if s.hot.Metrics().DiskSpaceUsage() <= uint64(s.cfg.HotBytesMax)/100*relievedPercent {
			return nil
		}
		if err := s.relievePart(ctx, p); err != nil && !dberr.Is(err, dberr.TableNotFound) {
			return dberr.New(dberr.CodeOf(err), "%s in shard %d: %w", p.table.QualifiedName(), p.replica.Shard.ID(), err)
		}
	}
	return nil
}

// relievePart flushes a table and has the store give back the room now: by itself it does so much later.
func (s *Storage) relievePart(ctx context.Context, p hotPart) error {
	f, err := s.flush(ctx, p.replica, p.table, "")
	if err != nil {
		return err
	}
	s.cfg.Logger.InfoContext(ctx, "a table was flushed because the hot store is large", "table", p.table.QualifiedName(),
		"shard", p.replica.Shard.ID(), "rows", f.Rows, "hot_bytes", p.bytes)
	span := keycodec.PrefixSpan(keycodec.TablePrefix(p.replica.Shard.ID(), p.table.ID))
	if err := s.hot.Compact(ctx, span.Start, span.End, false); err != nil {
		return dberr.New(dberr.Unavailable, "compact the hot store: %w", err)
	}
	return nil
}

// hotParts are the tables that can be flushed here, the largest first.
func (s *Storage) hotParts(least uint64) (parts []hotPart, err error) {
	tables := s.catalog.Tables()
	for _, r := range s.replicas.All() {
		if !r.Shard.Leads() {
			continue
		}
		for _, t := range tables {
			if t.Kind == catalog.StreamTable {
				continue
			}
			span := keycodec.PrefixSpan(keycodec.TablePrefix(r.Shard.ID(), t.ID))
			n, err := s.hot.EstimateDiskUsage(span.Start, span.End)
			if err != nil {
				return nil, dberr.New(dberr.Unavailable, "estimate the size of %s: %w", t.QualifiedName(), err)
			}
			if n >= least {
				parts = append(parts, hotPart{replica: r, table: t, bytes: n})
			}
		}
	}
	slices.SortFunc(parts, func(a, b hotPart) int { return cmp.Compare(b.bytes, a.bytes) })
	return parts, nil
}
