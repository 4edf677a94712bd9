package stream

import (
	"slices"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// entry is one change; an insert's is also the row, while it is there.
type entry struct {
	change *storagev1.Change
	key    string
	live   bool
}

// entryOverhead is what an entry costs besides its rows: the structs and the map cell.
const entryOverhead = 256

func (e *entry) bytes() int {
	return entryOverhead + 2*len(e.key) + len(e.change.GetRow()) + len(e.change.GetOldRow())
}

// entriesMin is how many changes are kept before those of rows that are gone are dropped, however small
// MAX_BUFFER is: a watch that fell behind reads them.
const entriesMin = 1024

// partition holds one user's rows of one table: the changes in order of _seq, and the rows by key. Every
// change above floor is in entries.
type partition struct {
	ephemeral bool
	ttl       time.Duration
	rowsMax   int
	entries   []*entry
	rows      map[string]*entry
	floor     uint64
	bytes     int
}

func newPartition(floor uint64) *partition {
	return &partition{rows: map[string]*entry{}, floor: floor}
}

// configure takes over the table's settings, which ALTER may have changed.
func (p *partition) configure(t *catalog.Table, rowsMaxDefault int) {
	p.ephemeral, p.ttl, p.rowsMax = t.Options.Ephemeral, ttlOf(t), rowsMaxDefault
	if n := t.Options.MaxBufferRows; n > 0 {
		p.rowsMax = int(min(n, rowsMaxLimit))
	}
}

// ttlMax keeps a time to live a duration; nothing lives that long in memory.
const ttlMax = 100 * 365 * 24 * time.Hour

func ttlOf(t *catalog.Table) time.Duration {
	if t.Options.TTLSeconds == 0 || t.Options.TTLSeconds > uint64(ttlMax/time.Second) {
		return ttlMax
	}
	return time.Duration(t.Options.TTLSeconds) * time.Second
}

func expired(seq uint64, ttl time.Duration, now time.Time) bool {
	return !snowflake.Time(seq, snowflake.SeqEpoch).Add(ttl).After(now)
}

// insert adds a row, and lets the oldest go when there are too many. It returns the bytes freed.
func (p *partition) insert(e *entry) (freed int) {
	e.live = true
	p.rows[e.key] = e
	p.add(e)
	n := 0
	for over := len(p.rows) - p.rowsMax; over > 0; n++ {
		if p.entries[n].live {
			over--
		}
	}
	return p.dropFirst(n)
}

// remove adds the deletion of a row.
func (p *partition) remove(old, e *entry) (freed int) {
	old.live = false
	delete(p.rows, e.key)
	p.add(e)
	if len(p.entries) > max(2*p.rowsMax, entriesMin) {
		return p.dropDead()
	}
	return 0
}

func (p *partition) add(e *entry) {
	p.entries = append(p.entries, e)
	p.bytes += e.bytes()
}

// expire drops what is older than the table's time to live.
func (p *partition) expire(now time.Time) (freed int) {
	n := 0
	for n < len(p.entries) && expired(p.entries[n].change.GetSeq(), p.ttl, now) {
		n++
	}
	return p.dropFirst(n)
}

// idle reports whether the partition says nothing that its absence would not say.
func (p *partition) idle(now time.Time) bool {
	return len(p.entries) == 0 && expired(p.floor, p.ttl, now)
}

func (p *partition) dropFirst(n int) (freed int) {
	for _, e := range p.entries[:n] {
		freed += e.bytes()
		p.floor = max(p.floor, e.change.GetSeq())
		if e.live {
			delete(p.rows, e.key)
		}
	}
	clear(p.entries[:n]) // the slice moves on, the garbage collector must not wait for it
	p.entries = p.entries[n:]
	p.bytes -= freed
	return freed
}

// dropDead forgets the history of rows that are gone, so that inserting and deleting does not grow.
func (p *partition) dropDead() (freed int) {
	for _, e := range p.entries {
		if !e.live {
			freed += e.bytes()
			p.floor = max(p.floor, e.change.GetSeq())
		}
	}
	p.entries = slices.DeleteFunc(p.entries, func(e *entry) bool { return !e.live })
	p.bytes -= freed
	return freed
}
