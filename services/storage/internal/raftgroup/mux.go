package raftgroup

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
)

const (
	// helloVersion starts every connection, so that another protocol can follow on the same address.
	helloVersion = 1
	helloBytes   = 1 + 4
	// helloTimeout cuts connections that do not say which group they are for.
	helloTimeout = 5 * time.Second
	// hellosMax bounds connections that are not yet handed to a group; more are refused. A node opens
	// a few per group and peer.
	hellosMax = 256
)

// Mux carries the connections of all Raft groups of a node over one listener: a dialer first writes
// a version byte and the group's number.
type Mux struct {
	net      rpcnet.Network
	addr     string
	listener net.Listener
	slots    chan struct{} // one per connection that has not said hello
	done     chan struct{}
	work     sync.WaitGroup

	// mu guards what follows.
	mu      sync.Mutex
	closed  bool
	layers  map[uint32]*layer
	waiting map[net.Conn]struct{}
}

// Listen opens the listener. addr is also where other nodes, and this one, dial it.
func Listen(network rpcnet.Network, addr string) (*Mux, error) {
	l, err := network.Listen(addr)
	if err != nil {
		return nil, dberr.New(dberr.Unavailable, "listen for Raft on %s: %w", addr, err)
	}
	m := &Mux{net: network, addr: addr, listener: l, slots: make(chan struct{}, hellosMax),
		done: make(chan struct{}), layers: map[uint32]*layer{}, waiting: map[net.Conn]struct{}{}}
	m.work.Go(m.accept)
	return m, nil
}

// Close ends the listener and every connection not yet handed over; groups close their own.
func (m *Mux) Close() {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return
	}
	m.closed = true
	close(m.done)
	for c := range m.waiting {
		_ = c.Close()
	}
	m.mu.Unlock()
	_ = m.listener.Close()
	m.work.Wait()
}

// layer returns the stream layer of one group; each group takes it once.
func (m *Mux) layer(group uint32) *layer {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := &layer{mux: m, group: group, conns: make(chan net.Conn), done: make(chan struct{})}
	m.layers[group] = l
	return l
}

func (m *Mux) accept() {
	for {
		c, err := m.listener.Accept()
		if err != nil {
			return // the listener was closed
		}
		select {
		case m.slots <- struct{}{}:
		default:
			_ = c.Close() // hellosMax
			continue
		}
		if !m.track(c) {
			_ = c.Close()
			return
		}
		m.work.Go(func() {
			defer func() { <-m.slots }()
			m.hello(c)
		})
	}
}

func (m *Mux) track(c net.Conn) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false
	}
	m.waiting[c] = struct{}{}
	return true
}

// hello reads which group a connection is for and hands it over.
func (m *Mux) hello(c net.Conn) {
	l := m.readHello(c)
	m.mu.Lock()
	delete(m.waiting, c)
	m.mu.Unlock()
	if l == nil {
		_ = c.Close()
		return
	}
	select {
	case l.conns <- c:
	case <-l.done:
		_ = c.Close()
	case <-m.done:
		_ = c.Close()
	}
}

func (m *Mux) readHello(c net.Conn) *layer {
	var b [helloBytes]byte
	if c.SetReadDeadline(time.Now().Add(helloTimeout)) != nil {
		return nil
	}
	if _, err := io.ReadFull(c, b[:]); err != nil || b[0] != helloVersion {
		return nil
	}
	if c.SetReadDeadline(time.Time{}) != nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.layers[binary.BigEndian.Uint32(b[1:])]
}

// layer is one group's raft.StreamLayer.
type layer struct {
	mux   *Mux
	group uint32
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

// Accept waits for the next connection to this group.
func (l *layer) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	case <-l.mux.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (l *layer) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.mux.mu.Lock()
		defer l.mux.mu.Unlock()
		if l.mux.layers[l.group] == l {
			delete(l.mux.layers, l.group)
		}
	})
	return nil
}

// Addr is the address other nodes dial.
func (l *layer) Addr() net.Addr { return namedAddr(l.mux.addr) }

// Dial connects to the same group of another node.
func (l *layer) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	// Raft's transport has no context; the timeout is the bound, and closing the layer the cancellation.
	ctx, cancel := context.WithTimeout(dialContext{l.done}, timeout)
	defer cancel()
	c, err := l.mux.net.DialContext(ctx, string(addr))
	if err != nil {
		return nil, err
	}
	hello := binary.BigEndian.AppendUint32([]byte{helloVersion}, l.group)
	if err := c.SetWriteDeadline(time.Now().Add(timeout)); err == nil {
		_, err = c.Write(hello)
		if err == nil {
			err = c.SetWriteDeadline(time.Time{})
		}
		if err == nil {
			return c, nil
		}
	}
	_ = c.Close()
	return nil, dberr.New(dberr.Unavailable, "dial group %d at %s: the connection broke at once", l.group, addr)
}

// dialContext ends when the layer does.
type dialContext struct{ done chan struct{} }

func (dialContext) Deadline() (time.Time, bool) { return time.Time{}, false }
func (c dialContext) Done() <-chan struct{}     { return c.done }
func (dialContext) Value(any) any               { return nil }

func (c dialContext) Err() error {
	select {
	case <-c.done:
		return context.Canceled
	default:
		return nil
	}
}

// namedAddr is a Network's address, which may be a name or host:port.
type namedAddr string

func (namedAddr) Network() string  { return "rpcnet" }
func (a namedAddr) String() string { return string(a) }
