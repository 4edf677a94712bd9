// Package directory is what the leader of group 0 knows of the cluster's nodes: who registers, who was heard of
// when, who is offline. The catalog holds the outcome; what is here is gone with the leadership.
package directory

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/catalogstate"
)

const (
	// graceFactor times OfflineAfter is how long a new leader listens before it declares anybody offline: nodes
	// have to find it first.
	graceFactor = 3
	// ticksPerOffline is how often within OfflineAfter silence is looked for.
	ticksPerOffline = 6
	// commandTimeout bounds one change of the catalog.
	commandTimeout = 5 * time.Second
	// reportGroupsMax bounds the groups in one report; a cluster has tens.
	reportGroupsMax = 4096
)

// Catalog is what the directory needs of the catalog's local state.
type Catalog interface {
	Cluster() (id string, shards uint32)
	Topology() catalogstate.Topology
	Node(id uint32) (*catalogv1.Node, bool)
	NodeByServer(server string) (*catalogv1.Node, bool)
	Retired(id uint32, now time.Time) (bool, error)
	Former(server string) (bool, error)
}

// Commands changes the catalog; it answers NotLeader where this node does not lead it.
type Commands interface {
	Apply(ctx context.Context, req *catalogv1.ApplyRequest) (*catalogv1.ApplyResponse, error)
}

// Group is the catalog's Raft group.
type Group interface {
	// Term is the term in which this node serves as leader, 0 when it does not.
	Term() uint64
	NotLeader() error
}

// Config describes the directory. Zero durations take the defaults of RFC 0002.
type Config struct {
	Catalog  Catalog
	Commands Commands
	Group    Group
	// Self is this node's server id: it is never silent.
	Self func() string
	Now  func() time.Time
	// HeartbeatInterval is what nodes are told.
	HeartbeatInterval time.Duration
	// OfflineAfter without a heartbeat a node is Offline.
	OfflineAfter time.Duration
	// ForgetAfter an offline stateless node is removed.
	ForgetAfter time.Duration
	// Ask asks who is at a storage node's address. It answers within a second or so, an error when nobody does.
	Ask    func(ctx context.Context, addr string) (*catalogv1.Node, error)
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&c.HeartbeatInterval, time.Second)
	set(&c.OfflineAfter, 3*time.Second)
	set(&c.ForgetAfter, 10*time.Minute)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Directory is the table of nodes. Make it with New.
type Directory struct {
	cfg Config

	// registering lets one registration choose an id at a time. It is taken before mu.
	registering sync.Mutex

	mu    sync.Mutex
	term  uint64    // the term the table is of
	since time.Time // when this node began to lead in it
	heard map[string]*Heard
	// removing are servers an operator wants removed once they have left.
	removing map[string]bool

	wake chan struct{}
	stop context.CancelFunc
	work sync.WaitGroup
}

// Heard is what is known of one server. It is never changed after it was made.
type Heard struct {
	NodeID uint32
	Server string
	At     time.Time
	// Report is nil after a registration without a heartbeat.
	Report *clusterv1.NodeReport
	// CaughtUp says for each group when this replica was seen to have applied all that its leader had applied, and
	// could have acknowledged, at an earlier moment.
	CaughtUp map[uint32]time.Time
}

// New makes a directory.
func New(cfg Config) *Directory {
	return &Directory{cfg: cfg.withDefaults(), heard: map[string]*Heard{}, removing: map[string]bool{}, wake: make(chan struct{}, 1)}
}

// Start begins to look for silent nodes, while this node leads.
func (d *Directory) Start(ctx context.Context) {
	ctx, d.stop = context.WithCancel(context.WithoutCancel(ctx))
	d.work.Go(func() {
		tick := time.NewTicker(d.cfg.OfflineAfter / ticksPerOffline)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-d.wake:
			case <-ctx.Done():
				return
			}
			d.Tick(ctx)
		}
	})
}

// Stop ends what Start began.
func (d *Directory) Stop() {
	if d.stop != nil {
		d.stop()
		d.work.Wait()
	}
}

// lead takes note of the term and answers NotLeader outside one. A new term begins with an empty table: what was
// heard in an earlier one is old, and nodes have been talking to somebody else.
func (d *Directory) lead() error {
	term := d.cfg.Group.Term()
	if term == 0 {
		return d.cfg.Group.NotLeader()
	}
	if term != d.term {
		d.term, d.since = term, d.cfg.Now()
		d.heard, d.removing = map[string]*Heard{}, map[string]bool{}
	}
	return nil
}

// Since is when this node began to lead, as far as the directory is concerned; false while it does not.
func (d *Directory) Since() (time.Time, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.lead() // which may set since
	return d.since, err == nil
}

// Reports returns what was heard in this term, by server id; nil while this node does not lead.
func (d *Directory) Reports() map[string]*Heard {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lead() != nil {
		return nil
	}
	all := make(map[string]*Heard, len(d.heard))
	for server, h := range d.heard {
		all[server] = h
	}
	return all
}

// Heartbeat takes a node's report.
func (d *Directory) Heartbeat(_ context.Context, req *clusterv1.HeartbeatRequest) (*clusterv1.HeartbeatResponse, error) {
	if n := len(req.GetReport().GetGroups()); n > reportGroupsMax {
		return nil, dberr.New(dberr.LimitExceeded, "a report of %d groups, the limit is %d (reportGroupsMax)", n, reportGroupsMax)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.lead(); err != nil {
		return nil, err
	}
	n, ok := d.cfg.Catalog.Node(req.GetNodeId())
	if !ok || n.GetServerId() != req.GetServerId() {
		return nil, dberr.New(dberr.NotFound, "node %d is not %s: it was removed or replaced", req.GetNodeId(), req.GetServerId())
	}
	if n.GetProcess() != req.GetProcess() && req.GetProcess() != "" {
		return nil, dberr.New(dberr.NotFound, "another process has registered as %s, from %s: this one has the data of its past, or a copy of its data", n.GetServerId(), n.GetRpcAddr())
	}
	report := req.GetReport()
	if report == nil {
		report = &clusterv1.NodeReport{}
	}
	d.heard[n.GetServerId()] = &Heard{NodeID: n.GetNodeId(), Server: n.GetServerId(), At: d.cfg.Now(), Report: report,
		CaughtUp: d.caughtUp(n.GetServerId(), report)}
	if n.GetStatus() == catalogv1.NodeStatus_NODE_STATUS_OFFLINE {
		d.signal()
	}
	return &clusterv1.HeartbeatResponse{}, nil
}

// caughtUp compares a replica's applied index with what its leader reported before.
func (d *Directory) caughtUp(server string, report *clusterv1.NodeReport) map[uint32]time.Time {
	var before map[uint32]time.Time
	if h := d.heard[server]; h != nil {
		before = h.CaughtUp
	}
	leaders := d.leaderReports()
	reached := make(map[uint32]time.Time, len(report.GetGroups()))
	for _, g := range report.GetGroups() {
		leader := leaders[g.GetGroup()]
		switch {
		case leader != nil && leader.GetTerm() <= g.GetTerm() && g.GetAppliedIndex() >= leader.GetAppliedIndex():
			reached[g.GetGroup()] = d.cfg.Now()
		case !before[g.GetGroup()].IsZero():
			reached[g.GetGroup()] = before[g.GetGroup()]
		}
	}
	return reached
}

// leaderReports are the last reports of the groups' leaders, of each group the one with the highest term.
func (d *Directory) leaderReports() map[uint32]*clusterv1.GroupReport {
	best := map[uint32]*clusterv1.GroupReport{}
	for _, h := range d.heard {
		for _, g := range h.Report.GetGroups() {
			if b := best[g.GetGroup()]; g.GetState() == LeaderState && (b == nil || g.GetTerm() > b.GetTerm()) {
				best[g.GetGroup()] = g
			}
		}
	}
	return best
}

// LeaderState is GroupReport.state of a leader.
const LeaderState = "Leader"

func (d *Directory) signal() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Status is all that is known.
func (d *Directory) Status(context.Context, *clusterv1.StatusRequest) (*clusterv1.StatusResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.lead(); err != nil {
		return nil, err
	}
	id, _ := d.cfg.Catalog.Cluster()
	topology := d.cfg.Catalog.Topology()
	resp := &clusterv1.StatusResponse{ClusterId: id, Leader: d.cfg.Self(), Placements: topology.Placements,
		ReplicationFactor: topology.ReplicationFactor}
	for _, n := range topology.Nodes {
		s := &clusterv1.NodeStatusReport{Node: n}
		if h := d.heard[n.GetServerId()]; h != nil {
			s.Report, s.HeartbeatAgeMs = h.Report, uint64(max(d.cfg.Now().Sub(h.At), 0).Milliseconds())
		}
		resp.Nodes = append(resp.Nodes, s)
	}
	return resp, nil
}
