// Package rendezvous is how fresh storage nodes find out whether they join a cluster or make one.
//
// Each says Hello to every node it knows of, and remembers who said Hello to it. A node that belongs to a
// cluster ends the search. Otherwise the lowest of those that have met makes one, and only after a round in
// which everybody known answered, those heard of during the round included: of two nodes that know one node in
// common, one then hears of the other before both can decide, and a decision and an answer never overlap.
package rendezvous

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/pause"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
)

const (
	// roundPause is between two rounds, and helloTimeout bounds one answer.
	roundPause   = 250 * time.Millisecond
	helloTimeout = time.Second
	// greetPause is between two rounds of nodes that belong to a cluster: addresses change seldom.
	greetPause = 3 * time.Second
	// twinAfter is how long a process keeps its name to itself after it was heard: two greetings.
	twinAfter = 2 * greetPause
	// forgetAfter is how long a fresh node that no longer answers keeps the others from deciding.
	forgetAfter = 15 * time.Second
	// knownMax bounds what strangers can make a node remember: more nodes than a cluster can have.
	knownMax = 1024
)

// Config of a Meeting.
type Config struct {
	// Self is this node; ClusterID is what its data belongs to, if anything.
	Self      *catalogv1.Node
	ClusterID string
	// Seeds are addresses of storage nodes; this node's own may be among them.
	Seeds []string
	// Expect is how many fresh nodes, this one included, make a cluster.
	Expect int
	// Hello asks one node.
	Hello func(ctx context.Context, addr string, req *clusterv1.HelloRequest) (*clusterv1.HelloResponse, error)
	Now   func() time.Time
	Log   *slog.Logger
}

// Meeting is one node's part. It answers Hello as long as the node runs.
type Meeting struct {
	cfg Config

	// mu guards what follows. It is held while a decision is taken, so an answer comes before or after it.
	mu        sync.Mutex
	clusterID string
	nodes     map[string]*met // by server id, others only
}

// met is another storage node.
type met struct {
	node      *catalogv1.Node
	clusterID string
	heard     time.Time // last, from itself or as a caller
}

// New makes a meeting.
func New(cfg Config) *Meeting {
	return &Meeting{cfg: cfg, clusterID: cfg.ClusterID, nodes: map[string]*met{}}
}

// Outcome is how the search ended.
type Outcome struct {
	// ClusterID is the cluster to join; empty when this node makes one.
	ClusterID string
	// Members are addresses of nodes of that cluster.
	Members []string
}

// Answer answers a Hello.
func (m *Meeting) Answer(req *clusterv1.HelloRequest) *clusterv1.HelloResponse {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note(req.GetNode(), req.GetClusterId(), true)
	resp := &clusterv1.HelloResponse{Node: m.cfg.Self, ClusterId: m.clusterID}
	for _, id := range slices.Sorted(maps.Keys(m.nodes)) {
		resp.Known = append(resp.Known, m.nodes[id].node)
	}
	return resp
}

// Belong says that this node belongs to a cluster now.
func (m *Meeting) Belong(clusterID string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clusterID = clusterID
}

// RaftAddr is where a server said, or was said, to listen for Raft; recent when it was heard of shortly ago.
func (m *Meeting) RaftAddr(serverID string) (addr string, recent bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, ok := m.nodes[serverID]
	if !ok {
		return "", false
	}
	return n.node.GetRaftAddr(), m.cfg.Now().Sub(n.heard) <= forgetAfter
}

// Find searches until it knows or ctx ends. makeCluster is called, with nobody answered meanwhile, when this
// node makes the cluster: it stores the decision durably and returns the cluster's id.
func (m *Meeting) Find(ctx context.Context, makeCluster func() (string, error)) (Outcome, error) {
	for {
		if out, ok, err := m.round(ctx, makeCluster); ok || err != nil {
			return out, err
		}
		if err := pause.For(ctx, roundPause); err != nil {
			return Outcome{}, dberr.New(dberr.Unavailable, "no cluster was found through cluster.join, and fewer than %d new nodes have met (cluster.bootstrap_expect): %w", m.need(), err)
		}
	}
}

// Greet says Hello to all seeds until ctx ends, so that addresses that changed become known.
func (m *Meeting) Greet(ctx context.Context) {
	for {
		m.greetAll(ctx)
		if pause.For(ctx, greetPause) != nil {
			return
		}
	}
}

// need is how many must meet. A node that is told of others never decides alone: perhaps its disk was wiped, and
// they are the cluster it was part of.
func (m *Meeting) need() int {
	for _, s := range m.cfg.Seeds {
		if s != m.cfg.Self.GetRpcAddr() {
			return max(m.cfg.Expect, 2)
		}
	}
	return max(m.cfg.Expect, 1)
}

func (m *Meeting) round(ctx context.Context, makeCluster func() (string, error)) (Outcome, bool, error) {
	answered := m.greetAll(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	var out Outcome
	for _, id := range slices.Sorted(maps.Keys(m.nodes)) {
		if n := m.nodes[id]; n.clusterID != "" && answered[id] {
			if out.ClusterID != "" && out.ClusterID != n.clusterID {
				return out, false, dberr.New(dberr.InvalidArgument, "cluster.join names nodes of two clusters, %s and %s", out.ClusterID, n.clusterID)
			}
			out.ClusterID = n.clusterID
			out.Members = append(out.Members, n.node.GetRpcAddr())
		}
	}
	if out.ClusterID != "" {
		return out, true, nil
	}
	if !m.mayMake(answered) {
		return out, false, nil
	}
	id, err := makeCluster()
	if err != nil {
		return out, false, err
	}
	m.clusterID = id
	return out, true, nil
}

// mayMake reports whether everybody known has answered, enough have, and this node is the lowest.
func (m *Meeting) mayMake(answered map[string]bool) bool {
	count := 1
	for id, n := range m.nodes {
		if n.clusterID != "" || !answered[id] && m.cfg.Now().Sub(n.heard) > forgetAfter {
			if !answered[id] {
				continue // gone for long
			}
			return false
		}
		if !answered[id] || n.node.GetNodeId() < m.cfg.Self.GetNodeId() {
			return false
		}
		count++
	}
	return count >= m.need()
}

// greetAll says Hello to the seeds and to everybody known, and returns who answered.
func (m *Meeting) greetAll(ctx context.Context) map[string]bool {
	m.mu.Lock()
	addrs := map[string]bool{}
	for _, s := range m.cfg.Seeds {
		addrs[s] = true
	}
	for _, n := range m.nodes {
		addrs[n.node.GetRpcAddr()] = true
	}
	req := &clusterv1.HelloRequest{Node: m.cfg.Self, ClusterId: m.clusterID}
	m.mu.Unlock()
	delete(addrs, m.cfg.Self.GetRpcAddr())
	delete(addrs, "")
	answered := map[string]bool{}
	var asking sync.WaitGroup
	for addr := range addrs {
		asking.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, helloTimeout)
			defer cancel()
			resp, err := m.cfg.Hello(ctx, addr, req)
			if err != nil {
				m.cfg.Log.DebugContext(ctx, "no answer to Hello", "addr", addr, "error", err)
				return
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			m.note(resp.GetNode(), resp.GetClusterId(), true)
			for _, n := range resp.GetKnown() {
				m.note(n, "", false)
			}
			answered[resp.GetNode().GetServerId()] = true
		})
	}
	asking.Wait()
	return answered
}

// note remembers a storage node. What somebody else says of it never replaces what it said itself. mu is held.
func (m *Meeting) note(n *catalogv1.Node, clusterID string, itself bool) {
	id := n.GetServerId()
	if id == "" || n.GetRpcAddr() == "" || id == m.cfg.Self.GetServerId() {
		return
	}
	now := m.cfg.Now()
	if old, ok := m.nodes[id]; ok {
		if itself && !(twin(old.node, n) && now.Sub(old.heard) <= twinAfter) {
			old.node, old.clusterID, old.heard = n, clusterID, now
		}
		return
	}
	for other, old := range m.nodes { // another incarnation at the same address has replaced it
		if itself && old.node.GetRpcAddr() == n.GetRpcAddr() {
			delete(m.nodes, other)
		}
	}
	if len(m.nodes) < knownMax {
		m.nodes[id] = &met{node: n, clusterID: clusterID, heard: now}
	}
}

// twin reports that another process uses a node's name elsewhere: with a copy of its data, unless the node has moved.
// Who was heard lately is believed until then, so that a copy cannot take over what the others send to the original.
func twin(known, n *catalogv1.Node) bool {
	return known.GetProcess() != n.GetProcess() && (known.GetRpcAddr() != n.GetRpcAddr() || known.GetRaftAddr() != n.GetRaftAddr())
}
