package storage

import (
	"context"
	"crypto/rand"
	"io"
	"time"

	"github.com/google/uuid"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/identity"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/rendezvous"
)

// patienceFactor times OfflineAfter is longer than the cluster takes to find a silent node offline, also when the
// leader of the catalog has just changed.
const patienceFactor = 6

// identify reads who this node is, or makes a new identity for a new directory.
func (s *Storage) identify(context.Context) error {
	id, found, err := identity.Load(s.dir.fs, s.dir.path)
	if err != nil {
		return err
	}
	if !found {
		if id, err = s.newIdentity(); err != nil {
			return err
		}
	}
	if id.NodeID != s.cfg.NodeID {
		return dberr.New(dberr.InvalidArgument, "the data in %s belongs to node %d, this is node %d: give the node its id or another directory", s.dir.path, id.NodeID, s.cfg.NodeID)
	}
	s.identity = id
	if id.NodeID != 0 { // node 0 never registers: its first entry would name its first run for ever
		s.process = uuid.NewString()
	}
	s.peers = rpcnet.NewPool(s.net)
	s.meeting = rendezvous.New(rendezvous.Config{Self: s.node(), ClusterID: id.ClusterID, Seeds: s.cfg.Join,
		Expect: s.cfg.BootstrapExpect, Hello: s.hello, Now: s.cfg.Steady, Log: s.cfg.Logger})
	return nil
}

func (s *Storage) newIdentity() (identity.Identity, error) {
	groups, err := s.raftLog.Groups()
	if err != nil {
		return identity.Identity{}, err
	}
	if len(groups) > 0 { // from before there were identities
		return identity.Legacy(s.cfg.NodeID), nil
	}
	random := io.Reader(rand.Reader)
	if s.cfg.Rand != nil {
		random = s.cfg.Rand
	}
	id, err := identity.New(s.cfg.NodeID, random)
	if err != nil {
		return id, err
	}
	if len(s.cfg.Join) == 0 {
		id.Founder, id.ClusterID = true, uuid.NewString()
	}
	return id, identity.Save(s.dir.fs, s.dir.path, id)
}

// hello asks a node who it is.
func (s *Storage) hello(ctx context.Context, addr string, req *clusterv1.HelloRequest) (*clusterv1.HelloResponse, error) {
	conn, err := s.peers.Get(addr)
	if err != nil {
		return nil, err
	}
	return clusterv1.NewClusterServiceClient(conn).Hello(ctx, req)
}

// twinTimeout bounds the question whether this node runs already: one whose machine is gone answers nothing.
const twinTimeout = time.Second

// ask asks who is at an address.
func (s *Storage) ask(ctx context.Context, addr string) (*catalogv1.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, twinTimeout)
	defer cancel()
	resp, err := s.hello(ctx, addr, &clusterv1.HelloRequest{})
	return resp.GetNode(), err
}

// refuseTwin ends the start of a process on a copy of a data directory whose original still runs: both would vote and
// acknowledge under one name. It is asked before any group is opened, at the address the copied catalog knows. A
// twin that cannot be reached from here is found by the leader when this node registers.
func (s *Storage) refuseTwin(ctx context.Context) error {
	n, ok := s.catalog.NodeByServer(s.identity.ServerID)
	if !ok || n.GetRpcAddr() == "" || s.process == "" {
		return nil
	}
	twin, err := s.ask(ctx, n.GetRpcAddr())
	if err != nil || twin.GetServerId() != s.identity.ServerID {
		return nil //nolint:nilerr // nobody is there, or another node: that this one may not be there is not its fault
	}
	return dberr.New(dberr.InvalidOperation, "%s runs already at %s: the data in %s is a copy of its data. Stop that process, or start this one with an empty directory and a node id of its own",
		s.identity.ServerID, n.GetRpcAddr(), s.dir.path)
}

// findCluster returns when this node belongs to a cluster, or is the one to make it.
func (s *Storage) findCluster(ctx context.Context) error {
	if s.identity.ClusterID != "" || s.identity.Founder {
		if len(s.cfg.Join) > 0 { // addresses may have changed, its own too
			run, cancel := context.WithCancel(context.WithoutCancel(ctx))
			s.cancel = cancel
			s.background(run, s.meeting.Greet)
		}
		return nil
	}
	out, err := s.meeting.Find(ctx, s.foundCluster)
	if err != nil || s.identity.Founder {
		return err
	}
	s.cfg.Logger.InfoContext(ctx, "joining a cluster", "cluster", out.ClusterID, "members", out.Members)
	if err := s.route(ctx, append(out.Members, s.cfg.Join...)); err != nil {
		return err
	}
	if err := s.registerFirst(ctx); err != nil {
		return err
	}
	s.identity.ClusterID = out.ClusterID
	if err := identity.Save(s.dir.fs, s.dir.path, s.identity); err != nil {
		return err
	}
	s.meeting.Belong(out.ClusterID)
	return nil
}

// registerFirst registers a new incarnation. The one before counts as alive until it was silent for a while, so
// being refused for that reason is final only after a longer while.
func (s *Storage) registerFirst(ctx context.Context) error {
	tick := time.NewTicker(time.Duration(s.cfg.HeartbeatInterval))
	defer tick.Stop()
	patience := time.NewTimer(patienceFactor * time.Duration(s.cfg.OfflineAfter))
	defer patience.Stop()
	for {
		_, err := s.register(ctx)
		if !dberr.Is(err, dberr.AlreadyExists) {
			return err
		}
		s.cfg.Logger.WarnContext(ctx, "the cluster has a node with this id; waiting for it to be gone", "error", err)
		select {
		case <-tick.C:
		case <-patience.C:
			return err
		case <-ctx.Done():
			return err
		}
	}
}

// foundCluster decides that this node makes the cluster.
func (s *Storage) foundCluster() (string, error) {
	id := s.identity
	id.Founder, id.ClusterID = true, uuid.NewString()
	if err := identity.Save(s.dir.fs, s.dir.path, id); err != nil {
		return "", err
	}
	s.identity = id
	return id.ClusterID, nil
}

// settleIdentity stores that the groups of a new cluster exist: from now on they are never made again here.
func (s *Storage) settleIdentity() error {
	cluster, _ := s.catalog.Cluster()
	if s.identity.ClusterID == cluster && !s.identity.Founder {
		return nil
	}
	if s.identity.ClusterID != "" && s.identity.ClusterID != cluster {
		return dberr.New(dberr.Corrupt, "the catalog is that of cluster %s, this node belongs to %s", cluster, s.identity.ClusterID)
	}
	s.identity.ClusterID, s.identity.Founder = cluster, false
	s.meeting.Belong(cluster)
	return identity.Save(s.dir.fs, s.dir.path, s.identity)
}

// addressBook finds other nodes: the catalog knows them, and they tell who moved since.
type addressBook struct{ node *Storage }

// RaftAddr is where a server listens for Raft: as it said itself lately, else as the catalog has it.
func (b addressBook) RaftAddr(serverID string) (string, bool) {
	told, recent := b.node.meeting.RaftAddr(serverID)
	if recent && told != "" {
		return told, true
	}
	if n, ok := b.node.catalog.NodeByServer(serverID); ok && n.GetRaftAddr() != "" {
		return n.GetRaftAddr(), true
	}
	return told, told != ""
}
