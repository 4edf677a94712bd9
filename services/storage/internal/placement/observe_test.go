package placement

import (
	"testing"
	"time"

	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/catalogstate"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/directory"
)

// observed is an observer a while after it began to listen to two nodes.
func observed(listening time.Duration) (*observer, catalogstate.Topology) {
	now := time.Unix(1_000_000, 0)
	o := &observer{cfg: Config{}.withDefaults(), now: now, since: now.Add(-listening), heard: map[string]*directory.Heard{}}
	return o, catalogstate.Topology{Nodes: []*catalogv1.Node{
		{NodeId: 1, ServerId: "n1", Role: "storage", Status: catalogv1.NodeStatus_NODE_STATUS_ACTIVE},
		{NodeId: 2, ServerId: "n2", Role: "storage", Status: catalogv1.NodeStatus_NODE_STATUS_ACTIVE},
		{NodeId: 3, ServerId: "q", Role: "query", Status: catalogv1.NodeStatus_NODE_STATUS_ACTIVE}},
		Placements: []*catalogv1.Placement{{Group: 1}}}
}

func TestANewLeaderListensBeforeItActs(t *testing.T) {
	o, topology := observed(time.Second)
	o.heard["n1"] = &directory.Heard{Server: "n1", At: o.now}
	if o.heardAll(topology) {
		t.Error("n2 had no time to be heard")
	}
	topology.Nodes[1].Status = catalogv1.NodeStatus_NODE_STATUS_OFFLINE
	if !o.heardAll(topology) {
		t.Error("waited for a node that is offline")
	}
	o, topology = observed(time.Minute)
	if !o.heardAll(topology) {
		t.Error("waited for ever")
	}
}

func TestSilenceCountsAcrossLeaders(t *testing.T) {
	o, topology := observed(time.Minute)
	if l := o.life(topology.Nodes[1]); l.Alive || l.Gone {
		t.Errorf("silent for a minute: %+v", l)
	}
	topology.Nodes[1].Status = catalogv1.NodeStatus_NODE_STATUS_OFFLINE
	topology.Nodes[1].StatusSinceUs = o.now.Add(-o.cfg.ReplaceAfter).UnixMicro()
	if l := o.life(topology.Nodes[1]); !l.Gone {
		t.Errorf("offline for %s under another leader: %+v", o.cfg.ReplaceAfter, l)
	}
	o.heard["n2"] = &directory.Heard{Server: "n2", At: o.now.Add(-o.cfg.OfflineAfter), Report: &clusterv1.NodeReport{Stopping: true}}
	if l := o.life(topology.Nodes[1]); l != (Life{Alive: true, Stopping: true}) {
		t.Errorf("heard lately: %+v", l)
	}
}

func TestTheLeaderOfTheHighestTermIsBelieved(t *testing.T) {
	o, topology := observed(time.Minute)
	leads := func(server string, term uint64, age time.Duration) {
		o.heard[server] = &directory.Heard{Server: server, At: o.now.Add(-age), CaughtUp: map[uint32]time.Time{1: o.now.Add(-age)},
			Report: &clusterv1.NodeReport{Groups: []*clusterv1.GroupReport{{Group: 1, State: "Leader", Term: term, Voters: []string{server}}}}}
	}
	leads("n1", 4, 0)
	leads("n2", 5, time.Second)
	v := o.reports(topology).Views[1]
	if v.Leader != "n2" || len(v.Voters) != 1 || !v.CaughtUp["n1"] || !v.CaughtUp["n2"] {
		t.Errorf("%+v", v)
	}
	leads("n2", 5, time.Minute) // n1 was deposed, n2 is silent: nobody knows
	if v := o.reports(topology).Views[1]; v.Leader != "" || len(v.Voters) != 0 {
		t.Errorf("%+v", v)
	}
	leads("n1", 6, 0)
	if v := o.reports(topology).Views[1]; v.Leader != "n1" || v.CaughtUp["n2"] {
		t.Errorf("%+v", v)
	}
}
