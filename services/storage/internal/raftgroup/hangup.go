package raftgroup

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

// A process that dies closes its connections, and from then on its address refuses new ones. A follower that sees both
// of its leader need not wait for the heartbeat's timeout: it holds an election at once. Everything else that a leader
// may die of (its host, its network, a pause) leaves connections open, and the timeout as the only sign.

const (
	// probeTimeout bounds asking a leader's address whether anybody listens. A refusal comes within a round trip.
	probeTimeout = 150 * time.Millisecond
	// turnPause is what followers wait for each other, so that they do not vote for themselves at the same time: a
	// round of votes with its writes to disk. The first waits as long for a heartbeat, of which there are more in it.
	turnPause = 100 * time.Millisecond
)

// watchHangUps runs until the group stops.
func (g *Group) watchHangUps() {
	for {
		select {
		case <-g.layer.hungUp:
			g.succeedDead()
		case <-g.stop:
			return
		}
	}
}

// succeedDead holds an election if the leader's process is gone and it is this node's turn.
func (g *Group) succeedDead() {
	leader, heard := g.follows(), time.Now()
	if leader == "" || !g.refuses(leader) {
		return
	}
	m, err := g.Members()
	if err != nil {
		return // the heartbeat's timeout goes on
	}
	turn, votes := turnOf(m.Voters, leader, g.cfg.Mux.ServerID(), g.cfg.Group)
	if !votes {
		return
	}
	if !g.pause(time.Duration(turn+1) * turnPause) {
		return
	}
	// One whose turn was earlier has made this node forget its leader by asking for its vote. It wins within a pause, or
	// it cannot win because it lacks entries that this node has.
	if g.follows() == "" && !g.pause(turnPause) {
		return
	}
	if now := g.follows(); now != "" && now != leader || g.raft.State() != raft.Follower { // somebody else was faster
		return
	}
	if g.raft.LastContact().After(heard) { // it lives, though this node cannot connect to it
		return
	}
	if err := g.electSelf(); err != nil {
		g.cfg.Logger.Warn("succeed a leader that died; the timeout will", "group", g.cfg.Group, "leader", leader, "error", err)
	}
}

// pause waits; false when the group stops meanwhile.
func (g *Group) pause(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-g.stop:
		return false
	}
}

// follows is the server that this one follows, "" when none.
func (g *Group) follows() string {
	_, leader := g.raft.LeaderWithID()
	if g.raft.State() != raft.Follower || string(leader) == g.cfg.Mux.ServerID() {
		return ""
	}
	return string(leader)
}

// refuses reports whether nobody listens at a server's address.
func (g *Group) refuses(server string) bool {
	addr, ok := g.cfg.Mux.book.RaftAddr(server)
	if !ok {
		return false
	}
	ctx, cancel := context.WithTimeout(dialContext{g.layer.done}, probeTimeout)
	defer cancel()
	c, err := g.cfg.Mux.net.DialContext(ctx, addr)
	if err == nil {
		_ = c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// turnOf is the place of a voter among those that are left without a leader. It differs from group to group, so that
// the groups of a dead node are not all led by the same one afterwards.
func turnOf(voters []string, leader, self string, group uint32) (turn int, votes bool) {
	left := slices.DeleteFunc(slices.Clone(voters), func(s string) bool { return s == leader })
	slices.Sort(left)
	at := slices.Index(left, self)
	if at < 0 {
		return 0, false
	}
	return (at + int(group)) % len(left), true
}
