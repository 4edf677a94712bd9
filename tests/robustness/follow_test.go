package robustness

import (
	"strings"
	"testing"
)

// history is a good one: three writes of which the second has two rows, and a delete.
func history() (whole *Subscription, ops []Operation, end State) {
	whole = &Subscription{Name: "whole", Whole: true, Events: []Event{
		{Kind: Opened, Seq: 5},
		{Kind: Inserted, Seq: 10, Key: 0, Value: 1},
		{Kind: Inserted, Seq: 20, Key: 1, Value: 2},
		{Kind: Inserted, Seq: 21, Key: 2, Value: 3},
		{Kind: Bookmark, Seq: 21},
		{Kind: Updated, Seq: 30, Key: 0, Value: 4, OldValue: 1},
		{Kind: Deleted, Seq: 40, Key: 1, OldValue: 2},
		{Kind: Bookmark, Seq: 45},
	}}
	ops = []Operation{
		{Kind: Insert, Keys: []int{0}, Values: []int64{1}, Affected: 1, Position: 10, Called: 100, Ended: 110},
		{Kind: Insert, Keys: []int{1, 2}, Values: []int64{2, 3}, Affected: 2, Position: 21, Called: 200, Ended: 210},
		{Kind: Swap, Keys: []int{0}, Old: []int64{1}, Values: []int64{4}, Affected: 1, Position: 30, Called: 300, Ended: 310},
		{Kind: Delete, Keys: []int{1}, Old: []int64{2}, Affected: 1, Position: 40, Called: 400, Ended: 410},
	}
	return whole, ops, State{0: 4, 2: 3}
}

// even is what a subscriber of even values should get, with a resume in the middle.
func even() *Subscription {
	return &Subscription{Name: "even", Filter: Filter{2, 0}, Events: []Event{
		{Kind: Opened, Seq: 5},
		{Kind: Inserted, Seq: 20, Key: 1, Value: 2},
		{Kind: Bookmark, Seq: 25},
		{Kind: Opened, Seq: 25, From: 25},
		{Kind: Inserted, Seq: 30, Key: 0, Value: 4},
		{Kind: Deleted, Seq: 40, Key: 1, OldValue: 2},
	}}
}

// late begins with a snapshot between the second and the third write.
func late() *Subscription {
	return &Subscription{Name: "late", Events: []Event{
		{Kind: Opened, Seq: 21},
		{Kind: Row, Key: 0, Value: 1}, {Kind: Row, Key: 1, Value: 2}, {Kind: Row, Key: 2, Value: 3},
		{Kind: Updated, Seq: 30, Key: 0, Value: 4, OldValue: 1},
		{Kind: Bookmark, Seq: 35},
	}}
}

func TestGoodSubscriptions(t *testing.T) {
	whole, ops, end := history()
	cut := late()
	cut.Events = append([]Event{{Kind: Opened, Seq: 10}, {Kind: Row, Key: 0, Value: 1}}, cut.Events...)
	if err := Check([]*Subscription{whole, even(), late(), cut}, ops, end, 0); err != nil {
		t.Fatal(err)
	}
}

// Every property, broken once.
func TestBadSubscriptions(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(whole, even, late *Subscription, ops []Operation, end *State)
		want  string
	}{
		{"reliable: skipped for one", func(_, e, _ *Subscription, _ []Operation, _ *State) { e.Events = append(e.Events[:4], e.Events[5:]...) }, "was missed"},
		{"reliable: skipped for all", func(w, _, _ *Subscription, _ []Operation, _ *State) { w.Events = append(w.Events[:5], w.Events[6:]...) }, "missed"},
		{"reliable: acknowledged, never delivered", func(_, _, _ *Subscription, ops []Operation, _ *State) { ops[0].Values[0] = 99 }, "lost"},
		{"reliable: the end", func(_, _, _ *Subscription, _ []Operation, end *State) { end[2] = 0 }, "missed"},
		{"ordered", func(w, _, _ *Subscription, _ []Operation, _ *State) { w.Events[2].Seq = 9 }, "out of order"},
		{"unique", func(_, e, _ *Subscription, _ []Operation, _ *State) { e.Events = append(e.Events, e.Events[5]) }, "repeated"},
		{"bookmarkable", func(_, _, l *Subscription, _ []Operation, _ *State) { l.Events[5].Seq = 50 }, "was missed"},
		{"bookmark goes back", func(_, e, _ *Subscription, _ []Operation, _ *State) {
			e.Events = append(e.Events, Event{Kind: Bookmark, Seq: 39})
		}, "bookmark"},
		{"resumable", func(_, e, _ *Subscription, _ []Operation, _ *State) {
			e.Events[4] = Event{Kind: Inserted, Seq: 20, Key: 1, Value: 2}
		}, "repeated"},
		{"atomic", func(_, _, _ *Subscription, ops []Operation, _ *State) { ops[1].Position = 30 }, "not atomic"},
		{"previous value", func(_, _, l *Subscription, _ []Operation, _ *State) { l.Events[4].OldValue = 7 }, "should have been"},
		{"previous value, for all", func(w, _, _ *Subscription, _ []Operation, _ *State) { w.Events[5].OldValue = 7 }, "previous value"},
		{"creation flag", func(w, _, _ *Subscription, _ []Operation, _ *State) { w.Events[1].Kind = Updated }, "wrong kind"},
		{"filter lets through", func(_, e, _ *Subscription, _ []Operation, _ *State) {
			e.Events = append(e.Events[:1], append([]Event{{Kind: Inserted, Seq: 10, Key: 0, Value: 1}}, e.Events[1:]...)...)
		}, "should have been"},
		{"filter: a change that leaves it", func(_, e, _ *Subscription, _ []Operation, _ *State) { e.Events[5].Kind = Updated }, "should have been"},
		{"handover misses", func(_, _, l *Subscription, _ []Operation, _ *State) { l.Events = append(l.Events[:3], l.Events[4:]...) }, "handover"},
		{"handover repeats", func(_, _, l *Subscription, _ []Operation, _ *State) { l.Events[1].Value = 4 }, "handover"},
		{"a retried write twice", func(w, _, _ *Subscription, _ []Operation, _ *State) {
			w.Events = append(w.Events, Event{Kind: Updated, Seq: 50, Key: 0, Value: 3, OldValue: 4})
		}, "twice"},
		{"position refused", func(_, e, _ *Subscription, _ []Operation, _ *State) { e.Events[3].Kind = Reset }, "refused"},
	} {
		whole, ops, end := history()
		e, l := even(), late()
		c.spoil(whole, e, l, ops, &end)
		if c.name == "a retried write twice" {
			end[0] = 3
		}
		err := Check([]*Subscription{whole, e, l}, ops, end, 0)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error about %q", c.name, err, c.want)
		}
	}
}

// What reads found, against the order of changes.
func TestReads(t *testing.T) {
	before, after := State{1, 2, 3}, State{4, 2, 3}
	for _, c := range []struct {
		name string
		op   Operation
		want string
	}{
		{"stale, within 50", Operation{Level: Stale, Called: 350, Ended: 360, Got: before}, ""},
		{"stale, beyond 50", Operation{Level: Stale, Called: 361, Ended: 370, Got: before}, "older than"},
		{"stale, new enough", Operation{Level: Stale, Called: 361, Ended: 370, Got: after}, ""},
		{"leader, old", Operation{Level: Leader, Called: 1000, Ended: 1010, Got: before}, ""},
		{"leader, half a statement", Operation{Level: Leader, Called: 1000, Ended: 1010, Got: State{1, 2}}, "never was"},
		{"linearizable, old", Operation{Called: 1000, Ended: 1010, Got: before}, "not linearizable"},
		{"unknown write that happened", Operation{Kind: Swap, Keys: []int{0}, Old: []int64{1}, Values: []int64{4}, Outcome: Unknown, Called: 0, Ended: 1 << 62}, ""},
		{"unknown write that did not", Operation{Kind: Insert, Keys: []int{5}, Values: []int64{50}, Outcome: Unknown, Called: 0, Ended: 1 << 62}, ""},
	} {
		whole, ops, end := history()
		if c.op.Level == 0 && c.op.Kind == 0 && c.op.Outcome == Done || c.op.Level != 0 {
			c.op.Kind = Read
		}
		if c.name == "unknown write that happened" {
			ops = append(ops[:2], ops[3:]...)
		}
		err := Check([]*Subscription{whole}, append(ops, c.op), end, 50)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}
