package directory

import (
	"context"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/catalogstate"
)

// verdict is what is to be done about one node.
type verdict struct {
	node   *catalogv1.Node
	status catalogv1.NodeStatus // unspecified: none
	remove bool
}

// Tick brings the catalog in line with what was heard. Start calls it; what fails is done by the next one.
func (d *Directory) Tick(ctx context.Context) {
	for _, v := range d.judgeAll() {
		var err error
		if v.remove {
			err = d.remove(ctx, v.node)
		} else {
			err = d.setStatus(ctx, v.node, v.status)
		}
		switch {
		case err == nil || dberr.Is(err, dberr.NotFound): // removed or replaced meanwhile
		case dberr.Is(err, dberr.NotLeader) || ctx.Err() != nil:
			return
		default:
			d.cfg.Logger.Warn("change a node in the catalog", "node", v.node.GetNodeId(), "error", err)
		}
	}
}

func (d *Directory) judgeAll() (verdicts []verdict) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lead() != nil {
		return nil
	}
	now := d.cfg.Now()
	for _, n := range d.cfg.Catalog.Topology().Nodes {
		if v := d.judge(n, now); v.remove || v.status != catalogv1.NodeStatus_NODE_STATUS_UNSPECIFIED {
			verdicts = append(verdicts, v)
		}
	}
	return verdicts
}

func (d *Directory) judge(n *catalogv1.Node, now time.Time) verdict {
	v := verdict{node: n}
	silent, stateless := d.silent(n, now), !catalogstate.HoldsReplicas(n.GetRole())
	expired := stateless && silent && now.Sub(time.UnixMicro(n.GetStatusSinceUs())) > d.cfg.ForgetAfter
	switch n.GetStatus() {
	case catalogv1.NodeStatus_NODE_STATUS_ACTIVE:
		if silent {
			v.status = catalogv1.NodeStatus_NODE_STATUS_OFFLINE
		}
	case catalogv1.NodeStatus_NODE_STATUS_OFFLINE:
		if h := d.heard[n.GetServerId()]; n.GetServerId() == d.cfg.Self() || h != nil && !h.Report.GetStopping() && !silent {
			v.status = catalogv1.NodeStatus_NODE_STATUS_ACTIVE
		}
		v.remove = expired
	case catalogv1.NodeStatus_NODE_STATUS_DRAINING:
		if h := d.heard[n.GetServerId()]; stateless && (silent || h != nil && h.Report != nil && h.Report.GetLoad() == 0) {
			v.status = catalogv1.NodeStatus_NODE_STATUS_LEFT
		}
	case catalogv1.NodeStatus_NODE_STATUS_LEFT:
		v.remove = expired || d.removing[n.GetServerId()]
	}
	return v
}

// Drain begins to empty a node, or ends that.
func (d *Directory) Drain(ctx context.Context, req *clusterv1.DrainRequest) (*clusterv1.DrainResponse, error) {
	n, err := d.find(req.GetNodeId())
	if err != nil {
		return nil, err
	}
	status := catalogv1.NodeStatus_NODE_STATUS_DRAINING
	switch {
	case req.GetUndrain() && (n.GetStatus() == catalogv1.NodeStatus_NODE_STATUS_ACTIVE || n.GetStatus() == catalogv1.NodeStatus_NODE_STATUS_OFFLINE),
		!req.GetUndrain() && n.GetStatus() == catalogv1.NodeStatus_NODE_STATUS_LEFT:
		return &clusterv1.DrainResponse{}, nil
	case req.GetUndrain():
		status = catalogv1.NodeStatus_NODE_STATUS_ACTIVE
		d.setRemoving(n.GetServerId(), false)
	}
	if err := d.setStatus(ctx, n, status); err != nil {
		return nil, err
	}
	return &clusterv1.DrainResponse{}, nil
}

// Remove takes a node out of the catalog. An offline one that still has replicas is drained first, and removed when
// it has none; if the leader changes in between, it stays as Left and is removed by asking again.
func (d *Directory) Remove(ctx context.Context, req *clusterv1.RemoveRequest) (*clusterv1.RemoveResponse, error) {
	n, err := d.find(req.GetNodeId())
	if err != nil {
		return nil, err
	}
	switch n.GetStatus() {
	case catalogv1.NodeStatus_NODE_STATUS_LEFT:
		err = d.remove(ctx, n)
	case catalogv1.NodeStatus_NODE_STATUS_OFFLINE:
		if err = d.remove(ctx, n); dberr.Is(err, dberr.InvalidOperation) {
			err = d.removeLater(ctx, n)
		}
	case catalogv1.NodeStatus_NODE_STATUS_DRAINING:
		d.setRemoving(n.GetServerId(), true)
	default:
		err = dberr.New(dberr.InvalidOperation, "node %d is %s: drain it first", n.GetNodeId(), catalogstate.StatusName(n.GetStatus()))
	}
	if err != nil {
		return nil, err
	}
	return &clusterv1.RemoveResponse{}, nil
}

func (d *Directory) removeLater(ctx context.Context, n *catalogv1.Node) error {
	if err := d.setStatus(ctx, n, catalogv1.NodeStatus_NODE_STATUS_DRAINING); err != nil {
		return err
	}
	d.setRemoving(n.GetServerId(), true)
	return nil
}

func (d *Directory) setRemoving(server string, wanted bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if wanted {
		d.removing[server] = true
	} else {
		delete(d.removing, server)
	}
}

func (d *Directory) find(id uint32) (*catalogv1.Node, error) {
	if err := d.leading(); err != nil {
		return nil, err
	}
	n, ok := d.cfg.Catalog.Node(id)
	if !ok {
		return nil, dberr.New(dberr.NotFound, "there is no node %d", id)
	}
	return n, nil
}
