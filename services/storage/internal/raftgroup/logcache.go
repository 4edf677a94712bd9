package raftgroup

import (
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

const (
	// cacheEntriesMax is how many of the newest entries a group keeps in memory, so that replication need not read
	// the store; raft sends as many at once at most as fit ApplyQueueMax.
	cacheEntriesMax = 512
	// cacheBytesMax bounds them, for each of a node's groups, and cacheEntryBytesMax one of them: reading a large
	// entry costs little beside sending it.
	cacheBytesMax      = 4 << 20
	cacheEntryBytesMax = 64 << 10
	// entryOverhead is what an entry in memory costs besides its data.
	entryOverhead = 128
)

// logCache keeps the newest entries of a log in memory and counts what is stored. It is safe for concurrent use.
type logCache struct {
	raft.LogStore
	// bytes and entries were stored since the last time somebody subtracted them.
	bytes, entries atomic.Int64
	// full gets a token when bytes passes limit.
	full  chan struct{}
	limit int64

	mu   sync.RWMutex
	ring [cacheEntriesMax]*raft.Log // an entry is at its index modulo the size
	held int                        // bytes
	// What is held lies from low to before next. An entry that does not follow the last one empties the ring.
	low, next uint64
}

func newLogCache(store raft.LogStore, limit int64) *logCache {
	return &logCache{LogStore: store, limit: limit, full: make(chan struct{}, 1)}
}

func sizeOf(l *raft.Log) int { return len(l.Data) + len(l.Extensions) + entryOverhead }

// GetLog reads one entry.
func (c *logCache) GetLog(index uint64, l *raft.Log) error {
	c.mu.RLock()
	held := c.ring[index%cacheEntriesMax]
	c.mu.RUnlock()
	if held != nil && held.Index == index {
		*l = *held
		return nil
	}
	return c.LogStore.GetLog(index, l)
}

// StoreLog stores one entry.
func (c *logCache) StoreLog(l *raft.Log) error { return c.StoreLogs([]*raft.Log{l}) }

// StoreLogs stores entries, and keeps them once they are stored.
func (c *logCache) StoreLogs(logs []*raft.Log) error {
	if err := c.LogStore.StoreLogs(logs); err != nil {
		return err
	}
	stored := int64(0)
	c.mu.Lock()
	for _, l := range logs {
		stored += int64(sizeOf(l))
		c.put(l)
	}
	c.mu.Unlock()
	c.entries.Add(int64(len(logs)))
	if c.bytes.Add(stored) >= c.limit {
		select {
		case c.full <- struct{}{}:
		default:
		}
	}
	return nil
}

// put takes an entry in, in place of the one cacheEntriesMax before it, and of the oldest as bytes go. mu is held.
func (c *logCache) put(l *raft.Log) {
	if l.Index != c.next { // the end of the log was cut, or a snapshot took the place of its beginning
		clear(c.ring[:])
		c.held, c.low = 0, l.Index
	}
	c.next = l.Index + 1
	c.drop(l.Index)
	if sizeOf(l) > cacheEntryBytesMax {
		return
	}
	c.ring[l.Index%cacheEntriesMax] = l
	c.held += sizeOf(l)
	for ; c.held > cacheBytesMax; c.low++ {
		if old := c.ring[c.low%cacheEntriesMax]; old != nil && old.Index == c.low {
			c.drop(c.low)
		}
	}
}

// drop empties the place of an index. mu is held.
func (c *logCache) drop(index uint64) {
	if old := c.ring[index%cacheEntriesMax]; old != nil {
		c.held -= sizeOf(old)
		c.ring[index%cacheEntriesMax] = nil
	}
}

// DeleteRange removes entries, both ends included.
func (c *logCache) DeleteRange(lo, hi uint64) error {
	c.mu.Lock()
	for _, l := range c.ring {
		if l != nil && l.Index >= lo && l.Index <= hi {
			c.drop(l.Index)
		}
	}
	c.mu.Unlock()
	return c.LogStore.DeleteRange(lo, hi)
}
