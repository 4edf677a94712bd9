// Package subscription holds how one subscription gets from its first row to its first live change:
// what of the snapshot was sent, and the changes that wait until the rest was.
//
// A snapshot is read in pages by ascending _seq, each a scan of its own, so nothing is held in storage
// between them. The rows of page k are those with a _seq above the last one of page k-1 at the position
// when page k was read. A row that changes before its page is read is therefore not in any page, and
// its change must not be delivered as an UPDATE or DELETE of something the client never saw. Pages
// answers exactly that question, so the client sees the partition as it was at the first page's
// position, and then every change after it.
package subscription

import (
	"sort"

	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// Pages is what was sent of a snapshot.
type Pages struct {
	// position is the first page's: where the snapshot is.
	position uint64
	// start is the lowest _seq that the snapshot covers; older rows were not asked for.
	start uint64
	ends  []pageEnd // ascending in both fields
}

type pageEnd struct {
	last   uint64 // highest _seq covered
	readAt uint64
}

// Begin starts a snapshot at a position. It covers rows from the _seq start on.
func (p *Pages) Begin(position, start uint64) { p.position, p.start, p.ends = position, start, nil }

// Position is where the snapshot is: changes after it follow.
func (p *Pages) Position() uint64 { return p.position }

// Add records that a page read at readAt covers the rows up to the _seq last.
func (p *Pages) Add(last, readAt uint64) {
	p.ends = append(p.ends, pageEnd{last: last, readAt: readAt})
}

// Known reports whether the old version of a change, if there is one, was sent to the subscriber.
func (p *Pages) Known(oldSeq, seq uint64) bool {
	if oldSeq > p.position || oldSeq < p.start {
		return true // it came as a change; or the client asked for changes of rows it did not ask for
	}
	i := sort.Search(len(p.ends), func(i int) bool { return p.ends[i].last >= oldSeq })
	return i < len(p.ends) && seq > p.ends[i].readAt
}

// Settled is the position after which Known is always true: the old version of every later change was
// either sent in a page or came as a change.
func (p *Pages) Settled() uint64 {
	if len(p.ends) == 0 {
		return 0
	}
	return p.ends[len(p.ends)-1].readAt
}

// Limits bound a Buffer.
type Limits struct{ Rows, Bytes int }

// Budget is memory that many buffers share.
type Budget interface {
	// Reserve takes n bytes, or reports that there are none left.
	Reserve(n int) bool
	// Release gives bytes back.
	Release(n int)
}

// Buffer keeps the changes that arrive while a snapshot is sent. Past its limits it keeps nothing: the
// changes are then read from the change log, where all of them are.
type Buffer struct {
	limits  Limits
	budget  Budget
	changes []*storagev1.Change
	bytes   int
	lost    bool
}

// NewBuffer makes an empty buffer that takes its memory from budget.
func NewBuffer(l Limits, budget Budget) *Buffer { return &Buffer{limits: l, budget: budget} }

// changeOverhead is what a change costs besides its rows. The rows are shared between the buffers of a
// partition; each counts them, which errs on the safe side.
const changeOverhead = 128

// Add keeps a change, or gives up.
func (b *Buffer) Add(ch *storagev1.Change) {
	if b.lost {
		return
	}
	size := changeOverhead + len(ch.GetRow()) + len(ch.GetOldRow())
	if len(b.changes) >= b.limits.Rows || b.bytes+size > b.limits.Bytes || !b.budget.Reserve(size) {
		b.GiveUp()
		return
	}
	b.changes = append(b.changes, ch)
	b.bytes += size
}

// GiveUp keeps nothing from now on.
func (b *Buffer) GiveUp() {
	b.Discard()
	b.lost = true
}

// Lost reports whether changes were given up.
func (b *Buffer) Lost() bool { return b.lost }

// Changes returns what was kept, in order.
func (b *Buffer) Changes() []*storagev1.Change { return b.changes }

// Discard releases the memory.
func (b *Buffer) Discard() {
	b.budget.Release(b.bytes)
	b.changes, b.bytes = nil, 0
}
