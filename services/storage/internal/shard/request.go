package shard

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/command"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

const (
	// requestBucketMS is the width of a bucket of remembered requests, in milliseconds of _seq time.
	requestBucketMS = uint64(5 * time.Minute / time.Millisecond)
	// requestBucketsMax is how many buckets with requests in them are kept: the newest, and two before it. One
	// would do if clocks were right. A leader whose clock is ahead begins a new bucket at once, and its
	// successor, who counts on from there, perhaps another: with two, what was written just before is still known.
	requestBucketsMax = 3
	// memoMax bounds the requests a leader remembers in memory while some replica cannot read them in the log.
	memoMax = 1 << 16
)

// requestID is an id as a map's key.
type requestID [command.RequestIDBytes]byte

func requestBucket(seq uint64) uint32 { return uint32(snowflake.Millis(seq) / requestBucketMS) }

// requests are the ids of writes that are under way or were done: an id is decided once.
//
// That holds across a change of leaders. A leader of term t serves after a barrier, so whatever was logged
// before t is applied and known here, or will never be. What it decides in t is in flight until it is applied; what
// fails to be applied, because leadership was lost, can no longer be decided by it in t (apply refuses an entry
// that names another term), and the next leader begins with a barrier.
type requests struct {
	mu     sync.Mutex
	flight map[requestID]*attempt
	// buckets are those in the store, ascending; changed by the apply goroutine only.
	buckets []*rememberedBucket
	memo    memo
}

// rememberedBucket is one bucket of the store and a filter of the ids in it.
type rememberedBucket struct {
	number uint32
	ids    bloom
}

// attempt is a write under way that has an id.
type attempt struct {
	id requestID
	// pend is set when the write is in the log; until then others wait for decided, which the first of them
	// makes: decided is closed when the write is in the log, or refused.
	pend    *Pending
	decided chan struct{}
}

// enter joins the write under way with this id, or begins it: then known says whether the id may have been
// done before. Exactly one of the results is set.
func (r *requests) enter(ctx context.Context, id requestID) (own *attempt, joined *Pending, known lookAt, err error) {
	for {
		r.mu.Lock()
		at := r.flight[id]
		if at == nil {
			at = &attempt{id: id}
			r.flight[id] = at
			known = r.lookFor(id)
			r.mu.Unlock()
			return at, nil, known, nil
		}
		if at.pend != nil {
			r.mu.Unlock()
			return nil, at.pend, known, nil
		}
		if at.decided == nil {
			at.decided = make(chan struct{})
		}
		decided := at.decided
		r.mu.Unlock()
		select {
		case <-decided:
		case <-ctx.Done():
			return nil, nil, known, dberr.New(dberr.CodeOf(dberr.FromStatus(ctx.Err())), "wait for another attempt of the same write: %w", ctx.Err())
		}
	}
}

// lookAt is where a request may be remembered.
type lookAt struct {
	memo    *keycodec.Request
	buckets [requestBucketsMax]uint32
	n       int
}

// lookFor says where to look for an id. mu is held.
func (r *requests) lookFor(id requestID) (l lookAt) {
	l.memo = r.memo.get(id)
	for _, b := range r.buckets {
		if b.ids.mayHold(id[:]) {
			l.buckets[l.n] = b.number
			l.n++
		}
	}
	return l
}

// logged lets those who wait for the attempt join it.
func (r *requests) logged(at *attempt, p *Pending) {
	if at == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	at.pend = p
	at.release()
}

// leave ends an attempt. done is what to remember in memory, nil when the store does or there is nothing.
func (r *requests) leave(at *attempt, done *keycodec.Request) {
	if at == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if done != nil {
		r.memo.put(at.id, done)
	}
	if r.flight[at.id] == at {
		delete(r.flight, at.id)
	}
	at.release()
}

// release wakes those who wait for the decision. mu is held.
func (at *attempt) release() {
	if at.decided != nil {
		close(at.decided)
		at.decided = nil
	}
}

// reload begins with the buckets of the store. Their ids are not read, which could be millions: until such a
// bucket is dropped, the store is asked.
func (r *requests) reload(numbers []uint32) {
	buckets := make([]*rememberedBucket, len(numbers))
	for i, n := range numbers {
		buckets[i] = &rememberedBucket{number: n, ids: bloom{all: true}}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.buckets = buckets
}

// rememberedRequest is an id that a batch adds to a bucket.
type rememberedRequest struct {
	bucket uint32
	id     []byte
}

// applied takes over what a batch changed: the buckets there are, and the ids in them. Call it before the batch
// is committed, and so before the writes are no longer in flight.
func (r *requests) applied(numbers []uint32, added []rememberedRequest) {
	if len(added) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	kept := make([]*rememberedBucket, len(numbers))
	for i, n := range numbers {
		kept[i] = &rememberedBucket{number: n}
		for _, b := range r.buckets {
			if b.number == n {
				kept[i] = b
			}
		}
	}
	r.buckets = kept
	for _, a := range added {
		for _, b := range kept {
			if b.number == a.bucket {
				b.ids.add(a.id)
			}
		}
	}
}

// numbers are the buckets of the store; for the apply goroutine.
func (r *requests) numbers() []uint32 {
	ns := make([]uint32, len(r.buckets), requestBucketsMax+1)
	for i, b := range r.buckets {
		ns[i] = b.number
	}
	return ns
}

// memo remembers the last requests in memory.
type memo struct {
	done map[requestID]*keycodec.Request
	// ring holds the ids in the order they came; next is the oldest when it is full.
	ring []requestID
	next int
}

func (m *memo) get(id requestID) *keycodec.Request { return m.done[id] }

func (m *memo) put(id requestID, r *keycodec.Request) {
	if m.done == nil {
		m.done = map[requestID]*keycodec.Request{}
	}
	if len(m.ring) < memoMax {
		m.ring = append(m.ring, id)
	} else {
		delete(m.done, m.ring[m.next])
		m.ring[m.next] = id
		m.next = (m.next + 1) % memoMax
	}
	m.done[id] = r
}

// remember adds the command's answer to the batch. Which buckets there are follows from the entries applied: a
// new one drops the oldest, whatever any clock says.
func (a *application) remember(c *command.Command) error {
	if len(c.RequestID) == 0 {
		return nil
	}
	s := a.shard
	if a.buckets == nil {
		a.buckets = s.requests.numbers()
	}
	bucket := requestBucket(c.FirstSeq)
	if n := len(a.buckets); n == 0 || a.buckets[n-1] < bucket {
		a.buckets = append(a.buckets, bucket)
	} else {
		bucket = a.buckets[n-1]
	}
	if len(a.buckets) > requestBucketsMax {
		a.buckets = a.buckets[1:]
		start, end := keycodec.RequestPrefix(s.cfg.ID), keycodec.RequestBucketPrefix(nil, s.cfg.ID, a.buckets[0])
		if err := a.batch.DeleteRange(start, end, nil); err != nil {
			return batchFailed(err)
		}
	}
	a.key = keycodec.RequestKey(a.key[:0], s.cfg.ID, bucket, c.RequestID)
	a.scratch = keycodec.AppendRequest(a.scratch[:0], &keycodec.Request{FirstSeq: c.FirstSeq, Counts: c.Counts})
	if err := a.batch.Set(a.key, a.scratch, nil); err != nil {
		return batchFailed(err)
	}
	a.requests = append(a.requests, rememberedRequest{bucket, c.RequestID})
	return nil
}

// loadRequests finds the buckets of the store.
func loadRequests(r pebble.Reader, shard uint32) (numbers []uint32, err error) {
	span := keycodec.PrefixSpan(keycodec.RequestPrefix(shard))
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
	if err != nil {
		return nil, readFailed(err)
	}
	for ok := it.First(); ok && err == nil; {
		var n uint32
		if n, err = keycodec.RequestBucketOf(it.Key()); err != nil {
			break
		}
		numbers = append(numbers, n)
		ok = it.SeekGE(keycodec.PrefixEnd(keycodec.RequestBucketPrefix(nil, shard, n)))
	}
	return numbers, errors.Join(err, it.Error(), it.Close())
}

// find reads the answer of a request that was done; nil when it was not.
func (s *Shard) find(id requestID, l lookAt) (*keycodec.Request, error) {
	if l.memo != nil {
		return l.memo, nil
	}
	var key []byte
	for i := l.n - 1; i >= 0; i-- {
		key = keycodec.RequestKey(key[:0], s.cfg.ID, l.buckets[i], id[:])
		v, closer, err := s.cfg.DB.Get(key)
		if errors.Is(err, pebble.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, readFailed(err)
		}
		r, err := keycodec.DecodeRequest(v)
		return &r, errors.Join(err, closer.Close())
	}
	return nil, nil
}
