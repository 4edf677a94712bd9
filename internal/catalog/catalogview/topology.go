package catalogview

import (
	"maps"
	"slices"

	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// Topology is the nodes of the cluster and where the replicas of each group are. It and what it holds
// are immutable.
type Topology struct {
	// Nodes by node id. A single node that was never part of a cluster may be missing.
	Nodes map[uint32]*catalogv1.Node
	// Placements by group: 0 is the catalog, n+1 is shard n.
	Placements        map[uint32]*catalogv1.Placement
	ReplicationFactor uint32

	byServer map[string]*catalogv1.Node
}

func topologyFrom(p *catalogv1.Snapshot) Topology {
	t := Topology{Nodes: map[uint32]*catalogv1.Node{}, Placements: map[uint32]*catalogv1.Placement{},
		ReplicationFactor: p.GetReplicationFactor()}
	for _, n := range p.GetNodes() {
		t.Nodes[n.GetNodeId()] = n
	}
	for _, pl := range p.GetPlacements() {
		t.Placements[pl.GetGroup()] = pl
	}
	return t.indexed()
}

// Server finds a node by its server id.
func (t *Topology) Server(id string) (*catalogv1.Node, bool) {
	n, ok := t.byServer[id]
	return n, ok
}

// Role lists the nodes of a role that are Active, by node id.
func (t *Topology) Role(role string) []*catalogv1.Node {
	var out []*catalogv1.Node
	for _, id := range slices.Sorted(maps.Keys(t.Nodes)) {
		if n := t.Nodes[id]; n.GetRole() == role && n.GetStatus() == catalogv1.NodeStatus_NODE_STATUS_ACTIVE {
			out = append(out, n)
		}
	}
	return out
}

func (t Topology) indexed() Topology {
	t.byServer = make(map[string]*catalogv1.Node, len(t.Nodes))
	for _, n := range t.Nodes {
		t.byServer[n.GetServerId()] = n
	}
	return t
}

func (t Topology) withNode(n *catalogv1.Node) Topology {
	t.Nodes = maps.Clone(t.Nodes)
	t.Nodes[n.GetNodeId()] = n
	return t.indexed()
}

func (t Topology) withoutNode(id uint32) Topology {
	t.Nodes = maps.Clone(t.Nodes)
	delete(t.Nodes, id)
	return t.indexed()
}

func (t Topology) withPlacement(p *catalogv1.Placement) Topology {
	t.Placements = maps.Clone(t.Placements)
	t.Placements[p.GetGroup()] = p
	return t
}
