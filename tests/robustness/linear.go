package robustness

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// checkTimeout bounds one partition's check; a history that takes longer is not counted as good.
const checkTimeout = 2 * time.Minute

// CheckLinearizable checks one partition's operations. Reads that asked for less are left out: see
// checkReads.
func CheckLinearizable(ops []Operation) error {
	history := make([]porcupine.Operation, 0, len(ops))
	for i := range ops {
		o := &ops[i]
		if o.Kind == Read && (o.Outcome == Unknown || o.Level != Linearizable) {
			continue
		}
		// An unknown operation never ends: placed last it changes nothing that anybody saw.
		history = append(history, porcupine.Operation{ClientId: o.Client, Input: o, Call: o.Called, Return: o.Ended})
	}
	switch result, info := porcupine.CheckOperationsVerbose(partitionModel, history, checkTimeout); result {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return fmt.Errorf("the check of %d operations did not end within %v", len(history), checkTimeout)
	default:
		return fmt.Errorf("not linearizable: %s", firstStuck(history, info))
	}
}

// partitionModel is what a partition does, one operation after the other.
var partitionModel = porcupine.Model{
	Init: func() any { return State{} },
	Step: func(state, input, _ any) (bool, any) {
		s := state.(State)
		ok := step(&s, input.(*Operation))
		return ok, s
	},
	Hash: func(state any) uint64 {
		h := uint64(14695981039346656037)
		for _, v := range state.(State) {
			h = (h ^ uint64(v)) * 1099511628211
		}
		return h
	},
}

// step applies o to s and reports whether o could have ended as it did.
func step(s *State, o *Operation) bool {
	switch o.Kind {
	case Read:
		return *s == o.Got
	case Insert:
		return stepInsert(s, o)
	case Transact:
		return stepTransact(s, o)
	}
	n := 0
	for i, k := range o.Keys {
		if s[k] != o.Old[i] {
			continue
		}
		n++
		if o.Kind == Swap {
			s[k] = o.Values[i]
		} else {
			s[k] = 0
		}
	}
	return o.Outcome == Unknown || n == o.Affected
}

func stepInsert(s *State, o *Operation) bool {
	for _, k := range o.Keys {
		if s[k] != 0 {
			return o.Outcome != Done
		}
	}
	if o.Outcome == Refused {
		return false
	}
	for i, k := range o.Keys {
		s[k] = o.Values[i]
	}
	return true
}

// stepTransact runs a transaction in one moment: it found what was there, and then what it had made of it.
func stepTransact(s *State, o *Operation) bool {
	after, changed := *s, 0
	for i, k := range o.Keys {
		switch {
		case i == len(o.Keys)-1: // the one to insert
			if after[k] == 0 {
				after[k] = o.Values[len(o.Values)-1]
				changed++
			}
		case after[k] != o.Old[i]:
		case i == len(o.Old)-1:
			after[k] = 0
			changed++
		default:
			after[k] = o.Values[i]
			changed++
		}
	}
	if o.Outcome != Unknown && (*s != o.Got || after != o.After || !o.Rollback && changed != o.Affected) {
		return false
	}
	if !o.Rollback {
		*s = after
	}
	return true
}

// firstStuck describes where the longest order that could be found ends.
func firstStuck(history []porcupine.Operation, info porcupine.LinearizationInfo) string {
	longest := []int(nil)
	for _, partition := range info.PartialLinearizations() {
		for _, p := range partition {
			if len(p) > len(longest) {
				longest = p
			}
		}
	}
	placed, state := make([]bool, len(history)), State{}
	for _, i := range longest {
		placed[i] = true
		step(&state, history[i].Input.(*Operation))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d operations can be ordered, up to the state %v; then none of these fits:", len(longest), len(history), state)
	shown := 0
	earliest := int64(math.MaxInt64)
	for i, o := range history {
		if !placed[i] {
			earliest = min(earliest, o.Return)
		}
	}
	for i, o := range history {
		if !placed[i] && o.Call <= earliest && shown < 12 {
			fmt.Fprintf(&b, "\n  %s", o.Input.(*Operation))
			shown++
		}
	}
	return b.String()
}
