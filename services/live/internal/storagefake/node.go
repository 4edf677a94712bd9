package storagefake

import (
	"context"

	"github.com/apache/arrow-go/v18/arrow/flight"
	genflight "github.com/apache/arrow-go/v18/arrow/flight/gen/flight"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// Node is one storage node of the fake. All nodes have the same rows at all times; one leads.
type Node struct {
	storagev1.UnimplementedStorageServiceServer
	flight.BaseFlightServer

	storage *Storage
	addr    string // its server id too
	server  *rpcnet.Server
	// deaf: it no longer leads and has not noticed. Belongs to Storage.mu, as the rest.
	deaf bool
	down bool
}

// StartNodes serves an empty storage on several nodes, of which the first leads.
func StartNodes(network rpcnet.Network, addrs ...string) (*Storage, error) {
	s := &Storage{network: network, seq: FirstSeq, tables: map[uint32]*catalog.Table{}, users: map[string]*catalogv1.User{}, version: 1,
		partitions: map[partitionKey]*partition{}, sessions: map[*session]struct{}{}}
	for _, addr := range addrs {
		n := &Node{storage: s, addr: addr}
		s.nodes = append(s.nodes, n)
		if err := n.Start(); err != nil {
			return nil, err
		}
	}
	s.leader = s.nodes[0]
	return s, nil
}

// Node returns the node at an address.
func (s *Storage) Node(addr string) *Node {
	for _, n := range s.nodes {
		if n.addr == addr {
			return n
		}
	}
	return nil
}

// Start serves again after Stop.
func (n *Node) Start() error {
	server, err := rpcnet.NewServer(n.storage.network, n.addr, rpcnet.ServerOptions{})
	if err != nil {
		return err
	}
	catalogv1.RegisterCatalogServiceServer(server.Registrar(), &catalogService{Storage: n.storage})
	storagev1.RegisterStorageServiceServer(server.Registrar(), n)
	genflight.RegisterFlightServiceServer(server.Registrar(), n)
	server.Serve()
	n.storage.mu.Lock()
	defer n.storage.mu.Unlock()
	n.server, n.down = server, false
	return nil
}

// Stop ends the node at once.
func (n *Node) Stop() {
	n.storage.mu.Lock()
	down := n.down
	n.down = true
	n.storage.mu.Unlock()
	if down {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	n.server.Stop(ctx)
}

// Lead makes the node at an address the leader, "" nobody. With deaf the former one does not notice: it goes
// on delivering and takes watches until the next change of leaders.
func (s *Storage) Lead(addr string, deaf bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	former := s.leader
	s.leader = nil
	for _, n := range s.nodes {
		n.deaf = deaf && n == former
		if n.addr == addr {
			s.leader = n
		}
	}
	for ss := range s.sessions {
		if s.leads(ss.node) {
			continue
		}
		for _, w := range ss.watches {
			w.fail = s.notLeader()
			ss.touch(w)
		}
	}
}

// leads reports whether a node serves as the leader. s.mu is held.
func (s *Storage) leads(n *Node) bool { return n == s.leader || n.deaf }

func (s *Storage) notLeader() error {
	err := dberr.New(dberr.NotLeader, "another node leads")
	if s.leader != nil {
		err = err.With(dberr.FieldLeader, s.leader.addr)
	}
	return err
}

// topology is what the catalog says of the nodes; one node belongs to no cluster.
func (s *Storage) topology(snap *catalogv1.Snapshot) {
	if len(s.nodes) == 1 {
		return
	}
	placement := &catalogv1.Placement{Group: 1}
	for i, n := range s.nodes {
		snap.Nodes = append(snap.Nodes, &catalogv1.Node{NodeId: uint32(i + 1), Role: "storage", ServerId: n.addr, RpcAddr: n.addr,
			Status: catalogv1.NodeStatus_NODE_STATUS_ACTIVE})
		placement.Replicas = append(placement.Replicas, &catalogv1.Replica{NodeId: uint32(i + 1), ServerId: n.addr,
			State: catalogv1.ReplicaState_REPLICA_STATE_VOTER})
	}
	snap.Placements = []*catalogv1.Placement{placement, {Group: 0, Replicas: placement.GetReplicas()}}
}

// SetNode creates or changes a node in the catalog.
func (s *Storage) SetNode(n *catalogv1.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.announce(&catalogv1.WatchResponse{Event: &catalogv1.WatchResponse_NodeChanged{NodeChanged: n}})
}
