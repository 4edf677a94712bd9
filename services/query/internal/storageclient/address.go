package storageclient

import (
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/partition"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// Address makes the scans that together read what the caller sees of t: its own partition of a USER or STREAM table,
// the only one of a SHARED table, those of a partitioned table that the filter leaves over, and when req asks for
// all users one scan of each shard. what says what to read; it is not changed. There are none when no partition can
// hold a row that matches.
func Address(what *storagev1.ScanRequest, state *catalogview.State, id catalog.Identity, t *catalog.Table) ([]*storagev1.ScanRequest, error) {
	at := func(shard uint32, owner string, all bool) *storagev1.ScanRequest {
		req, _ := proto.Clone(what).(*storagev1.ScanRequest)
		req.Identity = catalog.IdentityToProto(id)
		req.TableId, req.SchemaVersion, req.CatalogVersion = t.ID, t.SchemaVersion, state.Version
		req.Shard, req.UserId, req.AllUsers = shard, owner, all
		return req
	}
	var out []*storagev1.ScanRequest
	switch {
	case t.Partitioned():
		chosen, all, err := partition.Matching(t, what.GetFilter())
		if err != nil {
			return nil, err
		}
		if all {
			for _, shard := range partition.Shards(state.Shards, t) {
				out = append(out, at(shard, "", true))
			}
		}
		for _, n := range chosen {
			place := partition.At(state.Shards, t, n)
			out = append(out, at(place.Shard, place.Owner, false))
		}
	case what.GetAllUsers():
		for shard := range state.Shards.Shards() {
			out = append(out, at(shard, "", true))
		}
	default:
		place := partition.Home(state.Shards, t, id.UserID)
		out = append(out, at(place.Shard, place.Owner, false))
	}
	return out, nil
}
