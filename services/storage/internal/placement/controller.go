package placement

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/catalogstate"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/directory"
)

const (
	// stepTimeout bounds one step; a change of members waits for one commit in its group.
	stepTimeout = 5 * time.Second
	// stepsAtOnce bounds the steps of one round, each in a group of its own.
	stepsAtOnce = 16
	// backoffFirst doubles up to backoffMax while a group's steps fail.
	backoffFirst = 500 * time.Millisecond
	backoffMax   = 30 * time.Second
	// settle is how old a report may be on arrival: what comes within it after a change may have been written
	// before.
	settle = time.Second
	// roundsInARow bounds the rounds that follow each other at once because each one did something.
	roundsInARow = 64
	// activitiesMax bounds what Activities returns, which is read by people.
	activitiesMax = 100
)

// Catalog is the catalog's local state.
type Catalog interface {
	Topology() catalogstate.Topology
}

// Commands changes the catalog.
type Commands interface {
	Apply(ctx context.Context, req *catalogv1.ApplyRequest) (*catalogv1.ApplyResponse, error)
}

// Heard is what the directory knows of the nodes.
type Heard interface {
	Reports() map[string]*directory.Heard
	// Since is when this node began to lead group 0; false while it does not.
	Since() (time.Time, bool)
}

// Members changes Raft configurations at the leaders of groups.
type Members interface {
	ChangeMember(ctx context.Context, req *clusterv1.ChangeMemberRequest) (*clusterv1.ChangeMemberResponse, error)
}

// Config describes a controller. Zero durations take the defaults of RFC 0002.
type Config struct {
	Catalog  Catalog
	Commands Commands
	Heard    Heard
	Members  Members
	Now      func() time.Time
	// Interval is how often there is a round when nothing else asks for one.
	Interval time.Duration
	// OfflineAfter without a heartbeat a node counts as dead, ReplaceAfter its replicas are placed elsewhere.
	OfflineAfter, ReplaceAfter time.Duration
	// LeaderPause is the least time between two transfers that only spread leaders, so that what writes settle in
	// between and a load that changes sides does not drag leaders along.
	LeaderPause time.Duration
	// MovesMax bounds the replicas that catch up at a time.
	MovesMax int
	Logger   *slog.Logger
}

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&c.Interval, 500*time.Millisecond)
	set(&c.OfflineAfter, 3*time.Second)
	set(&c.ReplaceAfter, 5*time.Minute)
	set(&c.LeaderPause, 5*time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Controller moves replicas while this node leads group 0.
type Controller struct {
	cfg Config

	// leading serializes Lead and Follow. It is taken before mu.
	leading sync.Mutex
	cancel  context.CancelFunc // of the term; nil while following
	work    sync.WaitGroup
	wake    chan struct{}

	// rounds lets one round run at a time. It is taken before mu.
	rounds sync.Mutex

	mu         sync.Mutex
	groups     map[uint32]*progress
	balancedAt time.Time
	activities []string
}

// progress is what is remembered of a group between rounds: nothing that another leader would need.
type progress struct {
	// changed is when a step changed the Raft configuration to voters and learners; a report must be younger.
	changed          time.Time
	voters, learners []string
	// unknown: the outcome of the change is not known, or it was a transfer.
	unknown bool
	// failures in a row, the last of them, and when to try again.
	failures int
	err      error
	retryAt  time.Time
}

// New makes a controller; Lead starts it.
func New(cfg Config) *Controller {
	return &Controller{cfg: cfg.withDefaults(), groups: map[uint32]*progress{}, wake: make(chan struct{}, 1)}
}

// Lead begins to move replicas: this node leads group 0. ctx carries values only; Follow ends it.
func (c *Controller) Lead(ctx context.Context) {
	c.leading.Lock()
	defer c.leading.Unlock()
	c.end()
	c.mu.Lock()
	c.groups, c.activities = map[uint32]*progress{}, nil
	c.mu.Unlock()
	ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	c.work.Go(func() { c.run(ctx) })
}

// Follow ends what Lead began, and waits for steps under way, which are cancelled.
func (c *Controller) Follow() {
	c.leading.Lock()
	defer c.leading.Unlock()
	c.end()
}

func (c *Controller) end() {
	if c.cancel != nil {
		c.cancel()
		c.cancel = nil
		c.work.Wait()
	}
}

// Wake asks for a round now.
func (c *Controller) Wake() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *Controller) run(ctx context.Context) {
	tick := time.NewTicker(c.cfg.Interval)
	defer tick.Stop()
	for {
		for range roundsInARow {
			if !c.Round(ctx) {
				break
			}
		}
		select {
		case <-tick.C:
		case <-c.wake:
		case <-ctx.Done():
			return
		}
	}
}

// Activities says what is being done or cannot be done.
func (c *Controller) Activities() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.activities)
}

// Rebalance makes a round now and says what it found to do.
func (c *Controller) Rebalance(ctx context.Context) []string {
	c.mu.Lock()
	c.balancedAt = time.Time{}
	for _, g := range c.groups {
		g.retryAt = time.Time{}
	}
	c.mu.Unlock()
	c.Round(ctx)
	c.Wake()
	return c.Activities()
}

// Round plans and takes the steps that can be taken now. It reports whether something changed, so that another
// round may find more to do.
func (c *Controller) Round(ctx context.Context) bool {
	c.rounds.Lock()
	defer c.rounds.Unlock()
	now := c.cfg.Now()
	since, leads := c.cfg.Heard.Since()
	topology := c.cfg.Catalog.Topology()
	o := &observer{cfg: c.cfg, now: now, since: since, heard: c.cfg.Heard.Reports()}
	if !leads || len(topology.Nodes) == 0 || !o.heardAll(topology) || ctx.Err() != nil {
		return false
	}
	reports := o.reports(topology)
	steps, notes := c.plan(topology, reports, o)
	done := make([]bool, len(steps))
	var work sync.WaitGroup
	for i, s := range steps {
		work.Go(func() { done[i] = c.take(ctx, s) })
	}
	work.Wait()
	c.tell(steps, notes)
	return slices.Contains(done, true)
}

// plan corrects the reports by what this controller has changed since, and leaves out what has to wait.
func (c *Controller) plan(t catalogstate.Topology, r Reports, o *observer) ([]Step, []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	settled := true
	for group, g := range c.groups {
		view := r.Views[group]
		if h := o.heard[view.Leader]; g.changed.IsZero() || h != nil && h.At.Sub(g.changed) > settle {
			g.changed, g.unknown = time.Time{}, false
			continue
		}
		settled = false
		if g.unknown {
			view = View{}
		} else {
			view.Voters, view.Learners = g.voters, g.learners
		}
		r.Views[group] = view
	}
	balance := settled && o.now.Sub(c.balancedAt) >= c.cfg.LeaderPause
	steps, notes := Plan(t, r, Settings{MovesMax: c.cfg.MovesMax, BalanceLeaders: balance})
	steps = slices.DeleteFunc(steps, func(s Step) bool {
		g := c.groups[s.Group]
		return g != nil && o.now.Before(g.retryAt)
	})
	steps = steps[:min(len(steps), stepsAtOnce)]
	for _, s := range steps {
		if s.Kind == Transfer {
			c.balancedAt = o.now
		}
	}
	return steps, notes
}

// take executes one step.
func (c *Controller) take(ctx context.Context, s Step) bool {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	var members *clusterv1.ChangeMemberResponse
	var err error
	if cmd := command(s); cmd != nil {
		cmd.TimeUs = c.cfg.Now().UnixMicro()
		_, err = c.cfg.Commands.Apply(ctx, &catalogv1.ApplyRequest{Command: cmd})
	} else {
		members, err = c.cfg.Members.ChangeMember(ctx, &clusterv1.ChangeMemberRequest{Group: s.Group, ServerId: s.Server, Change: changes[s.Kind]})
	}
	c.note(s, members, err)
	if err != nil {
		if ctx.Err() == nil || !dberr.Is(err, dberr.NotLeader) {
			c.cfg.Logger.Warn("a step of placement failed", "step", s.String(), "error", err)
		}
		return false
	}
	c.cfg.Logger.Info("placement", "step", s.String(), "why", s.Why)
	return true
}

// note remembers the outcome of a step.
func (c *Controller) note(s Step, members *clusterv1.ChangeMemberResponse, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.groups[s.Group]
	if g == nil {
		g = &progress{}
		c.groups[s.Group] = g
	}
	now := c.cfg.Now()
	if _, raft := changes[s.Kind]; raft {
		g.changed, g.voters, g.learners = now, members.GetVoters(), members.GetLearners()
		g.unknown = err != nil || s.Kind == Transfer || len(g.voters) == 0
	}
	if err == nil {
		g.failures, g.err, g.retryAt = 0, nil, time.Time{}
		return
	}
	g.err = fmt.Errorf("%s: %w", s, err)
	g.retryAt = now.Add(min(backoffFirst<<min(g.failures, 10), backoffMax))
	g.failures++
}

// tell composes the activities.
func (c *Controller) tell(steps []Step, notes []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.activities = nil
	for _, s := range steps {
		c.activities = append(c.activities, fmt.Sprintf("%s: %s", s, s.Why))
	}
	c.activities = append(c.activities, notes...)
	groups := make([]uint32, 0, len(c.groups))
	for group := range c.groups {
		groups = append(groups, group)
	}
	slices.Sort(groups)
	for _, group := range groups {
		if g := c.groups[group]; g.err != nil {
			c.activities = append(c.activities, fmt.Sprintf("failed %d times: %v", g.failures, g.err))
		}
	}
	if n := len(c.activities); n > activitiesMax {
		c.activities = append(c.activities[:activitiesMax], fmt.Sprintf("and %d more", n-activitiesMax))
	}
}

var changes = map[Kind]clusterv1.MemberChange{
	AddLearner: clusterv1.MemberChange_MEMBER_CHANGE_ADD_LEARNER,
	Promote:    clusterv1.MemberChange_MEMBER_CHANGE_PROMOTE,
	Demote:     clusterv1.MemberChange_MEMBER_CHANGE_DEMOTE,
	Remove:     clusterv1.MemberChange_MEMBER_CHANGE_REMOVE,
	Transfer:   clusterv1.MemberChange_MEMBER_CHANGE_TRANSFER,
}

// command is the catalog command of a step, nil for those that concern Raft.
func command(s Step) *catalogv1.Command {
	state := map[Kind]catalogv1.ReplicaState{SetLearner: learner, SetVoter: voter, SetLeaving: leaving}[s.Kind]
	switch s.Kind {
	case SetLearner, SetVoter, SetLeaving:
		return &catalogv1.Command{Command: &catalogv1.Command_SetReplica{SetReplica: &catalogv1.SetReplica{Group: s.Group,
			Replica: &catalogv1.Replica{NodeId: s.Node, ServerId: s.Server, State: state}}}}
	case RemoveReplica:
		return &catalogv1.Command{Command: &catalogv1.Command_RemoveReplica{RemoveReplica: &catalogv1.RemoveReplica{Group: s.Group, ServerId: s.Server}}}
	case MarkLeft:
		return &catalogv1.Command{Command: &catalogv1.Command_SetNodeStatus{SetNodeStatus: &catalogv1.SetNodeStatus{NodeId: s.Node,
			ServerId: s.Server, Status: catalogv1.NodeStatus_NODE_STATUS_LEFT}}}
	}
	return nil
}
