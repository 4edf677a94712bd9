package storage

import (
	"context"
	"path/filepath"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/replica"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/scan"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/stream"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/watch"
)

// lookup is what scans and watches need of the node.
type lookup struct{ node *Storage }

var (
	_ scan.Shards  = lookup{}
	_ watch.Shards = lookup{}
)

func (l lookup) replica(id uint32) (*replica.Replica, error) {
	if r, ok := l.node.replicas.Get(id); ok {
		return r, nil
	}
	if _, n := l.node.catalog.Cluster(); id >= n {
		return nil, dberr.New(dberr.InvalidArgument, "there is no shard %d, the cluster has %d", id, n)
	}
	err := dberr.New(dberr.NotLeader, "this node has no replica of shard %d", id)
	if likely := l.likelyLeader(id); likely != "" {
		err = err.With(dberr.FieldLeader, likely)
	}
	return nil, err
}

// likelyLeader is a voter of a shard on a node that is alive. It may name another if it does not lead.
func (l lookup) likelyLeader(shard uint32) string {
	for _, r := range l.node.catalog.Placement(replica.FirstShardGroup + shard).GetReplicas() {
		n, ok := l.node.catalog.NodeByServer(r.GetServerId())
		if ok && r.GetState() == catalogv1.ReplicaState_REPLICA_STATE_VOTER &&
			n.GetStatus() == catalogv1.NodeStatus_NODE_STATUS_ACTIVE && r.GetServerId() != l.node.identity.ServerID {
			return r.GetServerId()
		}
	}
	return ""
}

// Reader returns the hot store once the shard's state in it is as consistent as wanted.
func (l lookup) Reader(ctx context.Context, id uint32, want storagev1.Consistency, maxAge time.Duration) (pebble.Reader, error) {
	r, err := l.replica(id)
	if err != nil {
		return nil, err
	}
	if err := r.Shard.ReadAs(ctx, want, maxAge); err != nil {
		return nil, err
	}
	return l.node.hot, nil
}

// RoleOf returns an account's role.
func (l lookup) RoleOf(user string) (role catalog.Role, exists bool, err error) {
	u, err := l.node.catalog.User(user)
	if err != nil || u == nil || u.GetDeletedAtUs() != 0 {
		return 0, false, err
	}
	return catalog.Role(u.GetRole()), true, nil
}

// Streams returns a shard's STREAM tables once it is certain that this node leads the shard: only its leader has them.
func (l lookup) Streams(ctx context.Context, id uint32) (*stream.Store, error) {
	r, err := l.replica(id)
	if err != nil {
		return nil, err
	}
	if err := r.Shard.ReadBarrier(ctx); err != nil {
		return nil, err
	}
	return r.Stream, nil
}

// Hub returns a shard's hub.
func (l lookup) Hub(id uint32) (*watch.Hub, error) {
	r, err := l.replica(id)
	if err != nil {
		return nil, err
	}
	if !r.Shard.Leads() {
		return nil, r.Shard.NotLeader()
	}
	return r.Shard.Hub(), nil
}

// Table returns the newest version of a table.
func (l lookup) Table(id uint32) (*catalog.Table, bool) { return l.node.catalog.Table(id) }

// joinReal joins paths of the real file system.
func joinReal(dir, name string) string { return filepath.Join(dir, name) }
