// Package exec runs SELECTs: it plans them, checks the caller's rights on every table, opens the scans
// and returns a stream of Arrow batches. Reading is repeatable until the first batch is out, so a
// statement that was planned with an outdated schema is planned and run again.
package exec

import (
	"context"
	"log/slog"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/access"
	"github.com/kalamdb/kalamdb-go/services/query/internal/engine"
	"github.com/kalamdb/kalamdb-go/services/query/internal/plan"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
	"github.com/kalamdb/kalamdb-go/services/query/internal/storageclient"
	"github.com/kalamdb/kalamdb-go/services/query/internal/systemtable"
)

const (
	// attemptsMax bounds how often a statement is planned again because a table changed under it.
	attemptsMax = 4
	// catalogWait bounds the wait for the change that the storage role has seen and we have not.
	catalogWait = 200 * time.Millisecond
)

// Rows is a result that is being computed. It is not safe for concurrent use.
type Rows interface {
	// Schema describes the batches; the metadata of its fields is that of internal/rowbatch.
	Schema() *arrow.Schema
	// Next returns the next batch, which the caller releases, or io.EOF.
	Next(ctx context.Context) (arrow.RecordBatch, error)
	// Release ends the statement; it must be called.
	Release()
}

// Catalog is the part of the catalog's copy that running needs.
type Catalog interface {
	State() *catalogview.State
	WaitVersion(ctx context.Context, version uint64) error
}

// Systems are the system tables.
type Systems interface {
	plan.Systems
	// Read starts reading a table; it checks the caller's rights.
	Read(id catalog.Identity, table *systemtable.Table) (*systemtable.Stream, error)
}

// Config is what a Runner works with; all fields are needed.
type Config struct {
	Catalog Catalog
	Systems Systems
	Engine  *engine.Engine
	Storage *storageclient.Client
	// Logger is told who read across users. Nil means slog.Default.
	Logger *slog.Logger
}

// Runner runs SELECTs. It is safe for concurrent use.
type Runner struct {
	Config
	planner *plan.Planner
	alloc   memory.Allocator
}

// New makes a runner.
func New(cfg Config) (*Runner, error) {
	planner, err := plan.NewPlanner(cfg.Systems)
	if err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Runner{Config: cfg, planner: planner, alloc: memory.DefaultAllocator}, nil
}

// Select runs a SELECT.
func (r *Runner) Select(ctx context.Context, env plan.Env, sel *sqlfront.Select) (Rows, error) {
	var rows Rows
	err := r.retry(ctx, func(state *catalogview.State) error {
		b, err := r.bind(state, &env, sel)
		if err != nil {
			return err
		}
		if rows, err = r.open(ctx, state, &env, b); err != nil {
			return err
		}
		rows, err = begin(ctx, rows)
		return err
	})
	return rows, err
}

// Describe returns the schema of a SELECT's result without running it.
func (r *Runner) Describe(ctx context.Context, env plan.Env, sel *sqlfront.Select) (*arrow.Schema, error) {
	state := r.Catalog.State()
	b, err := r.bind(state, &env, sel)
	if err != nil {
		return nil, err
	}
	if b.Kind != plan.Engine {
		return fastSchema(b)
	}
	schema, err := r.Engine.Describe(ctx, r.statement(state, &env, b))
	if err != nil {
		return nil, b.ExplainError(err)
	}
	return described(schema, b.Output), nil
}

// Explain draws the plan of a SELECT.
func (r *Runner) Explain(_ context.Context, env plan.Env, sel *sqlfront.Select) ([]string, error) {
	state := r.Catalog.State()
	b, err := r.bind(state, &env, sel)
	if err != nil {
		return nil, err
	}
	return b.Explain(state.Shards.Shards()), nil
}

// ScanTable reads what the caller sees of a table; the request holds what to read, and is addressed here. UPDATE
// and DELETE read with it what they are going to write, so a changed schema is their matter.
func (r *Runner) ScanTable(ctx context.Context, env *plan.Env, t *catalog.Table, what *storagev1.ScanRequest) (Source, error) {
	if err := access.Read(env.Identity, t); err != nil {
		return nil, err
	}
	reqs, err := storageclient.Address(what, r.Catalog.State(), env.Identity, t)
	if err != nil {
		return nil, err
	}
	return r.read(ctx, env, t, reqs)
}

// retry runs f again while it fails because the catalog moved on.
func (r *Runner) retry(ctx context.Context, f func(*catalogview.State) error) error {
	for attempt := 1; ; attempt++ {
		state := r.Catalog.State()
		err := f(state)
		if err == nil || !dberr.Is(err, dberr.SchemaChanged) || attempt == attemptsMax {
			return err
		}
		wait, cancel := context.WithTimeout(ctx, catalogWait)
		// A timeout means that our copy was the newer one; the storage role needs a moment then.
		_ = r.Catalog.WaitVersion(wait, state.Version+1)
		cancel()
		if ctx.Err() != nil {
			return err
		}
	}
}

// bind plans the statement, asks for the caller's rights and fills in the values.
func (r *Runner) bind(state *catalogview.State, env *plan.Env, sel *sqlfront.Select) (*plan.Bound, error) {
	p, err := r.planner.Plan(state, env, sel)
	if err != nil {
		return nil, err
	}
	for _, s := range p.Scans {
		if err := transactional(env, s); err != nil {
			return nil, err
		}
		switch {
		case s.AllUsers:
			err = access.ReadAcrossUsers(env.Identity, s.Table)
		case s.Table != nil:
			err = access.Read(env.Identity, s.Table)
		default:
			err = systemtable.CanRead(env.Identity, s.System)
		}
		if err != nil {
			return nil, err
		}
	}
	b, err := p.Bind(env)
	if err != nil || b.Kind != plan.FastScan || p.Spread == nil {
		return b, err
	}
	reqs, err := requests(&b.Scans[0], nil, state, env)
	if err == nil && len(reqs) != 1 {
		return p.Spread.Bind(env)
	}
	return b, err
}

// open starts a bound plan.
func (r *Runner) open(ctx context.Context, state *catalogview.State, env *plan.Env, b *plan.Bound) (Rows, error) {
	switch b.Kind {
	case plan.FastScan:
		return r.openFast(ctx, state, env, b)
	case plan.FastCount:
		return r.count(ctx, state, env, b)
	}
	rows, err := r.Engine.Query(ctx, r.statement(state, env, b))
	if err != nil {
		return nil, b.ExplainError(err)
	}
	return &explained{Rows: relabeled(rows, described(rows.Schema(), b.Output)), plan: b.Plan}, nil
}

// explained gives errors that come while reading the user's words.
type explained struct {
	Rows
	plan *plan.Plan
}

func (e *explained) Next(ctx context.Context) (arrow.RecordBatch, error) {
	batch, err := e.Rows.Next(ctx)
	if err != nil {
		err = e.plan.ExplainError(err)
	}
	return batch, err
}

// requests are the scans of one table.
func requests(s *plan.BoundScan, columns []uint32, state *catalogview.State, env *plan.Env) ([]*storagev1.ScanRequest, error) {
	what := &storagev1.ScanRequest{ColumnIds: columns, Filter: s.Filter, Order: s.Order, Limit: s.Limit, Offset: s.Offset,
		IncludeDeleted: s.IncludeDeleted, NowUs: env.NowUS, Consistency: env.Consistency, MaxStalenessMs: env.MaxStalenessMS,
		AllUsers: s.AllUsers}
	return storageclient.Address(what, state, env.Identity, s.Table)
}

// Source is batches being read from storage.
type Source interface {
	// Next returns the next batch, which the caller releases, or io.EOF.
	Next(ctx context.Context) (arrow.RecordBatch, error)
	// Release ends the reading; it must be called.
	Release()
}

// read runs the scans of a table: one as it is, several at the same time, in no particular order.
func (r *Runner) read(ctx context.Context, env *plan.Env, t *catalog.Table, reqs []*storagev1.ScanRequest) (Source, error) {
	switch {
	case len(reqs) == 0:
		return &fixed{}, nil
	case len(reqs) == 1:
		return r.scan(ctx, env, t, reqs[0])
	case env.Transaction != nil:
		return nil, dberr.New(dberr.InvalidOperation, "a transaction reads one partition of %s: say which one in the condition, by %s = …",
			t.QualifiedName(), t.PartitionColumn().Name)
	}
	return r.scatter(ctx, reqs), nil
}

// scan runs one scan.
func (r *Runner) scan(ctx context.Context, env *plan.Env, t *catalog.Table, req *storagev1.ScanRequest) (Rows, error) {
	if env.Transaction != nil {
		return r.scanWithin(ctx, env, t, req)
	}
	return r.Storage.Scan(ctx, req)
}
