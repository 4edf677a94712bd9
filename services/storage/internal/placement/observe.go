package placement

import (
	"slices"
	"time"

	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/catalogstate"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/directory"
)

// caughtUpFor is how long it counts that a replica had caught up: some heartbeats, of which one may be lost.
const caughtUpFor = 10 * time.Second

// observer turns what was heard into Reports.
type observer struct {
	cfg   Config
	now   time.Time
	since time.Time // when this node began to listen
	heard map[string]*directory.Heard
}

func (o *observer) reports(t catalogstate.Topology) Reports {
	r := Reports{Lives: map[string]Life{}, Views: map[uint32]View{}}
	for _, n := range t.Nodes {
		if catalogstate.HoldsReplicas(n.GetRole()) {
			r.Lives[n.GetServerId()] = o.life(n)
		}
	}
	for _, h := range o.heard { // replaced incarnations too: they may hold votes, but are not alive
		if _, known := r.Lives[h.Server]; !known {
			r.Lives[h.Server] = Life{}
		}
	}
	for _, place := range t.Placements {
		r.Views[place.GetGroup()] = o.view(place.GetGroup(), r.Lives)
	}
	return r
}

func (o *observer) life(n *catalogv1.Node) Life {
	h := o.heard[n.GetServerId()]
	if h != nil && o.now.Sub(h.At) <= o.cfg.OfflineAfter {
		return Life{Alive: true, Stopping: h.Report.GetStopping()}
	}
	silent := o.now.Sub(o.since)
	if h != nil {
		silent = o.now.Sub(h.At)
	}
	if n.GetStatus() == catalogv1.NodeStatus_NODE_STATUS_OFFLINE { // also under earlier leaders
		silent = max(silent, o.now.Sub(time.UnixMicro(n.GetStatusSinceUs())))
	}
	return Life{Gone: silent >= o.cfg.ReplaceAfter}
}

// view is a group as the leader with the highest term said; nothing if that was too long ago.
func (o *observer) view(group uint32, lives map[string]Life) (v View) {
	var leader *clusterv1.GroupReport
	for _, h := range o.heard {
		for _, g := range h.Report.GetGroups() {
			if g.GetGroup() == group && g.GetState() == directory.LeaderState && (leader == nil || g.GetTerm() > leader.GetTerm()) {
				leader, v.Leader = g, h.Server
			}
		}
	}
	if leader == nil || !lives[v.Leader].Alive {
		return View{}
	}
	v.Voters, v.Learners, v.CaughtUp, v.Lacking = leader.GetVoters(), leader.GetLearners(), map[string]bool{}, map[string]bool{}
	for _, h := range o.heard {
		if slices.ContainsFunc(h.Report.GetGroups(), func(g *clusterv1.GroupReport) bool { return g.GetGroup() == group && g.GetSegmentsMissing() }) {
			v.Lacking[h.Server] = true
		}
		if at, ok := h.CaughtUp[group]; ok && o.now.Sub(at) <= caughtUpFor && lives[h.Server].Alive {
			v.CaughtUp[h.Server] = true
		}
	}
	return v
}

// heardAll reports whether every storage node that is not known to be offline has been heard of in this term, or
// has had the time to. Before, a node would look dead only because this leader is new.
func (o *observer) heardAll(t catalogstate.Topology) bool {
	if o.now.Sub(o.since) > o.cfg.OfflineAfter {
		return true
	}
	for _, n := range t.Nodes {
		if catalogstate.HoldsReplicas(n.GetRole()) && n.GetStatus() != catalogv1.NodeStatus_NODE_STATUS_OFFLINE && o.heard[n.GetServerId()] == nil {
			return false
		}
	}
	return true
}
