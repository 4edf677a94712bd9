// Package replica opens, closes and removes the shards' replicas of a node, as the catalog's placements say.
package replica

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/raftgroup"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/shard"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/stream"
)

// FirstShardGroup: group 0 is the catalog, shard n is group FirstShardGroup+n.
const FirstShardGroup = 1

// Replica is one shard on this node with what belongs to it.
type Replica struct {
	Shard  *shard.Shard
	Group  *raftgroup.Group
	Stream *stream.Store

	led  chan struct{} // closed when this node first serves the shard
	once sync.Once
}

// Led is closed when this node first serves the shard.
func (r *Replica) Led() <-chan struct{} { return r.led }

func (r *Replica) lead(term uint64) {
	r.Shard.Lead(term)
	r.Stream.Lead() // now _seq is above all that other leaders gave
	r.once.Do(func() { close(r.led) })
}

func (r *Replica) follow() {
	r.Shard.Follow()
	r.Stream.Reset() // memory of another leader's time would be neither complete nor new
}

// close ends the replica. Nothing is applied afterwards.
func (r *Replica) close(ctx context.Context) error {
	return errors.Join(r.Shard.Drain(ctx), r.Group.Stop(ctx), r.Shard.Close(ctx))
}

// EndWatches cuts the streams of changes; they begin again where the shard is led.
func (r *Replica) EndWatches(reason error) { r.Shard.Hub().Close(reason) }

// Report is what a group tells in heartbeats; bytes and writes are the caller's to fill in.
func Report(number uint32, serverID string, g *raftgroup.Group) (*clusterv1.GroupReport, error) {
	m, err := g.Members()
	if err != nil {
		return nil, err
	}
	s := g.Stats()
	r := &clusterv1.GroupReport{Group: number, ServerId: serverID, State: s.State, Term: s.Term, LastIndex: s.LastIndex,
		CommitIndex: s.Commit, AppliedIndex: s.AppliedRaft, SnapshotIndex: s.SnapshotAt, Leader: g.Leader(),
		Voters: m.Voters, Learners: m.Learners}
	if ago, ok := g.LastContact(); ok {
		r.LastContactMs = uint64(ago / time.Millisecond)
	}
	return r, nil
}

// HandOver gives the leadership of a group away, if this node has it and there is somebody to take it.
func HandOver(ctx context.Context, g *raftgroup.Group) error {
	if !g.Leading() || g.Alone() {
		return nil
	}
	err := g.StepDown(ctx)
	if dberr.Is(err, dberr.NotLeader) { // somebody else leads already
		return nil
	}
	return err
}
