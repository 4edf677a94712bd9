package router

import (
	"sync"
	"time"
)

// silentFor is how long a node that let an attempt pass without an answer is passed over: the others need as long to
// find out too and to elect another leader, and name the silent one until then. After it a node that is only slow is
// asked again, for longer.
const silentFor = 2 * time.Second

// silent is the nodes that did not answer lately.
type silent struct{ until sync.Map } // address → time.Time

func (s *silent) add(addr string) { s.until.Store(addr, time.Now().Add(silentFor)) }

// remove is told of every answer, so it looks before it writes.
func (s *silent) remove(addr string) {
	if _, ok := s.until.Load(addr); ok {
		s.until.Delete(addr)
	}
}

func (s *silent) is(addr string) bool {
	until, ok := s.until.Load(addr)
	return ok && time.Now().Before(until.(time.Time))
}
