// Package wsconn is the server side of RFC 6455 without extensions, made for many idle connections: a
// connection that waits for its client holds one goroutine and a 64-byte buffer, no reader, no writer.
// docs/adr/0003-websocket-library.md has the measurements that led here.
//
// One goroutine reads (Next, then Payload). Writing and closing may be done from others.
package wsconn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// Kind is what a message holds.
type Kind byte

// The kinds of messages; the values are RFC 6455's opcodes.
const (
	Text   Kind = 0x1
	Binary Kind = 0x2
)

const (
	opContinuation = 0x0
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA

	finBit  = 0x80
	rsvBits = 0x70
	opBits  = 0x0F
	maskBit = 0x80
	lenBits = 0x7F
	len16   = 126
	len64   = 127

	// controlBytesMax is RFC 6455's limit of a control frame.
	controlBytesMax = 125
	// headBytesMax is the longest frame head a client sends: 2, length 8, mask 4.
	headBytesMax = 14
	// smallBytes holds a frame head and with it, mostly, the whole of a ping or another short message,
	// so that one read serves it.
	smallBytes = 64
	// growBytes is how much of an announced payload is allocated before it has arrived.
	growBytes = 4096
	// framesMax bounds the fragments of one message: empty ones would otherwise cost nothing to send.
	framesMax = 4096
)

// Close codes of RFC 6455 that this server sends.
const (
	CloseNormal      = 1000
	CloseGoingAway   = 1001
	CloseProtocol    = 1002
	CloseInvalidData = 1007
	ClosePolicy      = 1008
	CloseTooBig      = 1009
	CloseInternal    = 1011
)

// ErrTooBig is what Payload answers for a message above its limit.
var ErrTooBig = errors.New("the message is longer than allowed")

// ProtocolError is a client's violation of RFC 6455. The connection must be closed with Code.
type ProtocolError struct {
	Code   int
	Reason string
}

func (e *ProtocolError) Error() string { return e.Reason }

func violation(format string, args ...any) error {
	return &ProtocolError{Code: CloseProtocol, Reason: fmt.Sprintf(format, args...)}
}

// CloseError is the close frame the client sent. Code is 1005 when it named none.
type CloseError struct {
	Code   int
	Reason string
}

func (e *CloseError) Error() string {
	return fmt.Sprintf("closed by the client: %d %s", e.Code, e.Reason)
}

// Config are a connection's limits. The zero value gets the defaults.
type Config struct {
	// WriteTimeout is how long one write may wait for a client that does not read; default 10 s.
	WriteTimeout time.Duration
	// CloseTimeout is how long the client has to answer a close frame; default 2 s.
	CloseTimeout time.Duration
}

const (
	writeTimeoutDefault = 10 * time.Second
	closeTimeoutDefault = 2 * time.Second
)

func (c *Config) writeTimeout() time.Duration {
	if c.WriteTimeout == 0 {
		return writeTimeoutDefault
	}
	return c.WriteTimeout
}

func (c *Config) closeTimeout() time.Duration {
	if c.CloseTimeout == 0 {
		return closeTimeoutDefault
	}
	return c.CloseTimeout
}

// Conn is one connection. Make it with Accept.
type Conn struct {
	net net.Conn
	cfg *Config
	// received counts reads that brought bytes: whoever watches for silence compares it with its past.
	received atomic.Uint32

	// What the reading goroutine has read and not yet used, and the frame it is in.
	small      [smallBytes]byte
	from, to   uint8
	last       bool // the current frame is the message's last
	kind       Kind
	left       uint64 // bytes of the current frame not yet read
	mask       [4]byte
	maskOffset int

	// writeMu orders writes; closeSent forbids any after a close frame.
	writeMu   sync.Mutex
	closeSent bool
}

// New makes a connection of an upgraded net.Conn; early is what was read from it already. cfg is shared
// by many connections and must not change.
func New(c net.Conn, early []byte, cfg *Config) *Conn {
	if len(early) > 0 {
		c = &earlyConn{Conn: c, early: early}
	}
	return &Conn{net: c, cfg: cfg}
}

// earlyConn gives back what the HTTP server read beyond the request.
type earlyConn struct {
	net.Conn
	early []byte
}

func (c *earlyConn) Read(p []byte) (int, error) {
	if len(c.early) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.early)
	if c.early = c.early[n:]; len(c.early) == 0 {
		c.early = nil
	}
	return n, nil
}

// Received changes whenever bytes have arrived.
func (c *Conn) Received() uint32 { return c.received.Load() }

// Next waits for the next message and says what it holds. Control frames are answered meanwhile. After
// an error only Abort or Close make sense; io errors mean the client is gone.
func (c *Conn) Next() (Kind, error) {
	for {
		h, err := c.readHead()
		if err != nil {
			return 0, err
		}
		switch h.op {
		case opContinuation:
			return 0, violation("a continuation frame without a message")
		case byte(Text), byte(Binary):
			c.begin(h)
			c.kind = Kind(h.op)
			return c.kind, nil
		}
		if err := c.control(h); err != nil {
			return 0, err
		}
	}
}

// Payload appends the message Next announced to dst. Memory follows what has arrived, not what was
// announced. A longer message than limit is answered with ErrTooBig, unread.
func (c *Conn) Payload(dst []byte, limit int) ([]byte, error) {
	start := len(dst)
	for frames := 1; ; frames++ {
		if frames > framesMax {
			return dst, &ProtocolError{Code: ClosePolicy, Reason: "too many fragments"}
		}
		if c.left > uint64(limit-(len(dst)-start)) {
			return dst, ErrTooBig
		}
		var err error
		if dst, err = c.readFrame(dst); err != nil {
			return dst, err
		}
		if c.last {
			break
		}
		if err := c.continuation(); err != nil {
			return dst, err
		}
	}
	if c.kind == Text && !utf8.Valid(dst[start:]) {
		return dst, &ProtocolError{Code: CloseInvalidData, Reason: "a text message must be UTF-8"}
	}
	return dst, nil
}

// continuation reads the head of the message's next frame, answering control frames before it.
func (c *Conn) continuation() error {
	for {
		h, err := c.readHead()
		if err != nil {
			return err
		}
		switch h.op {
		case opContinuation:
			c.begin(h)
			return nil
		case byte(Text), byte(Binary):
			return violation("a new message inside another")
		}
		if err := c.control(h); err != nil {
			return err
		}
	}
}

// readFrame appends the rest of the current frame.
func (c *Conn) readFrame(dst []byte) ([]byte, error) {
	for c.left > 0 {
		n := int(min(c.left, uint64(max(growBytes, cap(dst)-len(dst)))))
		at := len(dst)
		if cap(dst)-at < n {
			grown := make([]byte, at, max(2*cap(dst), at+n))
			copy(grown, dst)
			dst = grown
		}
		dst = dst[:at+n]
		if err := c.readFull(dst[at:]); err != nil {
			return dst[:at], err
		}
		c.unmask(dst[at:])
		c.left -= uint64(n)
	}
	return dst, nil
}

type head struct {
	op   byte
	last bool
	size uint64
	mask [4]byte
}

func (c *Conn) begin(h head) {
	c.last, c.left, c.mask, c.maskOffset = h.last, h.size, h.mask, 0
}

func (c *Conn) readHead() (head, error) {
	var b [headBytesMax]byte
	if err := c.readFull(b[:2]); err != nil {
		return head{}, err
	}
	h := head{op: b[0] & opBits, last: b[0]&finBit != 0}
	control := h.op >= opClose
	switch {
	case b[0]&rsvBits != 0:
		return h, violation("reserved bits are set")
	case h.op > byte(Binary) && h.op < opClose || h.op > opPong:
		return h, violation("unknown opcode %d", h.op)
	case b[1]&maskBit == 0:
		return h, violation("a client's frame must be masked")
	case control && !h.last:
		return h, violation("a control frame must not be fragmented")
	case control && b[1]&lenBits > controlBytesMax:
		return h, violation("a control frame is longer than %d bytes", controlBytesMax)
	}
	rest := 4
	switch b[1] & lenBits {
	case len16:
		rest += 2
	case len64:
		rest += 8
	}
	if err := c.readFull(b[2 : 2+rest]); err != nil {
		return h, err
	}
	switch b[1] & lenBits {
	case len16:
		h.size = uint64(binary.BigEndian.Uint16(b[2:]))
		if h.size < len16 {
			return h, violation("a length in a longer form than needed")
		}
	case len64:
		h.size = binary.BigEndian.Uint64(b[2:])
		if h.size>>63 != 0 || h.size <= 0xFFFF {
			return h, violation("a length out of range or in a longer form than needed")
		}
	default:
		h.size = uint64(b[1] & lenBits)
	}
	copy(h.mask[:], b[rest-2:])
	return h, nil
}

// control answers a ping, ignores a pong, and turns a close frame into a CloseError.
func (c *Conn) control(h head) error {
	var b [controlBytesMax]byte
	p := b[:h.size]
	if err := c.readFull(p); err != nil {
		return err
	}
	for i := range p {
		p[i] ^= h.mask[i&3]
	}
	switch h.op {
	case opPing:
		return c.writeControl(opPong, p)
	case opPong:
		return nil
	}
	ce, err := parseClose(p)
	if err != nil {
		return err
	}
	echo := p[:min(len(p), 2)]
	_ = c.writeControl(opClose, echo) // the client is leaving either way
	return ce
}

func parseClose(p []byte) (*CloseError, error) {
	if len(p) == 0 {
		return &CloseError{Code: 1005}, nil
	}
	if len(p) == 1 {
		return nil, violation("a close frame of one byte")
	}
	code := int(binary.BigEndian.Uint16(p))
	valid := code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006 || code >= 3000 && code <= 4999
	if !valid {
		return nil, violation("close code %d must not be sent", code)
	}
	if !utf8.Valid(p[2:]) {
		return nil, &ProtocolError{Code: CloseInvalidData, Reason: "a close reason must be UTF-8"}
	}
	return &CloseError{Code: code, Reason: string(p[2:])}, nil
}

// readFull fills p, from the small buffer first. Large rests are read straight into p.
func (c *Conn) readFull(p []byte) error {
	for len(p) > 0 {
		if c.from < c.to {
			n := copy(p, c.small[c.from:c.to])
			c.from += uint8(n)
			p = p[n:]
			continue
		}
		if len(p) >= smallBytes {
			n, err := io.ReadAtLeast(c.net, p, 1)
			c.received.Add(1)
			if err != nil {
				return err
			}
			p = p[n:]
			continue
		}
		n, err := io.ReadAtLeast(c.net, c.small[:], 1)
		if err != nil {
			return err
		}
		c.received.Add(1)
		c.from, c.to = 0, uint8(n)
	}
	return nil
}

func (c *Conn) unmask(p []byte) {
	// Turn the key so that it starts where the last read ended, then go by words.
	var key [4]byte
	for i := range key {
		key[i] = c.mask[(c.maskOffset+i)&3]
	}
	c.maskOffset += len(p)
	word := uint64(binary.LittleEndian.Uint32(key[:]))
	word |= word << 32
	for len(p) >= 8 {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^word)
		p = p[8:]
	}
	for i := range p {
		p[i] ^= key[i&3]
	}
}

// Drain reads and drops what still comes, after Close, until the client hangs up or the close timeout
// has passed. Without it unread bytes would make the kernel reset the connection, and the close frame
// could be lost on the way.
func (c *Conn) Drain() {
	for {
		if _, err := c.net.Read(c.small[:]); err != nil {
			return
		}
	}
}
