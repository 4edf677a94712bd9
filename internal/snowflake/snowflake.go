// Package snowflake makes 63-bit numbers that rise with time: 41 bits of milliseconds since an epoch,
// 10 bits of node, 12 bits of counter. Two generators use it: SNOWFLAKE_ID() counts from the Unix
// epoch, row versions (_seq) from SeqEpoch, as 41 bits since 1970 end in 2039.
package snowflake

import (
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// The layout.
const (
	nodeBits    = 10
	counterBits = 12

	// NodeMax is the highest node number.
	NodeMax = 1<<nodeBits - 1

	counters     = 1 << counterBits
	counterMask  = counters - 1
	millisShift  = nodeBits + counterBits
	nodeMask     = NodeMax << counterBits
	millisOfBits = 1<<41 - 1
)

// The epochs.
var (
	IDEpoch  = time.Unix(0, 0).UTC()
	SeqEpoch = time.Date(2025, time.January, 1, 0, 0, 0, 0, time.UTC)
)

// Generator makes numbers that are unique and strictly rising. Within a millisecond it counts; when
// the counter ends it goes on in the next millisecond, ahead of the clock if it must, and a clock
// that steps back is ignored until it has caught up: nothing ever waits and nothing ever repeats.
//
// Numbers follow the clock, so one that is ahead is believed: after it was set right, or behind another node's
// numbers (Raise), a generator counts on from where numbers are. It then moves ahead by a millisecond for every
// 4,096 numbers and every change of nodes, less than real time does, so the clock catches up. Ahead says how far
// it has to.
type Generator struct {
	epochMS int64
	node    uint64
	now     func() time.Time

	mu   sync.Mutex
	last uint64 // the last number handed out
}

// New makes a generator for a node (0 to NodeMax). now is the clock; nil means time.Now.
func New(epoch time.Time, node uint16, now func() time.Time) (*Generator, error) {
	if node > NodeMax {
		return nil, dberr.New(dberr.InvalidArgument, "node number %d is above %d", node, NodeMax)
	}
	if now == nil {
		now = time.Now
	}
	return &Generator{epochMS: epoch.UnixMilli(), node: uint64(node), now: now}, nil
}

// Next returns the next number.
func (g *Generator) Next() uint64 { return g.NextN(1) }

// NextN reserves n numbers and returns the first; the others are At(first, 1), At(first, 2), ….
// n must be at least 1.
func (g *Generator) NextN(n int) uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.reserve(n)
}

// NextAfter returns the next number, made to be above floor.
func (g *Generator) NextAfter(floor uint64) uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last = max(g.last, floor)
	return g.reserve(1)
}

// Raise makes every later number higher than floor.
func (g *Generator) Raise(floor uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last = max(g.last, floor)
}

// Ahead is how far the last number is ahead of the clock; zero when it is not.
func (g *Generator) Ahead() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	ms := int64(g.last>>millisShift) - (g.now().UnixMilli() - g.epochMS)
	return time.Duration(max(ms, 0)) * time.Millisecond
}

func (g *Generator) reserve(n int) uint64 {
	first := g.start()
	if first <= g.last { // same millisecond, a clock behind, or a floor from elsewhere
		first = g.following(g.last)
	}
	g.last = At(first, n-1)
	return first
}

// start is the first number of the clock's millisecond; a clock before the epoch counts as the epoch.
func (g *Generator) start() uint64 {
	ms := max(g.now().UnixMilli()-g.epochMS, 0)
	return uint64(ms)<<millisShift | g.node<<counterBits
}

// following is the lowest number of this node above v, which may be another node's.
func (g *Generator) following(v uint64) uint64 {
	own := g.node << counterBits
	switch node := v & nodeMask; {
	case node == own && v&counterMask < counterMask:
		return v + 1
	case node < own:
		return v>>millisShift<<millisShift | own
	}
	return (v>>millisShift+1)<<millisShift | own
}

// At returns the i-th number of a run that starts at first: the counter rises, and when it ends the
// millisecond does.
func At(first uint64, i int) uint64 {
	c := first&counterMask + uint64(i)
	return first&^counterMask + (c>>counterBits)<<millisShift | c&counterMask
}

// Time is when a number was made, to the millisecond.
func Time(v uint64, epoch time.Time) time.Time {
	return time.UnixMilli(epoch.UnixMilli() + int64(v>>millisShift&millisOfBits)).UTC()
}

// FirstAt is the least number of a time's millisecond; zero for times before the epoch.
func FirstAt(t, epoch time.Time) uint64 {
	ms := t.UnixMilli() - epoch.UnixMilli()
	if ms < 0 {
		return 0
	}
	return uint64(ms) << millisShift
}

// Millis is when a number was made, in milliseconds since its epoch.
func Millis(v uint64) uint64 { return v >> millisShift }

// Node is the node that made a number.
func Node(v uint64) uint16 { return uint16(v & nodeMask >> counterBits) }
