// Package sealedfile encrypts files of any length in frames, so that neither writing nor reading holds more than one in memory.
//
// Format: magic "KDBSEAL", version u8 (1), length of the key's id u8, the id, nonce prefix (7 bytes); then frames: at most 64 KiB of the
// file, encrypted by AES-256-GCM, and the tag of 16 bytes. All frames but the last are full; the last may be empty. A frame's nonce is
// the prefix, its number u32 big-endian and u8 1 for the last one, else 0; its additional data is the header. So a file that was cut, or
// whose frames were exchanged, does not open (the STREAM construction). This is a disk format.
package sealedfile

import (
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"math"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

const (
	// FrameBytes is how much of the file a frame has.
	FrameBytes = 64 << 10
	// KeyIDBytesMax bounds the id of a key.
	KeyIDBytesMax = math.MaxUint8

	magic       = "KDBSEAL\x01"
	prefixBytes = 7
	tagBytes    = 16
)

// Writer encrypts what is written to it.
type Writer struct {
	to     io.Writer
	aead   cipher.AEAD
	header []byte
	frame  frame
	plain  []byte // at most FrameBytes
	sealed []byte
	err    error // of an earlier Write
}

// frame numbers frames.
type frame struct {
	prefix [prefixBytes]byte
	number uint64
}

// nonce is that of the next frame.
func (f *frame) nonce(last bool) ([]byte, error) {
	if f.number > math.MaxUint32 {
		return nil, dberr.New(dberr.LimitExceeded, "a sealed file has at most %d frames of %d bytes", uint64(math.MaxUint32)+1, FrameBytes)
	}
	n := binary.BigEndian.AppendUint32(bytes.Clone(f.prefix[:]), uint32(f.number))
	f.number++
	if last {
		return append(n, 1), nil
	}
	return append(n, 0), nil
}

// NewWriter begins a file that is sealed with a key; id names it, so that a reader can tell which one is needed.
func NewWriter(to io.Writer, aead cipher.AEAD, id string) (*Writer, error) {
	if len(id) > KeyIDBytesMax {
		return nil, dberr.New(dberr.InvalidArgument, "the id of a key has %d bytes, the limit is %d", len(id), KeyIDBytesMax)
	}
	w := &Writer{to: to, aead: aead, plain: make([]byte, 0, FrameBytes)}
	_, _ = rand.Read(w.frame.prefix[:]) // never fails
	w.header = append(append(append([]byte(magic), byte(len(id))), id...), w.frame.prefix[:]...)
	_, err := to.Write(w.header)
	return w, err
}

// Write encrypts p. A full frame is held back until more comes: it may be the last.
func (w *Writer) Write(p []byte) (n int, err error) {
	for len(p) > 0 && w.err == nil {
		if len(w.plain) == FrameBytes {
			if w.err = w.flush(false); w.err != nil {
				break
			}
		}
		k := min(len(p), FrameBytes-len(w.plain))
		w.plain, p, n = append(w.plain, p[:k]...), p[k:], n+k
	}
	return n, w.err
}

// Close writes the last frame. It does not close what is written to.
func (w *Writer) Close() error {
	if w.err == nil {
		w.err = w.flush(true)
	}
	return w.err
}

func (w *Writer) flush(last bool) error {
	nonce, err := w.frame.nonce(last)
	if err != nil {
		return err
	}
	w.sealed = w.aead.Seal(w.sealed[:0], nonce, w.plain, w.header)
	w.plain = w.plain[:0]
	_, err = w.to.Write(w.sealed)
	return err
}

// Reader decrypts a file. Everything that is not what was sealed is answered with a Corrupt error.
type Reader struct {
	from   io.Reader
	aead   cipher.AEAD
	id     string
	header []byte
	frame  frame
	plain  []byte // not yet read
	sealed []byte
	// ahead is the beginning of the frame after the one decrypted.
	ahead []byte
	last  bool
}

// NewReader reads the header and asks for the key that it names.
func NewReader(from io.Reader, key func(id string) (cipher.AEAD, error)) (*Reader, error) {
	r := &Reader{from: from, sealed: make([]byte, 0, FrameBytes+tagBytes+1)}
	r.header = make([]byte, len(magic)+1)
	if err := readFull(from, r.header); err != nil {
		return nil, err
	}
	if string(r.header[:len(magic)]) != magic {
		return nil, dberr.New(dberr.Corrupt, "this is no sealed file of a version known here")
	}
	rest := make([]byte, int(r.header[len(magic)])+prefixBytes)
	if err := readFull(from, rest); err != nil {
		return nil, err
	}
	r.header = append(r.header, rest...)
	r.id = string(rest[:len(rest)-prefixBytes])
	copy(r.frame.prefix[:], rest[len(rest)-prefixBytes:])
	var err error
	r.aead, err = key(r.id)
	return r, err
}

func readFull(from io.Reader, p []byte) error {
	_, err := io.ReadFull(from, p)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return dberr.New(dberr.Corrupt, "a sealed file ends in its header")
	}
	return err
}

// KeyID names the key.
func (r *Reader) KeyID() string { return r.id }

// Read decrypts.
func (r *Reader) Read(p []byte) (int, error) {
	for len(r.plain) == 0 {
		if r.last {
			return 0, io.EOF
		}
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.plain)
	r.plain = r.plain[n:]
	return n, nil
}

// next decrypts a frame. It reads one byte more than the frame: where there is none, it is the last.
func (r *Reader) next() error {
	buf := append(r.sealed[:0], r.ahead...)
	n, err := io.ReadFull(r.from, buf[len(buf):cap(buf)])
	buf = buf[:len(buf)+n]
	switch {
	case err == nil:
		r.ahead = append(r.ahead[:0], buf[len(buf)-1])
		buf = buf[:len(buf)-1]
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		r.last, r.ahead = true, nil
	default:
		return err
	}
	number := r.frame.number
	nonce, err := r.frame.nonce(r.last)
	if err != nil {
		return err
	}
	if r.plain, err = r.aead.Open(buf[:0], nonce, buf, r.header); err != nil {
		r.plain = nil
		return dberr.New(dberr.Corrupt, "frame %d of a sealed file is damaged, or the file was cut, or the key is another one", number)
	}
	return nil
}
