package storage

import (
	"maps"
	"sync"
)

// missing knows in which shards this node may lack files of segments: a learner votes when it lacks none, as a majority must have every file.
type missing struct {
	mu sync.Mutex
	// checked: all shards were looked at once since the start.
	checked bool
	// since counts, for each shard that may lack files, how often that was found since it lacked none.
	since map[uint32]uint64
}

// found says that a shard may lack files.
func (m *missing) found(shard uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.since == nil {
		m.since = map[uint32]uint64{}
	}
	m.since[shard]++
}

// in reports whether a shard may lack files.
func (m *missing) in(shard uint32) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.checked || m.since[shard] > 0
}

// any reports whether some shard may lack files.
func (m *missing) any() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.checked || len(m.since) > 0
}

// look begins to look for what a shard lacks. Call the result when it lacks nothing that can be had: unless that was found anew meanwhile, in
// says so.
func (m *missing) look(shard uint32) (has func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.since[shard]
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.since[shard] == before {
			delete(m.since, shard)
		}
	}
}

// looked says that all shards that are here were looked at.
func (m *missing) looked(here map[uint32]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.checked = true
	maps.DeleteFunc(m.since, func(shard uint32, _ uint64) bool { return !here[shard] })
}
