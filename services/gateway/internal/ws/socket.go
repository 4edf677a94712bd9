package ws

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/ws/wsconn"
)

// socket is one client. Its reading goroutine owns its life: when reading ends, the socket ends.
type socket struct {
	h      *Handler
	conn   *wsconn.Conn
	remote netip.Addr
	number uint64
	// seedHint: the way it was opened looks like S, should the first message leave it open.
	seedHint bool

	// tokens are the message rate limit's; they belong to the reading goroutine.
	tokens   float64
	tokensAt time.Time
	busy     atomic.Bool // a message is being worked on: the client may be silent meanwhile
	opened   time.Time
	heard    time.Time // belongs to the sweeper, as does received
	received uint32

	mu        sync.Mutex // guards what follows; no call leaves the package while it is held
	wire      wire       // nil until a message has shown it
	session   Session
	seedCount bool // counted as a seed socket of its user
	loggedIn  bool
	packed    bool // MessagePack was negotiated
	gzip      bool
	subs      []*subscription // few: searching a list is faster than a map, and smaller
	queue     []item
	bytes     int
	writing   bool // a goroutine drains the queue
	closing   bool // no more frames: a close frame goes out when the queue is empty
	gone      bool // the connection is of no use any more
	closeCode int
	closeText string
}

// wire is how one generation of clients talks.
type wire interface {
	// request acts on one message of a client that may be logged in or not.
	request(s *socket, m object)
	// event writes the frames for what the live role sent.
	event(w *writer, sub *subscription, ev event) error
	// ended writes the frame for a subscription that the server ended.
	ended(w *writer, sub *subscription, err error)
	// fault answers a message that cannot be understood or is one too many.
	fault(s *socket, code, message string)
	// sessionEnded tells the client why it is about to be closed.
	sessionEnded(s *socket, err error)
}

func newSocket(h *Handler, r *http.Request) *socket {
	now := h.cfg.Now()
	q := r.URL.Query()
	return &socket{h: h, remote: h.cfg.RemoteAddr(r), number: h.metrics.nextSocket(), opened: now, heard: now,
		tokens: float64(h.cfg.MessagesPerSecond), tokensAt: now,
		seedHint: !strings.HasPrefix(r.URL.Path, "/v1/") || q.Has("token") || q.Has("auth"),
		packed:   q.Get("serialization") == "msgpack",
		gzip:     q.Get("compress") != "false" && q.Get("compression") != "none"}
}

// connectionID is how system.live names this socket.
func (s *socket) connectionID() string { return fmt.Sprintf("ws%d", s.number) }

// serve reads until the client is gone or misbehaves, then takes everything down.
func (s *socket) serve() {
	defer s.takeDown()
	for {
		kind, err := s.conn.Next()
		if err == nil {
			err = s.receive(kind)
		}
		if err != nil {
			s.readingFailed(err)
			return
		}
	}
}

// readingFailed says goodbye where the client can still hear it.
func (s *socket) readingFailed(err error) {
	var violation *wsconn.ProtocolError
	switch {
	case errors.As(err, &violation):
		s.close(violation.Code, violation.Reason)
	case errors.Is(err, wsconn.ErrTooBig):
		s.currentWire().fault(s, codeTooLarge, fmt.Sprintf("a message may have at most %d bytes", s.h.cfg.MessageBytesMax))
		s.close(wsconn.CloseTooBig, "message too large")
	default:
		return // the client hung up, or we did
	}
	s.conn.Drain()
}

func (s *socket) takeDown() {
	s.mu.Lock()
	s.gone = true
	s.queue, s.bytes = nil, 0
	subs := s.subs
	s.subs = nil
	s.mu.Unlock()
	s.conn.Abort()
	for _, sub := range subs {
		sub.stop()
	}
	s.releaseSession()
	s.h.abandon(s)
}

// receive reads and handles one message.
func (s *socket) receive(kind wsconn.Kind) error {
	buf := messageBuffers.Get().(*[]byte)
	defer recycle(messageBuffers, buf)
	var err error
	if *buf, err = s.conn.Payload((*buf)[:0], s.h.cfg.MessageBytesMax); err != nil {
		return err
	}
	if s.isClosing() {
		return nil
	}
	s.h.metrics.messages.Inc()
	if !s.mayTalk() {
		s.currentWire().fault(s, codeRateLimit, fmt.Sprintf("at most %d messages per second are allowed", s.h.cfg.MessagesPerSecond))
		return nil
	}
	s.busy.Store(true)
	defer s.busy.Store(false)
	return s.handle(kind, *buf)
}

// messageBuffers hold messages while they are worked on; writeBuffers what is about to be written.
var (
	messageBuffers = &sync.Pool{New: func() any { return new([]byte) }}
	writeBuffers   = &sync.Pool{New: func() any { return new([]byte) }}
)

// recycledMax keeps rare large buffers out of the pools.
const recycledMax = 2 * writeBytes

func recycle(pool *sync.Pool, b *[]byte) {
	if cap(*b) <= recycledMax {
		pool.Put(b)
	}
}

// mayTalk takes one token of the client's message rate.
func (s *socket) mayTalk() bool {
	rate := float64(s.h.cfg.MessagesPerSecond)
	if rate < 0 {
		return true
	}
	now := s.h.cfg.Now()
	s.tokens = min(rate, s.tokens+rate*now.Sub(s.tokensAt).Seconds())
	s.tokensAt = now
	if s.tokens < 1 {
		return false
	}
	s.tokens--
	return true
}

func (s *socket) handle(kind wsconn.Kind, payload []byte) error {
	m, err := s.decode(kind, payload)
	switch {
	case errors.Is(err, wsconn.ErrTooBig):
		return err
	case errors.Is(err, errUnsupportedData):
		s.currentWire().fault(s, codeUnsupportedFmt, err.Error())
		return nil
	case err != nil:
		s.currentWire().fault(s, codeProtocol, "the message cannot be understood: "+err.Error())
		s.close(wsconn.CloseInternal, "unparsable message") // the spec's code for it
		return nil
	}
	s.noteWire(m)
	s.currentWire().request(s, m)
	return nil
}

func (s *socket) noteWire(m object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wire != nil {
		return
	}
	if s.wire = wireOf(m); s.wire == (seedWire{}) {
		s.packed, s.gzip = false, false // it knows neither
	}
}

// wireOf decides by the first message that shows a generation; nil when it does not.
func wireOf(m object) wire {
	switch {
	case m["subscriptions"] != nil || m["query_ids"] != nil:
		return seedWire{}
	case m.word("type") == "ping":
		return nil
	}
	return nWire{}
}

// currentWire is the wire, or a guess while it is open.
func (s *socket) currentWire() wire {
	s.mu.Lock()
	w := s.wire
	s.mu.Unlock()
	switch {
	case w != nil:
		return w
	case s.seedHint:
		return seedWire{}
	}
	return nWire{}
}

// check is the sweeper's look at one socket.
func (s *socket) check(now time.Time) {
	if r := s.conn.Received(); r != s.received || s.busy.Load() {
		s.received, s.heard = r, now
	}
	s.mu.Lock()
	loggedIn, closing, session := s.loggedIn, s.closing || s.gone, s.session
	s.mu.Unlock()
	cfg := &s.h.cfg
	switch {
	case closing:
	case !loggedIn && cfg.AuthTimeout > 0 && now.Sub(s.opened) >= cfg.AuthTimeout && !s.busy.Load():
		s.close(wsconn.ClosePolicy, "Authentication timeout")
	case cfg.ClientTimeout > 0 && now.Sub(s.heard) >= cfg.ClientTimeout:
		s.close(wsconn.CloseNormal, "Heartbeat timeout")
	case !loggedIn:
	case !session.ExpiresAt.IsZero() && !now.Before(session.ExpiresAt):
		s.endSession(dberr.New(dberr.TokenExpired, "Token expired"))
	case isClosed(session.Done):
		s.endSession(dberr.New(dberr.Unauthenticated, "The session has ended: the account or its password changed"))
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return c != nil
	default:
		return false
	}
}

// endSession closes a socket whose client may not be here any more. Its subscriptions stop at once.
func (s *socket) endSession(err error) {
	s.mu.Lock()
	subs := s.subs
	s.subs = nil
	s.mu.Unlock()
	for _, sub := range subs {
		sub.stop()
	}
	s.currentWire().sessionEnded(s, err)
	s.close(wsconn.ClosePolicy, err.Error())
}
