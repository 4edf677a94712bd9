package raftgroup

import (
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// A leader stores its entries before it sends them. When its disk stands still it can do nothing, but its heartbeats, which
// touch no disk, keep the others from electing one that could. So it says nothing while its log stands still, and they
// elect. Meanwhile it serves nothing: who follows it or asks it goes elsewhere.

// stallMax is how long an append to the log may take before the leader falls silent: far longer than a busy disk needs
// for a sync, and with an election after it about what losing a leader costs in any other way.
const stallMax = time.Second

// stallBytes is how many bytes of an append give it another second: a burst keeps a slow disk busy that does not stand still.
const stallBytes = 16 << 20

// stall measures how long an append to the log has been under way. Appends of a group come one after the other.
type stall struct {
	epoch time.Time
	until atomic.Int64 // when it should be done, nanoseconds after epoch; 0 when none is under way
	timer *time.Timer  // runs during an append, and then gives changed a token
	// changed gets a token when the log stands still, and another when it no longer does.
	changed chan struct{}
}

func newStall() *stall {
	s := &stall{epoch: time.Now(), changed: make(chan struct{}, 1)}
	s.timer = time.AfterFunc(stallMax, s.notice)
	s.timer.Stop()
	return s
}

func (s *stall) notice() {
	select {
	case s.changed <- struct{}{}:
	default: // who takes it looks at what is so then
	}
}

func (s *stall) begin(bytes int) {
	within := stallMax + time.Duration(bytes)*time.Second/stallBytes
	s.until.Store(int64(time.Since(s.epoch) + within))
	s.timer.Reset(within)
}

func (s *stall) end() {
	s.until.Store(0)
	if !s.timer.Stop() {
		s.notice()
	}
}

// err is why nothing should be sent to followers now, nil when it should.
func (s *stall) err() error {
	until := s.until.Load()
	if until == 0 || time.Since(s.epoch) < time.Duration(until) {
		return nil
	}
	return dberr.New(dberr.Unavailable, "this node's Raft log has stood still for more than %v: its disk does not answer", stallMax)
}

// stalled makes a leader that cannot store anything serve nothing until it can. Alone it goes on: nobody could take
// its place.
func (g *Group) stalled() {
	err := g.stall.err()
	switch {
	case err != nil && g.term.Load() != 0 && !g.soleVoter():
		g.cfg.Logger.Warn("a leader falls silent", "group", g.cfg.Group, "error", err)
		g.term.Store(0)
		g.cfg.OnFollow()
	case err == nil && g.term.Load() == 0 && g.Leading(): // nobody was elected meanwhile
		g.lead()
	}
}

// timedLog tells stall of appends.
type timedLog struct {
	raft.LogStore
	stall *stall
}

func (l *timedLog) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

func (l *timedLog) StoreLogs(logs []*raft.Log) error {
	bytes := 0
	for _, e := range logs {
		bytes += sizeOf(e)
	}
	l.stall.begin(bytes)
	defer l.stall.end()
	return l.LogStore.StoreLogs(logs)
}
