package raftgroup

import (
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// A leader stores its entries before it sends them. When its disk stands still it can do nothing, but its heartbeats, which
// touch no disk, keep the others from electing one that could. So it says nothing while its log stands still, and they
// elect.

// stallMax is how long an append to the log may take before the leader falls silent: far longer than a busy disk needs
// for a sync, and with an election after it about what losing a leader costs in any other way.
const stallMax = time.Second

// stall measures how long an append to the log has been under way. Appends of a group come one after the other.
type stall struct {
	epoch time.Time
	since atomic.Int64 // nanoseconds after epoch, 0 when none is under way
}

func newStall() *stall { return &stall{epoch: time.Now()} }

func (s *stall) begin() { s.since.Store(max(int64(time.Since(s.epoch)), 1)) }
func (s *stall) end()   { s.since.Store(0) }

// err is why nothing should be sent to followers now, nil when it should.
func (s *stall) err() error {
	since := s.since.Load()
	if since == 0 || time.Since(s.epoch)-time.Duration(since) < stallMax {
		return nil
	}
	return dberr.New(dberr.Unavailable, "this node's Raft log has stood still for more than %v: its disk does not answer", stallMax)
}

// timedLog tells stall of appends.
type timedLog struct {
	raft.LogStore
	stall *stall
}

func (l *timedLog) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

func (l *timedLog) StoreLogs(logs []*raft.Log) error {
	l.stall.begin()
	defer l.stall.end()
	return l.LogStore.StoreLogs(logs)
}
