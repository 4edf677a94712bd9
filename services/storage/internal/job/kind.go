package job

import (
	"context"
	"fmt"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// kind is what jobs of a type do.
type kind struct {
	// ask asks the leader of a shard for a table's part of the work, and adds what it did.
	ask func(ctx context.Context, cfg *Config, shard, table uint32, p *catalogv1.JobProgress) error
	// slices: it asks again and again by itself, each time for shardTimeout at most.
	slices bool
	// worked reports whether there was anything to do. If not, the job ends as skipped, and idle says why.
	worked func(p *catalogv1.JobProgress) bool
	idle   string
	// result says what was done.
	result func(p *catalogv1.JobProgress) string
}

var kinds = map[string]kind{
	catalog.JobFlush: {
		ask:    flush,
		worked: func(p *catalogv1.JobProgress) bool { return p.GetRows() > 0 },
		idle:   "no pending writes",
		result: func(p *catalogv1.JobProgress) string {
			return fmt.Sprintf("flushed %d rows of %d partitions into %d segments (%d bytes)", p.GetRows(), p.GetPartitions(), p.GetSegments(), p.GetBytes())
		},
	},
	catalog.JobCompact: {
		ask:    compact,
		worked: func(p *catalogv1.JobProgress) bool { return p.GetSegmentsRemoved() > 0 },
		idle:   "nothing to merge",
		result: func(p *catalogv1.JobProgress) string {
			return fmt.Sprintf("merged %d segments of %d partitions into %d (%d rows, %d dropped, %d bytes)", p.GetSegmentsRemoved(),
				p.GetPartitions(), p.GetSegments(), p.GetRows(), p.GetRowsDropped(), p.GetBytes())
		},
	},
	catalog.JobMove: {
		ask:    move,
		slices: true,
		worked: func(p *catalogv1.JobProgress) bool { return p.GetSegments() > 0 },
		idle:   "every segment is where it belongs",
		result: func(p *catalogv1.JobProgress) string {
			return fmt.Sprintf("moved %d segments of %d partitions (%d rows, %d bytes)", p.GetSegments(), p.GetPartitions(), p.GetRows(), p.GetBytes())
		},
	},
}

// move asks again until everything is where it belongs.
func move(ctx context.Context, cfg *Config, shard, table uint32, p *catalogv1.JobProgress) error {
	for {
		more, err := moveSlice(ctx, cfg, shard, table, p)
		if err != nil || !more {
			return err
		}
	}
}

func moveSlice(ctx context.Context, cfg *Config, shard, table uint32, p *catalogv1.JobProgress) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, shardTimeout)
	defer cancel()
	resp, err := cfg.Move(ctx, &storagev1.MoveSegmentsRequest{Shard: shard, TableId: table, CatalogVersion: cfg.Catalog.Version()})
	if err != nil {
		return false, err
	}
	p.Rows += resp.GetRows()
	p.Segments += resp.GetSegments()
	p.Partitions += resp.GetPartitions()
	p.Bytes += resp.GetBytes()
	return resp.GetMore(), nil
}

func flush(ctx context.Context, cfg *Config, shard, table uint32, p *catalogv1.JobProgress) error {
	resp, err := cfg.Flush(ctx, &storagev1.FlushRequest{Shard: shard, TableId: table, CatalogVersion: cfg.Catalog.Version()})
	if err != nil {
		return err
	}
	p.Rows += resp.GetRows()
	p.Segments += resp.GetSegments()
	p.Partitions += resp.GetPartitions()
	p.Bytes += resp.GetBytes()
	return nil
}

func compact(ctx context.Context, cfg *Config, shard, table uint32, p *catalogv1.JobProgress) error {
	resp, err := cfg.Compact(ctx, &storagev1.CompactRequest{Shard: shard, TableId: table, CatalogVersion: cfg.Catalog.Version()})
	if err != nil {
		return err
	}
	p.Rows += resp.GetRows()
	p.RowsDropped += resp.GetRowsDropped()
	p.SegmentsRemoved += resp.GetSegmentsRemoved()
	p.Segments += resp.GetSegmentsAdded()
	p.Partitions += resp.GetPartitions()
	p.Bytes += resp.GetBytes()
	return nil
}
