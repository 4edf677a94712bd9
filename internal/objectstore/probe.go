package objectstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// ProbePrefix begins the names of files that probes write.
const ProbePrefix = "_kalamdb/probe-"

// probeBytes is how much a probe writes.
const probeBytes = 64

// Health is what a probe found.
type Health struct {
	Writable, Readable, Listable, Deletable bool
	Latency                                 time.Duration
	// Err is what failed first.
	Err error
}

// Healthy reports whether everything worked.
func (h Health) Healthy() bool { return h.Writable && h.Readable && h.Listable && h.Deletable }

// ProbeFile is a file that one node writes and others read, to see whether they mean the same store.
type ProbeFile struct {
	Key  string
	Data []byte
}

// NewProbeFile makes up a file.
func NewProbeFile() ProbeFile {
	data := make([]byte, probeBytes)
	_, _ = rand.Read(data) // never fails: see crypto/rand
	return ProbeFile{Key: ProbePrefix + hex.EncodeToString(data[:8]), Data: data}
}

// Probe writes a file, reads it, has others look at it (may be nil), lists it and deletes it.
func (s *Store) Probe(ctx context.Context, others func(context.Context, ProbeFile) error) Health {
	began, f := time.Now(), NewProbeFile()
	var h Health
	sum := sha256.Sum256(f.Data)
	if h.Err = s.Put(ctx, f.Key, bytes.NewReader(f.Data), Sum{Bytes: probeBytes, SHA256: sum[:]}); h.Err != nil {
		h.Latency = time.Since(began)
		return h
	}
	h.Writable = true
	err := s.ReadProbe(ctx, f)
	if h.Readable = err == nil; err == nil && others != nil {
		if err = others(ctx, f); err != nil {
			h.Readable = false
		}
	}
	listErr := s.listsProbe(ctx, f)
	h.Listable = listErr == nil
	deleteErr := s.Delete(ctx, f.Key)
	h.Deletable = deleteErr == nil
	h.Err, h.Latency = errors.Join(err, listErr, deleteErr), time.Since(began)
	return h
}

// ReadProbe reads a file that another node has written.
func (s *Store) ReadProbe(ctx context.Context, f ProbeFile) error {
	sum := sha256.Sum256(f.Data)
	return s.Fetch(ctx, f.Key, Sum{Bytes: int64(len(f.Data)), SHA256: sum[:]}, &bytes.Buffer{})
}

// listsProbe finds the file in a list. One that does not tell of it yet is asked again.
func (s *Store) listsProbe(ctx context.Context, f ProbeFile) error {
	return s.again(ctx, func(ctx context.Context) error {
		found := false
		err := s.List(ctx, f.Key, func(o Object) error {
			found = found || o.Key == f.Key && o.Bytes == int64(len(f.Data))
			return nil
		})
		if err == nil && !found {
			err = dberr.New(dberr.Unavailable, "storage %s does not list %s, which was just written", s.cfg.Name, f.Key)
		}
		return err
	})
}
