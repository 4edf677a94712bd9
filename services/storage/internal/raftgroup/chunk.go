package raftgroup

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// A snapshot stream is a header (magic, format u8), then chunks (length u32, CRC-32C of the payload
// u32, payload), then a chunk of length 0 whose CRC field covers all payload bytes: a stream that was
// cut, or that lost a chunk, does not end well.
const (
	streamMagic  = "kalamsnp"
	streamFormat = 1
	// chunkBytesMax bounds what a reader of an unknown stream allocates.
	chunkBytesMax = 1 << 20
	// chunkBytes is what the writer makes: small beside the batches a restore writes.
	chunkBytes       = 256 << 10
	chunkHeaderBytes = 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// chunkWriter frames what is written to it. Close ends the stream; it does not close w.
type chunkWriter struct {
	w   io.Writer
	buf []byte
	sum uint32
	err error
}

func newChunkWriter(w io.Writer) *chunkWriter {
	cw := &chunkWriter{w: w, buf: make([]byte, 0, chunkBytes)}
	_, cw.err = w.Write(append([]byte(streamMagic), streamFormat))
	return cw
}

func (c *chunkWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && c.err == nil {
		k := min(len(p), chunkBytes-len(c.buf))
		c.buf = append(c.buf, p[:k]...)
		p = p[k:]
		if len(c.buf) == chunkBytes {
			c.flush()
		}
	}
	return n - len(p), c.err
}

func (c *chunkWriter) flush() {
	if len(c.buf) == 0 || c.err != nil {
		return
	}
	c.sum = crc32.Update(c.sum, castagnoli, c.buf)
	if c.err = c.header(uint32(len(c.buf)), crc32.Checksum(c.buf, castagnoli)); c.err == nil {
		_, c.err = c.w.Write(c.buf)
	}
	c.buf = c.buf[:0]
}

func (c *chunkWriter) header(length, sum uint32) error {
	b := binary.BigEndian.AppendUint32(nil, length)
	_, err := c.w.Write(binary.BigEndian.AppendUint32(b, sum))
	return err
}

// Close writes what is left and the end.
func (c *chunkWriter) Close() error {
	c.flush()
	if c.err == nil {
		c.err = c.header(0, c.sum)
	}
	return c.err
}

// chunkReader checks and unframes a stream. It returns io.EOF only after a proper end.
type chunkReader struct {
	r     io.Reader
	begun bool
	buf   []byte
	rest  []byte
	sum   uint32
	err   error
}

func newChunkReader(r io.Reader) *chunkReader { return &chunkReader{r: r} }

func (c *chunkReader) Read(p []byte) (int, error) {
	for len(c.rest) == 0 && c.err == nil {
		c.err = c.next()
	}
	if len(c.rest) == 0 {
		return 0, c.err
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *chunkReader) next() error {
	if !c.begun {
		if err := c.begin(); err != nil {
			return err
		}
	}
	var h [chunkHeaderBytes]byte
	if err := c.full(h[:], "a chunk's header"); err != nil {
		return err
	}
	length, sum := binary.BigEndian.Uint32(h[:]), binary.BigEndian.Uint32(h[4:])
	if length == 0 {
		if sum != c.sum {
			return dberr.New(dberr.Corrupt, "snapshot stream: the sum at its end is wrong")
		}
		return io.EOF
	}
	if length > chunkBytesMax {
		return dberr.New(dberr.Corrupt, "snapshot stream: a chunk of %d bytes, the limit is %d (chunkBytesMax)", length, chunkBytesMax)
	}
	if cap(c.buf) < int(length) {
		c.buf = make([]byte, length)
	}
	b := c.buf[:length]
	if err := c.full(b, "a chunk"); err != nil {
		return err
	}
	if crc32.Checksum(b, castagnoli) != sum {
		return dberr.New(dberr.Corrupt, "snapshot stream: a chunk's sum is wrong")
	}
	c.sum = crc32.Update(c.sum, castagnoli, b)
	c.rest = b
	return nil
}

func (c *chunkReader) begin() error {
	var h [len(streamMagic) + 1]byte
	if err := c.full(h[:], "the header"); err != nil {
		return err
	}
	if !bytes.Equal(h[:len(streamMagic)], []byte(streamMagic)) {
		return dberr.New(dberr.Corrupt, "snapshot stream: not one")
	}
	if f := h[len(streamMagic)]; f != streamFormat {
		return dberr.New(dberr.Corrupt, "snapshot stream: format %d, this version reads %d", f, streamFormat)
	}
	c.begun = true
	return nil
}

func (c *chunkReader) full(b []byte, what string) error {
	if _, err := io.ReadFull(c.r, b); err != nil {
		return dberr.New(dberr.Corrupt, "snapshot stream: it ends within %s: %w", what, err)
	}
	return nil
}
