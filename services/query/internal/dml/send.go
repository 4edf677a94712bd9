package dml

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/requestid"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/plan"
)

// writesAtOnce bounds the partitions one statement writes at the same time.
const writesAtOnce = 8

// sending is what became of a statement's writes. It outlives an attempt: a partition that was written is not written
// again when another one makes the statement start anew. A repeated request asks partitions that were never written too.
type sending struct {
	mu   sync.Mutex
	done map[uint32]*storagev1.WriteResponse
}

// explain says of a failed statement that a part of it was done.
func (s *sending) explain(err error) error {
	n := s.written()
	if err == nil || n == 0 {
		return err
	}
	return partly(err, n)
}

// written counts the partitions that have rows of the statement.
func (s *sending) written() (n int) {
	for _, resp := range s.done {
		if affected(resp) > 0 {
			n++
		}
	}
	return n
}

// partly is the error of a statement that wrote some of its partitions.
func partly(err error, done int) error {
	return dberr.New(dberr.CodeOf(err), "%w (%d partition(s) of the statement were written and stay so: it is atomic within one "+
		"partition only)", err, done).With("partitions_written", strconv.Itoa(done))
}

// statement runs the attempts of one statement.
func statement(ctx context.Context, attempt func(*sending) (*Result, error)) (*Result, error) {
	s := &sending{done: map[uint32]*storagev1.WriteResponse{}}
	var result *Result
	err := Retry(ctx, func() (err error) {
		result, err = attempt(s)
		return err
	})
	return result, s.explain(err)
}

// send writes a batch and builds the statement's result. A part without rows is not sent, unless an earlier
// attempt of the request may be the reason that nothing is left to write: storage knows, and if it has not
// seen that attempt it refuses it from now on.
func (w *Writer) send(ctx context.Context, env *plan.Env, b *batch, s *sending, verb string, ret *returning) (*Result, error) {
	if env.Transaction != nil {
		return w.stage(env, b, verb, ret)
	}
	repeated := requestid.Repeated(ctx) && b.table.Kind != catalog.StreamTable
	if repeated {
		b.addScope()
	}
	var reqs []*storagev1.WriteRequest
	var numbers []uint32
	for _, p := range b.parts {
		empty := len(p.write.Rows) == 0
		if s.done[p.number] != nil || empty && !repeated {
			continue
		}
		req := b.request(p, requestid.From(ctx), ret != nil)
		req.Fence = empty
		reqs, numbers = append(reqs, req), append(numbers, p.number)
	}
	if err := w.writeAll(ctx, reqs, numbers, s); err != nil {
		return nil, err
	}
	return s.result(env, b, verb, ret)
}

// writeAll writes parts of a statement, some at the same time. All are tried: those that fail decide whether the
// statement can be tried again.
func (w *Writer) writeAll(ctx context.Context, reqs []*storagev1.WriteRequest, numbers []uint32, s *sending) error {
	one := func(i int) error {
		resp, err := w.Storage.Write(ctx, reqs[i])
		if err == nil && len(resp.GetResults()) != 1 {
			err = dberr.New(dberr.Internal, "the storage role answered one write with %d results", len(resp.GetResults()))
		}
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.done[numbers[i]] = resp
		return nil
	}
	if len(reqs) == 1 {
		return one(0)
	}
	failed := make([]error, len(reqs))
	var group errgroup.Group
	group.SetLimit(writesAtOnce)
	for i := range reqs {
		group.Go(func() error {
			failed[i] = one(i)
			return nil
		})
	}
	_ = group.Wait() // failed has the errors
	return worst(failed)
}

// worst is an error that no further attempt mends, else any, else nil.
func worst(errs []error) error {
	var last error
	for _, err := range errs {
		if err != nil && !again(err) {
			return err
		}
		if err != nil {
			last = err
		}
	}
	return last
}

// result adds up what was written. Its position is that of the one partition that was; of several, each has its own.
func (s *sending) result(env *plan.Env, b *batch, verb string, ret *returning) (*Result, error) {
	result := &Result{Verb: verb, Durability: durabilityOf(b.table)}
	var written []*storagev1.TableWriteResult
	for _, n := range slices.Sorted(maps.Keys(s.done)) {
		resp := s.done[n]
		written = append(written, resp.GetResults()[0])
		result.Rows += affected(resp)
		result.Durability = resp.GetDurability()
		if affected(resp) > 0 || len(s.done) == 1 {
			result.Position = resp.GetPosition()
		}
	}
	if s.written() > 1 {
		result.Position = 0
	}
	if ret == nil {
		return result, nil
	}
	var err error
	result.Returning, err = ret.build(env, written, b.operation == storagev1.Operation_OPERATION_DELETE)
	return result, err
}
