package stream

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Defaults of MemoryConfig.
const (
	bytesMaxDefault   = 256 << 20
	evictEveryDefault = time.Minute
)

// MemoryConfig bounds what the STREAM tables of a node hold.
type MemoryConfig struct {
	// BytesMax bounds all rows and their history; past it writes fail. Zero means 256 MiB.
	BytesMax int64
	// EvictEvery is how often expired rows nobody touches are removed. Zero means a minute.
	EvictEvery time.Duration
}

// Memory is what the Stores of a node share: the budget, and the goroutine that evicts. Make the stores,
// then Start it.
type Memory struct {
	max    int64
	every  time.Duration
	used   atomic.Int64
	mu     sync.Mutex
	stores []*Store
	stop   context.CancelFunc
	done   chan struct{}
}

// NewMemory makes a budget.
func NewMemory(cfg MemoryConfig) *Memory {
	if cfg.BytesMax == 0 {
		cfg.BytesMax = bytesMaxDefault
	}
	if cfg.EvictEvery == 0 {
		cfg.EvictEvery = evictEveryDefault
	}
	return &Memory{max: cfg.BytesMax, every: cfg.EvictEvery, done: make(chan struct{})}
}

// Start evicts in the background until Stop.
func (m *Memory) Start(ctx context.Context) {
	ctx, m.stop = context.WithCancel(context.WithoutCancel(ctx))
	go m.run(ctx)
}

// Stop ends the eviction; it is a no-op before Start.
func (m *Memory) Stop() {
	if m.stop != nil {
		m.stop()
		<-m.done
	}
}

// Used is the number of bytes held.
func (m *Memory) Used() int64 { return m.used.Load() }

func (m *Memory) run(ctx context.Context) {
	defer close(m.done)
	tick := time.NewTicker(m.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			m.Evict()
		}
	}
}

// Evict removes every expired row of every store.
func (m *Memory) Evict() {
	m.mu.Lock()
	stores := m.stores
	m.mu.Unlock()
	for _, s := range stores {
		s.evict()
	}
}

func (m *Memory) add(s *Store) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stores = append(m.stores, s)
}

// reserve takes n bytes of the budget.
func (m *Memory) reserve(n int) error {
	if m.used.Add(int64(n)) > m.max {
		m.used.Add(-int64(n))
		return dberr.New(dberr.LimitExceeded, "the STREAM tables of this node hold %d of %d bytes (stream memory): try again when rows have expired",
			m.used.Load(), m.max)
	}
	return nil
}

func (m *Memory) release(n int) { m.used.Add(-int64(n)) }
