package raftgroup

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

var fourServers = []raft.Server{{ID: "n1"}, {ID: "n2"}, {ID: "n3"}, {ID: "n4", Suffrage: raft.Nonvoter}}

// Raft takes the next answer for a confirmation, whatever it answers. A leader that was paused gets many that are old.
func TestAnswersToEarlierMessagesConfirmNothing(t *testing.T) {
	began := time.Now()
	var c contacts
	rounds := 0
	run := &confirmation{self: "n1", contacts: &c, stop: make(chan struct{}), servers: func() []raft.Server { return fourServers },
		verify: func() error { // an answer came, Raft says yes
			switch rounds++; rounds {
			case 1:
				c.heard("n2", began.Add(-time.Second), true)
				c.heard("n3", began, true)
			case 2:
				c.heard("n4", began.Add(time.Second), true)
				c.heard("n2", began.Add(time.Second), false)
			case 3:
				c.heard("n3", began.Add(time.Millisecond), true)
			}
			return nil
		}}
	if err := run.run(began); err != nil || rounds != 3 {
		t.Errorf("confirmed in round %d: %v", rounds, err)
	}
	gone := errors.New("another leads")
	run.verify = func() error { return gone }
	if err := run.run(began.Add(time.Hour)); !errors.Is(err, gone) {
		t.Errorf("%v, want %v", err, gone)
	}
}

// An answer tells of the time when its message was sent, not of when it came.
func TestAnAnswerIsAsOldAsItsMessage(t *testing.T) {
	follower := tcpTransport(t)
	two := []raft.Server{{ID: "n1"}, {ID: "n2"}}
	for name, send := range map[string]func(*transport) error{
		"a call": func(tr *transport) error {
			return tr.AppendEntries("n2", follower.LocalAddr(), &raft.AppendEntriesRequest{Term: 2}, &raft.AppendEntriesResponse{})
		},
		"a pipeline": func(tr *transport) error {
			p, err := tr.AppendEntriesPipeline("n2", follower.LocalAddr())
			if err != nil {
				return err
			}
			_, err = p.AppendEntries(&raft.AppendEntriesRequest{Term: 2, PrevLogEntry: 9}, &raft.AppendEntriesResponse{})
			<-p.Consumer()
			return errors.Join(err, p.Close())
		},
	} {
		tr := &transport{NetworkTransport: tcpTransport(t), stall: newStall()}
		before := time.Now()
		sent := make(chan error, 1)
		go func() { sent <- send(tr) }()
		rpc := <-follower.Consumer()
		arrived := time.Now()
		rpc.Respond(&raft.AppendEntriesResponse{Term: 2, Success: true}, nil)
		if err := <-sent; err != nil {
			t.Fatal(name, err)
		}
		if ok, _ := tr.contacts.confirmed("n1", two, before); !ok {
			t.Errorf("%s: answered, and not counted", name)
		}
		if ok, _ := tr.contacts.confirmed("n1", two, arrived); ok {
			t.Errorf("%s: it counts as if it had been sent after it arrived", name)
		}
	}
}

func TestAStopEndsAConfirmation(t *testing.T) {
	stop := make(chan struct{})
	close(stop)
	run := &confirmation{self: "n1", contacts: &contacts{}, stop: stop, servers: func() []raft.Server { return fourServers }, verify: func() error { return nil }}
	if err := run.run(time.Now()); !errors.Is(err, raft.ErrRaftShutdown) {
		t.Error(err)
	}
}

// A leader that reaches nobody but a learner may have been succeeded.
func TestALearnerConfirmsNothing(t *testing.T) {
	p := newParty(t, "n1", "n2", "n3")
	p.open("n4", "n4", false)
	if err := p.nodes["n1"].group.AddLearner(t.Context(), "n4"); err != nil {
		t.Fatal(err)
	}
	if err := p.propose("n1", "here"); err != nil {
		t.Fatal(err)
	}
	p.has("n4", "here")
	p.isolateFrom("n1", "n2", "n3")
	if err := p.nodes["n1"].group.ReadBarrier(t.Context()); !dberr.Is(err, dberr.NotLeader) {
		t.Errorf("a read beside a learner alone: %v", err)
	}
}

// BenchmarkReadBarrier confirms reads on the leader of three; those at the same time share a confirmation.
func BenchmarkReadBarrier(b *testing.B) {
	for _, readers := range []int{1, 64} {
		b.Run(fmt.Sprint(readers), func(b *testing.B) {
			p := newParty(b, "n1", "n2", "n3")
			p.leader("n1")
			g := p.nodes["n1"].group
			b.SetParallelism(readers)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := g.ReadBarrier(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}
