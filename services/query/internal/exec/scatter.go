package exec

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/plan"
	"github.com/kalamdb/kalamdb-go/services/query/internal/storageclient"
)

// scatterMax bounds the shards one statement reads at the same time: each holds a batch here and a
// snapshot there.
const scatterMax = 8

// scatter is one table of all users: a scan of each shard, several at a time, in no particular order.
type scatter struct {
	storage *storageclient.Client
	ctx     context.Context // of the scans
	cancel  context.CancelCauseFunc
	batches chan arrow.RecordBatch // closed when every shard was read
	readers sync.WaitGroup
	audit   func(rows int64)
	rows    int64 // handed over
}

// scatter starts reading.
func (r *Runner) scatter(ctx context.Context, state *catalogview.State, env *plan.Env, s *plan.BoundScan, ids []uint32) *scatter {
	shards := state.Shards.Shards()
	out := &scatter{storage: r.Storage, batches: make(chan arrow.RecordBatch)}
	id, table := env.Identity, s.Table
	out.audit = func(rows int64) {
		r.Logger.LogAttrs(context.WithoutCancel(ctx), slog.LevelInfo, "rows of all users were read",
			slog.String("user", id.UserID), slog.String("role", id.Role.String()), slog.String("table", table.QualifiedName()),
			slog.Uint64("shards", uint64(shards)), slog.Int64("rows", rows))
	}
	out.ctx, out.cancel = context.WithCancelCause(ctx)
	var next atomic.Uint32
	for range min(shards, scatterMax) {
		out.readers.Go(func() {
			for shard := next.Add(1) - 1; shard < shards; shard = next.Add(1) - 1 {
				req := request(s, ids, state, env)
				req.Shard = shard
				if err := out.shard(req); err != nil {
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

// shard reads one shard to its end.
func (s *scatter) shard(req *storagev1.ScanRequest) error {
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

// Next returns some shard's next batch. The first shard that fails ends the scan with its error: rows of
// the others alone would be a wrong answer.
func (s *scatter) Next(ctx context.Context) (arrow.RecordBatch, error) {
	select {
	case batch, more := <-s.batches:
		if more {
			s.rows += batch.NumRows()
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
	s.audit(s.rows)
}
