// Package engine is DuckDB behind a Go interface: it runs one SELECT over tables that are handed to it
// as streams of Arrow batches, and returns a stream of Arrow batches. DuckDB is locked down (see
// lockdown.go), holds no data, and sees no table that the caller did not hand over.
//
// Tables come in through one table function, kalam_scan(i), written on DuckDB's C API (bridge.c,
// scan.go): it learns from DuckDB which columns a statement needs, opens the reader for just those,
// and lets DuckDB's vectors refer to the batches' memory. Nothing is copied cell by cell.
//
// The Go bindings hide their Arrow functions behind a build tag; bridge.c declares the few it needs
// itself, so this package builds without tags.
package engine

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Defaults of Config. They suit a machine of two cores that runs every role.
const (
	defaultMemory      = 512 << 20
	defaultThreads     = 2
	defaultConnections = 16
	defaultTimeout     = 30 * time.Second
)

// memoryMin is the least memory DuckDB can answer trivial statements in.
const memoryMin = 16 << 20

// Config of an Engine. The zero value works.
type Config struct {
	// MemoryBytes bounds what DuckDB keeps in memory for all statements together; a statement that
	// would exceed it fails as LimitExceeded. Zero means 512 MiB.
	MemoryBytes int64
	// Threads is the number of threads that work on statements. Zero means 2.
	Threads int
	// Connections is the number of statements that run at the same time; others wait for their turn
	// until their context ends. Zero means 16.
	Connections int
	// StatementTimeout ends a statement that runs longer. Zero means 30 s; a statement's own context
	// may end it sooner.
	StatementTimeout time.Duration
	// SnowflakeID makes the values of SNOWFLAKE_ID(); without it the function is refused.
	SnowflakeID func() int64
	// Now is the clock of UUID_V7() and ULID(); nil means time.Now.
	Now func() time.Time
	// Logger reports when DuckDB had to be replaced; nil means slog.Default.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.MemoryBytes == 0 {
		c.MemoryBytes = defaultMemory
	}
	c.MemoryBytes = max(c.MemoryBytes, memoryMin)
	if c.Threads <= 0 {
		c.Threads = defaultThreads
	}
	if c.Connections <= 0 {
		c.Connections = defaultConnections
	}
	if c.StatementTimeout <= 0 {
		c.StatementTimeout = defaultTimeout
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// Statement is one SELECT in DuckDB's dialect.
type Statement struct {
	// SQL may hold $1, $2, … and reads Tables[i] as kalam_scan(i).
	SQL    string
	Params []datum.Datum
	Tables []Table
}

// Engine runs statements. It is safe for concurrent use.
type Engine struct {
	cfg Config

	mu      sync.Mutex // guards current
	current *instance  // nil once closed
}

// New opens the engine.
func New(cfg Config) (*Engine, error) {
	cfg = cfg.withDefaults()
	in, err := openInstance(cfg)
	if err != nil {
		return nil, err
	}
	return &Engine{cfg: cfg, current: in}, nil
}

// Close waits for running statements, whose contexts the caller has ended or bounded, and frees
// everything.
func (e *Engine) Close(ctx context.Context) error {
	e.mu.Lock()
	in := e.current
	e.current = nil
	e.mu.Unlock()
	if in == nil {
		return nil
	}
	in.retire()
	select {
	case <-in.closed:
		return nil
	case <-ctx.Done():
		return dberr.New(dberr.Timeout, "stop the engine: statements are still running: %w", ctx.Err())
	}
}

// Query starts a statement. The rows must be released.
func (e *Engine) Query(ctx context.Context, s Statement) (*Rows, error) {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.StatementTimeout)
	c, err := e.connection(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	rows, err := c.start(ctx, cancel, s)
	if err != nil {
		cancel()
		e.finished(c, err)
		return nil, err
	}
	rows.engine = e
	return rows, nil
}

// connection waits for a connection of the DuckDB in use.
func (e *Engine) connection(ctx context.Context) (*conn, error) {
	for {
		e.mu.Lock()
		in := e.current
		e.mu.Unlock()
		if in == nil {
			return nil, dberr.New(dberr.Unavailable, "the engine is closed")
		}
		c, err := in.acquire(ctx)
		if !errors.Is(err, errRetired) {
			return c, err
		}
	}
}

// finished gives a connection back. After a fault inside DuckDB, which makes it refuse all further
// statements, the next one finds a new DuckDB.
func (e *Engine) finished(c *conn, err error) {
	in := c.in
	if isFatal(err) {
		e.replace(in, err)
	}
	in.release(c)
}

func (e *Engine) replace(broken *instance, cause error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.current != broken {
		return
	}
	e.cfg.Logger.Error("the SQL engine failed and is replaced", "error", cause)
	next, err := openInstance(e.cfg)
	if err != nil {
		// Keep the broken one: its statements fail, and the next failure tries again.
		e.cfg.Logger.Error("open a new SQL engine", "error", err)
		return
	}
	e.current = next
	broken.retire()
}
