package systemtable

import (
	"context"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
)

// statusText are the words of spec 2 for what the catalog says of a node.
var statusText = map[catalogv1.NodeStatus]string{catalogv1.NodeStatus_NODE_STATUS_ACTIVE: "active",
	catalogv1.NodeStatus_NODE_STATUS_DRAINING: "draining", catalogv1.NodeStatus_NODE_STATUS_LEFT: "left",
	catalogv1.NodeStatus_NODE_STATUS_OFFLINE: "offline"}

// NodeStatus is a node's status in words.
func NodeStatus(s catalogv1.NodeStatus) string {
	if text, ok := statusText[s]; ok {
		return text
	}
	return "unknown"
}

// clusterPage computes rows from what the catalog's leader knows.
func (t *Tables) clusterPage(rows func(s *clusterv1.StatusResponse) [][]datum.Datum) pager {
	return paged(func(ctx context.Context) ([][]datum.Datum, error) {
		status, err := t.cfg.Cluster.Status(ctx, &clusterv1.StatusRequest{})
		if err != nil {
			return nil, err
		}
		return rows(status), nil
	})
}

func (t *Tables) nodes(catalog.Identity) pager {
	return t.clusterPage(func(s *clusterv1.StatusResponse) (rows [][]datum.Datum) {
		for _, n := range s.GetNodes() {
			node, r := n.GetNode(), n.GetReport()
			row := []datum.Datum{integer(uint64(node.GetNodeId())), datum.Text(node.GetServerId()), datum.Text(node.GetRole()),
				datum.Text(NodeStatus(node.GetStatus())), datum.TextOrNull(node.GetRpcAddr()), datum.TextOrNull(node.GetRaftAddr()),
				datum.TextOrNull(node.GetApiAddr()), datum.TextOrNull(node.GetZone()), datum.TextOrNull(node.GetVersion()),
				moment(node.GetRegisteredAtUs()), moment(node.GetStatusSinceUs())}
			rows = append(rows, append(row, reported(r, datum.TextOrNull(r.GetHostname()), datum.Int(r.GetUptimeMs()/1000),
				integer(r.GetMemoryBytes()>>20), integer(r.GetLoad()))...))
		}
		return rows
	})
}

// cluster shows each node with the sums over its replicas.
func (t *Tables) cluster(catalog.Identity) pager {
	return t.clusterPage(func(s *clusterv1.StatusResponse) (rows [][]datum.Datum) {
		last := lastIndexes(s)
		for _, n := range s.GetNodes() {
			node, r, sum := n.GetNode(), n.GetReport(), sumOf(n, last)
			role := node.GetRole()
			if sum.groups > 0 {
				role = "follower"
			}
			leads := node.GetServerId() == s.GetLeader()
			if leads {
				role = "leader"
			}
			uptime := time.Duration(r.GetUptimeMs()) * time.Millisecond
			row := []datum.Datum{datum.Text(s.GetClusterId()), integer(uint64(node.GetNodeId())), datum.Text(role),
				datum.Text(sum.status(n)), datum.TextOrNull(node.GetRpcAddr()), datum.TextOrNull(node.GetApiAddr()),
				datum.Bool(node.GetNodeId() == t.cfg.NodeID), datum.Bool(leads), datum.Int(int64(sum.leading)), datum.Int(int64(len(s.GetPlacements())))}
			row = append(row, replicated(sum.groups > 0, integer(sum.term), integer(sum.applied), integer(sum.last),
				integer(sum.snapshot), datum.Int(sum.progress()), integer(sum.lag()))...)
			memory := integer(r.GetMemoryBytes() >> 20)
			row = append(row, reported(r, datum.TextOrNull(r.GetHostname()))...)
			row = append(row, datum.TextOrNull(node.GetVersion()))
			rows = append(rows, append(row, reported(r, memory, memory, datum.Float(r.GetCpuPercent()),
				datum.Int(int64(uptime.Seconds())), datum.Text(uptime.Truncate(time.Second).String()),
				datum.TextOrNull(r.GetOs()), datum.TextOrNull(r.GetArch()))...))
		}
		return rows
	})
}

func (t *Tables) clusterGroups(catalog.Identity) pager {
	return t.clusterPage(func(s *clusterv1.StatusResponse) (rows [][]datum.Datum) {
		ids := map[string]uint32{}
		for _, n := range s.GetNodes() {
			ids[n.GetNode().GetServerId()] = n.GetNode().GetNodeId()
		}
		for _, n := range s.GetNodes() {
			for _, g := range n.GetReport().GetGroups() {
				kind, leader := "shard", datum.Null
				if g.GetGroup() == 0 {
					kind = "meta"
				}
				if id, known := ids[g.GetLeader()]; known {
					leader = integer(uint64(id))
				}
				rows = append(rows, []datum.Datum{integer(uint64(g.GetGroup())), datum.Text(s.GetClusterId()),
					integer(uint64(n.GetNode().GetNodeId())), datum.Text(kind), integer(g.GetTerm()), datum.Null,
					integer(g.GetLastIndex()), integer(g.GetAppliedIndex()), integer(g.GetSnapshotIndex()), datum.Null,
					integer(g.GetCommitIndex()), datum.Text(g.GetState()), leader, integer(g.GetLastContactMs())})
			}
		}
		return rows
	})
}

// replicas are sums over a node's replicas.
type replicas struct {
	groups, leading                       int
	term, applied, last, snapshot, behind uint64
}

// lastIndexes are the highest log index known of each group.
func lastIndexes(s *clusterv1.StatusResponse) map[uint32]uint64 {
	last := map[uint32]uint64{}
	for _, n := range s.GetNodes() {
		for _, g := range n.GetReport().GetGroups() {
			last[g.GetGroup()] = max(last[g.GetGroup()], g.GetCommitIndex())
		}
	}
	return last
}

func sumOf(n *clusterv1.NodeStatusReport, last map[uint32]uint64) (sum replicas) {
	for _, g := range n.GetReport().GetGroups() {
		sum.groups++
		if g.GetState() == "Leader" {
			sum.leading++
		}
		sum.term = max(sum.term, g.GetTerm())
		sum.applied += g.GetAppliedIndex()
		sum.snapshot += g.GetSnapshotIndex()
		sum.last += last[g.GetGroup()]
		if at := max(g.GetCommitIndex(), g.GetAppliedIndex()); at < last[g.GetGroup()] {
			sum.behind += last[g.GetGroup()] - at
		}
	}
	return sum
}

// catchingUpBehind is how many entries a node that takes part is behind at most: what is on its way.
const catchingUpBehind = 1000

func (r *replicas) status(n *clusterv1.NodeStatusReport) string {
	active := n.GetNode().GetStatus() == catalogv1.NodeStatus_NODE_STATUS_ACTIVE
	switch {
	case active && n.GetReport() == nil:
		return "joining"
	case active && r.behind > catchingUpBehind:
		return "catching_up"
	}
	return NodeStatus(n.GetNode().GetStatus())
}

func (r *replicas) lag() uint64 { return r.behind }

func (r *replicas) progress() int64 {
	if r.last == 0 || r.behind == 0 {
		return 100
	}
	return int64(100 * (r.last - min(r.behind, r.last)) / r.last)
}

// reported are values of a report, NULL where there is none yet.
func reported(r *clusterv1.NodeReport, values ...datum.Datum) []datum.Datum {
	return replicated(r != nil, values...)
}

func replicated(known bool, values ...datum.Datum) []datum.Datum {
	if !known {
		for i := range values {
			values[i] = datum.Null
		}
	}
	return values
}

func integer(v uint64) datum.Datum { return datum.Int(int64(v)) }
