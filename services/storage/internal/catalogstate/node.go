package catalogstate

import (
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

const (
	// NodeIDMax is the highest node id: snowflake ids have nine bits for it.
	NodeIDMax = 511
	// DefaultReplicationFactor is that of clusters made before there was one.
	DefaultReplicationFactor = 3
	// replicationFactorMax bounds the factor: each further replica makes every write slower, and seven
	// survive the loss of three.
	replicationFactorMax = 7
	// RetiredFor is how long the id of a removed stateless node stays blocked: ids it gave to rows carry it,
	// and its clock may have been ahead.
	RetiredFor = 10 * time.Minute
	// formerMax is how many server ids of removed or replaced storage nodes are remembered, so that they are
	// refused when they come back.
	formerMax = 4096
	// nodeTextMax bounds each text of a node: addresses have at most 253 + 6 bytes.
	nodeTextMax = 512
)

// HoldsReplicas reports whether nodes of a role hold replicas.
func HoldsReplicas(role string) bool { return role == "storage" || role == "allinone" }

func knownRole(role string) bool {
	return HoldsReplicas(role) || role == "query" || role == "live" || role == "gateway"
}

// initCluster makes the cluster. A catalog from before nodes existed is completed: it gets its first node.
func (t *transaction) initCluster(c *catalogv1.InitCluster) (*catalogv1.ApplyResponse, error) {
	fresh := t.model.clusterID == ""
	if !fresh && (c.GetNode() == nil || len(t.model.nodes) > 0) {
		return unchanged()
	}
	if fresh && (c.GetClusterId() == "" || c.GetShards() == 0) {
		return nil, refuse(dberr.InvalidArgument, "a cluster needs an id and at least one shard")
	}
	if c.GetReplicationFactor() > replicationFactorMax {
		return nil, refuse(dberr.InvalidArgument, "replication factor %d, at most %d is possible", c.GetReplicationFactor(), replicationFactorMax)
	}
	if c.GetNode() != nil {
		if err := checkNode(c.GetNode()); err != nil {
			return nil, err
		}
		if !HoldsReplicas(c.GetNode().GetRole()) {
			return nil, refuse(dberr.InvalidArgument, "a cluster begins with a storage node, not with role %s", c.GetNode().GetRole())
		}
	}
	if fresh {
		if err := t.createCluster(c.GetClusterId(), c.GetShards()); err != nil {
			return nil, err
		}
	}
	m := t.edit()
	m.factor = c.GetReplicationFactor()
	if err := putNumber(t.bucket(bucketMeta), keyFactor, uint64(m.factor)); err != nil {
		return nil, err
	}
	if c.GetNode() == nil {
		return changed(), nil
	}
	return changed(), t.firstNode(c.GetNode())
}

func (t *transaction) createCluster(id string, shards uint32) error {
	m := t.edit()
	m.clusterID, m.shards = id, shards
	if err := t.bucket(bucketMeta).Put(keyClusterID, []byte(id)); err != nil {
		return err
	}
	if err := putNumber(t.bucket(bucketMeta), keyShards, uint64(shards)); err != nil {
		return err
	}
	return t.addNamespace(&catalogv1.Namespace{Name: DefaultNamespace, CreatedAtUs: t.now})
}

// firstNode enters the node that is the only voter of every group.
func (t *transaction) firstNode(n *catalogv1.Node) error {
	n.Status, n.RegisteredAtUs, n.StatusSinceUs = catalogv1.NodeStatus_NODE_STATUS_ACTIVE, t.now, t.now
	if err := t.storeNode(n); err != nil {
		return err
	}
	for group := range t.model.shards + 1 {
		err := t.storePlacement(&catalogv1.Placement{Group: group, Replicas: []*catalogv1.Replica{{NodeId: n.GetNodeId(),
			ServerId: n.GetServerId(), State: catalogv1.ReplicaState_REPLICA_STATE_VOTER}}})
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *transaction) storeNode(n *catalogv1.Node) error {
	t.edit().nodes[n.GetNodeId()] = n
	t.emit(&catalogv1.WatchResponse{Event: &catalogv1.WatchResponse_NodeChanged{NodeChanged: n}})
	return putMessage(t.bucket(bucketNodes), idKey(n.GetNodeId()), n)
}

func checkNode(n *catalogv1.Node) error {
	switch {
	case n.GetNodeId() > NodeIDMax:
		return refuse(dberr.InvalidArgument, "node id %d, 1 to %d are possible", n.GetNodeId(), NodeIDMax)
	case !knownRole(n.GetRole()):
		return refuse(dberr.InvalidArgument, "%q is not the role of a node", n.GetRole())
	case n.GetServerId() == "":
		return refuse(dberr.InvalidArgument, "node %d has no server id", n.GetNodeId())
	}
	for _, text := range []string{n.GetServerId(), n.GetRpcAddr(), n.GetRaftAddr(), n.GetApiAddr(), n.GetZone(), n.GetVersion()} {
		if len(text) > nodeTextMax {
			return refuse(dberr.LimitExceeded, "node %d has a text of %d bytes, the limit is %d (nodeTextMax)", n.GetNodeId(), len(text), nodeTextMax)
		}
	}
	return nil
}

// registerNode adds a node, or replaces what is known of it.
func (t *transaction) registerNode(n *catalogv1.Node) (*catalogv1.ApplyResponse, error) {
	if t.model.clusterID == "" {
		return nil, refuse(dberr.InvalidOperation, "there is no cluster to register in")
	}
	if n == nil || n.GetNodeId() == 0 {
		return nil, refuse(dberr.InvalidArgument, "a node without an id")
	}
	if err := checkNode(n); err != nil {
		return nil, err
	}
	if HoldsReplicas(n.GetRole()) && max(n.GetFormat(), 1) < t.model.logFormat {
		return nil, refuse(dberr.Unsupported, "node %d reads format %d, the catalog's log has format %d: it needs a newer version",
			n.GetNodeId(), n.GetFormat(), t.model.logFormat)
	}
	if t.bucket(bucketFormer).Get([]byte(n.GetServerId())) != nil {
		return nil, refuse(dberr.NotFound, "%s was removed from the cluster or replaced: start it with an empty data directory", n.GetServerId())
	}
	for _, other := range t.model.nodes {
		if other.GetServerId() == n.GetServerId() && other.GetNodeId() != n.GetNodeId() {
			return nil, refuse(dberr.AlreadyExists, "%s is node %d", n.GetServerId(), other.GetNodeId())
		}
	}
	n.Status, n.RegisteredAtUs, n.StatusSinceUs = catalogv1.NodeStatus_NODE_STATUS_ACTIVE, t.now, t.now
	old := t.model.nodes[n.GetNodeId()]
	var err error
	switch {
	case old == nil:
		err = t.claim(n.GetNodeId())
	case old.GetServerId() == n.GetServerId():
		err = t.comeBack(old, n)
		if err == nil && proto.Equal(old, n) {
			return unchanged()
		}
	default:
		err = t.replace(old, n)
	}
	if err != nil {
		return nil, err
	}
	return changed(), t.storeNode(n)
}

// claim takes an id that no node has.
func (t *transaction) claim(id uint32) error {
	retired := t.bucket(bucketRetired)
	if v := retired.Get(idKey(id)); v != nil {
		if until := int64(number(retired, idKey(id))) + RetiredFor.Microseconds(); t.now < until {
			return refuse(dberr.AlreadyExists, "node id %d was in use until shortly ago: it is free in %s", id,
				time.Duration(until-t.now)*time.Microsecond)
		}
	}
	return retired.Delete(idKey(id))
}

// comeBack is a node with its data, or a process that registers again. What an operator decided stays.
func (t *transaction) comeBack(old, n *catalogv1.Node) error {
	if !HoldsReplicas(n.GetRole()) && t.holds(old.GetServerId()) {
		return refuse(dberr.InvalidOperation, "node %d holds replicas and cannot become a %s node", n.GetNodeId(), n.GetRole())
	}
	n.RegisteredAtUs = old.GetRegisteredAtUs()
	if old.GetStatus() != catalogv1.NodeStatus_NODE_STATUS_OFFLINE {
		n.Status, n.StatusSinceUs = old.GetStatus(), old.GetStatusSinceUs()
	}
	return nil
}

// replace is another incarnation under the same id. Whoever proposes it knows that the old one is dead; that it
// still is when the command is applied is what its status says.
func (t *transaction) replace(old, n *catalogv1.Node) error {
	if old.GetStatus() == catalogv1.NodeStatus_NODE_STATUS_ACTIVE {
		return refuse(dberr.AlreadyExists, "node %d is %s, which is active", n.GetNodeId(), old.GetServerId())
	}
	if HoldsReplicas(old.GetRole()) != HoldsReplicas(n.GetRole()) {
		return refuse(dberr.AlreadyExists, "node %d is a %s node", n.GetNodeId(), old.GetRole())
	}
	if !HoldsReplicas(old.GetRole()) {
		return nil
	}
	if old.GetStatus() == catalogv1.NodeStatus_NODE_STATUS_DRAINING { // its new disk is not wanted either
		n.Status, n.StatusSinceUs = old.GetStatus(), old.GetStatusSinceUs()
	}
	return t.addFormer(old.GetServerId())
}

// addFormer remembers a server id that must not come back; above formerMax the oldest is forgotten.
func (t *transaction) addFormer(server string) error {
	b := t.bucket(bucketFormer)
	if err := putNumber(b, []byte(server), uint64(t.now)); err != nil {
		return err
	}
	n, oldest, since := 0, []byte(nil), uint64(0)
	err := b.ForEach(func(k, _ []byte) error {
		n++
		if at := number(b, k); oldest == nil || at < since {
			oldest, since = slices.Clone(k), at
		}
		return nil
	})
	if err != nil || n <= formerMax {
		return err
	}
	return b.Delete(oldest)
}

// holds reports whether a server has a replica of any group.
func (t *transaction) holds(server string) bool {
	for _, p := range t.model.placements {
		if replicaOf(p, server) >= 0 {
			return true
		}
	}
	return false
}

// node finds a node by id and incarnation.
func (t *transaction) node(id uint32, server string) (*catalogv1.Node, error) {
	n := t.model.nodes[id]
	if n == nil {
		return nil, refuse(dberr.NotFound, "there is no node %d", id)
	}
	if n.GetServerId() != server {
		return nil, refuse(dberr.NotFound, "node %d is %s, no longer %s", id, n.GetServerId(), server)
	}
	return n, nil
}

func (t *transaction) setNodeStatus(c *catalogv1.SetNodeStatus) (*catalogv1.ApplyResponse, error) {
	old, err := t.node(c.GetNodeId(), c.GetServerId())
	if err != nil {
		return nil, err
	}
	if old.GetStatus() == c.GetStatus() {
		return unchanged()
	}
	switch c.GetStatus() {
	case catalogv1.NodeStatus_NODE_STATUS_ACTIVE, catalogv1.NodeStatus_NODE_STATUS_DRAINING:
	case catalogv1.NodeStatus_NODE_STATUS_OFFLINE:
		if old.GetStatus() != catalogv1.NodeStatus_NODE_STATUS_ACTIVE { // else a drain would be forgotten
			return nil, refuse(dberr.InvalidOperation, "node %d is %s: only an active node becomes offline", c.GetNodeId(), StatusName(old.GetStatus()))
		}
	case catalogv1.NodeStatus_NODE_STATUS_LEFT:
		if old.GetStatus() != catalogv1.NodeStatus_NODE_STATUS_DRAINING {
			return nil, refuse(dberr.InvalidOperation, "node %d is %s: only a draining node leaves", c.GetNodeId(), StatusName(old.GetStatus()))
		}
		if err := t.checkEmpty(old); err != nil {
			return nil, err
		}
	default:
		return nil, refuse(dberr.InvalidArgument, "a node cannot have status %d", c.GetStatus())
	}
	n := proto.CloneOf(old)
	n.Status, n.StatusSinceUs = c.GetStatus(), t.now
	return changed(), t.storeNode(n)
}

// checkEmpty refuses while a node holds data nobody may lose. A learner of the catalog is none: every storage
// node has one until it is removed, to know the cluster by.
func (t *transaction) checkEmpty(n *catalogv1.Node) error {
	for group := range t.model.shards + 1 {
		p := t.model.placements[group]
		for _, r := range p.GetReplicas() {
			if r.GetNodeId() != n.GetNodeId() || group == 0 && r.GetState() == catalogv1.ReplicaState_REPLICA_STATE_LEARNER {
				continue
			}
			return refuse(dberr.InvalidOperation, "node %d still has a replica of group %d", n.GetNodeId(), group)
		}
	}
	return nil
}

func (t *transaction) removeNode(c *catalogv1.RemoveNode) (*catalogv1.ApplyResponse, error) {
	n, err := t.node(c.GetNodeId(), c.GetServerId())
	if err != nil {
		return nil, err
	}
	switch n.GetStatus() {
	case catalogv1.NodeStatus_NODE_STATUS_OFFLINE, catalogv1.NodeStatus_NODE_STATUS_LEFT:
	default:
		return nil, refuse(dberr.InvalidOperation, "node %d is %s: drain it first", c.GetNodeId(), StatusName(n.GetStatus()))
	}
	if err := t.checkEmpty(n); err != nil {
		return nil, err
	}
	if HoldsReplicas(n.GetRole()) {
		err = t.addFormer(n.GetServerId())
	} else {
		err = putNumber(t.bucket(bucketRetired), idKey(n.GetNodeId()), uint64(t.now))
	}
	if err != nil {
		return nil, err
	}
	delete(t.edit().nodes, n.GetNodeId())
	t.emit(&catalogv1.WatchResponse{Event: &catalogv1.WatchResponse_NodeRemoved{NodeRemoved: n.GetNodeId()}})
	return changed(), t.bucket(bucketNodes).Delete(idKey(n.GetNodeId()))
}

// StatusName is a status as people read it.
func StatusName(s catalogv1.NodeStatus) string {
	switch s {
	case catalogv1.NodeStatus_NODE_STATUS_ACTIVE:
		return "active"
	case catalogv1.NodeStatus_NODE_STATUS_OFFLINE:
		return "offline"
	case catalogv1.NodeStatus_NODE_STATUS_DRAINING:
		return "draining"
	case catalogv1.NodeStatus_NODE_STATUS_LEFT:
		return "left"
	}
	return "unknown"
}
