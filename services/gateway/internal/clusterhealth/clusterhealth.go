// Package clusterhealth says how a cluster is, in the words of the HTTP API, from what the leader of the
// catalog knows.
package clusterhealth

import (
	"fmt"
	"strings"
	"time"

	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
)

// The words for a cluster.
const (
	// Healthy: every node is up and every group has a leader and all its replicas.
	Healthy = "healthy"
	// Degraded: everything is served, with fewer nodes or replicas than there should be.
	Degraded = "degraded"
	// Unhealthy: a group has no leader, so some rows cannot be read or written.
	Unhealthy = "unhealthy"
)

// Self is the node that answers.
type Self struct {
	// ServerID is the node in the catalog's list; empty when it belongs to no cluster.
	ServerID           string
	Version, BuildDate string
}

// Report is the answer.
type Report struct {
	Status               string `json:"status"`
	Version              string `json:"version"`
	BuildDate            string `json:"build_date"`
	IsClusterMode        bool   `json:"is_cluster_mode"`
	ClusterID            string `json:"cluster_id"`
	NodeID               uint32 `json:"node_id"`
	IsLeader             bool   `json:"is_leader"`
	TotalGroups          int    `json:"total_groups"`
	GroupsLeading        int    `json:"groups_leading"`
	CurrentTerm          uint64 `json:"current_term"`
	LastApplied          uint64 `json:"last_applied"`
	MillisSinceQuorumAck uint64 `json:"millis_since_quorum_ack"`
	Nodes                []Node `json:"nodes"`
}

// Node is one node of a Report.
type Node struct {
	NodeID uint32 `json:"node_id"`
	// Role is leader or follower (of the catalog) for nodes that hold replicas, the role's name for others.
	Role          string  `json:"role"`
	Status        string  `json:"status"`
	APIAddr       string  `json:"api_addr"`
	IsSelf        bool    `json:"is_self"`
	IsLeader      bool    `json:"is_leader"`
	Lag           uint64  `json:"replication_lag"`
	CatchupPct    uint64  `json:"catchup_progress_pct"`
	Hostname      string  `json:"hostname"`
	MemoryMB      uint64  `json:"memory_usage_mb"`
	CPUPercent    float64 `json:"cpu_usage_percent"`
	UptimeSeconds int64   `json:"uptime_seconds"`
	UptimeHuman   string  `json:"uptime_human"`
}

// Unknown is the report while the leader of the catalog cannot be asked.
func Unknown(self Self, clusterID string) Report {
	return Report{Status: Unhealthy, Version: self.Version, BuildDate: self.BuildDate, IsClusterMode: self.ServerID != "",
		ClusterID: clusterID, Nodes: []Node{}}
}

// Of makes the report.
func Of(st *clusterv1.StatusResponse, self Self) Report {
	groups := groupsOf(st)
	r := Report{Status: Healthy, Version: self.Version, BuildDate: self.BuildDate, IsClusterMode: len(st.GetNodes()) > 1,
		ClusterID: st.GetClusterId(), IsLeader: self.ServerID != "" && self.ServerID == st.GetLeader(), TotalGroups: len(groups), Nodes: []Node{}}
	if lead := groups[0].leader; lead != nil {
		r.CurrentTerm, r.LastApplied, r.MillisSinceQuorumAck = lead.GetTerm(), lead.GetAppliedIndex(), lead.GetLastContactMs()
	}
	for _, n := range st.GetNodes() {
		node := nodeOf(n, st.GetLeader(), groups)
		if node.IsSelf = self.ServerID != "" && n.GetNode().GetServerId() == self.ServerID; node.IsSelf {
			r.NodeID = node.NodeID
		}
		r.Nodes = append(r.Nodes, node)
		if node.Status != statusActive && node.Status != statusLeft {
			r.Status = Degraded
		}
	}
	for _, g := range groups {
		if g.leader != nil && g.leader.GetServerId() == self.ServerID {
			r.GroupsLeading++
		}
		if g.up < g.wanted && r.Status == Healthy {
			r.Status = Degraded
		}
	}
	for _, g := range groups {
		if g.leader == nil && g.wanted > 0 {
			r.Status = Unhealthy
		}
	}
	return r
}

// group is what is known of one Raft group.
type group struct {
	leader     *clusterv1.GroupReport
	wanted, up int // replicas it should have, and those that report
}

// groupsOf joins placements and reports. Group 0 is always there.
func groupsOf(st *clusterv1.StatusResponse) map[uint32]*group {
	groups := map[uint32]*group{0: {}}
	for _, p := range st.GetPlacements() {
		groups[p.GetGroup()] = &group{wanted: len(p.GetReplicas())}
	}
	for _, n := range st.GetNodes() {
		for _, rep := range n.GetReport().GetGroups() {
			g := groups[rep.GetGroup()]
			if g == nil || n.GetNode().GetStatus() == catalogv1.NodeStatus_NODE_STATUS_OFFLINE {
				continue
			}
			g.up++
			// Two may say that they lead while one has not noticed the other: the later term is right.
			if rep.GetState() == "Leader" && (g.leader == nil || rep.GetTerm() > g.leader.GetTerm()) {
				g.leader = rep
			}
		}
	}
	return groups
}

const (
	statusActive = "active"
	statusLeft   = "left"
)

func nodeOf(n *clusterv1.NodeStatusReport, leader string, groups map[uint32]*group) Node {
	rep, self := n.GetReport(), n.GetNode()
	out := Node{NodeID: self.GetNodeId(), Role: self.GetRole(), APIAddr: self.GetApiAddr(), CatchupPct: 100, Hostname: rep.GetHostname(),
		MemoryMB: rep.GetMemoryBytes() >> 20, CPUPercent: rep.GetCpuPercent(), UptimeSeconds: rep.GetUptimeMs() / 1000}
	out.UptimeHuman = human(time.Duration(rep.GetUptimeMs()) * time.Millisecond)
	if len(rep.GetGroups()) > 0 || self.GetServerId() == leader {
		if out.Role = "follower"; self.GetServerId() == leader {
			out.Role, out.IsLeader = "leader", true
		}
	}
	for _, r := range rep.GetGroups() {
		g := groups[r.GetGroup()]
		if g == nil || g.leader == nil || g.leader.GetCommitIndex() <= r.GetAppliedIndex() {
			continue
		}
		commit := g.leader.GetCommitIndex()
		if lag := commit - r.GetAppliedIndex(); lag > out.Lag {
			out.Lag, out.CatchupPct = lag, r.GetAppliedIndex()*100/commit
		}
	}
	out.Status = statusOf(n, out)
	return out
}

// catchingUpFrom is how far a replica may be behind before it counts as catching up: entries on their way.
const catchingUpFrom = 1000

func statusOf(n *clusterv1.NodeStatusReport, node Node) string {
	switch n.GetNode().GetStatus() {
	case catalogv1.NodeStatus_NODE_STATUS_ACTIVE:
		switch {
		case n.GetReport() == nil:
			return "joining"
		case node.Lag >= catchingUpFrom:
			return "catching_up"
		}
		return statusActive
	case catalogv1.NodeStatus_NODE_STATUS_OFFLINE:
		return "offline"
	case catalogv1.NodeStatus_NODE_STATUS_DRAINING:
		return "draining"
	case catalogv1.NodeStatus_NODE_STATUS_LEFT:
		return statusLeft
	}
	return "unknown"
}

// human is a duration in at most two units.
func human(d time.Duration) string {
	units := []struct {
		name string
		size time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}}
	var parts []string
	for _, u := range units {
		if n := d / u.size; n > 0 {
			parts = append(parts, fmt.Sprintf("%d%s", n, u.name))
			d -= n * u.size
		}
	}
	if len(parts) == 0 {
		return "0s"
	}
	return strings.Join(parts[:min(len(parts), 2)], " ")
}
