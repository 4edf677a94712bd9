package shard

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/changelog"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/command"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

const (
	// sumsMax is how many sums are kept: those who compare replicas ask for the newest.
	sumsMax = 8
	// sumsWaitingMax bounds the snapshots that wait to be summed up: each keeps old files from being deleted.
	sumsWaitingMax = 4
	// cancelEveryKeys is how often a sum looks whether the node stops: about a millisecond of work.
	cancelEveryKeys = 1024
)

// Sum is the state of a replica at an entry of its log: equal states have equal sums.
type Sum struct {
	Index uint64
	// Hash is the hex of SHA-256 over rows, unique index, markers of dropped tables, remembered requests, and the
	// change log from the bucket on that the entry names.
	Hash string
	Rows uint64
}

// Verify appends an entry at which every replica computes its Sum, and returns its index.
func (s *Shard) Verify(ctx context.Context) (index uint64, err error) {
	if err := s.checkServing(); err != nil {
		return 0, err
	}
	term := s.term.Load()
	if s.format() < command.VersionRequests {
		return 0, dberr.New(dberr.Unsupported, "some storage node does not know this check yet: it can be done when all run this version")
	}
	// Other replicas prune by their own clocks, perhaps an hour's change log more than this one has by now.
	bucket, err := changelog.FirstBucket(s.cfg.DB, s.cfg.ID)
	if err != nil {
		return 0, err
	}
	pend, err := s.admit(ctx, &plan{})
	if err != nil {
		return 0, err
	}
	if err := s.log(pend, &command.Command{Kind: command.Verify, Term: term, Bucket: bucket + 1}, nil); err != nil {
		return 0, err
	}
	if _, err := pend.Wait(ctx); err != nil {
		return 0, err
	}
	return pend.index, nil
}

// Checksum returns the sum at the entry at index, which Verify appended, waiting for it to be applied and summed
// up. NotFound means that this replica has none: it was restarted since, or has too many to do.
func (s *Shard) Checksum(ctx context.Context, index uint64) (Sum, error) {
	if err := s.WaitApplied(ctx, index); err != nil {
		return Sum{}, err
	}
	t := s.sums.get(index)
	if t == nil {
		return Sum{}, dberr.New(dberr.NotFound, "this replica of shard %d has no sum at entry %d", s.cfg.ID, index)
	}
	select {
	case <-t.done:
		return t.sum, t.err
	case <-ctx.Done():
		return Sum{}, dberr.New(dberr.CodeOf(dberr.FromStatus(ctx.Err())), "wait for the sum of shard %d: %w", s.cfg.ID, ctx.Err())
	}
}

// sums are the replica's sums, done or to do.
type sums struct {
	mu    sync.Mutex
	tasks []*summing // ascending by index; at most sumsMax that are done
	// waiting are in order; running says that a goroutine works on them.
	waiting []*summing
	running bool
}

// summing is one sum.
type summing struct {
	bucket uint32
	snap   *pebble.Snapshot
	done   chan struct{}
	// sum and err are set before done is closed.
	sum Sum
	err error
}

func (t *summing) finish(err error) {
	t.err = errors.Join(err, t.snap.Close())
	close(t.done)
}

func (q *sums) get(index uint64) *summing {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, t := range q.tasks {
		if t.sum.Index == index {
			return t
		}
	}
	return nil
}

// sum has the state as of now, which is that at index, summed up beside apply.
func (s *Shard) sum(index uint64, bucket uint32) {
	q := &s.sums
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == sumsWaitingMax {
		s.cfg.Logger.Warn("too many sums wait (sumsWaitingMax): this one is left out", "shard", s.cfg.ID, "index", index)
		return
	}
	t := &summing{bucket: bucket, snap: s.cfg.DB.NewSnapshot(), done: make(chan struct{}), sum: Sum{Index: index}}
	q.waiting = append(q.waiting, t)
	if !q.running {
		if q.running = s.spawn(s.sumUp); !q.running {
			q.waiting = nil
			t.finish(dberr.New(dberr.Unavailable, "shard %d is closing on this node", s.cfg.ID))
		}
	}
	q.tasks = append(q.tasks, t)
	if len(q.tasks) > sumsMax {
		q.tasks = slices.Delete(q.tasks, 0, len(q.tasks)-sumsMax)
	}
}

// sumUp works until nothing waits, one sum at a time.
func (s *Shard) sumUp() {
	q := &s.sums
	for {
		q.mu.Lock()
		if len(q.waiting) == 0 {
			q.running = false
			q.mu.Unlock()
			return
		}
		t := q.waiting[0]
		q.waiting = q.waiting[1:]
		q.mu.Unlock()
		t.finish(t.run(s.ended, s.cfg.ID))
	}
}

// run computes the sum unless stop is closed first.
func (t *summing) run(stop <-chan struct{}, shard uint32) error {
	changes := keycodec.PrefixSpan(keycodec.ChangePrefix(shard))
	changes.Start = keycodec.ChangeBucketPrefix(nil, shard, t.bucket)
	h := sha256.New()
	var err error
	if t.sum.Rows, err = addSpan(stop, h, t.snap, keycodec.PrefixSpan(keycodec.RowPrefix(shard))); err != nil {
		return err
	}
	for _, span := range []keycodec.Span{changes, keycodec.PrefixSpan(keycodec.DroppedPrefix(shard)),
		keycodec.PrefixSpan(keycodec.UniquePrefix(shard)), keycodec.PrefixSpan(keycodec.RequestPrefix(shard)),
		keycodec.PrefixSpan(keycodec.SegmentPrefix(shard))} {
		if _, err := addSpan(stop, h, t.snap, span); err != nil {
			return err
		}
	}
	t.sum.Hash = hex.EncodeToString(h.Sum(nil))
	return nil
}

// addSpan adds every key and value of a span, with their lengths.
func addSpan(stop <-chan struct{}, h hash.Hash, r pebble.Reader, span keycodec.Span) (keys uint64, err error) {
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
	if err != nil {
		return 0, readFailed(err)
	}
	var head []byte
	for ok := it.First(); ok; ok = it.Next() {
		if keys++; keys%cancelEveryKeys == 0 {
			select {
			case <-stop:
				return 0, errors.Join(dberr.New(dberr.Unavailable, "the sum was not finished: this replica is closing"), it.Close())
			default:
			}
		}
		value, err := it.ValueAndErr()
		if err != nil {
			return 0, errors.Join(readFailed(err), it.Close())
		}
		head = binary.AppendUvarint(head[:0], uint64(len(it.Key())))
		head = append(head, it.Key()...)
		head = binary.AppendUvarint(head, uint64(len(value)))
		_, _ = h.Write(head) // a hash never fails
		_, _ = h.Write(value)
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return 0, readFailed(err)
	}
	return keys, nil
}
