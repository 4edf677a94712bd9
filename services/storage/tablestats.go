package storage

import (
	"context"
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/replica"
)

// statsCancelRows is how many rows are counted between two looks at the context.
const statsCancelRows = 4096

// TableStats tells what the shards this node leads have of a table: leaders only, so that the sum over nodes counts each row once.
func (s *service) TableStats(ctx context.Context, req *storagev1.TableStatsRequest) (*storagev1.TableStatsResponse, error) {
	resp := &storagev1.TableStatsResponse{}
	for _, r := range s.node.replicas.All() {
		if !r.Shard.Leads() {
			continue
		}
		if err := s.addTableStats(ctx, r, req, resp); err != nil {
			return nil, dberr.New(dberr.CodeOf(err), "look at what shard %d has of a table: %w", r.Shard.ID(), err)
		}
	}
	return resp, nil
}

func (s *service) addTableStats(ctx context.Context, r *replica.Replica, req *storagev1.TableStatsRequest, resp *storagev1.TableStatsResponse) error {
	id := r.Shard.ID()
	whole := keycodec.PrefixSpan(keycodec.TablePrefix(id, req.GetTableId()))
	n, err := s.node.hot.EstimateDiskUsage(whole.Start, whole.End)
	if err != nil {
		return dberr.New(dberr.Unavailable, "estimate its size: %w", err)
	}
	rows, _ := r.Stream.Stats(req.GetTableId())
	resp.HotBytesEstimate += n
	resp.StreamRows += uint64(rows)
	counted := whole
	if req.UserId != nil {
		counted = keycodec.PrefixSpan(keycodec.PartitionPrefix(nil, id, req.GetTableId(), req.GetUserId()))
	}
	live, err := s.countLive(ctx, counted)
	if err != nil {
		return err
	}
	resp.HotRows += live
	return manifest.Each(s.node.hot, keycodec.PrefixSpan(keycodec.TableSegmentPrefix(id, req.GetTableId())), func(e manifest.Entry) error {
		resp.SegmentBytes += e.GetBytes()
		if req.UserId == nil || e.User == req.GetUserId() {
			resp.Segments++
			resp.LastFlushedUs = max(resp.LastFlushedUs, e.GetCreatedUs())
		}
		return ctx.Err()
	})
}

// countLive counts the rows of a span of the hot store that are not deleted.
func (s *service) countLive(ctx context.Context, span keycodec.Span) (live uint64, err error) {
	it, err := s.node.hot.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
	if err != nil {
		return 0, dberr.New(dberr.Unavailable, "count its rows: %w", err)
	}
	rows := 0
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		var value []byte
		var v keycodec.Version
		if value, err = it.ValueAndErr(); err == nil {
			v, err = keycodec.DecodeVersion(value)
		}
		if err == nil && !v.Deleted {
			live++
		}
		if rows++; rows%statsCancelRows == 0 && err == nil {
			err = ctx.Err()
		}
	}
	if err = errors.Join(err, it.Error(), it.Close()); err != nil {
		return 0, dberr.New(dberr.CodeOf(dberr.FromStatus(err)), "count its rows: %w", err)
	}
	return live, nil
}
