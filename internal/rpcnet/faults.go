package rpcnet

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Faults wraps a Network and breaks it on command. Tests give each node a view of its own (As), so
// that a cut has two ends and a direction.
type Faults struct {
	inner Network
	state *faultState
	node  string
}

type faultState struct {
	mu    sync.Mutex
	owner map[string]string // address → node listening there
	cut   map[[2]string]bool
	conns map[*faultConn]struct{}
}

// NewFaults wraps a network; nothing is broken yet.
func NewFaults(inner Network) *Faults {
	return &Faults{inner: inner, state: &faultState{owner: map[string]string{}, cut: map[[2]string]bool{},
		conns: map[*faultConn]struct{}{}}}
}

// As returns the network as one node sees it.
func (f *Faults) As(node string) *Faults { return &Faults{inner: f.inner, state: f.state, node: node} }

// Cut breaks the way from one node to another: open connections that from dialled are closed, new
// ones are refused. Cut both ways for a full partition.
func (f *Faults) Cut(from, to string) {
	f.state.mu.Lock()
	f.state.cut[[2]string{from, to}] = true
	var broken []*faultConn
	for c := range f.state.conns {
		if c.from == from && c.to == to {
			broken = append(broken, c)
		}
	}
	f.state.mu.Unlock()
	for _, c := range broken {
		_ = c.Close()
	}
}

// Heal mends everything.
func (f *Faults) Heal() {
	f.state.mu.Lock()
	defer f.state.mu.Unlock()
	clear(f.state.cut)
}

// Listen listens through the inner network.
func (f *Faults) Listen(addr string) (net.Listener, error) {
	l, err := f.inner.Listen(addr)
	if err != nil {
		return nil, err
	}
	f.state.mu.Lock()
	defer f.state.mu.Unlock()
	f.state.owner[addr] = f.node
	return l, nil
}

// DialContext connects unless the way is cut.
func (f *Faults) DialContext(ctx context.Context, addr string) (net.Conn, error) {
	f.state.mu.Lock()
	to := f.state.owner[addr]
	cut := f.state.cut[[2]string{f.node, to}]
	f.state.mu.Unlock()
	if cut {
		return nil, dberr.New(dberr.Unavailable, "dial %s: the network from %s to %s is cut", addr, f.node, to)
	}
	conn, err := f.inner.DialContext(ctx, addr)
	if err != nil {
		return nil, err
	}
	c := &faultConn{Conn: conn, state: f.state, from: f.node, to: to}
	f.state.mu.Lock()
	cut = f.state.cut[[2]string{f.node, to}] // while it was dialled: Cut did not see it
	if !cut {
		f.state.conns[c] = struct{}{}
	}
	f.state.mu.Unlock()
	if cut {
		return nil, errors.Join(dberr.New(dberr.Unavailable, "dial %s: the network from %s to %s is cut", addr, f.node, to), conn.Close())
	}
	return c, nil
}

type faultConn struct {
	net.Conn
	state    *faultState
	from, to string
}

func (c *faultConn) Close() error {
	c.state.mu.Lock()
	delete(c.state.conns, c)
	c.state.mu.Unlock()
	return c.Conn.Close()
}
