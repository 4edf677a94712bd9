package rest

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
)

const (
	// commitBytes is how much of an answer is held back: an error found before becomes a proper error
	// answer, one found later can only cut the connection.
	commitBytes = 256 << 10
	// flushBytes is the size of the pieces sent after that.
	flushBytes = 64 << 10
	// gzipBytesMin is below one network packet; compressing less gains nothing.
	gzipBytesMin = 1400
)

// body collects an answer and sends it in pieces.
type body struct {
	w         http.ResponseWriter
	gzip      bool
	buf       []byte
	to        io.Writer // nil until committed
	gz        *gzip.Writer
	committed bool
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, flushBytes); return &b }}

func newBody(w http.ResponseWriter, r *http.Request) *body {
	buf := buffers.Get().(*[]byte)
	return &body{w: w, gzip: acceptsGzip(r.Header.Get("Accept-Encoding")), buf: (*buf)[:0]}
}

// acceptsGzip reads Accept-Encoding as far as it matters: gzip named and not at quality zero.
func acceptsGzip(accept string) bool {
	for part := range strings.SplitSeq(accept, ",") {
		name, q, _ := strings.Cut(part, ";")
		if strings.EqualFold(strings.TrimSpace(name), "gzip") {
			q = strings.TrimRight(strings.TrimSpace(q), "0")
			return q != "q=" && q != "q=0."
		}
	}
	return false
}

// spill sends what has been collected when it is enough.
func (b *body) spill() error {
	if len(b.buf) < commitBytes && (!b.committed || len(b.buf) < flushBytes) {
		return nil
	}
	return b.send(false)
}

func (b *body) send(last bool) error {
	if !b.committed {
		b.commit(last)
	}
	_, err := b.to.Write(b.buf)
	b.buf = b.buf[:0]
	return err
}

func (b *body) commit(last bool) {
	b.committed = true
	h := b.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Add("Vary", "Accept-Encoding")
	b.to = b.w
	if b.gzip && (!last || len(b.buf) >= gzipBytesMin) {
		h.Set("Content-Encoding", "gzip")
		b.gz, _ = gzip.NewWriterLevel(b.w, gzip.BestSpeed) // only fails for an unknown level
		b.to = b.gz
	}
	b.w.WriteHeader(http.StatusOK)
}

// finish sends the rest. The body must not be used afterwards.
func (b *body) finish() error {
	err := b.send(true)
	if b.gz != nil && err == nil {
		err = b.gz.Close()
	}
	b.release()
	return err
}

// release gives the buffer back, unless it grew: a pool of large buffers is a leak.
func (b *body) release() {
	if cap(b.buf) <= 2*commitBytes {
		buf := b.buf[:0]
		buffers.Put(&buf)
	}
	b.buf = nil
}

// writeJSON answers with a small value.
func writeJSON(w http.ResponseWriter, status int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		writePlain(w, http.StatusInternalServerError, `{"error":"internal_error"}`)
		return
	}
	writePlain(w, status, string(data))
}
