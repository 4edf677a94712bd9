package raftgroup

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
)

const (
	// helloTimeout cuts connections that do not say which group they are for.
	helloTimeout = 5 * time.Second
	// hellosMax bounds connections that are not yet handed to a group; more are refused. A node opens
	// a few per group and peer.
	hellosMax = 256
	// acceptPause keeps a listener that fails (no file handles left) from spinning.
	acceptPause = 50 * time.Millisecond
)

// AddressBook finds nodes. It is asked at every dial, so a node may move; it is safe for concurrent use.
type AddressBook interface {
	// RaftAddr is where a server listens for Raft, false when that is not known.
	RaftAddr(serverID string) (addr string, ok bool)
}

// Mux carries the connections of all Raft groups of a node over one listener: a dialer says first which
// group it wants and of which server (see hello). Groups come and go while it runs.
type Mux struct {
	net      rpcnet.Network
	server   string
	book     AddressBook
	listener net.Listener
	log      *slog.Logger
	refusals refusals
	slots    chan struct{} // one per connection that has not said hello
	done     chan struct{}
	work     sync.WaitGroup

	// mu guards what follows.
	mu      sync.Mutex
	closed  bool
	layers  map[uint32]*layer
	waiting map[net.Conn]struct{}
}

// Listen opens the listener of one server. The book finds the others.
func Listen(network rpcnet.Network, addr, serverID string, book AddressBook, log *slog.Logger) (*Mux, error) {
	l, err := network.Listen(addr)
	if err != nil {
		return nil, dberr.New(dberr.Unavailable, "listen for Raft on %s: %w", addr, err)
	}
	m := &Mux{net: network, server: serverID, book: book, listener: l, log: log, slots: make(chan struct{}, hellosMax),
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

// ServerID is the server this node is.
func (m *Mux) ServerID() string { return m.server }

// layer returns the stream layer of one group; each group takes it when it opens.
func (m *Mux) layer(group uint32) *layer {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := &layer{mux: m, group: group, conns: make(chan net.Conn), done: make(chan struct{}), kept: map[*keptConn]struct{}{},
		hungUp: make(chan struct{}, 1)}
	m.layers[group] = l
	return l
}

func (m *Mux) accept() {
	for {
		c, err := m.listener.Accept()
		if err != nil {
			select {
			case <-m.done:
				return
			case <-time.After(acceptPause):
				continue
			}
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
	var l *layer
	if m.admits(c) {
		l = m.meant(c)
	}
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

// meant returns the layer a connection is for, nil when there is none here: an unknown group, or another
// server, perhaps the one that had this address before its disk was wiped.
func (m *Mux) meant(c net.Conn) *layer {
	if c.SetReadDeadline(time.Now().Add(helloTimeout)) != nil {
		return nil
	}
	h, err := readHello(c)
	if err != nil || h.server != m.server {
		return nil
	}
	if c.SetReadDeadline(time.Time{}) != nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.layers[h.group]
}

// layer is one group's raft.StreamLayer. Addresses are server ids, so that Raft keeps none that can change.
type layer struct {
	mux   *Mux
	group uint32
	conns chan net.Conn
	done  chan struct{}
	// hungUp holds a token when a connection that others opened has ended.
	hungUp chan struct{}

	// mu guards kept: the connections of both directions, which Raft would leave open.
	mu     sync.Mutex
	closed bool
	kept   map[*keptConn]struct{}
}

// Accept waits for the next connection to this group.
func (l *layer) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return l.keep(c, true)
	case <-l.done:
		return nil, net.ErrClosed
	case <-l.mux.done:
		return nil, net.ErrClosed
	}
}

func (l *layer) keep(c net.Conn, accepted bool) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		_ = c.Close()
		return nil, net.ErrClosed
	}
	k := &keptConn{Conn: c, layer: l, accepted: accepted}
	l.kept[k] = struct{}{}
	return k, nil
}

// keptConn leaves its layer when it is closed.
type keptConn struct {
	net.Conn
	layer    *layer
	accepted bool
}

func (c *keptConn) Close() error {
	c.layer.mu.Lock()
	delete(c.layer.kept, c)
	c.layer.mu.Unlock()
	if c.accepted {
		select {
		case c.layer.hungUp <- struct{}{}:
		default:
		}
	}
	return c.Conn.Close()
}

// Close ends Accept and every connection: those of a peer that was cut off would hold whoever stops the group for
// transportTimeout.
func (l *layer) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	close(l.done)
	for c := range l.kept {
		_ = c.Conn.Close() // whoever uses it removes it
	}
	l.mu.Unlock()
	l.mux.mu.Lock()
	defer l.mux.mu.Unlock()
	if l.mux.layers[l.group] == l {
		delete(l.mux.layers, l.group)
	}
	return nil
}

// Addr is this server as others dial it.
func (l *layer) Addr() net.Addr { return namedAddr(l.mux.server) }

// ServerAddr implements raft.ServerAddressProvider: configurations from before server ids hold addresses,
// which are left aside.
func (l *layer) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	return raft.ServerAddress(id), nil
}

// Dial connects to the same group of another server.
func (l *layer) Dial(server raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	// Raft's transport has no context; the timeout is the bound, and closing the layer the cancellation.
	ctx, cancel := context.WithTimeout(dialContext{l.done}, timeout)
	defer cancel()
	if string(server) == l.mux.server {
		return l.dialSelf(ctx)
	}
	h, err := hello{group: l.group, server: string(server)}.encode()
	if err != nil {
		return nil, err
	}
	addr, ok := l.mux.book.RaftAddr(string(server))
	if !ok {
		return nil, dberr.New(dberr.Unavailable, "dial group %d of %s: its address is not known", l.group, server)
	}
	c, err := l.mux.net.DialContext(ctx, addr)
	if err != nil {
		return nil, err
	}
	if err := c.SetWriteDeadline(time.Now().Add(timeout)); err == nil {
		_, err = c.Write(h)
		if err == nil {
			err = c.SetWriteDeadline(time.Time{})
		}
		if err == nil {
			return l.keep(c, false)
		}
	}
	_ = c.Close()
	return nil, dberr.New(dberr.Unavailable, "dial group %d of %s at %s: the connection broke at once", l.group, server, addr)
}

// dialSelf needs no network: a node tells itself to hold an election (electAlone, Campaign).
func (l *layer) dialSelf(ctx context.Context) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case l.conns <- there:
		return here, nil
	case <-ctx.Done():
		return nil, dberr.New(dberr.Unavailable, "group %d of this node is closing: %w", l.group, ctx.Err())
	}
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

// namedAddr is a server id.
type namedAddr string

func (namedAddr) Network() string  { return "raft" }
func (a namedAddr) String() string { return string(a) }
