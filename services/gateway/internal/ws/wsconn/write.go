package wsconn

import (
	"encoding/binary"
	"net"
	"time"
	"unicode/utf8"
)

// AppendFrame appends one message as one frame. Frames may be gathered and given to Write at once: a
// burst then costs one system call.
func AppendFrame(dst []byte, kind Kind, payload []byte) []byte {
	dst = append(dst, finBit|byte(kind))
	switch n := len(payload); {
	case n < len16:
		dst = append(dst, byte(n))
	case n <= 0xFFFF:
		dst = binary.BigEndian.AppendUint16(append(dst, len16), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, len64), uint64(n))
	}
	return append(dst, payload...)
}

// Write sends frames made by AppendFrame. It waits at most the write timeout; after an error the
// connection is of no use.
func (c *Conn) Write(frames []byte) error {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	return c.write(frames)
}

func (c *Conn) write(b []byte) error {
	if c.closeSent {
		return net.ErrClosed
	}
	if err := c.net.SetWriteDeadline(time.Now().Add(c.cfg.writeTimeout())); err != nil {
		return err
	}
	_, err := c.net.Write(b)
	return err
}

func (c *Conn) writeControl(op Kind, p []byte) error {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	return c.sendControl(op, p)
}

func (c *Conn) sendControl(op Kind, p []byte) error {
	var b [2 + controlBytesMax]byte
	err := c.write(AppendFrame(b[:0], op, p))
	if op == opClose {
		c.closeSent = true
	}
	return err
}

// Close sends a close frame and gives the client a moment to answer it: the reading goroutine must go
// on until it gets an error, and then call Abort. Only the first close frame is sent.
func (c *Conn) Close(code int, reason string) error {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if c.closeSent {
		return nil
	}
	p := binary.BigEndian.AppendUint16(make([]byte, 0, controlBytesMax), uint16(code))
	p = append(p, clip(reason, controlBytesMax-2)...)
	err := c.sendControl(opClose, p)
	if deadlineErr := c.net.SetReadDeadline(time.Now().Add(c.cfg.closeTimeout())); err == nil {
		err = deadlineErr
	}
	return err
}

// clip cuts s to at most n bytes without splitting a character.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// Abort ends the connection at once. Reading and writing goroutines get errors.
func (c *Conn) Abort() { _ = c.net.Close() }
