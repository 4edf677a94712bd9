package storage

import (
	"context"
	"path/filepath"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
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

func (l lookup) replica(id uint32) (*replica, error) {
	if id >= uint32(len(l.node.shards)) {
		return nil, dberr.New(dberr.InvalidArgument, "there is no shard %d, the cluster has %d", id, len(l.node.shards))
	}
	return l.node.shards[id], nil
}

// Reader returns the hot store once the shard's state in it is as consistent as wanted.
func (l lookup) Reader(ctx context.Context, id uint32, want storagev1.Consistency, maxAge time.Duration) (pebble.Reader, error) {
	r, err := l.replica(id)
	if err != nil {
		return nil, err
	}
	if err := r.shard.ReadAs(ctx, want, maxAge); err != nil {
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

// Streams returns a shard's STREAM tables.
func (l lookup) Streams(id uint32) (*stream.Store, error) {
	r, err := l.replica(id)
	if err != nil {
		return nil, err
	}
	if !r.shard.Leads() {
		return nil, r.shard.NotLeader()
	}
	return r.stream, nil
}

// Hub returns a shard's hub.
func (l lookup) Hub(id uint32) (*watch.Hub, error) {
	r, err := l.replica(id)
	if err != nil {
		return nil, err
	}
	if !r.shard.Leads() {
		return nil, r.shard.NotLeader()
	}
	return r.shard.Hub(), nil
}

// Table returns the newest version of a table.
func (l lookup) Table(id uint32) (*catalog.Table, bool) { return l.node.catalog.Table(id) }

// joinReal joins paths of the real file system.
func joinReal(dir, name string) string { return filepath.Join(dir, name) }
