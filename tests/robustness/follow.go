package robustness

import (
	"fmt"
	"slices"
	"time"
)

// EventKind is what a subscription delivered.
type EventKind uint8

// The events.
const (
	// Opened: the subscription was acknowledged. From is the position it asked to resume after, 0 for
	// a snapshot.
	Opened EventKind = iota
	// Row is one row of the snapshot.
	Row
	// Inserted, Updated and Deleted are changes.
	Inserted
	Updated
	Deleted
	// Bookmark says that everything up to Seq has been delivered.
	Bookmark
	// Reset: the position was refused and a snapshot follows.
	Reset
)

// Event is one delivery.
type Event struct {
	Kind     EventKind
	Seq      uint64
	From     uint64 `json:",omitempty"`
	Key      int
	Value    int64
	OldValue int64 `json:",omitempty"`
}

// Filter says which values a subscription wants.
type Filter struct {
	// Modulus and Remainder: value % Modulus = Remainder. Modulus 0 or 1 wants all.
	Modulus, Remainder int64
}

// Wants reports whether a value passes; 0, an absent key, never does.
func (f Filter) Wants(v int64) bool {
	return v != 0 && (f.Modulus <= 1 || v%f.Modulus == f.Remainder)
}

// Subscription is all one subscriber got, over all its resumes.
type Subscription struct {
	Name   string
	Filter Filter
	Events []Event
	// Whole: it was opened before the first write and ran to the end, unfiltered. A partition needs one.
	Whole bool
}

// change is one committed change as the whole subscription tells it.
type change struct {
	seq       uint64
	key       int
	old, next int64
}

// truth is a partition's history of changes.
type truth struct {
	changes []change
	bySeq   map[uint64]int
}

// Check checks one partition: subscriptions against each other and against the writes that were
// acknowledged, then the order of operations. end is the partition's content at the end; a stale read may
// be as old as staleness.
func Check(subs []*Subscription, ops []Operation, end State, staleness time.Duration) error {
	i := slices.IndexFunc(subs, func(s *Subscription) bool { return s.Whole })
	if i < 0 {
		return fmt.Errorf("no subscription was there from the beginning")
	}
	t, err := newTruth(subs[i])
	if err != nil {
		return fmt.Errorf("%s: %w", subs[i].Name, err)
	}
	if got := t.state(len(t.changes)); got != end {
		return fmt.Errorf("%s ended with %v, the table holds %v: changes were missed", subs[i].Name, got, end)
	}
	if err := t.checkWrites(ops); err != nil {
		return err
	}
	for _, s := range subs {
		if err := t.checkOne(s); err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
	}
	if err := t.checkReads(ops, staleness); err != nil {
		return err
	}
	return CheckLinearizable(t.resolve(ops))
}

// newTruth replays the whole subscription: previous values and creation flags must be right.
func newTruth(s *Subscription) (*truth, error) {
	t := &truth{bySeq: map[uint64]int{}}
	var state State
	last := uint64(0)
	for _, e := range s.Events {
		switch e.Kind {
		case Reset:
			return nil, fmt.Errorf("its position was refused: history was lost")
		case Row:
			return nil, fmt.Errorf("key %d was in the snapshot of an empty table", e.Key)
		case Opened, Bookmark:
			continue
		}
		if e.Seq <= last {
			return nil, fmt.Errorf("change %d came after %d: repeated or out of order", e.Seq, last)
		}
		last = e.Seq
		c := change{seq: e.Seq, key: e.Key, old: e.OldValue, next: e.Value}
		if state[e.Key] != c.old {
			return nil, fmt.Errorf("change %d of key %d says that it was %d before, it was %d: the previous value is wrong or a change was missed", e.Seq, e.Key, c.old, state[e.Key])
		}
		if (e.Kind == Inserted) != (c.old == 0) || (e.Kind == Deleted) != (c.next == 0) {
			return nil, fmt.Errorf("change %d of key %d from %d to %d is of the wrong kind (%d)", e.Seq, e.Key, c.old, c.next, e.Kind)
		}
		state[e.Key] = c.next
		t.bySeq[c.seq] = len(t.changes)
		t.changes = append(t.changes, c)
	}
	return t, nil
}

// state is the content after the first n changes.
func (t *truth) state(n int) (s State) {
	for _, c := range t.changes[:n] {
		s[c.key] = c.next
	}
	return s
}

// checkWrites checks that every acknowledged write is there once, whole and where it said.
func (t *truth) checkWrites(ops []Operation) error {
	written := map[int64]int{}
	for _, c := range t.changes {
		if c.next != 0 {
			written[c.next]++
		}
	}
	for v, n := range written {
		if n > 1 {
			return fmt.Errorf("value %d was written %d times: a retried write happened twice", v, n)
		}
	}
	for i := range ops {
		if err := t.checkWrite(&ops[i], written); err != nil {
			return fmt.Errorf("%w; the operation: %s", err, &ops[i])
		}
	}
	return nil
}

func (t *truth) checkWrite(o *Operation, written map[int64]int) error {
	if o.Kind == Read {
		return nil
	}
	there := 0
	for _, v := range o.Values {
		there += written[v]
	}
	switch {
	case (o.Outcome == Refused || o.Rollback) && there > 0:
		return fmt.Errorf("a write that was refused or rolled back took effect")
	case o.Outcome == Unknown:
		if o.Kind == Insert && there != 0 && there != len(o.Values) {
			return fmt.Errorf("%d of %d rows of one statement: not atomic", there, len(o.Values))
		}
		return nil
	case o.Outcome != Done || o.Affected == 0:
		return nil
	case o.Kind != Delete && there != o.Affected-o.Removed:
		return fmt.Errorf("acknowledged with %d rows, %d are in the change stream: lost", o.Affected, there)
	}
	last, ok := t.bySeq[o.Position]
	if !ok {
		return fmt.Errorf("acknowledged at position %d, where there is no change: lost", o.Position)
	}
	return t.contiguous(o, last)
}

// contiguous checks that a statement's changes stand together, its position last.
func (t *truth) contiguous(o *Operation, last int) error {
	if last-o.Affected+1 < 0 {
		return fmt.Errorf("fewer changes than rows up to position %d", o.Position)
	}
	for _, c := range t.changes[last-o.Affected+1 : last+1] {
		if !slices.Contains(o.Keys, c.key) {
			return fmt.Errorf("another statement's change of key %d stands between those of one statement: not atomic", c.key)
		}
	}
	return nil
}

// checkOne compares a subscription with what its filter should have let through.
func (t *truth) checkOne(s *Subscription) error {
	c := &cursor{truth: t, filter: s.Filter}
	for i := range s.Events {
		if err := c.take(&s.Events[i]); err != nil {
			return fmt.Errorf("event %d: %w", i, err)
		}
	}
	return nil // one that ended inside its snapshot was cut off there
}

// cursor walks a subscription along the truth.
type cursor struct {
	truth  *truth
	filter Filter

	next     int // the first change not yet accounted for
	position uint64
	snapshot *State // being received; nil otherwise
}

func (c *cursor) take(e *Event) error {
	switch e.Kind {
	case Opened:
		return c.opened(e)
	case Reset:
		return fmt.Errorf("the position %d was refused", e.From)
	case Row:
		if c.snapshot == nil {
			return fmt.Errorf("a row of key %d outside a snapshot", e.Key)
		}
		if c.snapshot[e.Key] != 0 {
			return fmt.Errorf("key %d is twice in a snapshot", e.Key)
		}
		c.snapshot[e.Key] = e.Value
		return nil
	case Bookmark:
		return c.bookmark(e)
	}
	return c.change(e)
}

func (c *cursor) opened(e *Event) error {
	if e.From == 0 {
		c.snapshot = &State{} // one that was cut off is thrown away
		return nil
	}
	if e.From < c.position {
		return fmt.Errorf("it resumed at %d, having been at %d", e.From, c.position)
	}
	c.snapshot = nil
	return nil
}

// joinSnapshot finds the moment the snapshot shows: everything from next is still to come.
func (c *cursor) joinSnapshot(next int) error {
	state := c.truth.state(next)
	for k, v := range state {
		if !c.filter.Wants(v) {
			state[k] = 0
		}
	}
	if state != *c.snapshot {
		return fmt.Errorf("the snapshot %v is not the table before the next change, which is %v: the handover missed or repeated something", *c.snapshot, state)
	}
	c.snapshot, c.next = nil, next
	return nil
}

func (c *cursor) bookmark(e *Event) error {
	if e.Seq < c.position {
		return fmt.Errorf("bookmark %d after position %d", e.Seq, c.position)
	}
	if c.snapshot != nil {
		if err := c.joinSnapshot(c.after(e.Seq)); err != nil {
			return err
		}
	}
	if err := c.skip(e.Seq); err != nil {
		return err
	}
	c.position = e.Seq
	return nil
}

// after is the number of the first change behind a position.
func (c *cursor) after(seq uint64) int {
	n, found := slices.BinarySearchFunc(c.truth.changes, seq, func(ch change, s uint64) int {
		switch {
		case ch.seq < s:
			return -1
		case ch.seq > s:
			return 1
		}
		return 0
	})
	if found {
		n++
	}
	return n
}

// skip passes over changes up to seq that the filter should have kept away.
func (c *cursor) skip(seq uint64) error {
	for ; c.next < len(c.truth.changes) && c.truth.changes[c.next].seq <= seq; c.next++ {
		if ch := c.truth.changes[c.next]; c.filter.Wants(ch.old) || c.filter.Wants(ch.next) {
			return fmt.Errorf("change %d of key %d from %d to %d was missed", ch.seq, ch.key, ch.old, ch.next)
		}
	}
	return nil
}

func (c *cursor) change(e *Event) error {
	if e.Seq <= c.position {
		return fmt.Errorf("change %d came after position %d: repeated or out of order", e.Seq, c.position)
	}
	at, ok := c.truth.bySeq[e.Seq]
	if !ok {
		return fmt.Errorf("change %d never happened", e.Seq)
	}
	if c.snapshot != nil {
		if err := c.joinSnapshot(at); err != nil {
			return err
		}
	}
	if err := c.skip(e.Seq - 1); err != nil {
		return err
	}
	ch := c.truth.changes[at]
	if want := seenThrough(c.filter, ch); want != (Event{Kind: e.Kind, Seq: e.Seq, Key: e.Key, Value: e.Value, OldValue: e.OldValue}) {
		return fmt.Errorf("change %+v should have been %+v", *e, want)
	}
	c.next, c.position = at+1, e.Seq
	return nil
}

// seenThrough is a change as a subscription with a filter gets it; Seq 0 when it gets none.
func seenThrough(f Filter, ch change) Event {
	e := Event{Seq: ch.seq, Key: ch.key}
	switch was, is := f.Wants(ch.old), f.Wants(ch.next); {
	case was && is:
		e.Kind, e.Value, e.OldValue = Updated, ch.next, ch.old
	case is:
		e.Kind, e.Value = Inserted, ch.next
	case was:
		e.Kind, e.OldValue = Deleted, ch.old
	default:
		return Event{}
	}
	return e
}
