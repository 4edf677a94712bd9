package raftgroup

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Members is a group's Raft configuration as a replica knows it.
type Members struct {
	// Voters and Learners are server ids, in the order they were added.
	Voters, Learners []string
	// Index is the log entry that made it so; the leader may still be committing it.
	Index uint64
}

// Members returns the configuration.
func (g *Group) Members() (Members, error) {
	f := g.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return Members{}, dberr.New(dberr.Unavailable, "read the configuration of group %d: %w", g.cfg.Group, err)
	}
	m := Members{Index: f.Index()}
	for _, s := range f.Configuration().Servers {
		if s.Suffrage == raft.Voter {
			m.Voters = append(m.Voters, string(s.ID))
		} else {
			m.Learners = append(m.Learners, string(s.ID))
		}
	}
	return m, nil
}

// Changes is how often this node, as leader, changed the configuration.
func (g *Group) Changes() uint64 { return g.changes.Load() }

// AddLearner adds a replica that gets the log and does not vote. One that is a member already stays what it is.
func (g *Group) AddLearner(ctx context.Context, id string) error {
	if id == "" || len(id) > ServerIDMax {
		return dberr.New(dberr.InvalidArgument, "a server id of %d bytes: it has 1 to %d (ServerIDMax)", len(id), ServerIDMax)
	}
	return g.change(ctx, "add", id, func(m Members) (raft.Future, error) {
		if slices.Contains(m.Voters, id) || slices.Contains(m.Learners, id) {
			return nil, nil
		}
		return g.raft.AddNonvoter(raft.ServerID(id), raft.ServerAddress(id), m.Index, 0), nil
	})
}

// Promote makes a learner a voter. Whoever asks knows that it has caught up: until it has, the group needs
// the others more.
func (g *Group) Promote(ctx context.Context, id string) error {
	return g.change(ctx, "promote", id, func(m Members) (raft.Future, error) {
		switch {
		case slices.Contains(m.Voters, id):
			return nil, nil
		case !slices.Contains(m.Learners, id):
			return nil, dberr.New(dberr.NotFound, "%s is no member of group %d", id, g.cfg.Group)
		}
		return g.raft.AddVoter(raft.ServerID(id), raft.ServerAddress(id), m.Index, 0), nil
	})
}

// Demote makes a voter a learner. The leader is asked to hand over first.
func (g *Group) Demote(ctx context.Context, id string) error {
	return g.change(ctx, "demote", id, func(m Members) (raft.Future, error) {
		if slices.Contains(m.Learners, id) {
			return nil, nil
		}
		if err := g.mayLose(m, id); err != nil {
			return nil, err
		}
		return g.raft.DemoteVoter(raft.ServerID(id), m.Index, 0), nil
	})
}

// Remove takes a server out. One that is no member is out already. A leader that removes itself leads until
// that is committed and follows nobody from then on; handing over first costs no election.
func (g *Group) Remove(ctx context.Context, id string) error {
	return g.change(ctx, "remove", id, func(m Members) (raft.Future, error) {
		if !slices.Contains(m.Voters, id) {
			if !slices.Contains(m.Learners, id) {
				return nil, nil
			}
		} else if err := g.mayLose(m, id); err != nil {
			return nil, err
		}
		return g.raft.RemoveServer(raft.ServerID(id), m.Index, 0), nil
	})
}

// mayLose reports why a voter cannot stop to be one.
func (g *Group) mayLose(m Members, id string) error {
	if !slices.Contains(m.Voters, id) {
		return dberr.New(dberr.NotFound, "%s is no member of group %d", id, g.cfg.Group)
	}
	if len(m.Voters) == 1 {
		return dberr.New(dberr.InvalidOperation, "%s is the only voter of group %d", id, g.cfg.Group)
	}
	return nil
}

// change runs one step of the configuration. plan returns nil when there is nothing to do. It names the
// configuration it was made for, so that of two at a time one is refused.
func (g *Group) change(ctx context.Context, what, id string, plan func(Members) (raft.Future, error)) error {
	if g.Term() == 0 || !g.Leading() {
		return g.NotLeader()
	}
	m, err := g.Members()
	if err != nil {
		return err
	}
	f, err := plan(m)
	if err != nil {
		return err
	}
	if f == nil { // done before: say so only while it cannot be undone by another leader
		return g.ReadBarrier(ctx)
	}
	if err := g.wait(ctx, f); err != nil {
		return g.failed(err, "%s %s in group %d", what, id, g.cfg.Group)
	}
	g.changes.Add(1)
	return nil
}

// Transfer hands leadership to a voter. Commands proposed meanwhile are refused at once.
func (g *Group) Transfer(ctx context.Context, id string) error {
	if !g.Leading() {
		return g.NotLeader()
	}
	if id == g.cfg.Mux.ServerID() {
		return nil
	}
	m, err := g.Members()
	if err != nil {
		return err
	}
	if !slices.Contains(m.Voters, id) {
		return dberr.New(dberr.InvalidOperation, "%s is no voter of group %d: it cannot lead", id, g.cfg.Group)
	}
	return g.handOver(ctx, id)
}

// handOver makes a voter the leader, unless it has not answered lately: to a node that just died nothing can be handed,
// and the attempt holds up writes.
func (g *Group) handOver(ctx context.Context, id string) error {
	if !g.peers.contacts.within(raft.ServerID(id), g.cfg.Settings.HeartbeatTimeout/2) {
		return dberr.New(dberr.Unavailable, "hand group %d to %s: it has not answered within %v", g.cfg.Group, id, g.cfg.Settings.HeartbeatTimeout/2)
	}
	g.handing.Add(1)
	defer g.handing.Add(-1)
	err := g.wait(ctx, g.raft.LeadershipTransferToServer(raft.ServerID(id), raft.ServerAddress(id)))
	if err != nil {
		return g.failed(err, "hand group %d to %s", g.cfg.Group, id)
	}
	return nil
}

// StepDown hands leadership to a voter that answers.
func (g *Group) StepDown(ctx context.Context) error {
	if !g.Leading() {
		return g.NotLeader()
	}
	if g.soleVoter() {
		return dberr.New(dberr.InvalidOperation, "group %d has no other voter", g.cfg.Group)
	}
	m, err := g.Members()
	if err != nil {
		return err
	}
	last := dberr.New(dberr.Unavailable, "group %d has no voter to lead it", g.cfg.Group)
	for _, id := range m.Voters {
		if id == g.cfg.Mux.ServerID() {
			continue
		}
		err := g.handOver(ctx, id)
		if err == nil || !g.Leading() {
			return err
		}
		last = dberr.New(dberr.Unavailable, "give up the leadership of group %d: %w", g.cfg.Group, err)
	}
	return last
}

// Campaign holds an election now. It returns when this node is a candidate; the voters decide.
func (g *Group) Campaign(ctx context.Context) error {
	if g.Leading() {
		return nil
	}
	m, err := g.Members()
	if err != nil {
		return err
	}
	if self := g.cfg.Mux.ServerID(); !slices.Contains(m.Voters, self) {
		return dberr.New(dberr.InvalidOperation, "%s is no voter of group %d: it cannot lead", self, g.cfg.Group)
	}
	done := make(chan error, 1)
	if !g.spawn(func() { done <- g.electSelf() }) {
		return g.closing()
	}
	select {
	case err := <-done:
		if err != nil {
			return dberr.New(dberr.Unavailable, "hold an election in group %d: %w", g.cfg.Group, err)
		}
		return nil
	case <-ctx.Done():
		return dberr.New(dberr.CodeOf(dberr.FromStatus(ctx.Err())), "hold an election in group %d: %w", g.cfg.Group, ctx.Err())
	}
}

// wait waits for a future; it goes on without the caller when ctx ends first.
func (g *Group) wait(ctx context.Context, f raft.Future) error {
	done := make(chan error, 1)
	if !g.spawn(func() { done <- g.await(f) }) {
		return g.closing()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *Group) closing() error {
	return dberr.New(dberr.Unavailable, "group %d is closing on this node", g.cfg.Group)
}

// failed words an error of Raft's for those who try again.
func (g *Group) failed(err error, format string, args ...any) error {
	what := dberr.New(dberr.Internal, format, args...).Error()
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipLost):
		return g.NotLeader()
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return dberr.New(dberr.CodeOf(dberr.FromStatus(err)), "%s: it was begun, whether it is done is unknown: %w", what, err)
	}
	return dberr.New(dberr.Unavailable, "%s: %w", what, err)
}

// ReadIndex confirms that this node leads and returns the index of commands up to which a replica must have
// applied to hold everything acknowledged before the call.
func (g *Group) ReadIndex(ctx context.Context) (uint64, error) {
	if err := g.ReadBarrier(ctx); err != nil {
		return 0, err
	}
	return g.cfg.State.Applied(), nil
}

// LastContact is how long ago a follower heard of its leader; 0 on the leader, which gives up by itself when
// it reaches no majority. A replica that never heard of one answers false.
func (g *Group) LastContact() (time.Duration, bool) {
	if g.Leading() {
		return 0, true
	}
	at := g.raft.LastContact()
	if at.IsZero() {
		return 0, false
	}
	return time.Since(at), true
}

// Leader is the server id of the leader this replica follows or is; empty when it knows none.
func (g *Group) Leader() string {
	_, id := g.raft.LeaderWithID()
	return string(id)
}
