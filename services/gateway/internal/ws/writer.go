package ws

import (
	"strconv"

	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"

	"github.com/kalamdb/kalamdb-go/services/gateway/internal/ws/wsconn"
)

type event = *livev1.ConnectResponse

// item is something to send: an event or the end of a subscription, or a payload ready as it is.
type item struct {
	sub     *subscription
	ev      event
	err     error
	payload []byte
	plain   bool // as JSON text, whatever was negotiated
	size    int
}

// itemBytes is what an item weighs besides its rows.
const itemBytes = 256

// enqueue adds an item and sees to it that somebody writes it. It returns false when the queue is
// full; what ends something is forced in, of which there is at most one per subscription and socket.
func (s *socket) enqueue(it item, forced bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || s.gone {
		return true // nobody is there to miss it
	}
	full := len(s.queue) >= queueFramesMax || s.bytes+it.size > queueBytesMax
	if full && len(s.queue) > 0 && !forced {
		return false
	}
	s.queue = append(s.queue, it)
	s.bytes += it.size
	s.startWriting()
	return true
}

// startWriting lets a goroutine drain the queue, one at a time. It lives only as long as there is
// something to write. Callers hold mu.
func (s *socket) startWriting() {
	if s.writing {
		return
	}
	s.writing = true
	s.h.goroutines.Add(1) // the socket's own place is still held: no race with Stop's Wait
	go func() {
		defer s.h.goroutines.Done()
		s.drain()
	}()
}

// reply sends an answer to the client's own message. A client that asks without reading the answers is
// cut off.
func (s *socket) reply(build func(e *envelope)) {
	s.mu.Lock()
	packed := s.packed
	s.mu.Unlock()
	s.sendReply(packed, false, build)
}

// replyJSON is reply for messages that are JSON whatever was negotiated.
func (s *socket) replyJSON(build func(e *envelope)) { s.sendReply(false, true, build) }

func (s *socket) sendReply(packed, plain bool, build func(e *envelope)) {
	e := envelope{packed: packed}
	build(&e)
	if !s.enqueue(item{payload: e.buf, plain: plain, size: len(e.buf) + itemBytes}, false) {
		s.h.cfg.Logger.Info("a client does not read its answers; closing its socket", "remote", s.remote)
		s.conn.Abort()
	}
}

// close sends what is queued, then a close frame.
func (s *socket) close(code int, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || s.gone {
		return
	}
	s.closing, s.closeCode, s.closeText = true, code, reason
	s.h.metrics.closed.WithLabelValues(strconv.Itoa(code)).Inc()
	s.startWriting()
}

func (s *socket) isClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing || s.gone
}

// writer builds frames of one socket.
type writer struct {
	s            *socket
	packed, gzip bool
	env          envelope
	out          []byte
	frames       int
}

// begin starts a message in w.env; end makes it a frame.
func (w *writer) begin() *envelope {
	w.env.reset(w.packed)
	return &w.env
}

func (w *writer) end() { w.append(w.env.buf, false) }

// append frames a payload: compressed when it is long enough and the client takes that.
func (w *writer) append(payload []byte, plain bool) {
	w.frames++
	if w.gzip && !plain && len(payload) >= compressFrom {
		out, err := w.s.h.gzips.appendCompressed(w.out, payload)
		if err == nil {
			w.out = out
			return
		}
		w.s.h.cfg.Logger.Error("sending a frame uncompressed", "error", err)
	}
	kind := wsconn.Text
	if w.packed && !plain {
		kind = wsconn.Binary
	}
	w.out = wsconn.AppendFrame(w.out, kind, payload)
}

// drain writes until the queue is empty, many frames with one system call.
func (s *socket) drain() {
	buf, env := writeBuffers.Get().(*[]byte), writeBuffers.Get().(*[]byte)
	w := writer{s: s, out: (*buf)[:0], env: envelope{buf: (*env)[:0]}}
	defer func() {
		*buf, *env = w.out, w.env.buf
		recycle(writeBuffers, buf)
		recycle(writeBuffers, env)
	}()
	for {
		items, done := s.takeQueue(&w)
		for i := range items {
			w.add(&items[i])
			items[i] = item{} // rows are shared with others; let go of them as soon as possible
			if len(w.out) >= writeBytes && !w.flush() {
				return
			}
		}
		if !w.flush() || done {
			return
		}
	}
}

// takeQueue hands over what waits. done means that the caller's work is finished after that.
func (s *socket) takeQueue(w *writer) (items []item, done bool) {
	s.mu.Lock()
	items = s.queue
	s.queue, s.bytes = nil, 0
	w.packed, w.gzip = s.packed, s.gzip
	closing := s.closing && len(items) == 0 && !s.gone
	if len(items) == 0 {
		s.writing = false
	}
	code, text := s.closeCode, s.closeText
	s.mu.Unlock()
	if closing {
		if err := s.conn.Close(code, text); err != nil {
			s.conn.Abort()
		}
	}
	return items, len(items) == 0
}

// flush writes what was gathered. After an error the socket is gone.
func (w *writer) flush() bool {
	if len(w.out) == 0 {
		return true
	}
	err := w.s.conn.Write(w.out)
	w.s.h.metrics.frames.Add(float64(w.frames))
	w.s.h.metrics.bytes.Add(float64(len(w.out)))
	w.out, w.frames = w.out[:0], 0
	if err == nil {
		return true
	}
	w.s.mu.Lock()
	w.s.gone = true
	w.s.queue, w.s.bytes, w.s.writing = nil, 0, false
	w.s.mu.Unlock()
	w.s.conn.Abort() // the reading goroutine wakes and takes the socket down
	return false
}

// add turns an item into frames.
func (w *writer) add(it *item) {
	switch {
	case it.payload != nil:
		w.append(it.payload, it.plain)
	case it.sub.stopped.Load():
		// unsubscribed while this was waiting
	case it.err != nil:
		it.sub.wire.ended(w, it.sub, it.err)
	default:
		if err := it.sub.wire.event(w, it.sub, it.ev); err != nil {
			w.s.h.cfg.Logger.Error("an event cannot be sent", "subscription", it.sub.id, "error", err)
			it.sub.abandon()
			it.sub.wire.ended(w, it.sub, err)
		}
	}
}
