package raftgroup

import (
	"errors"
	"io"

	"github.com/hashicorp/raft"
)

// State is the replicated state of a group. Raft calls it from one goroutine, except WriteSnapshot and
// MakeDurable, which run beside Apply.
type State interface {
	// Apply applies committed commands in order and returns one result each. Entries up to Applied are
	// repetitions after a restart: it skips them.
	Apply(logs []*raft.Log) []any
	// Applied is the index of the last command applied.
	Applied() uint64
	// MakeDurable returns once everything up to index survives a crash.
	MakeDurable(index uint64) error
	// WriteSnapshot writes the state as of one moment.
	WriteSnapshot(w io.Writer) error
	// Restore replaces the state by what WriteSnapshot wrote, durably.
	Restore(r io.Reader) error
	// Torn reports that a crash interrupted Restore.
	Torn() (bool, error)
}

// fsm adapts State to Raft.
type fsm struct {
	state     State
	snapshots *snapshots
}

var _ raft.BatchingFSM = (*fsm)(nil)

func (f *fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	results := make([]any, len(logs))
	commands, places := make([]*raft.Log, 0, len(logs)), make([]int, 0, len(logs))
	for i, l := range logs {
		if l.Type == raft.LogCommand {
			commands, places = append(commands, l), append(places, i)
		}
	}
	if len(commands) == 0 {
		return results
	}
	for i, r := range f.state.Apply(commands) {
		results[places[i]] = r
	}
	return results
}

// Snapshot copies nothing: the state is on disk, or will be once Persist has flushed it.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	return &durablePoint{state: f.state, index: f.state.Applied()}, nil
}

// Restore replaces the state by a snapshot received from the leader. Raft closes r.
func (f *fsm) Restore(r io.ReadCloser) error {
	if err := f.state.Restore(newChunkReader(r)); err != nil {
		return err
	}
	return f.snapshots.restored()
}

// durablePoint is a local snapshot. Raft truncates its log only after Persist, so the log never ends
// behind what the state on disk holds.
type durablePoint struct {
	state State
	index uint64
}

// Persist makes the state durable and writes nothing into the sink.
func (p *durablePoint) Persist(sink raft.SnapshotSink) error {
	if err := p.state.MakeDurable(p.index); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return nil // takeSnapshot closes the sink, which stores the metadata
}

// Release has nothing to give back.
func (*durablePoint) Release() {}
