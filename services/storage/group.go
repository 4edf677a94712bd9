package storage

import (
	"context"
	"sync"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/clusterservice"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/raftgroup"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/replica"
)

// groups are what the cluster service needs of the node.
type groups struct{ node *Storage }

// Find returns a group of this node.
func (g groups) Find(number uint32) (clusterservice.Group, error) {
	if number == catalogGroup {
		return catalogReplica{g.node, g.node.catalogGroup.get()}, nil
	}
	r, err := lookup{g.node}.replica(number - replica.FirstShardGroup)
	if err != nil {
		return nil, err
	}
	return shardReplica{r}, nil
}

// Placements are where all replicas are.
func (g groups) Placements() []*catalogv1.Placement { return g.node.catalog.Placements() }

// Leader is a connection to the leader of a group.
func (g groups) Leader(number uint32) grpc.ClientConnInterface {
	if number == catalogGroup {
		return g.node.router.Catalog()
	}
	return g.node.router.Shard(number - replica.FirstShardGroup)
}

// Server is a connection to one server.
func (g groups) Server(id string) (grpc.ClientConnInterface, error) {
	n, ok := g.node.catalog.NodeByServer(id)
	if !ok || n.GetRpcAddr() == "" {
		return nil, dberr.New(dberr.NotFound, "no node has the server id %s", id)
	}
	return g.node.router.Conn(n.GetRpcAddr())
}

// catalogReplica is group 0.
type catalogReplica struct {
	node  *Storage
	group *raftgroup.Group
}

func (c catalogReplica) Raft() *raftgroup.Group { return c.group }

func (c catalogReplica) Verify(ctx context.Context) (uint64, error) {
	return c.node.commands.Verify(ctx)
}

func (c catalogReplica) Checksum(ctx context.Context, index uint64) (clusterservice.Sum, error) {
	sum, err := c.node.catalog.Checksum(ctx, index)
	return clusterservice.Sum{Hash: sum.Hash, Rows: sum.Rows}, err
}

// shardReplica is the group of a shard.
type shardReplica struct{ replica *replica.Replica }

func (s shardReplica) Raft() *raftgroup.Group { return s.replica.Group }

func (s shardReplica) Verify(ctx context.Context) (uint64, error) { return s.replica.Shard.Verify(ctx) }

func (s shardReplica) Checksum(ctx context.Context, index uint64) (clusterservice.Sum, error) {
	sum, err := s.replica.Shard.Checksum(ctx, index)
	return clusterservice.Sum{Hash: sum.Hash, Rows: sum.Rows}, err
}

// members changes members of groups wherever they are led.
type members struct{ node *Storage }

// ChangeMember asks the leader of the group.
func (m members) ChangeMember(ctx context.Context, req *clusterv1.ChangeMemberRequest) (*clusterv1.ChangeMemberResponse, error) {
	return clusterv1.NewClusterServiceClient(groups(m).Leader(req.GetGroup())).ChangeMember(ctx, req)
}

// office is what the leader of the catalog does besides. Follow ends what Lead began, and waits for it.
type office interface {
	Lead(ctx context.Context)
	Follow()
}

// leadership starts and stops the offices: not before the node is open.
type leadership struct {
	offices []office

	mu          sync.Mutex
	leads, open bool
}

func (l *leadership) lead(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leads = true
	l.enter(ctx)
}

func (l *leadership) follow() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leads = false
	l.leave()
}

// begin opens it.
func (l *leadership) begin(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = true
	l.enter(ctx)
}

// end closes it for good.
func (l *leadership) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = false
	l.leave()
}

func (l *leadership) enter(ctx context.Context) {
	if !l.leads || !l.open {
		return
	}
	for _, o := range l.offices {
		o.Lead(ctx)
	}
}

func (l *leadership) leave() {
	for _, o := range l.offices {
		o.Follow()
	}
}
