package engine

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	duckdb "github.com/duckdb/duckdb-go-bindings"

	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

const (
	// preparedMax bounds the prepared statements a connection keeps.
	preparedMax = 32
	// interruptEvery is how often an ended statement is told to stop until it does: DuckDB forgets an
	// interrupt that arrives between two steps of a statement.
	interruptEvery = 2 * time.Millisecond
)

// conn is one connection. It runs one statement at a time.
type conn struct {
	in *instance
	h  duckdb.Connection
	id uint64
	// run is the running statement; set while no callback can run, read by callbacks.
	run      *run
	prepared []*prepared // most recently used last
}

// run is one execution.
type run struct {
	ctx    context.Context
	tables []Table
	growth atomic.Int64 // bytes of text that sites hold
	// planning: the statement is being prepared, not executed yet.
	planning atomic.Bool

	mu  sync.Mutex
	err error // the first error of a table's reader
}

// fail remembers why a callback failed and returns the text DuckDB is told.
func (r *run) fail(err error) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
	}
	return "reading a table failed"
}

func (r *run) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// start prepares and executes a statement; on failure everything but the connection is released.
func (c *conn) start(ctx context.Context, cancel context.CancelFunc, s Statement) (*Rows, error) {
	c.run = &run{ctx: ctx, tables: s.Tables}
	rows := &Rows{conn: c, run: c.run, cancel: cancel, interrupted: c.watch(ctx)}
	err := c.execute(s, rows)
	if err != nil {
		err = rows.explain(err)
		rows.free()
		return nil, err
	}
	return rows, nil
}

func (c *conn) execute(s Statement, rows *Rows) error {
	p, err := c.prepare(s)
	if err != nil {
		return err
	}
	rows.stmt = p
	if err := p.bind(s.Params); err != nil {
		return err
	}
	rows.schema = p.schema
	if duckdb.ExecutePreparedStreaming(p.stmt, &rows.result) == duckdb.StateError {
		return classify(duckdb.ResultError(&rows.result))
	}
	if p.unresolved {
		if rows.schema, err = resolve(&rows.result); err != nil {
			return err
		}
	}
	rows.options = duckdb.ResultGetArrowOptions(&rows.result)
	return nil
}

// watch interrupts the statement once ctx ends. The returned function stops watching; after it no
// interrupt can reach a later statement.
func (c *conn) watch(ctx context.Context) (stop func()) {
	over := make(chan struct{})
	left := make(chan struct{})
	disarm := context.AfterFunc(ctx, func() {
		defer close(left)
		tick := time.NewTicker(interruptEvery)
		defer tick.Stop()
		for {
			select {
			case <-over:
				return
			default:
			}
			duckdb.Interrupt(c.h)
			select {
			case <-tick.C:
			case <-over:
				return
			}
		}
	})
	return func() {
		close(over)
		if !disarm() {
			<-left
		}
	}
}

// prepare finds the statement among those prepared, or prepares it.
func (c *conn) prepare(s Statement) (*prepared, error) {
	key := cacheKey(s)
	for i, p := range c.prepared {
		if key != "" && p.key == key {
			c.prepared = append(append(c.prepared[:i:i], c.prepared[i+1:]...), p)
			return p, nil
		}
	}
	c.run.planning.Store(true)
	p, err := prepare(c.h, s.SQL)
	c.run.planning.Store(false)
	if err != nil {
		return nil, err
	}
	if c.run.growth.Load() > keptGrowthMax {
		key = "" // its constants would stay in memory
	}
	p.key = key
	if key == "" {
		return p, nil
	}
	if len(c.prepared) == preparedMax {
		c.prepared[0].destroy()
		c.prepared = c.prepared[1:]
	}
	c.prepared = append(c.prepared, p)
	return p, nil
}

// forget frees a prepared statement. One that did not run to its end cannot be kept: DuckDB's plan
// holds the hash tables and sorted rows it made until it runs again.
func (c *conn) forget(p *prepared) {
	c.prepared = slices.DeleteFunc(c.prepared, func(kept *prepared) bool { return kept == p })
	p.destroy()
}

// cacheKey names the statement and the columns of its tables; empty when it must not be kept.
func cacheKey(s Statement) string {
	var b strings.Builder
	b.WriteString(s.SQL)
	for i := range s.Tables {
		if s.Tables[i].Signature == "" {
			return ""
		}
		b.WriteByte(0)
		b.WriteString(s.Tables[i].Signature)
	}
	for _, p := range s.Params {
		b.WriteByte(0)
		b.WriteByte(byte(p.Kind()))
	}
	return b.String()
}

// abandon drops what is left of a statement that did not run to its end: DuckDB keeps its tasks, and
// with them the open tables, until the connection is asked for something else.
func (c *conn) abandon() {
	var p duckdb.PreparedStatement
	duckdb.Prepare(c.h, "SELECT 1", &p)
	duckdb.DestroyPrepare(&p)
}

func (c *conn) close() {
	for _, p := range c.prepared {
		p.destroy()
	}
	duckdb.Disconnect(&c.h)
}

// ended says why a statement's context ended.
func ended(ctx context.Context, doing string, args ...any) error {
	code := dberr.Canceled
	if context.Cause(ctx) == context.DeadlineExceeded { //nolint:errorlint // Cause returns the sentinel itself
		code = dberr.Timeout
	}
	return dberr.New(code, doing+": %w", append(args, ctx.Err())...)
}

func bindValue(stmt duckdb.PreparedStatement, i duckdb.IdxT, d datum.Datum) duckdb.State {
	switch d.Kind() {
	case datum.KindNull:
		return duckdb.BindNull(stmt, i)
	case datum.KindBool:
		return duckdb.BindBoolean(stmt, i, d.AsBool())
	case datum.KindInt:
		return duckdb.BindInt64(stmt, i, d.AsInt())
	case datum.KindFloat:
		return duckdb.BindDouble(stmt, i, d.AsFloat())
	case datum.KindText:
		return duckdb.BindVarchar(stmt, i, d.AsText())
	case datum.KindBytes:
		return duckdb.BindBlob(stmt, i, []byte(d.AsText()))
	}
	return duckdb.StateError
}
