package robustness

import (
	"fmt"
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// keysMax is the number of keys of a partition: ids 0 to keysMax-1.
const keysMax = 10

// Kind is what an operation does.
type Kind uint8

// The operations. A value of 0 means that the key is absent.
const (
	// Insert inserts Keys with Values in one statement.
	Insert Kind = iota
	// Swap changes Keys from Old to Values where they still hold Old, in one statement.
	Swap
	// Delete deletes the only key if it still holds Old.
	Delete
	// Read reads the whole partition.
	Read
	// Transact reads, changes the first Old of Keys where they still hold them, deletes the last of those, inserts the
	// last key if it is absent, and reads again, in one transaction, which it may roll back.
	Transact
)

func (k Kind) String() string { return [...]string{"insert", "swap", "delete", "read", "transact"}[k] }

// Outcome is how an operation ended.
type Outcome uint8

// The outcomes.
const (
	// Done: the statement answered.
	Done Outcome = iota
	// Refused: it answered that a key exists.
	Refused
	// Unknown: the answer never came. It may take effect at any later time, or never.
	Unknown
)

// Level is the consistency a read asked for.
type Level uint8

// The levels.
const (
	Linearizable Level = iota
	Leader
	Stale
)

// State is a partition's content: the value of each key.
type State [keysMax]int64

// Operation is one statement of one client.
type Operation struct {
	Client  int
	Kind    Kind
	Level   Level
	Keys    []int   `json:",omitempty"`
	Old     []int64 `json:",omitempty"`
	Values  []int64 `json:",omitempty"`
	Called  int64   // nanoseconds since the run began
	Ended   int64
	Outcome Outcome
	// Affected is the number of rows changed.
	Affected int `json:",omitempty"`
	// Removed is how many of them were deleted.
	Removed int `json:",omitempty"`
	// Rollback: the transaction ends without effect.
	Rollback bool `json:",omitempty"`
	// Position is the highest _seq written.
	Position uint64 `json:",omitempty"`
	// Got is what a Read found, or a transaction at its beginning; After, what it found at its end.
	Got   State
	After State
	// Error is what an Unknown outcome came with, and Code its code.
	Error string     `json:",omitempty"`
	Code  dberr.Code `json:",omitempty"`
}

func (o *Operation) String() string {
	return fmt.Sprintf("client %d %s keys %v old %v values %v: outcome %d, affected %d, got %v, after %v, rollback %t (%s to %s) %s", o.Client, o.Kind, o.Keys, o.Old,
		o.Values, o.Outcome, o.Affected, o.Got, o.After, o.Rollback, time.Duration(o.Called), time.Duration(o.Ended), o.Error)
}

// Recorder collects the operations of one partition.
type Recorder struct {
	mu  sync.Mutex
	all []Operation
}

// Add records a finished operation.
func (r *Recorder) Add(o Operation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, o)
}

// Operations returns what was recorded.
func (r *Recorder) Operations() []Operation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Operation(nil), r.all...)
}
