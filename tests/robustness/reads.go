package robustness

import (
	"fmt"
	"slices"
	"time"
)

// resolve uses the change stream to decide what became of operations whose answer never came: those that
// left no change are dropped. Should one have happened all the same, the reads that saw it do not fit.
func (t *truth) resolve(ops []Operation) []Operation {
	written, deleted := map[int64]bool{}, map[int64]bool{}
	for _, c := range t.changes {
		if c.next == 0 {
			deleted[c.old] = true
		}
		written[c.next] = true
	}
	return slices.DeleteFunc(slices.Clone(ops), func(o Operation) bool {
		if o.Outcome != Unknown {
			return false
		}
		switch {
		case o.Kind == Delete:
			return !deleted[o.Old[0]]
		case o.Kind == Transact && len(o.Old) > 0 && deleted[o.Old[len(o.Old)-1]]: // perhaps by another
			return o.Rollback
		}
		return !slices.ContainsFunc(o.Values, func(v int64) bool { return written[v] })
	})
}

// checkReads checks the reads that asked for less than linearizability: what they found was the content
// at some moment, a stale read's not longer ago than it asked for.
func (t *truth) checkReads(ops []Operation, staleness time.Duration) error {
	states := t.boundaries(ops)
	for i := range ops {
		o := &ops[i]
		if o.Kind != Read || o.Outcome != Done || o.Level == Linearizable {
			continue
		}
		oldest := 0
		if o.Level == Stale {
			oldest = t.acknowledgedBefore(ops, o.Called-int64(staleness))
		}
		last, ok := states[o.Got]
		switch {
		case !ok:
			return fmt.Errorf("a read found what never was; the operation: %s", o)
		case last < oldest:
			return fmt.Errorf("a stale read is older than the %v it asked for; the operation: %s", staleness, o)
		}
	}
	return nil
}

// boundaries are the states between statements, with the number of changes before the last time each
// held.
func (t *truth) boundaries(ops []Operation) map[State]int {
	inside := map[int]bool{} // numbers of changes after which a statement is not complete
	for i := range ops {
		o := &ops[i]
		last, ok := t.bySeq[o.Position]
		if !ok || o.Outcome != Done || o.Kind == Read {
			continue
		}
		for n := last - o.Affected + 2; n <= last; n++ {
			inside[n] = true
		}
	}
	states := map[State]int{{}: 0}
	var s State
	for i, c := range t.changes {
		s[c.key] = c.next
		if !inside[i+1] {
			states[s] = i + 1
		}
	}
	return states
}

// acknowledgedBefore is how many changes were certainly there at a time.
func (t *truth) acknowledgedBefore(ops []Operation, at int64) (n int) {
	for i := range ops {
		if o := &ops[i]; o.Kind != Read && o.Outcome == Done && o.Affected > 0 && o.Ended <= at {
			n = max(n, t.bySeq[o.Position]+1)
		}
	}
	return n
}
