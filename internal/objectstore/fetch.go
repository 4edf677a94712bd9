package objectstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"

	"golang.org/x/sync/errgroup"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Fetch writes a file to w, from its beginning to its end. Large ones are asked for in ranges, several at a time, each of them again when it
// fails for a reason that may pass. Corrupt says that the store's file is another one than want: then w has bytes that must not be used, as it
// may have after every error. NotFound is a file that the store does not have.
func (s *Store) Fetch(ctx context.Context, key string, want Sum, w io.Writer) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	sum := sha256.New()
	if err := s.ranges(ctx, key, want.Bytes, io.MultiWriter(sum, w)); err != nil {
		return err
	}
	if !bytes.Equal(sum.Sum(nil), want.SHA256) {
		return dberr.New(dberr.Corrupt, "%s of storage %s is not what was written: its SHA-256 is %x, not %x", key, s.cfg.Name, sum.Sum(nil), want.SHA256)
	}
	return nil
}

// ReadAll reads a small file of unknown content, max bytes at most.
func (s *Store) ReadAll(ctx context.Context, key string, max int64) ([]byte, error) {
	n, err := s.Stat(ctx, key)
	if err != nil {
		return nil, err
	}
	if n > max {
		return nil, dberr.New(dberr.Corrupt, "%s of storage %s has %d bytes, %d at most were expected", key, s.cfg.Name, n, max)
	}
	var b bytes.Buffer
	err = s.ranges(ctx, key, n, &b)
	return b.Bytes(), err
}

// ranges writes a file's ranges in order. Whoever fetches ahead of the writer waits for it: rangesAtOnce of them are in memory.
func (s *Store) ranges(ctx context.Context, key string, size int64, w io.Writer) error {
	g, ctx := errgroup.WithContext(ctx)
	type part struct {
		data []byte
		err  error
	}
	order := make(chan chan part, rangesAtOnce-1)
	g.Go(func() error {
		defer close(order)
		for at := int64(0); at < size || at == 0; at += rangeBytes {
			got := make(chan part, 1)
			select {
			case order <- got:
			case <-ctx.Done():
				return dberr.FromStatus(ctx.Err())
			}
			if size == 0 {
				got <- part{}
				return nil
			}
			g.Go(func() error {
				data, err := s.part(ctx, key, at, min(rangeBytes, size-at), size)
				got <- part{data, err}
				return err
			})
		}
		return nil
	})
	var failed error
	for got := range order {
		p := <-got
		if failed == nil {
			failed = p.err
		}
		if failed == nil {
			if _, failed = w.Write(p.data); failed != nil {
				failed = dberr.New(dberr.Unavailable, "keep %s of storage %s: %w", key, s.cfg.Name, failed)
			}
		}
	}
	if err := g.Wait(); failed == nil || dberr.Is(failed, dberr.Canceled) && err != nil {
		return err
	}
	return failed
}

// part reads one range.
func (s *Store) part(ctx context.Context, key string, at, n, size int64) (data []byte, err error) {
	if err := s.requests.Acquire(ctx, 1); err != nil {
		return nil, dberr.FromStatus(err)
	}
	defer s.requests.Release(1)
	err = s.again(ctx, func(ctx context.Context) error {
		data, err = s.partOnce(ctx, key, at, n, size)
		return err
	})
	return data, err
}

// partOnce bounds the answer as a whole, so that a body that drips has an end too.
func (s *Store) partOnce(ctx context.Context, key string, at, n, size int64) ([]byte, error) {
	one, cancel := context.WithTimeout(ctx, s.cfg.Limits.Request)
	defer cancel()
	r, err := s.bucket.NewRangeReader(one, key, at, n, nil)
	if err != nil {
		return nil, s.failed(ctx, "read", key, err)
	}
	defer func() { _ = r.Close() }() // it was only read
	if r.Size() != size {
		return nil, dberr.New(dberr.Corrupt, "%s of storage %s has %d bytes, not %d", key, s.cfg.Name, r.Size(), size)
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, s.failed(ctx, "read", key, err)
	}
	return data, nil
}
