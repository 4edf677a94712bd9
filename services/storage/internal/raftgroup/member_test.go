package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/hashicorp/raft"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/raftlog"
)

// sharedState is a bytesState that a test may look at while it runs.
type sharedState struct {
	mu    sync.Mutex
	state bytesState
}

func (s *sharedState) Apply(logs []*raft.Log) []any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Apply(logs)
}
func (s *sharedState) Applied() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.applied
}
func (*sharedState) MakeDurable(uint64) error { return nil }
func (*sharedState) Torn() (bool, error)      { return false, nil }
func (s *sharedState) WriteSnapshot(w io.Writer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.WriteSnapshot(w)
}
func (s *sharedState) Restore(r io.Reader) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Restore(r)
}
func (s *sharedState) look() (content string, restored int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.state.content), s.state.restored
}

// party is replicas of one group.
type party struct {
	t      testing.TB
	faults *rpcnet.Faults
	nodes  map[string]*peer

	heartbeat time.Duration

	mu   sync.Mutex
	off  string   // the node that isolate cut off
	from []string // those it was cut off from
	gone string   // the node whose process is no more: its address refuses
	// asked are the nodes that were refused there.
	asked map[string]bool
}

// isolate cuts a node off. Faults closes the connections it knows; one that is being dialled meanwhile is closed
// by view when it comes into being.
func (p *party) isolate(node string) {
	others := slices.Collect(maps.Keys(p.nodes))
	p.isolateFrom(node, slices.DeleteFunc(others, func(other string) bool { return other == node })...)
}

// isolateFrom cuts a node off from some.
func (p *party) isolateFrom(node string, others ...string) {
	p.mu.Lock()
	p.off, p.from = node, others
	p.mu.Unlock()
	for _, other := range others {
		p.faults.Cut(node, other)
		p.faults.Cut(other, node)
	}
}

// cut reports whether a node does not reach an address.
func (p *party) cut(node, addr string) bool {
	at := func(n string) bool { return addr == n+"/raft" }
	return p.off != "" && (node == p.off && slices.ContainsFunc(p.from, at) || at(p.off) && slices.Contains(p.from, node))
}

func (p *party) heal() {
	p.mu.Lock()
	p.off = ""
	p.mu.Unlock()
	p.faults.Heal()
}

// view is the network as one node sees it.
type view struct {
	rpcnet.Network
	party *party
	node  string
}

func (v view) DialContext(ctx context.Context, addr string) (net.Conn, error) {
	c, err := v.Network.DialContext(ctx, addr)
	v.party.mu.Lock()
	defer v.party.mu.Unlock()
	if gone := v.party.gone; err != nil && gone != "" && addr == gone+"/raft" {
		v.party.asked[v.node] = true
		return nil, fmt.Errorf("dial %s: %w", addr, syscall.ECONNREFUSED)
	}
	if err != nil {
		return nil, err
	}
	if v.party.cut(v.node, addr) {
		return nil, errors.Join(errors.New("cut off while dialling"), c.Close())
	}
	return c, nil
}

type peer struct {
	fs    vfs.FS
	disk  *disk
	log   *raftlog.DB
	mux   *Mux
	state *sharedState
	group *Group
}

func newParty(t testing.TB, ids ...string) *party {
	return newPartyWith(t, 300*time.Millisecond, ids...)
}

func newPartyWith(t testing.TB, heartbeat time.Duration, ids ...string) *party {
	p := &party{t: t, heartbeat: heartbeat, faults: rpcnet.NewFaults(rpcnet.NewLocal()), nodes: map[string]*peer{}, asked: map[string]bool{}}
	t.Cleanup(func() {
		p.heal()
		for id, n := range p.nodes { // a log closes after its group
			p.stop(id)
			if err := n.log.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	for i, id := range ids {
		p.open(id, id, i == 0)
	}
	for _, id := range ids[1:] {
		p.admit(ids[0], id)
	}
	return p
}

// open starts a server at the address of a node.
func (p *party) open(node, server string, first bool) *peer {
	p.t.Helper()
	n := p.nodes[server]
	if n == nil {
		n = &peer{disk: newDisk()}
		n.fs = errorfs.Wrap(vfs.NewMem(), n.disk)
		p.nodes[server] = n
	}
	var err error
	if n.log == nil {
		if n.log, err = raftlog.Open("raft", raftlog.Options{FS: n.fs, Logger: quiet{}}); err != nil {
			p.t.Fatal(err)
		}
	}
	if n.mux, err = Listen(view{p.faults.As(node), p, node}, node+"/raft", server, nodeBook{}, discard); err != nil {
		p.t.Fatal(err)
	}
	n.state = &sharedState{}
	n.group, err = Open(p.t.Context(), Config{Group: 3, State: n.state, Log: n.log, Mux: n.mux, FS: n.fs, SpoolDir: "spool",
		Bootstrap: first, OnLead: func(uint64) {}, OnFollow: func() {}, Logger: discard,
		Settings: Settings{HeartbeatTimeout: p.heartbeat, TrailingLogs: 4}})
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

// nodeBook knows that the incarnation "n2-b" of a node listens where "n2" did.
type nodeBook struct{}

func (nodeBook) RaftAddr(server string) (string, bool) { return server[:2] + "/raft", true }

func (p *party) stop(server string) {
	p.t.Helper()
	n := p.nodes[server]
	if n.group == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.t.Context()), 20*time.Second)
	defer cancel()
	if err := n.group.Stop(ctx); err != nil {
		p.t.Error(err)
	}
	n.mux.Close()
	n.group = nil
}

// until waits for something Raft does by itself.
func (p *party) until(what string, holds func() bool) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			p.t.Fatalf("%s never happened", what)
		}
	}
}

func (p *party) admit(leader, id string) {
	p.t.Helper()
	g := p.nodes[leader].group
	p.until("the leadership of "+leader, func() bool { return g.Term() != 0 })
	for range 2 { // each step twice: it changes nothing more
		if err := errors.Join(g.AddLearner(p.t.Context(), id), g.AddLearner(p.t.Context(), id)); err != nil {
			p.t.Fatal(err)
		}
		if err := g.Promote(p.t.Context(), id); err != nil {
			p.t.Fatal(err)
		}
	}
}

// leader waits until one of the servers leads.
func (p *party) leader(among ...string) string {
	p.t.Helper()
	var found string
	p.until(fmt.Sprint("a leader among ", among), func() bool {
		for _, id := range among {
			if p.nodes[id].group.Term() != 0 {
				found = id
				return true
			}
		}
		return false
	})
	return found
}

func (p *party) propose(server, text string) error {
	return p.nodes[server].group.await(p.nodes[server].group.Propose([]byte(text)))
}

func (p *party) has(server, want string) {
	p.t.Helper()
	p.until(server+" with "+want, func() bool { got, _ := p.nodes[server].state.look(); return got == want })
}

func TestLeadershipIsHandedOverAndBack(t *testing.T) {
	p := newParty(t, "n1", "n2", "n3")
	p.until("n2 to catch up", func() bool {
		return p.nodes["n2"].group.Stats().AppliedRaft >= p.nodes["n1"].group.Stats().Commit
	})
	if err := p.nodes["n1"].group.Transfer(t.Context(), "n2"); err != nil {
		t.Fatal(err)
	}
	p.leader("n2")
	if err := p.nodes["n1"].group.Transfer(t.Context(), "n2"); !dberr.Is(err, dberr.NotLeader) {
		t.Errorf("asked who does not lead: %v", err)
	}
	if err := p.nodes["n2"].group.Transfer(t.Context(), "n2"); err != nil {
		t.Errorf("to itself: %v", err)
	}
	if err := p.nodes["n2"].group.Transfer(t.Context(), "n9"); !dberr.Is(err, dberr.InvalidOperation) {
		t.Errorf("to a stranger: %v", err)
	}
	if err := p.nodes["n2"].group.StepDown(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.leader("n1", "n3")
	n2 := p.nodes["n2"].group
	p.until("n2 to have noticed", func() bool { return n2.Term() == 0 })
	p.until("n2 to win an election", func() bool {
		// The voters refuse one whose log is behind theirs, so it may need another attempt, though none while it is
		// a candidate.
		if n2.Term() == 0 && n2.Leader() != "" {
			if err := n2.Campaign(t.Context()); err != nil {
				t.Error(err)
			}
		}
		return n2.Term() != 0
	})
	if err := p.propose("n2", "x"); err != nil {
		t.Fatal(err)
	}
	p.has("n1", "x")
}

func TestALearnerCatchesUpBySnapshotAndDoesNotVote(t *testing.T) {
	p := newParty(t, "n1")
	p.leader("n1")
	want := ""
	for i := range 50 {
		if err := p.propose("n1", fmt.Sprint(i, ",")); err != nil {
			t.Fatal(err)
		}
		want += fmt.Sprint(i, ",")
	}
	if err := p.nodes["n1"].group.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	learner := p.open("n2", "n2", false)
	if err := p.nodes["n1"].group.AddLearner(t.Context(), "n2"); err != nil {
		t.Fatal(err)
	}
	p.has("n2", want)
	if _, restored := learner.state.look(); restored != 1 {
		t.Errorf("restored %d times: the log should have been gone", restored)
	}
	if err := learner.group.Campaign(t.Context()); !dberr.Is(err, dberr.InvalidOperation) {
		t.Errorf("a learner campaigns: %v", err)
	}
	if m, err := p.nodes["n1"].group.Members(); err != nil || !slices.Equal(m.Voters, []string{"n1"}) || !slices.Equal(m.Learners, []string{"n2"}) {
		t.Errorf("members %+v, %v", m, err)
	}
	if !p.nodes["n1"].group.Alone() {
		t.Error("with a learner the only voter is not alone")
	}
}

func TestMembersThatGo(t *testing.T) {
	p := newParty(t, "n1", "n2", "n3")
	g := p.nodes["n1"].group
	for range 2 {
		if err := errors.Join(g.Demote(t.Context(), "n3"), g.Demote(t.Context(), "n3")); err != nil {
			t.Fatal(err)
		}
		if err := g.Promote(t.Context(), "n3"); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(g.Remove(t.Context(), "n3"), g.Remove(t.Context(), "n3")); err != nil {
		t.Fatal(err)
	}
	if err := g.Promote(t.Context(), "n3"); !dberr.Is(err, dberr.NotFound) {
		t.Errorf("promote who is gone: %v", err)
	}
	if err := g.Remove(t.Context(), "n1"); err != nil { // the leader itself
		t.Fatal(err)
	}
	p.leader("n2")
	if err := p.propose("n2", "after"); err != nil {
		t.Fatal(err)
	}
	if err := p.nodes["n2"].group.Remove(t.Context(), "n2"); !dberr.Is(err, dberr.InvalidOperation) {
		t.Errorf("remove the only voter: %v", err)
	}
	if err := p.nodes["n1"].group.ReadBarrier(t.Context()); !dberr.Is(err, dberr.NotLeader) {
		t.Errorf("who was removed serves: %v", err)
	}
}

func TestALeaderThatIsCutOffConfirmsNothing(t *testing.T) {
	p := newParty(t, "n1", "n2", "n3")
	p.isolate("n1")
	if err := p.nodes["n1"].group.ReadBarrier(t.Context()); !dberr.Is(err, dberr.NotLeader) {
		t.Errorf("a read: %v", err)
	}
	if err := p.propose("n1", "lost"); err == nil {
		t.Error("a write was committed")
	}
	next := p.leader("n2", "n3")
	if err := p.propose(next, "kept"); err != nil {
		t.Fatal(err)
	}
	p.heal()
	for _, id := range []string{"n1", "n2", "n3"} {
		p.has(id, "kept")
	}
}

func TestAWipedDiskDoesNotVoteUnderItsOldName(t *testing.T) {
	p := newParty(t, "n1", "n2", "n3")
	if err := p.propose("n1", "a"); err != nil {
		t.Fatal(err)
	}
	p.stop("n3")
	p.stop("n2")
	wiped := p.open("n2", "n2-b", false) // another disk at the same address
	next := p.nodes["n1"].group
	p.until("n1 to notice", func() bool { return !next.Leading() })
	before := next.Stats().Term
	if err := next.Campaign(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.until("an election", func() bool { return next.Stats().Term > before })
	if wiped.group.Stats().Term != 0 || wiped.group.Stats().LastIndex != 0 {
		t.Errorf("the wiped disk takes part as the one before: %+v", wiped.group.Stats())
	}
	p.open("n3", "n3", false)
	p.leader("n1", "n3")
	if wiped.group.Stats().Term != 0 {
		t.Error("the wiped disk was asked after all")
	}
}

func TestAllAtOnceStartAgain(t *testing.T) {
	ids := []string{"n1", "n2", "n3"}
	p := newParty(t, ids...)
	if err := p.propose("n1", "a"); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		p.stop(id)
	}
	for _, id := range ids {
		p.open(id, id, false)
	}
	if err := p.propose(p.leader(ids...), "b"); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		p.has(id, "ab")
	}
}

func TestADestroyedGroupLeavesNothing(t *testing.T) {
	p := newParty(t, "n1")
	p.leader("n1")
	if err := p.propose("n1", "a"); err != nil {
		t.Fatal(err)
	}
	n := p.nodes["n1"]
	p.stop("n1")
	if groups, err := n.log.Groups(); err != nil || !slices.Equal(groups, []uint32{3}) {
		t.Fatalf("groups %v, %v", groups, err)
	}
	broken := errors.New("the disk is slow today")
	if err := Destroy(n.log, n.fs, "spool", 3, func() error { return broken }); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if doomed, err := n.log.Doomed(); err != nil || !slices.Equal(doomed, []uint32{3}) {
		t.Errorf("half destroyed: doomed %v, %v", doomed, err)
	}
	removed := false
	if err := Destroy(n.log, n.fs, "spool", 3, func() error { removed = true; return nil }); err != nil || !removed {
		t.Fatal(removed, err)
	}
	groups, err := n.log.Groups()
	doomed, err2 := n.log.Doomed()
	if err := errors.Join(err, err2); err != nil || len(groups)+len(doomed) != 0 {
		t.Errorf("left %v, %v (%v)", groups, doomed, err)
	}
	if err := Destroy(n.log, n.fs, "none", 9, func() error { return nil }); err != nil {
		t.Errorf("a group that was never here: %v", err)
	}
}
