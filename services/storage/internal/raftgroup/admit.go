package raftgroup

import (
	"net"
	"slices"
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
)

// raftRoles may speak Raft: whoever does can write anything into a group. A node of every role says allinone.
var raftRoles = []string{"storage", "allinone"}

const (
	// refusalPause is between two lines of the log about one address, whose dialer may try ten times a second.
	refusalPause = time.Minute
	// refusalsMax bounds the addresses remembered for it; of more than that in a minute nothing is said.
	refusalsMax = 1024
)

// admits reports whether the other end of a connection may speak Raft, once it has proven who it is. Networks that
// prove nothing admit everybody.
func (m *Mux) admits(c net.Conn) bool {
	peer, known, err := rpcnet.PeerOf(dialContext{m.done}, c)
	switch {
	case err != nil:
		m.refuse(c, "error", err)
	case known && !slices.Contains(raftRoles, peer.Role):
		m.refuse(c, "role", peer.Role, "name", peer.Name)
	default:
		return true
	}
	return false
}

func (m *Mux) refuse(c net.Conn, why ...any) {
	host := c.RemoteAddr().String()
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h // every try has a port of its own
	}
	if m.refusals.due(host, time.Now()) {
		m.log.Warn("a connection to the Raft port was refused", append([]any{"address", host}, why...)...)
	}
}

// refusals remembers when an address was last written about. The zero value is ready.
type refusals struct {
	mu   sync.Mutex
	last map[string]time.Time
}

// due reports whether to write about an address now.
func (r *refusals) due(addr string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at, ok := r.last[addr]; ok && now.Sub(at) < refusalPause {
		return false
	}
	if len(r.last) >= refusalsMax {
		for a, at := range r.last {
			if now.Sub(at) >= refusalPause {
				delete(r.last, a)
			}
		}
		if len(r.last) >= refusalsMax {
			return false
		}
	}
	if r.last == nil {
		r.last = map[string]time.Time{}
	}
	r.last[addr] = now
	return true
}
