package directory

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/catalogstate"
)

// Register enters a node into the catalog.
func (d *Directory) Register(ctx context.Context, req *clusterv1.RegisterRequest) (*clusterv1.RegisterResponse, error) {
	d.registering.Lock()
	defer d.registering.Unlock()
	if err := d.leading(); err != nil {
		return nil, err
	}
	cluster, _ := d.cfg.Catalog.Cluster()
	switch {
	case req.GetNode().GetServerId() == "":
		return nil, dberr.New(dberr.InvalidArgument, "a node registers with its server id")
	case cluster == "":
		return nil, dberr.New(dberr.Unavailable, "there is no cluster yet")
	case req.GetClusterId() != "" && req.GetClusterId() != cluster:
		return nil, dberr.New(dberr.InvalidOperation, "%s belongs to cluster %s, this is cluster %s", req.GetNode().GetServerId(), req.GetClusterId(), cluster)
	}
	if err := d.refuseFormer(req.GetNode().GetServerId()); err != nil {
		return nil, err
	}
	node := proto.CloneOf(req.GetNode())
	if err := d.chooseID(ctx, node); err != nil {
		return nil, err
	}
	err := d.apply(ctx, &catalogv1.Command{Command: &catalogv1.Command_RegisterNode{RegisterNode: &catalogv1.RegisterNode{Node: node}}})
	if err != nil {
		return nil, err
	}
	stored, ok := d.cfg.Catalog.NodeByServer(node.GetServerId())
	if !ok {
		return nil, dberr.New(dberr.Unavailable, "%s was registered and is gone again", node.GetServerId())
	}
	d.registered(stored)
	return &clusterv1.RegisterResponse{Node: stored, ClusterId: cluster, HeartbeatIntervalMs: uint32(d.cfg.HeartbeatInterval.Milliseconds())}, nil
}

func (d *Directory) leading() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lead()
}

func (d *Directory) refuseFormer(server string) error {
	former, err := d.cfg.Catalog.Former(server)
	if err != nil {
		return err
	}
	if former {
		return dberr.New(dberr.NotFound, "%s was removed from the cluster or replaced: start it with an empty data directory", server)
	}
	return nil
}

// registered notes that a node was heard of.
func (d *Directory) registered(n *catalogv1.Node) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lead() != nil {
		return
	}
	h := Heard{NodeID: n.GetNodeId(), Server: n.GetServerId(), At: d.cfg.Now()}
	if old := d.heard[n.GetServerId()]; old != nil {
		h.Report, h.CaughtUp = old.Report, old.CaughtUp
	}
	d.heard[n.GetServerId()] = &h
}

// chooseID gives a node its id, or makes sure that nobody else lives under the one it wants.
func (d *Directory) chooseID(ctx context.Context, node *catalogv1.Node) error {
	known, isKnown := d.cfg.Catalog.NodeByServer(node.GetServerId())
	if node.GetNodeId() == 0 && isKnown {
		node.NodeId = known.GetNodeId()
	}
	if node.GetNodeId() == 0 {
		id, err := d.freeID()
		node.NodeId = id
		return err
	}
	old, taken := d.cfg.Catalog.Node(node.GetNodeId())
	if !taken {
		return nil
	}
	if err := d.refuseTwin(ctx, old, node); err != nil {
		return err
	}
	if old.GetServerId() == node.GetServerId() || old.GetStatus() == catalogv1.NodeStatus_NODE_STATUS_OFFLINE {
		return nil
	}
	// Who has taken over the addresses has taken over the node: two processes cannot both listen there, and the one before
	// no longer answers.
	succeeds := node.GetRpcAddr() != "" && old.GetRpcAddr() == node.GetRpcAddr() && old.GetRaftAddr() == node.GetRaftAddr()
	if !succeeds && d.lives(old) {
		return dberr.New(dberr.AlreadyExists, "node id %d is that of %s at %s, which is alive", node.GetNodeId(), old.GetServerId(), old.GetRpcAddr())
	}
	if old.GetStatus() != catalogv1.NodeStatus_NODE_STATUS_ACTIVE {
		return nil
	}
	return d.setStatus(ctx, old, catalogv1.NodeStatus_NODE_STATUS_OFFLINE)
}

// refuseTwin refuses a process that wants the place of one that still answers at its address: it was started with a copy
// of the other's data, or of its configuration. Addresses alone prove nothing, as they may be copied too. One that is cut
// off from here is replaced, and learns it from its next heartbeat.
func (d *Directory) refuseTwin(ctx context.Context, old, node *catalogv1.Node) error {
	sameRun := old.GetServerId() == node.GetServerId() && (old.GetProcess() == node.GetProcess() || old.GetProcess() == "")
	if sameRun || !catalogstate.HoldsReplicas(old.GetRole()) || old.GetRpcAddr() == "" {
		return nil
	}
	at, err := d.cfg.Ask(ctx, old.GetRpcAddr())
	if err != nil || at.GetServerId() != old.GetServerId() || at.GetProcess() != old.GetProcess() {
		return nil //nolint:nilerr // who does not answer is gone
	}
	return dberr.New(dberr.AlreadyExists, "node id %d is that of %s, which runs at %s: a process with a copy of its data or its configuration cannot be it too",
		node.GetNodeId(), old.GetServerId(), old.GetRpcAddr())
}

// assignedFrom is the lowest id the cluster chooses. Those below are for nodes that bring their own, as
// storage nodes do: one that starts later must not find its id taken.
const assignedFrom = 101

// freeID is the lowest id from assignedFrom that nobody has or had shortly ago.
func (d *Directory) freeID() (uint32, error) {
	for id := uint32(assignedFrom); id <= catalogstate.NodeIDMax; id++ {
		if _, taken := d.cfg.Catalog.Node(id); taken {
			continue
		}
		retired, err := d.cfg.Catalog.Retired(id, d.cfg.Now())
		if err != nil {
			return 0, err
		}
		if !retired {
			return id, nil
		}
	}
	return 0, dberr.New(dberr.LimitExceeded, "all node ids from %d to %d are in use (NodeIDMax)", assignedFrom, catalogstate.NodeIDMax)
}

// lives reports whether a node may be alive: it was heard of, or this leader has not listened for long enough.
// One that said it is stopping lives only as long as it goes on saying so.
func (d *Directory) lives(n *catalogv1.Node) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lead() != nil || !d.silent(n, d.cfg.Now())
}

// silent reports that a node has said nothing for OfflineAfter. mu is held.
func (d *Directory) silent(n *catalogv1.Node, now time.Time) bool {
	if n.GetServerId() == d.cfg.Self() {
		return false
	}
	h := d.heard[n.GetServerId()]
	if h == nil {
		return now.Sub(d.since) > graceFactor*d.cfg.OfflineAfter
	}
	after := d.cfg.OfflineAfter
	if h.Report.GetStopping() { // it was the last thing it said
		after = min(after, 2*d.cfg.HeartbeatInterval)
	}
	return now.Sub(h.At) > after
}

func (d *Directory) apply(ctx context.Context, cmd *catalogv1.Command) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	cmd.TimeUs = d.cfg.Now().UnixMicro()
	_, err := d.cfg.Commands.Apply(ctx, &catalogv1.ApplyRequest{Command: cmd})
	return err
}

func (d *Directory) setStatus(ctx context.Context, n *catalogv1.Node, status catalogv1.NodeStatus) error {
	d.cfg.Logger.Info("a node changes its status", "node", n.GetNodeId(), "server", n.GetServerId(),
		"from", catalogstate.StatusName(n.GetStatus()), "to", catalogstate.StatusName(status))
	return d.apply(ctx, &catalogv1.Command{Command: &catalogv1.Command_SetNodeStatus{SetNodeStatus: &catalogv1.SetNodeStatus{
		NodeId: n.GetNodeId(), ServerId: n.GetServerId(), Status: status}}})
}

func (d *Directory) remove(ctx context.Context, n *catalogv1.Node) error {
	d.cfg.Logger.Info("a node is removed", "node", n.GetNodeId(), "server", n.GetServerId(), "role", n.GetRole())
	return d.apply(ctx, &catalogv1.Command{Command: &catalogv1.Command_RemoveNode{RemoveNode: &catalogv1.RemoveNode{
		NodeId: n.GetNodeId(), ServerId: n.GetServerId()}}})
}
