package systemtable

import (
	"context"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// manifest pages through the shards, one after the other: there may be a partition for each of millions of users, and one page
// of one shard is held at a time.
func (t *Tables) manifest(catalog.Identity) pager {
	req := &storagev1.ListManifestsRequest{Limit: pageRows}
	return func(ctx context.Context) ([][]datum.Datum, error) {
		for req.GetShard() < t.cfg.Catalog.State().Shards.Shards() {
			resp, err := t.cfg.Manifests(ctx, req)
			if err != nil {
				return nil, err
			}
			list := resp.GetManifests()
			out := make([][]datum.Datum, 0, len(list))
			for _, m := range list {
				out = append(out, manifestRow(m))
			}
			if resp.GetHasMore() && len(list) > 0 {
				last := list[len(list)-1]
				req = &storagev1.ListManifestsRequest{Shard: req.GetShard(), AfterTableId: last.GetTableId(), AfterUserId: last.GetUserId(), Limit: pageRows}
			} else {
				req = &storagev1.ListManifestsRequest{Shard: req.GetShard() + 1, Limit: pageRows}
			}
			if len(out) > 0 {
				return out, nil
			}
		}
		return nil, nil
	}
}

// manifestRow is a partition's row. What is committed is in sync. Manifests are state and no cache: nothing has a tag, and nobody
// notes who read one.
func manifestRow(m *storagev1.Manifest) []datum.Datum {
	return []datum.Datum{datum.Text(m.GetNamespace() + ":" + m.GetTableName() + ":" + m.GetScope()), datum.Text(m.GetNamespace()),
		datum.Text(m.GetTableName()), datum.Text(m.GetScope()), datum.Null, datum.Timestamp(m.GetUpdatedUs()), datum.Null, datum.Null,
		datum.Text("in_sync"), datum.Text(m.GetJson())}
}
