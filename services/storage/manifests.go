package storage

import (
	"context"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
)

const (
	// manifestsPageMax bounds the partitions of one answer, manifestsBytesMax their manifests: one more may come on top, which
	// has a few hundred bytes for each segment and column.
	manifestsPageMax  = 256
	manifestsBytesMax = 1 << 20
)

// ListManifests lists partitions of a shard this node leads. A partition whose table was dropped has none any more.
func (s *service) ListManifests(ctx context.Context, req *storagev1.ListManifestsRequest) (*storagev1.ListManifestsResponse, error) {
	r, err := lookup{s.node}.replica(req.GetShard())
	if err != nil {
		return nil, err
	}
	if err := r.Shard.ReadBarrier(ctx); err != nil {
		return nil, err
	}
	span := keycodec.PrefixSpan(keycodec.SegmentPrefix(req.GetShard()))
	if after := req.GetAfterTableId(); after != 0 {
		span.Start = keycodec.PrefixEnd(keycodec.PartitionSegmentPrefix(nil, req.GetShard(), after, req.GetAfterUserId()))
	}
	limit := manifestsPageMax
	if n := req.GetLimit(); n > 0 && n < manifestsPageMax {
		limit = int(n)
	}
	resp, bytes := &storagev1.ListManifestsResponse{}, 0
	err = manifest.EachPartition(s.node.hot, span, func(entries []manifest.Entry) (bool, error) {
		if ctx.Err() != nil {
			return false, dberr.FromStatus(ctx.Err())
		}
		if resp.HasMore = len(resp.GetManifests()) == limit || bytes >= manifestsBytesMax; resp.HasMore {
			return false, nil
		}
		m, err := s.manifestOf(entries)
		if err != nil || m == nil {
			return err == nil, err
		}
		resp.Manifests = append(resp.Manifests, m)
		bytes += len(m.GetJson())
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// manifestOf describes a partition; nil when its table was dropped.
func (s *service) manifestOf(entries []manifest.Entry) (*storagev1.Manifest, error) {
	t, ok := s.node.catalog.Table(entries[0].Table)
	if !ok {
		return nil, nil
	}
	owner := entries[0].User
	raw, err := manifest.JSON(t, owner, entries)
	if err != nil {
		return nil, err
	}
	return &storagev1.Manifest{TableId: t.ID, UserId: owner, Namespace: t.Namespace, TableName: t.Name, Scope: manifest.Scope(t, owner),
		UpdatedUs: manifest.UpdatedUs(entries), Json: string(raw)}, nil
}
