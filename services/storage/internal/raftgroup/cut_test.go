package raftgroup

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// fill appends entries and returns what the state is then.
func (p *party) fill(server string, n int) (content string) {
	p.t.Helper()
	for i := range n {
		if err := p.propose(server, fmt.Sprint(i, ",")); err != nil {
			p.t.Fatal(err)
		}
	}
	content, _ = p.nodes[server].state.look()
	return content
}

// A cut leaves what came after, and a follower that has not got so far gets the state.
func TestALogIsCutBehindAnEntry(t *testing.T) {
	p := newParty(t, "n1", "n2", "n3")
	p.leader("n1")
	p.has("n3", p.fill("n1", 20))
	p.stop("n3")
	p.fill("n1", 20)
	g := p.nodes["n1"].group
	secret := g.Stats().LastIndex
	if err := g.Mark(t.Context()); err != nil {
		t.Fatal(err)
	}
	upTo, err := g.Cut(t.Context(), secret)
	if err != nil || upTo != secret {
		t.Fatalf("cut up to %d (%v), the entry is %d", upTo, err, secret)
	}
	if first, err := g.log.FirstIndex(); err != nil || first != secret+1 {
		t.Errorf("the log begins at %d, %v", first, err)
	}
	if again, err := g.Cut(t.Context(), secret); err != nil || again != upTo {
		t.Errorf("again: %d, %v", again, err)
	}
	if _, err := g.Cut(t.Context(), secret+1000); !dberr.Is(err, dberr.Unavailable) {
		t.Errorf("an entry that is not there: %v", err)
	}
	if kept := g.raft.ReloadableConfig().TrailingLogs; kept != 4 {
		t.Errorf("from now on %d entries stay behind a snapshot, it was 4", kept)
	}
	want, _ := p.nodes["n1"].state.look()
	n3 := p.open("n3", "n3", false)
	p.has("n3", want)
	if _, restored := n3.state.look(); restored != 1 {
		t.Errorf("n3 was restored %d times", restored)
	}
	// what it had before is still in its own log, until it is cut, too
	if upTo, err := n3.group.Cut(t.Context(), secret); err != nil || upTo < secret {
		t.Errorf("n3 is cut up to %d, %v", upTo, err)
	}
	p.has("n2", want)
}

func TestSnapshotsOnTheirWayAreSeen(t *testing.T) {
	fs := vfs.NewMem()
	s := testSnapshots(t, fs, openLog(t, fs), &bytesState{content: []byte("state"), applied: 9})
	localSnapshot(t, s, 10)
	if on, err := Spooled(fs, "spool", 4); on || err != nil {
		t.Errorf("before: %v, %v", on, err)
	}
	_, r, err := s.Open("2-10")
	if err != nil {
		t.Fatal(err)
	}
	for group, want := range map[uint32]bool{4: true, 5: false} {
		if on, err := Spooled(fs, "spool", group); on != want || err != nil {
			t.Errorf("group %d: %v, %v", group, on, err)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if on, err := Spooled(fs, "spool", 4); on || err != nil {
		t.Errorf("after: %v, %v", on, err)
	}
}
