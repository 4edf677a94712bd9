package placement

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/catalogstate"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/directory"
)

// sim is a cluster whose catalog, directory and controller are real, and whose processes and Raft groups are
// not: groups have a configuration, elect whoever is alive and refuse what Raft would refuse.
type sim struct {
	t          testing.TB
	state      *catalogstate.State
	directory  *directory.Directory
	controller *Controller
	// former is a controller that has not noticed that it was deposed.
	former *Controller

	mu       sync.Mutex
	now      time.Time
	term     uint64
	index    uint64
	procs    map[string]*proc // by server id
	raft     map[uint32]*group
	trace    []string
	failures map[string]int // by step text: how often it fails, negative: it is done and the answer lost
}

type proc struct {
	node     *catalogv1.Node
	alive    bool
	stopping bool
	lag      int            // heartbeats until a new replica has caught up
	fetch    int            // heartbeats then until it has the files of its segments
	have     map[uint32]int // heartbeats since it has a group's replica
}

type group struct {
	leader           string
	term             uint64
	voters, learners []string
}

func newSim(t testing.TB, shards, factor uint32, zone string) *sim {
	s := &sim{t: t, now: time.Unix(1_000_000, 0), term: 1, procs: map[string]*proc{}, raft: map[uint32]*group{}, failures: map[string]int{}}
	state, err := catalogstate.Open(catalogstate.Config{Path: filepath.Join(t.TempDir(), "catalog.db"),
		Fail: func(err error) { t.Error(err) }, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = state.Close() })
	s.state = state
	s.directory = directory.New(directory.Config{Catalog: state, Commands: s, Group: s, Self: func() string { return s.raft[0].leader }, Now: s.clock,
		Ask: func(context.Context, string) (*catalogv1.Node, error) {
			return nil, dberr.New(dberr.Unavailable, "nobody answers")
		}})
	s.newController()
	first := &catalogv1.Node{NodeId: 1, Role: "storage", ServerId: "n1", Zone: zone, Format: catalogstate.Format}
	s.procs["n1"] = &proc{node: first, alive: true, have: map[uint32]int{}}
	for g := range shards + 1 {
		s.raft[g] = &group{leader: "n1", term: 1, voters: []string{"n1"}}
	}
	s.must(&catalogv1.Command{Command: &catalogv1.Command_InitCluster{InitCluster: &catalogv1.InitCluster{ClusterId: "c",
		Shards: shards, ReplicationFactor: factor, Node: first}}})
	return s
}

// newController is what a new leader of group 0 begins with.
func (s *sim) newController() {
	s.controller = New(Config{Catalog: s.state, Commands: s, Heard: s.directory, Members: s, Now: s.clock})
}

func (s *sim) clock() time.Time { s.mu.Lock(); defer s.mu.Unlock(); return s.now }

func (s *sim) Term() uint64 { return s.term }

func (s *sim) NotLeader() error { return dberr.New(dberr.NotLeader, "not the leader") }

func (s *sim) must(c *catalogv1.Command) {
	s.t.Helper()
	if _, err := s.Apply(s.t.Context(), &catalogv1.ApplyRequest{Command: c}); err != nil {
		s.t.Fatal(err)
	}
}

// lose counts down the failures a test wants of a step: before it is done, or after.
func (s *sim) lose(text string) (before, after bool) {
	n := s.failures[text]
	switch {
	case n > 0:
		s.failures[text]--
	case n < 0:
		s.failures[text]++
	}
	return n > 0, n < 0
}

func (s *sim) Apply(_ context.Context, req *catalogv1.ApplyRequest) (*catalogv1.ApplyResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := describe(req.GetCommand())
	before, after := s.lose(text)
	if before {
		return nil, dberr.New(dberr.Unavailable, "lost")
	}
	raw, err := proto.Marshal(req.GetCommand())
	if err != nil {
		return nil, err
	}
	s.index++
	r := s.state.Apply([]*raft.Log{{Index: s.index, Data: raw}})[0].(*catalogstate.Result)
	if r.Err != nil {
		text += " refused: " + r.Err.Error()
	}
	if text != "" {
		s.trace = append(s.trace, text)
	}
	if after {
		return nil, dberr.New(dberr.Unavailable, "lost")
	}
	return r.Response, r.Err
}

func describe(c *catalogv1.Command) string {
	switch k := c.GetCommand().(type) {
	case *catalogv1.Command_SetReplica:
		r := k.SetReplica.GetReplica()
		return fmt.Sprintf("group %d: %s is %s", k.SetReplica.GetGroup(), r.GetServerId(), strings.ToLower(strings.TrimPrefix(r.GetState().String(), "REPLICA_STATE_")))
	case *catalogv1.Command_RemoveReplica:
		return fmt.Sprintf("group %d: %s is no replica", k.RemoveReplica.GetGroup(), k.RemoveReplica.GetServerId())
	case *catalogv1.Command_SetNodeStatus:
		return fmt.Sprintf("%s is %s", k.SetNodeStatus.GetServerId(), catalogstate.StatusName(k.SetNodeStatus.GetStatus()))
	case *catalogv1.Command_RemoveNode:
		return fmt.Sprintf("%s is removed", k.RemoveNode.GetServerId())
	}
	return ""
}

func (s *sim) alive(server string) bool { return s.procs[server] != nil && s.procs[server].alive }

// commits reports whether a configuration has a majority alive.
func (s *sim) commits(voters []string) bool {
	live := 0
	for _, v := range voters {
		live += truth(s.alive(v))
	}
	return live >= len(voters)/2+1
}

// ChangeMember is what the leader of a group does, and the place where a wrong step is noticed.
func (s *sim) ChangeMember(_ context.Context, req *clusterv1.ChangeMemberRequest) (*clusterv1.ChangeMemberResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, server := s.raft[req.GetGroup()], req.GetServerId()
	text := fmt.Sprintf("group %d: raft %s %s", req.GetGroup(), strings.ToLower(strings.TrimPrefix(req.GetChange().String(), "MEMBER_CHANGE_")), server)
	before, after := s.lose(text)
	if before || !s.alive(g.leader) || !s.commits(g.voters) {
		return nil, dberr.New(dberr.Unavailable, "group %d does not answer", req.GetGroup())
	}
	s.trace = append(s.trace, text)
	gone := func(x string) bool { return x == server }
	voters, learners := slices.DeleteFunc(slices.Clone(g.voters), gone), slices.DeleteFunc(slices.Clone(g.learners), gone)
	switch req.GetChange() {
	case clusterv1.MemberChange_MEMBER_CHANGE_ADD_LEARNER:
		if slices.Contains(g.voters, server) {
			return s.members(g), nil
		}
		learners = append(learners, server)
	case clusterv1.MemberChange_MEMBER_CHANGE_PROMOTE:
		if !slices.Contains(g.learners, server) && !slices.Contains(g.voters, server) { // somebody else took it out
			return nil, dberr.New(dberr.NotFound, "%s is no member of group %d", server, req.GetGroup())
		}
		if s.procs[server].have[req.GetGroup()] <= s.procs[server].lag+s.procs[server].fetch && !slices.Contains(g.voters, server) {
			s.t.Errorf("%s, which has not caught up or lacks segments", text)
		}
		voters = append(voters, server)
	case clusterv1.MemberChange_MEMBER_CHANGE_DEMOTE:
		learners = append(learners, server)
	case clusterv1.MemberChange_MEMBER_CHANGE_TRANSFER:
		if !slices.Contains(g.voters, server) { // somebody else took its vote
			return nil, dberr.New(dberr.InvalidOperation, "%s does not vote in group %d", server, req.GetGroup())
		}
		if !s.alive(server) { // which nobody could know yet
			return nil, dberr.New(dberr.Unavailable, "%s does not answer", server)
		}
		g.leader, g.term = server, g.term+1
		return s.members(g), nil
	}
	if len(voters) < len(g.voters) && !s.commits(voters) {
		s.t.Errorf("%s leaves %v, of whom too few are alive", text, voters)
	}
	g.voters, g.learners = voters, learners
	if after {
		return nil, dberr.New(dberr.Unavailable, "lost")
	}
	return s.members(g), nil
}

func (s *sim) members(g *group) *clusterv1.ChangeMemberResponse {
	return &clusterv1.ChangeMemberResponse{Voters: slices.Clone(g.voters), Learners: slices.Clone(g.learners)}
}

// add starts a node; one with the id of another incarnation replaces it if it is dead.
func (s *sim) add(id uint32, server, zone string) error {
	n := &catalogv1.Node{NodeId: id, Role: "storage", ServerId: server, Zone: zone, Format: catalogstate.Format}
	_, err := s.directory.Register(s.t.Context(), &clusterv1.RegisterRequest{Node: n, ClusterId: "c"})
	if err != nil {
		return err
	}
	s.procs[server] = &proc{node: n, alive: true, lag: 1, fetch: 1, have: map[uint32]int{}}
	return nil
}

// elect gives groups a leader where a majority is alive, and takes it from those that have none.
func (s *sim) elect() {
	for _, g := range s.raft {
		if s.alive(g.leader) && s.commits(g.voters) && slices.Contains(g.voters, g.leader) {
			continue
		}
		g.leader = ""
		if s.commits(g.voters) {
			i := slices.IndexFunc(g.voters, s.alive)
			g.leader, g.term = g.voters[i], g.term+1
		}
	}
}

func (s *sim) servers() (all []string) {
	for server := range s.procs {
		all = append(all, server)
	}
	slices.Sort(all)
	return all
}

// beat sends the heartbeats of all that live.
func (s *sim) beat() {
	for _, server := range s.servers() {
		p := s.procs[server]
		if !p.alive {
			continue
		}
		report := &clusterv1.NodeReport{Stopping: p.stopping}
		for id, g := range s.raft {
			if !slices.Contains(g.voters, server) && !slices.Contains(g.learners, server) {
				delete(p.have, id)
				continue
			}
			r := &clusterv1.GroupReport{Group: id, ServerId: server, State: "Follower", Term: g.term, AppliedIndex: 5}
			if p.have[id]++; p.have[id] > p.lag {
				r.AppliedIndex = 10
			}
			r.SegmentsMissing = p.have[id] <= p.lag+p.fetch
			if g.leader == server {
				r.State, r.AppliedIndex, r.Voters, r.Learners = "Leader", 10, slices.Clone(g.voters), slices.Clone(g.learners)
			}
			report.Groups = append(report.Groups, r)
		}
		_, err := s.directory.Heartbeat(s.t.Context(), &clusterv1.HeartbeatRequest{NodeId: p.node.GetNodeId(), ServerId: server, Report: report})
		if dberr.Is(err, dberr.NotFound) {
			p.alive = false // it was removed or replaced, and stops
		} else if err != nil {
			s.t.Fatal(err)
		}
	}
}

// second lets a second pass.
func (s *sim) second() {
	s.mu.Lock()
	s.now = s.now.Add(time.Second)
	s.mu.Unlock()
	s.elect()
	if s.raft[0].leader == "" {
		return
	}
	s.beat()
	s.directory.Tick(s.t.Context())
	for i, more := 0, true; more; i++ {
		from := len(s.trace)
		more = s.controller.Round(s.t.Context())
		slices.Sort(s.trace[from:]) // the steps of a round are taken side by side
		if i > roundsInARow {
			s.t.Fatalf("no end of steps in one second:\n%s", strings.Join(s.trace[len(s.trace)-20:], "\n"))
		}
	}
	if s.former != nil {
		s.former.Round(s.t.Context())
	}
	s.check()
}

// quietSeconds without a step are taken as the end: longer than any pause of the controller but its backoff.
const quietSeconds = 8

// settle runs until nothing happens any more.
func (s *sim) settle(secondsMax int) []string {
	s.t.Helper()
	from, quiet := len(s.trace), 0
	for i := 0; quiet < quietSeconds; i++ {
		if i > secondsMax {
			s.t.Fatalf("still moving after %d seconds:\n%s\n%s", secondsMax, strings.Join(s.trace[max(from, len(s.trace)-30):], "\n"), s.describe())
		}
		before := len(s.trace)
		s.second()
		if quiet++; len(s.trace) > before {
			quiet = 0
		}
	}
	return s.trace[from:]
}

// check looks for what must never be.
func (s *sim) check() {
	for _, p := range s.state.Placements() {
		nodes := map[uint32]bool{}
		for _, r := range p.GetReplicas() {
			if nodes[r.GetNodeId()] {
				s.t.Errorf("group %d has two replicas on node %d", p.GetGroup(), r.GetNodeId())
			}
			nodes[r.GetNodeId()] = true
		}
	}
}

func (s *sim) describe() string {
	var out strings.Builder
	for _, n := range s.state.Nodes() {
		fmt.Fprintf(&out, "%s %s\n", n.GetServerId(), catalogstate.StatusName(n.GetStatus()))
	}
	for _, p := range s.state.Placements() {
		g := s.raft[p.GetGroup()]
		slices.Sort(g.voters)
		slices.Sort(g.learners)
		fmt.Fprintf(&out, "group %d: leader %s, voters %v, learners %v\n", p.GetGroup(), g.leader, g.voters, g.learners)
	}
	return out.String()
}
