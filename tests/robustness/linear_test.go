package robustness

import (
	"math"
	"strings"
	"testing"
)

func ins(called, ended int64, key int, v int64) Operation {
	return Operation{Kind: Insert, Keys: []int{key}, Values: []int64{v}, Called: called, Ended: ended, Affected: 1}
}

func read(called, ended int64, s State) Operation {
	return Operation{Kind: Read, Called: called, Ended: ended, Got: s}
}

func unknown(o Operation) Operation {
	o.Outcome, o.Ended, o.Affected = Unknown, math.MaxInt64, 0
	return o
}

func TestLinearizable(t *testing.T) {
	swap := Operation{Kind: Swap, Keys: []int{0, 1}, Old: []int64{1, 2}, Values: []int64{3, 4}, Called: 30, Ended: 40, Affected: 2}
	missed := swap
	missed.Affected = 1
	// It changes key 0 from 1 to 5, deletes key 1, which holds 2, and inserts key 2.
	move := Operation{Kind: Transact, Keys: []int{0, 1, 2}, Old: []int64{1, 2}, Values: []int64{5, 6}, Called: 30, Ended: 40, Affected: 3, Removed: 1,
		Got: State{1, 2}, After: State{5, 0, 6}}
	skewed, blind, undone := move, move, move
	skewed.Got, skewed.After, skewed.Affected = State{1}, State{5, 0, 6}, 2
	blind.After = State{1, 2}
	undone.Rollback, undone.Affected = true, 0
	two := []Operation{ins(0, 10, 0, 1), ins(10, 20, 1, 2)}
	refused := Operation{Kind: Insert, Keys: []int{0}, Values: []int64{9}, Called: 20, Ended: 30, Outcome: Refused}
	for _, c := range []struct {
		name string
		ops  []Operation
		bad  bool
	}{
		{"in order", []Operation{ins(0, 10, 0, 1), read(20, 30, State{1})}, false},
		{"a write acknowledged and gone", []Operation{ins(0, 10, 0, 1), read(20, 30, State{})}, true},
		{"concurrent, either way", []Operation{ins(0, 50, 0, 1), read(20, 30, State{})}, false},
		{"seen, then unseen", []Operation{ins(0, 50, 0, 1), read(10, 20, State{1}), read(30, 40, State{})}, true},
		{"unknown, seen later", []Operation{unknown(ins(0, 0, 0, 1)), read(100, 110, State{}), read(120, 130, State{1})}, false},
		{"unknown, never seen", []Operation{unknown(ins(0, 0, 0, 1)), read(100, 110, State{}), ins(120, 130, 0, 2), read(140, 150, State{2})}, false},
		{"unknown, back from the dead", []Operation{unknown(ins(0, 0, 0, 1)), ins(20, 30, 0, 2), read(140, 150, State{1})}, true},
		{"two rows at once", []Operation{ins(0, 10, 0, 1), ins(10, 20, 1, 2), swap, read(50, 60, State{3, 4})}, false},
		{"half a swap", []Operation{ins(0, 10, 0, 1), ins(10, 20, 1, 2), swap, read(50, 60, State{3, 2})}, true},
		{"a swap that says one row and did two", []Operation{ins(0, 10, 0, 1), ins(10, 20, 1, 2), missed, read(50, 60, State{3, 4})}, true},
		{"a transaction", append(two[:2:2], move, read(50, 60, State{5, 0, 6})), false},
		{"a transaction that read what was no more", append(two[:2:2], skewed, read(50, 60, State{5, 0, 6})), true},
		{"a transaction that did not see its own rows", append(two[:2:2], blind), true},
		{"a transaction rolled back", append(two[:2:2], undone, read(50, 60, State{1, 2})), false},
		{"a transaction rolled back with effect", append(two[:2:2], undone, read(50, 60, State{5, 0, 6})), true},
		{"half a transaction", append(two[:2:2], move, read(50, 60, State{5, 2, 6})), true},
		{"refused though absent", []Operation{refused, read(40, 50, State{})}, true},
		{"refused as present", []Operation{ins(0, 10, 0, 1), refused, read(40, 50, State{1})}, false},
	} {
		err := CheckLinearizable(c.ops)
		if (err != nil) != c.bad {
			t.Errorf("%s: got %v", c.name, err)
		}
		if err != nil && !strings.Contains(err.Error(), "not linearizable") {
			t.Errorf("%s: the error is %v", c.name, err)
		}
	}
}
