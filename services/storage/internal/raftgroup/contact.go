package raftgroup

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// contacts is what the answers of peers say.
type contacts struct {
	mu      sync.Mutex
	of      map[raft.ServerID]contact
	changed chan struct{} // closed by the next answer; nil when nobody waits
}

type contact struct {
	// heard is when the peer answered last.
	heard time.Time
	// followed is when the latest message was sent that the peer took as this node's follower: at some time after it, it
	// knew of no later term.
	followed time.Time
}

// heard notes an answer to a message that was sent at a time; follows says that the peer took it as a follower.
func (c *contacts) heard(id raft.ServerID, sent time.Time, follows bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil {
		c.of = map[raft.ServerID]contact{}
	}
	at := c.of[id]
	at.heard = time.Now()
	if follows && sent.After(at.followed) {
		at.followed = sent
	}
	c.of[id] = at
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

// within reports whether a peer answered within d.
func (c *contacts) within(id raft.ServerID, d time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok := c.of[id]
	return ok && time.Since(at.heard) <= d
}

// confirmed reports whether a majority of the voters follow this node: those whose messages were sent after a time, and
// itself. When it is not so, what it returns is closed by the next answer.
func (c *contacts) confirmed(self raft.ServerID, servers []raft.Server, after time.Time) (bool, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	voters, follow := 0, 0
	for _, s := range servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if s.ID == self || c.of[s.ID].followed.After(after) {
			follow++
		}
	}
	if follow > voters/2 {
		return true, nil
	}
	if c.changed == nil {
		c.changed = make(chan struct{})
	}
	return false, c.changed
}
