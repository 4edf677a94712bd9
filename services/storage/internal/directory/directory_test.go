package directory

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/catalogstate"
)

// fixture is a directory over a real catalog, as the leader n1 has it.
type fixture struct {
	*Directory
	t     *testing.T
	state *catalogstate.State
	now   time.Time
	term  uint64
	index uint64
	fail  error
	// at is who answers at an address.
	at map[string]*catalogv1.Node
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{t: t, now: time.Unix(1_000_000, 0), term: 1}
	state, err := catalogstate.Open(catalogstate.Config{Path: filepath.Join(t.TempDir(), "catalog.db"),
		Fail: func(err error) { t.Error(err) }, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = state.Close() })
	f.state = state
	f.Directory = New(Config{Catalog: state, Commands: f, Group: f, Self: func() string { return "n1" }, Now: func() time.Time { return f.now },
		Ask: func(_ context.Context, addr string) (*catalogv1.Node, error) {
			if n, ok := f.at[addr]; ok {
				return n, nil
			}
			return nil, dberr.New(dberr.Unavailable, "nobody answers at %s", addr)
		}})
	_, err = f.Apply(t.Context(), &catalogv1.ApplyRequest{Command: &catalogv1.Command{Command: &catalogv1.Command_InitCluster{
		InitCluster: &catalogv1.InitCluster{ClusterId: "c", Shards: 1, ReplicationFactor: 3, Node: storageNode(1, "n1")}}}})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func storageNode(id uint32, server string) *catalogv1.Node {
	return &catalogv1.Node{NodeId: id, Role: "storage", ServerId: server, RpcAddr: server + ":1", Format: catalogstate.Format}
}

func (f *fixture) Term() uint64 { return f.term }

func (f *fixture) NotLeader() error { return dberr.New(dberr.NotLeader, "another node leads") }

func (f *fixture) Apply(_ context.Context, req *catalogv1.ApplyRequest) (*catalogv1.ApplyResponse, error) {
	if f.fail != nil {
		return nil, f.fail
	}
	raw, err := proto.Marshal(req.GetCommand())
	if err != nil {
		return nil, err
	}
	f.index++
	r := f.state.Apply([]*raft.Log{{Index: f.index, Data: raw}})[0].(*catalogstate.Result)
	return r.Response, r.Err
}

func (f *fixture) register(n *catalogv1.Node) (*catalogv1.Node, error) {
	r, err := f.Register(f.t.Context(), &clusterv1.RegisterRequest{Node: n})
	return r.GetNode(), err
}

func (f *fixture) mustRegister(n *catalogv1.Node) *catalogv1.Node {
	f.t.Helper()
	n, err := f.register(n)
	if err != nil {
		f.t.Fatal(err)
	}
	return n
}

func (f *fixture) beat(id uint32, server string, r *clusterv1.NodeReport) error {
	_, err := f.Heartbeat(f.t.Context(), &clusterv1.HeartbeatRequest{NodeId: id, ServerId: server, Report: r})
	return err
}

// pass lets time pass, with a heartbeat of the named node every second.
func (f *fixture) pass(d time.Duration, id uint32, server string, r *clusterv1.NodeReport) {
	f.t.Helper()
	for ; d > 0; d -= time.Second {
		f.now = f.now.Add(min(d, time.Second))
		if server != "" {
			if err := f.beat(id, server, r); err != nil {
				f.t.Fatal(err)
			}
		}
		f.Tick(f.t.Context())
	}
}

func (f *fixture) status(id uint32) string {
	n, ok := f.state.Node(id)
	if !ok {
		return "none"
	}
	return catalogstate.StatusName(n.GetStatus())
}

func (f *fixture) wantStatus(id uint32, want string) {
	f.t.Helper()
	if got := f.status(id); got != want {
		f.t.Errorf("node %d is %s, want %s", id, got, want)
	}
}

func wantCode(t *testing.T, err error, code dberr.Code) {
	t.Helper()
	if err == nil || dberr.CodeOf(err) != code {
		t.Errorf("error %v, want %s", err, code)
	}
}

func TestStatelessNodesGetFreeIDs(t *testing.T) {
	f := newFixture(t)
	query := func(server string) *catalogv1.Node { return &catalogv1.Node{Role: "query", ServerId: server} }
	if a, b := f.mustRegister(query("a")), f.mustRegister(query("b")); a.GetNodeId() != 101 || b.GetNodeId() != 102 {
		t.Errorf("ids %d and %d", a.GetNodeId(), b.GetNodeId())
	}
	if again := f.mustRegister(query("a")); again.GetNodeId() != 101 {
		t.Errorf("registered again as %d", again.GetNodeId())
	}
	f.pass(5*time.Second, 102, "b", nil)
	f.wantStatus(101, "offline")
	f.pass(f.cfg.ForgetAfter, 102, "b", nil)
	f.wantStatus(101, "none")
	f.wantStatus(1, "active") // it is the one who looks
	if c := f.mustRegister(query("c")); c.GetNodeId() != 103 {
		t.Errorf("id %d, but 101 was in use until shortly ago", c.GetNodeId())
	}
	wantCode(t, f.beat(101, "a", nil), dberr.NotFound)
	f.now = f.now.Add(catalogstate.RetiredFor)
	if d := f.mustRegister(query("d")); d.GetNodeId() != 101 {
		t.Errorf("id %d, though 101 is free again", d.GetNodeId())
	}
}

func TestAllIDsInUse(t *testing.T) {
	f := newFixture(t)
	for i := assignedFrom; i <= catalogstate.NodeIDMax; i++ {
		f.mustRegister(&catalogv1.Node{Role: "gateway", ServerId: fmt.Sprint("g", i)})
	}
	_, err := f.register(&catalogv1.Node{Role: "gateway", ServerId: "more"})
	wantCode(t, err, dberr.LimitExceeded)
}

func TestAnIDIsHeldByWhoLives(t *testing.T) {
	f := newFixture(t)
	f.mustRegister(storageNode(2, "n2"))
	_, err := f.register(storageNode(2, "n2-new"))
	wantCode(t, err, dberr.AlreadyExists)
	f.now = f.now.Add(f.cfg.OfflineAfter + time.Second) // no Tick has seen it yet
	f.mustRegister(storageNode(2, "n2-new"))
	f.wantStatus(2, "active")
	wantCode(t, f.beat(2, "n2", nil), dberr.NotFound)
	_, err = f.register(storageNode(2, "n2"))
	wantCode(t, err, dberr.NotFound)
}

func TestWhoTakesTheAddressesOverTakesTheIDOver(t *testing.T) {
	f := newFixture(t)
	f.mustRegister(storageNode(2, "n2"))
	moved := storageNode(2, "n2-new")
	moved.RpcAddr, moved.RaftAddr = storageNode(2, "n2").GetRpcAddr(), "elsewhere"
	_, err := f.register(moved) // the Raft port is another: not the same place
	wantCode(t, err, dberr.AlreadyExists)
	moved.RaftAddr = storageNode(2, "n2").GetRaftAddr()
	f.mustRegister(moved)
	f.wantStatus(2, "active")
	wantCode(t, f.beat(2, "n2", nil), dberr.NotFound)
}

func TestAStoppedProcessFreesItsIDSooner(t *testing.T) {
	f := newFixture(t)
	f.mustRegister(&catalogv1.Node{NodeId: 7, Role: "live", ServerId: "old"})
	if err := f.beat(7, "old", &clusterv1.NodeReport{Stopping: true}); err != nil {
		t.Fatal(err)
	}
	f.now = f.now.Add(2*f.cfg.HeartbeatInterval + 1)
	if n := f.mustRegister(&catalogv1.Node{NodeId: 7, Role: "live", ServerId: "new"}); n.GetNodeId() != 7 {
		t.Error(n)
	}
}

func TestAnotherClustersNodeIsRefused(t *testing.T) {
	f := newFixture(t)
	_, err := f.Register(t.Context(), &clusterv1.RegisterRequest{Node: storageNode(2, "n2"), ClusterId: "other"})
	wantCode(t, err, dberr.InvalidOperation)
	_, err = f.register(&catalogv1.Node{NodeId: 2, Role: "storage"})
	wantCode(t, err, dberr.InvalidArgument)
}

func TestANewLeaderListensFirst(t *testing.T) {
	f := newFixture(t)
	f.mustRegister(storageNode(2, "n2"))
	f.term++
	f.pass(graceFactor*f.cfg.OfflineAfter, 0, "", nil)
	f.wantStatus(2, "active")
	_, err := f.register(storageNode(2, "n2-new"))
	wantCode(t, err, dberr.AlreadyExists)
	f.pass(2*time.Second, 0, "", nil)
	f.wantStatus(2, "offline")
	if err := f.beat(2, "n2", nil); err != nil {
		t.Fatal(err)
	}
	f.Tick(t.Context())
	f.wantStatus(2, "active")
}

func TestWhoDoesNotLeadKnowsNothing(t *testing.T) {
	f := newFixture(t)
	f.mustRegister(storageNode(2, "n2"))
	f.term = 0
	wantCode(t, f.beat(2, "n2", nil), dberr.NotLeader)
	_, err := f.register(storageNode(3, "n3"))
	wantCode(t, err, dberr.NotLeader)
	_, err = f.Status(t.Context(), nil)
	wantCode(t, err, dberr.NotLeader)
	_, err = f.Drain(t.Context(), &clusterv1.DrainRequest{NodeId: 2})
	wantCode(t, err, dberr.NotLeader)
	if _, leads := f.Since(); leads || f.Reports() != nil {
		t.Error("it has reports")
	}
	f.pass(time.Minute, 0, "", nil)
	f.wantStatus(2, "active")
}

func TestWhatFailsIsDoneLater(t *testing.T) {
	f := newFixture(t)
	f.mustRegister(storageNode(2, "n2"))
	f.fail = dberr.New(dberr.Unavailable, "no majority")
	f.pass(10*time.Second, 0, "", nil)
	f.wantStatus(2, "active")
	f.fail = nil
	f.Tick(t.Context())
	f.wantStatus(2, "offline")
}

func TestAStatelessNodeIsDrained(t *testing.T) {
	f := newFixture(t)
	f.mustRegister(&catalogv1.Node{NodeId: 7, Role: "gateway", ServerId: "g"})
	drain := func(undrain bool) {
		t.Helper()
		if _, err := f.Drain(t.Context(), &clusterv1.DrainRequest{NodeId: 7, Undrain: undrain}); err != nil {
			t.Fatal(err)
		}
	}
	drain(false)
	f.pass(3*time.Second, 7, "g", &clusterv1.NodeReport{Load: 5})
	f.wantStatus(7, "draining")
	drain(true)
	f.wantStatus(7, "active")
	drain(false)
	f.pass(time.Second, 7, "g", &clusterv1.NodeReport{})
	f.wantStatus(7, "left")
	drain(false)
	f.wantStatus(7, "left")
	if _, err := f.Remove(t.Context(), &clusterv1.RemoveRequest{NodeId: 7}); err != nil {
		t.Fatal(err)
	}
	f.wantStatus(7, "none")
	_, err := f.Remove(t.Context(), &clusterv1.RemoveRequest{NodeId: 7})
	wantCode(t, err, dberr.NotFound)
}

func TestReplicasCatchUpWithWhatTheLeaderSaidBefore(t *testing.T) {
	f := newFixture(t)
	f.mustRegister(storageNode(2, "n2"))
	group := func(state string, term, applied uint64) *clusterv1.NodeReport {
		return &clusterv1.NodeReport{Groups: []*clusterv1.GroupReport{{Group: 1, State: state, Term: term, AppliedIndex: applied}}}
	}
	caughtUp := func(r *clusterv1.NodeReport) bool {
		t.Helper()
		f.now = f.now.Add(time.Second)
		if err := f.beat(2, "n2", r); err != nil {
			t.Fatal(err)
		}
		return f.Reports()["n2"].CaughtUp[1].Equal(f.now)
	}
	if caughtUp(group("Follower", 3, 50)) {
		t.Error("caught up with nobody")
	}
	if err := f.beat(1, "n1", group("Leader", 3, 100)); err != nil {
		t.Fatal(err)
	}
	if caughtUp(group("Follower", 3, 99)) || !caughtUp(group("Follower", 3, 100)) {
		t.Error("100 is what it takes")
	}
	if caughtUp(group("Follower", 2, 100)) {
		t.Error("it has not heard of this leader")
	}
	if !f.Reports()["n2"].CaughtUp[1].Equal(f.now.Add(-time.Second)) {
		t.Error("forgot when it had caught up")
	}
	if caughtUp(&clusterv1.NodeReport{}) || !f.Reports()["n2"].CaughtUp[1].IsZero() {
		t.Error("a replica that is gone has caught up")
	}
}

func TestStatusIsWhatIsKnown(t *testing.T) {
	f := newFixture(t)
	f.mustRegister(storageNode(2, "n2"))
	if err := f.beat(1, "n1", &clusterv1.NodeReport{Hostname: "h"}); err != nil {
		t.Fatal(err)
	}
	f.now = f.now.Add(1500 * time.Millisecond)
	s, err := f.Status(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.GetClusterId() != "c" || s.GetLeader() != "n1" || len(s.GetNodes()) != 2 || len(s.GetPlacements()) != 2 || s.GetReplicationFactor() != 3 {
		t.Errorf("%v", s)
	}
	if n := s.GetNodes()[0]; n.GetReport().GetHostname() != "h" || n.GetHeartbeatAgeMs() != 1500 {
		t.Errorf("%v", n)
	}
	if n := s.GetNodes()[1]; n.GetReport() != nil || n.GetHeartbeatAgeMs() != 1500 {
		t.Errorf("%v", n)
	}
}

func TestStartLooksForWhoIsSilent(t *testing.T) {
	f := newFixture(t)
	f.mustRegister(storageNode(2, "n2"))
	f.now = f.now.Add(time.Minute)
	f.Start(t.Context())
	defer f.Stop()
	for f.status(2) != "offline" {
		moved := f.state.Moved()
		if f.status(2) == "offline" {
			break
		}
		<-moved
	}
}

// run is a process of a storage node; it answers at its address when it runs.
func (f *fixture) run(server, addr, process string, runs bool) *catalogv1.Node {
	n := storageNode(2, server)
	n.RpcAddr, n.Process = addr, process
	if runs {
		f.at[addr] = n
	}
	return n
}

func TestACopyOfANodesDataCannotTakeItsPlace(t *testing.T) {
	f := newFixture(t)
	f.at = map[string]*catalogv1.Node{}
	original := f.run("n2", "a:1", "p1", true)
	f.mustRegister(original)

	_, err := f.register(f.run("n2", "b:1", "p2", true))
	wantCode(t, err, dberr.AlreadyExists)
	f.mustRegister(original) // it may say so again
	if n, _ := f.state.Node(2); n.GetRpcAddr() != "a:1" || n.GetProcess() != "p1" {
		t.Errorf("node 2 is %v", n)
	}

	delete(f.at, "a:1") // it crashed, and its disk was moved
	f.mustRegister(f.run("n2", "b:1", "p2", true))
	f.mustRegister(f.run("n2", "b:1", "p4", true))      // it was started again
	_, err = f.register(f.run("n2", "a:1", "p3", true)) // the copy of before starts where the original was
	wantCode(t, err, dberr.AlreadyExists)
}

func TestACopyOfANodesConfigurationCannotTakeItsPlace(t *testing.T) {
	f := newFixture(t)
	f.at = map[string]*catalogv1.Node{}
	f.mustRegister(f.run("n2", "a:1", "p1", true))
	_, err := f.register(f.run("n2-new", "a:1", "p2", false)) // it says a:1, and p1 is who answers there
	wantCode(t, err, dberr.AlreadyExists)
	f.pass(10*time.Second, 1, "n1", nil)
	f.wantStatus(2, "offline") // nothing was heard of it, yet it runs
	_, err = f.register(f.run("n2-new", "a:1", "p2", false))
	wantCode(t, err, dberr.AlreadyExists)
	f.mustRegister(f.run("n2-new", "a:1", "p2", true)) // its disk was wiped
}

func TestAProcessThatWasReplacedIsTold(t *testing.T) {
	f := newFixture(t)
	f.at = map[string]*catalogv1.Node{}
	beat := func(process string) error {
		_, err := f.Heartbeat(t.Context(), &clusterv1.HeartbeatRequest{NodeId: 2, ServerId: "n2", Process: process})
		return err
	}
	f.mustRegister(f.run("n2", "a:1", "p1", false)) // cut off, or paused
	f.mustRegister(f.run("n2", "b:1", "p2", true))
	if err := beat("p2"); err != nil {
		t.Error(err)
	}
	if err := beat(""); err != nil { // a version from before processes had names
		t.Error(err)
	}
	wantCode(t, beat("p1"), dberr.NotFound)
}
