package catalogstate

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// replicaOf is the place of a server's replica in a placement, -1 if it has none.
func replicaOf(p *catalogv1.Placement, server string) int {
	return slices.IndexFunc(p.GetReplicas(), func(r *catalogv1.Replica) bool { return r.GetServerId() == server })
}

// storePlacement writes a placement, whose replicas it puts in the order of their nodes.
func (t *transaction) storePlacement(p *catalogv1.Placement) error {
	slices.SortFunc(p.Replicas, func(a, b *catalogv1.Replica) int { return int(a.GetNodeId()) - int(b.GetNodeId()) })
	t.edit().placements[p.GetGroup()] = p
	t.emit(&catalogv1.WatchResponse{Event: &catalogv1.WatchResponse_PlacementChanged{PlacementChanged: p}})
	return putMessage(t.bucket(bucketPlacements), idKey(p.GetGroup()), p)
}

// checkVoterBeside refuses a change after which a group would have nobody who votes.
func checkVoterBeside(p *catalogv1.Placement, server string) error {
	for _, r := range p.GetReplicas() {
		if r.GetServerId() != server && r.GetState() == catalogv1.ReplicaState_REPLICA_STATE_VOTER {
			return nil
		}
	}
	return refuse(dberr.InvalidOperation, "%s is the last voter of group %d", server, p.GetGroup())
}

func (t *transaction) setReplica(c *catalogv1.SetReplica) (*catalogv1.ApplyResponse, error) {
	want := c.GetReplica()
	if t.model.clusterID == "" || c.GetGroup() > t.model.shards {
		return nil, refuse(dberr.InvalidArgument, "there is no group %d", c.GetGroup())
	}
	switch want.GetState() {
	case catalogv1.ReplicaState_REPLICA_STATE_LEARNER, catalogv1.ReplicaState_REPLICA_STATE_VOTER, catalogv1.ReplicaState_REPLICA_STATE_LEAVING:
	default:
		return nil, refuse(dberr.InvalidArgument, "a replica cannot have state %d", want.GetState())
	}
	p := proto.CloneOf(t.model.placements[c.GetGroup()])
	if p == nil {
		p = &catalogv1.Placement{Group: c.GetGroup()}
	}
	i := replicaOf(p, want.GetServerId())
	if i < 0 {
		if err := t.checkNewReplica(p, want); err != nil {
			return nil, err
		}
		p.Replicas = append(p.Replicas, &catalogv1.Replica{NodeId: want.GetNodeId(), ServerId: want.GetServerId(), State: want.GetState()})
		return changed(), t.storePlacement(p)
	}
	have := p.GetReplicas()[i]
	switch {
	case have.GetNodeId() != want.GetNodeId():
		return nil, refuse(dberr.InvalidArgument, "%s belongs to node %d, not %d", want.GetServerId(), have.GetNodeId(), want.GetNodeId())
	case have.GetState() == want.GetState():
		return unchanged()
	case have.GetState() == catalogv1.ReplicaState_REPLICA_STATE_LEAVING: // it may be out of the Raft group, or its data gone
		return nil, refuse(dberr.InvalidOperation, "%s is leaving group %d: it can be placed there again afterwards", want.GetServerId(), c.GetGroup())
	case have.GetState() == catalogv1.ReplicaState_REPLICA_STATE_VOTER:
		if err := checkVoterBeside(p, want.GetServerId()); err != nil {
			return nil, err
		}
	}
	have.State = want.GetState()
	return changed(), t.storePlacement(p)
}

// checkNewReplica checks what is new in a placement. Only the first replica of a group votes at once.
func (t *transaction) checkNewReplica(p *catalogv1.Placement, want *catalogv1.Replica) error {
	first := len(p.GetReplicas()) == 0
	switch want.GetState() {
	case catalogv1.ReplicaState_REPLICA_STATE_VOTER:
		if !first {
			return refuse(dberr.NotFound, "%s has no replica of group %d that could vote", want.GetServerId(), p.GetGroup())
		}
	case catalogv1.ReplicaState_REPLICA_STATE_LEARNER:
		if first {
			return refuse(dberr.InvalidOperation, "the first replica of group %d has to vote", p.GetGroup())
		}
	default:
		return refuse(dberr.NotFound, "%s has no replica of group %d", want.GetServerId(), p.GetGroup())
	}
	n, err := t.node(want.GetNodeId(), want.GetServerId())
	if err != nil {
		return err
	}
	if !HoldsReplicas(n.GetRole()) {
		return refuse(dberr.InvalidArgument, "node %d is a %s node and holds no replicas", n.GetNodeId(), n.GetRole())
	}
	leaves := n.GetStatus() == catalogv1.NodeStatus_NODE_STATUS_DRAINING || n.GetStatus() == catalogv1.NodeStatus_NODE_STATUS_LEFT
	if leaves && p.GetGroup() != 0 {
		return refuse(dberr.InvalidOperation, "node %d is %s: it gets no replicas", n.GetNodeId(), StatusName(n.GetStatus()))
	}
	for _, r := range p.GetReplicas() {
		if r.GetNodeId() == want.GetNodeId() {
			return refuse(dberr.AlreadyExists, "node %d has a replica of group %d as %s", want.GetNodeId(), p.GetGroup(), r.GetServerId())
		}
	}
	return nil
}

// removeReplica ends a replica; its node then deletes the data. A voter has to be marked as leaving before, so
// a controller that knows less than the catalog cannot delete what is in use.
func (t *transaction) removeReplica(c *catalogv1.RemoveReplica) (*catalogv1.ApplyResponse, error) {
	p := proto.CloneOf(t.model.placements[c.GetGroup()])
	i := replicaOf(p, c.GetServerId())
	if i < 0 {
		return unchanged()
	}
	if p.GetReplicas()[i].GetState() == catalogv1.ReplicaState_REPLICA_STATE_VOTER {
		if err := checkVoterBeside(p, c.GetServerId()); err != nil {
			return nil, err
		}
		return nil, refuse(dberr.InvalidOperation, "%s votes in group %d: it has to leave first", c.GetServerId(), c.GetGroup())
	}
	p.Replicas = slices.Delete(p.Replicas, i, i+1)
	return changed(), t.storePlacement(p)
}
