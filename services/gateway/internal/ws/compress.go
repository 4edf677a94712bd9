package ws

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"runtime"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/ws/wsconn"
)

// compressors are the gzip writers of all sockets. There are as many as processors: one takes about
// 0.8 MB, and ten thousand sockets that get a change at one time must not take one each.
type compressors chan *compressor

type compressor struct {
	gz  *gzip.Writer
	out bytes.Buffer
}

func newCompressors() compressors {
	c := make(compressors, runtime.GOMAXPROCS(0))
	for range cap(c) {
		c <- nil // made when first used
	}
	return c
}

// appendCompressed appends a frame with the compressed payload. It waits for a free compressor.
func (c compressors) appendCompressed(dst, payload []byte) ([]byte, error) {
	z := <-c
	defer func() { c <- z }()
	if z == nil {
		z = &compressor{}
		var err error
		if z.gz, err = gzip.NewWriterLevel(nil, gzip.BestSpeed); err != nil {
			return dst, dberr.New(dberr.Internal, "make a compressor: %w", err)
		}
	}
	z.out.Reset()
	z.gz.Reset(&z.out)
	_, err := z.gz.Write(payload)
	if err = errors.Join(err, z.gz.Close()); err != nil {
		return dst, dberr.New(dberr.Internal, "compress a frame: %w", err)
	}
	dst = wsconn.AppendFrame(dst, wsconn.Binary, z.out.Bytes())
	if z.out.Cap() > queueBytesMax {
		z.out = bytes.Buffer{} // one huge frame must not stay for ever
	}
	return dst, nil
}

func isGzip(b []byte) bool { return len(b) >= 2 && b[0] == 0x1f && b[1] == 0x8b }

// decompress expands a client's message to at most limit bytes.
func decompress(b []byte, limit int) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, dberr.New(dberr.InvalidArgument, "the message is not valid gzip: %w", err)
	}
	z.Multistream(false)
	out, err := io.ReadAll(io.LimitReader(z, int64(limit)+1))
	if err != nil {
		return nil, dberr.New(dberr.InvalidArgument, "the message is not valid gzip: %w", err)
	}
	if len(out) > limit {
		return nil, wsconn.ErrTooBig
	}
	return out, nil
}
