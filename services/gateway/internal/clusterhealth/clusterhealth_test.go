package clusterhealth

import (
	"encoding/json"
	"testing"
	"time"

	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
)

func node(id uint32, server, role string, groups ...*clusterv1.GroupReport) *clusterv1.NodeStatusReport {
	return &clusterv1.NodeStatusReport{Node: &catalogv1.Node{NodeId: id, ServerId: server, Role: role, ApiAddr: "http://" + server,
		Status: catalogv1.NodeStatus_NODE_STATUS_ACTIVE}, Report: &clusterv1.NodeReport{UptimeMs: 60_000, MemoryBytes: 40 << 20, CpuPercent: 1.5,
		Hostname: server, Groups: groups}}
}

func replica(group uint32, server, state string, commit, applied uint64) *clusterv1.GroupReport {
	return &clusterv1.GroupReport{Group: group, ServerId: server, State: state, Term: 3, CommitIndex: commit, AppliedIndex: applied, LastContactMs: 12}
}

func cluster() *clusterv1.StatusResponse {
	st := &clusterv1.StatusResponse{ClusterId: "prod", Leader: "n1"}
	for group := range uint32(2) {
		st.Placements = append(st.Placements, &catalogv1.Placement{Group: group, Replicas: []*catalogv1.Replica{{ServerId: "n1"}, {ServerId: "n2"}}})
	}
	st.Nodes = []*clusterv1.NodeStatusReport{
		node(1, "n1", "storage", replica(0, "n1", "Leader", 812, 812), replica(1, "n1", "Follower", 90, 90)),
		node(2, "n2", "storage", replica(0, "n2", "Follower", 812, 810), replica(1, "n2", "Leader", 100, 100)),
		node(3, "g1", "gateway")}
	return st
}

func TestReport(t *testing.T) {
	r := Of(cluster(), Self{ServerID: "g1", Version: "1", BuildDate: "today"})
	got, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	const want = `{
 "status": "healthy",
 "version": "1",
 "build_date": "today",
 "is_cluster_mode": true,
 "cluster_id": "prod",
 "node_id": 3,
 "is_leader": false,
 "total_groups": 2,
 "groups_leading": 0,
 "current_term": 3,
 "last_applied": 812,
 "millis_since_quorum_ack": 12,
 "nodes": [
  {
   "node_id": 1,
   "role": "leader",
   "status": "active",
   "api_addr": "http://n1",
   "is_self": false,
   "is_leader": true,
   "replication_lag": 10,
   "catchup_progress_pct": 90,
   "hostname": "n1",
   "memory_usage_mb": 40,
   "cpu_usage_percent": 1.5,
   "uptime_seconds": 60,
   "uptime_human": "1m"
  },`
	if string(got[:len(want)]) != want {
		t.Errorf("%s", got)
	}
	if r.Nodes[1].Role != "follower" || r.Nodes[1].Lag != 2 || r.Nodes[2].Role != "gateway" || !r.Nodes[2].IsSelf {
		t.Errorf("%+v", r.Nodes)
	}
	if own := Of(cluster(), Self{ServerID: "n1"}); !own.IsLeader || own.GroupsLeading != 1 || own.NodeID != 1 {
		t.Errorf("as its leader sees it: %+v", own)
	}
}

func TestStatusWords(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*clusterv1.StatusResponse)
		want   string
		node   string // of the second node
	}{
		{"all well", func(*clusterv1.StatusResponse) {}, Healthy, "active"},
		{"a node is offline, its last report says that it leads", func(st *clusterv1.StatusResponse) {
			st.Nodes[1].Node.Status = catalogv1.NodeStatus_NODE_STATUS_OFFLINE
		}, Unhealthy, "offline"},
		{"a node is offline and another leads", func(st *clusterv1.StatusResponse) {
			st.Nodes[1].Node.Status = catalogv1.NodeStatus_NODE_STATUS_OFFLINE
			st.Nodes[0].Report.Groups[1].State = "Leader"
		}, Degraded, "offline"},
		{"a replica is missing", func(st *clusterv1.StatusResponse) {
			st.Nodes[1].Report.Groups = st.Nodes[1].Report.Groups[1:]
		}, Degraded, "active"},
		{"a node has not reported", func(st *clusterv1.StatusResponse) {
			st.Nodes[0].Report.Groups[1].State = "Leader"
			st.Nodes[1].Report = nil
		}, Degraded, "joining"},
		{"a node drains", func(st *clusterv1.StatusResponse) {
			st.Nodes[1].Node.Status = catalogv1.NodeStatus_NODE_STATUS_DRAINING
		}, Degraded, "draining"},
		{"a replica is far behind", func(st *clusterv1.StatusResponse) {
			st.Nodes[0].Report.Groups[0].CommitIndex = 5000
		}, Degraded, "catching_up"},
		{"a word of a newer version", func(st *clusterv1.StatusResponse) { st.Nodes[1].Node.Status = 99 }, Degraded, "unknown"},
	} {
		st := cluster()
		c.change(st)
		if r := Of(st, Self{}); r.Status != c.want || r.Nodes[1].Status != c.node {
			t.Errorf("%s: %s, node %s", c.name, r.Status, r.Nodes[1].Status)
		}
	}
}

func TestHuman(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0s", 42 * time.Second: "42s", time.Minute: "1m", 61 * time.Minute: "1h 1m",
		49*time.Hour + time.Second: "2d 1h"} {
		if got := human(d); got != want {
			t.Errorf("%v: %q", d, got)
		}
	}
}
