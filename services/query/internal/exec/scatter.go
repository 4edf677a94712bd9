package exec

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/plan"
	"github.com/kalamdb/kalamdb-go/services/query/internal/storageclient"
)

// scatterMax bounds the shards one statement reads at the same time: each holds a batch here and a
// snapshot there.
const scatterMax = 8

// scatter is one table read by several scans, some at a time, in no particular order.
type scatter struct {
	storage *storageclient.Client
	ctx     context.Context // of the scans
	cancel  context.CancelCauseFunc
	batches chan arrow.RecordBatch // closed when every scan was read
	readers sync.WaitGroup
}

// scatter starts reading.
func (r *Runner) scatter(ctx context.Context, reqs []*storagev1.ScanRequest) *scatter {
	out := &scatter{storage: r.Storage, batches: make(chan arrow.RecordBatch)}
	out.ctx, out.cancel = context.WithCancelCause(ctx)
	var next atomic.Uint32
	for range min(len(reqs), scatterMax) {
		out.readers.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(reqs); i = int(next.Add(1)) - 1 {
				if err := out.scan(reqs[i]); err != nil {
					out.cancel(err)
					return
				}
			}
		})
	}
	go func() { // ends with the readers, for whom Release waits
		out.readers.Wait()
		close(out.batches)
	}()
	return out
}

// scan reads one scan to its end.
func (s *scatter) scan(req *storagev1.ScanRequest) error {
	rows, err := s.storage.Scan(s.ctx, req)
	if err != nil {
		return err
	}
	defer rows.Release()
	for {
		batch, err := rows.Next(s.ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case s.batches <- batch:
		case <-s.ctx.Done():
			batch.Release()
			return context.Cause(s.ctx)
		}
	}
}

// Next returns some scan's next batch. The first that fails ends all with its error: rows of the others alone would be
// a wrong answer.
func (s *scatter) Next(ctx context.Context) (arrow.RecordBatch, error) {
	select {
	case batch, more := <-s.batches:
		if more {
			return batch, nil
		}
		if err := context.Cause(s.ctx); err != nil {
			return nil, err
		}
		return nil, io.EOF
	case <-ctx.Done():
		return nil, dberr.FromStatus(ctx.Err())
	}
}

// Release ends the scans and waits for them.
func (s *scatter) Release() {
	s.cancel(context.Canceled)
	for batch := range s.batches {
		batch.Release()
	}
}

// audited is a scatter whose end is logged: somebody read rows of other users.
type audited struct {
	*scatter
	rows int64 // handed over
	log  func(rows int64)
}

func (r *Runner) audited(ctx context.Context, env *plan.Env, s *plan.BoundScan, reqs []*storagev1.ScanRequest) *audited {
	id, table := env.Identity, s.Table
	return &audited{scatter: r.scatter(ctx, reqs), log: func(rows int64) {
		r.Logger.LogAttrs(context.WithoutCancel(ctx), slog.LevelInfo, "rows of all users were read",
			slog.String("user", id.UserID), slog.String("role", id.Role.String()), slog.String("table", table.QualifiedName()),
			slog.Int("shards", len(reqs)), slog.Int64("rows", rows))
	}}
}

func (a *audited) Next(ctx context.Context) (arrow.RecordBatch, error) {
	batch, err := a.scatter.Next(ctx)
	if err == nil {
		a.rows += batch.NumRows()
	}
	return batch, err
}

func (a *audited) Release() {
	a.scatter.Release()
	a.log(a.rows)
}
