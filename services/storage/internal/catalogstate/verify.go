package catalogstate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash"
	"slices"
	"sync"

	"go.etcd.io/bbolt"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

const (
	// sumsMax is how many sums are kept: those who compare replicas ask for the newest.
	sumsMax = 8
	// sumsAtOnce bounds the sums being computed: each keeps old pages of the file from being used again.
	sumsAtOnce = 4
	// cancelEveryKeys is how often a sum looks whether it is still wanted.
	cancelEveryKeys = 1024
)

// Sum is the catalog of one replica at an entry of its log: equal states have equal sums.
type Sum struct {
	Index uint64
	// Hash is the hex of SHA-256 over every bucket's keys and values in order, except the file's format, which is
	// each version's own affair. Applied index and version are part of it: a verify command ends its transaction.
	Hash string
	// Rows counts the entries of all buckets.
	Rows uint64
}

// sums are computed beside apply, each in a read transaction begun right after its verify command.
type sums struct {
	mu    sync.Mutex
	tasks []*summing // ascending by index
	work  sync.WaitGroup
}

type summing struct {
	stop chan struct{}
	once sync.Once
	done chan struct{}
	// sum and err are set before done is closed.
	sum Sum
	err error
}

func (t *summing) cancel() { t.once.Do(func() { close(t.stop) }) }

func (t *summing) finished() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

// cancel ends the sums being computed, waits for them and forgets all. A read transaction that is open keeps
// bbolt from closing its file.
func (q *sums) cancel() {
	q.mu.Lock()
	for _, t := range q.tasks {
		t.cancel()
	}
	q.tasks = nil
	q.mu.Unlock()
	q.work.Wait()
}

// sum begins to sum up the file as it is: what the command at index left.
func (s *State) sum(index uint64) {
	q := &s.sums
	q.mu.Lock()
	defer q.mu.Unlock()
	running := 0
	for _, t := range q.tasks {
		if !t.finished() {
			running++
		}
	}
	if running >= sumsAtOnce {
		s.cfg.Logger.Warn("too many sums of the catalog wait (sumsAtOnce): this one is left out", "index", index)
		return
	}
	t := &summing{stop: make(chan struct{}), done: make(chan struct{}), sum: Sum{Index: index}}
	q.tasks = append(q.tasks, t)
	if len(q.tasks) > sumsMax {
		q.tasks[0].cancel()
		q.tasks = slices.Delete(q.tasks, 0, 1)
	}
	tx, err := s.db.Begin(false)
	if err != nil {
		t.err = dberr.New(dberr.Unavailable, "read the catalog: %w", err)
		close(t.done)
		return
	}
	q.work.Go(func() {
		defer close(t.done)
		t.err = t.run(tx)
		t.err = errors.Join(t.err, tx.Rollback())
	})
}

func (t *summing) run(tx *bbolt.Tx) error {
	h := sha256.New()
	err := tx.ForEach(func(name []byte, b *bbolt.Bucket) error { // in order of names
		addPair(h, name, nil)
		return b.ForEach(func(k, v []byte) error {
			if bytes.Equal(name, bucketMeta) && bytes.Equal(k, keyFormat) {
				return nil
			}
			if t.sum.Rows++; t.sum.Rows%cancelEveryKeys == 0 {
				select {
				case <-t.stop:
					return dberr.New(dberr.Unavailable, "the sum of the catalog was not finished")
				default:
				}
			}
			addPair(h, k, v)
			return nil
		})
	})
	t.sum.Hash = hex.EncodeToString(h.Sum(nil))
	return err
}

func addPair(h hash.Hash, k, v []byte) {
	head := binary.AppendUvarint(nil, uint64(len(k)))
	head = append(head, k...)
	head = binary.AppendUvarint(head, uint64(len(v)))
	_, _ = h.Write(head) // a hash never fails
	_, _ = h.Write(v)
}

// Checksum returns the sum at the entry at index, which Service.Verify appended, waiting for it. NotFound means
// that this replica has none: it was restarted since, or had too many to do.
func (s *State) Checksum(ctx context.Context, index uint64) (Sum, error) {
	if err := s.WaitVersion(ctx, index); err != nil {
		return Sum{}, err
	}
	s.sums.mu.Lock()
	i := slices.IndexFunc(s.sums.tasks, func(t *summing) bool { return t.sum.Index == index })
	var t *summing
	if i >= 0 {
		t = s.sums.tasks[i]
	}
	s.sums.mu.Unlock()
	if t == nil {
		return Sum{}, dberr.New(dberr.NotFound, "this replica of the catalog has no sum at entry %d", index)
	}
	select {
	case <-t.done:
		return t.sum, t.err
	case <-ctx.Done():
		return Sum{}, dberr.New(dberr.CodeOf(dberr.FromStatus(ctx.Err())), "wait for the sum of the catalog: %w", ctx.Err())
	}
}
