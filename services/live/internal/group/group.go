package group

import (
	"time"

	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
	"github.com/kalamdb/kalamdb-go/services/live/internal/match"
	"github.com/kalamdb/kalamdb-go/services/live/internal/outbox"
)

// group is the live subscriptions of a partition that share a shape. It belongs to Partition.mu.
type group struct {
	shape   *match.Shape
	members []*members // by stream
	changes uint64
	updated time.Time
	// spoke says that something was delivered since the last bookmark.
	spoke bool
}

// members are a group's subscriptions on one stream.
type members struct {
	out  *outbox.Queue
	subs []*Subscription
	ids  []uint64 // of subs, in the same order
	// lent says that ids is in messages: it may be appended to, but not changed.
	lent bool
}

func (g *group) add(s *Subscription) {
	s.group, s.groupChanges = g, g.changes
	m := g.of(s.stream.out)
	if m == nil {
		m = &members{out: s.stream.out}
		g.members = append(g.members, m)
	}
	s.slot = len(m.subs)
	m.subs = append(m.subs, s)
	m.ids = append(m.ids, s.id)
}

func (g *group) of(out *outbox.Queue) *members {
	for _, m := range g.members {
		if m.out == out {
			return m
		}
	}
	return nil
}

// remove takes s off and reports whether the group is empty now.
func (g *group) remove(s *Subscription) (empty bool) {
	s.changes += g.changes - s.groupChanges
	s.group = nil
	m := g.of(s.stream.out)
	if m.lent {
		m.ids = append(make([]uint64, 0, len(m.ids)), m.ids...)
		m.lent = false
	}
	last := len(m.subs) - 1
	moved := m.subs[last]
	m.subs[s.slot], m.ids[s.slot] = moved, m.ids[last]
	moved.slot = s.slot
	m.subs[last] = nil
	m.subs, m.ids = m.subs[:last], m.ids[:last]
	if last > 0 {
		return false
	}
	for i := range g.members {
		if g.members[i] == m {
			end := len(g.members) - 1
			g.members[i], g.members[end] = g.members[end], nil
			g.members = g.members[:end]
			break
		}
	}
	return len(g.members) == 0
}

// all returns a copy of the group's subscriptions.
func (g *group) all() []*Subscription {
	var out []*Subscription
	for _, m := range g.members {
		out = append(out, m.subs...)
	}
	return out
}

// deliver sends one change to everybody in the group: one message for each stream.
func (g *group) deliver(h *Hub, changed *livev1.Changed) {
	g.changes++
	g.updated = h.cfg.Now()
	g.spoke = true
	h.counts.Matched.Add(1)
	h.counts.Delivered.Add(uint64(len(g.members)))
	for _, m := range g.members {
		m.lent = true
		m.out.Push(outbox.Item{Changed: changed, Subscriptions: m.ids, Resume: changed.GetSeq() - 1})
	}
}
