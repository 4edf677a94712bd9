package statement

import (
	"context"
	"errors"
	"io"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/flight"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/exec"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
	"github.com/kalamdb/kalamdb-go/services/query/internal/systemtable"
)

// Sender receives a Flight stream.
type Sender = exec.Sender

// ticket parses and checks a ticket: one statement.
func (e *Executor) ticket(ctx context.Context, t *queryv1.StatementTicket) (*call, sqlfront.Statement, error) {
	c, err := e.begin(catalog.IdentityFromProto(t.GetIdentity()), t.GetNamespace(), t.GetSql(), t.GetParams())
	if err != nil {
		return nil, nil, err
	}
	c.consistency, c.maxStalenessMS = t.GetConsistency(), t.GetMaxStalenessMs()
	if n := len(c.parsed.statements); n != 1 {
		return nil, nil, dberr.New(dberr.InvalidArgument, "one statement can be streamed, and the text holds %d", n)
	}
	if err := e.checkAll(ctx, *c); err != nil {
		return nil, nil, err
	}
	s := c.parsed.statements[0]
	if as, ok := s.(*sqlfront.ExecuteAs); ok {
		inner, err := e.as(ctx, *c, as)
		return &inner, as.Inner, err
	}
	return c, s, nil
}

// Stream runs a ticket's statement and sends every row. It holds a place among the running statements
// until the client has read them all; a stalled client is cut off by the statement timeout, as the
// engine's memory and the snapshot it reads are held as long. An export has no such timeout: the gateway, which alone sends its ticket,
// cuts off clients that stall.
func (e *Executor) Stream(ctx context.Context, t *queryv1.StatementTicket, to Sender) error {
	leave, err := e.Gate.Enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	began := e.Now()
	if !t.GetUnhurried() {
		var cancel context.CancelFunc
		ctx, cancel = e.withTimeout(ctx)
		defer cancel()
	}
	err = timeoutError(ctx, e.sendCurrent(ctx, t, to))
	if e.Observe != nil {
		e.Observe("STREAM", e.Now().Sub(began), err)
	}
	return err
}

// sendCurrent is send, once more when it found something missing that another node has made by now. A stream that has
// begun is not begun again.
func (e *Executor) sendCurrent(ctx context.Context, t *queryv1.StatementTicket, to Sender) error {
	begun := &begunSender{Sender: to}
	var late error // of a stream that had begun
	err := e.Catalog.CatchUp(ctx, func() error {
		err := e.send(ctx, t, begun)
		if begun.yes {
			late, err = err, nil
		}
		return err
	})
	if late != nil {
		return late
	}
	return err
}

// begunSender notes whether anything was sent.
type begunSender struct {
	Sender
	yes bool
}

// Send is the sender's.
func (b *begunSender) Send(data *flight.FlightData) error {
	b.yes = true
	return b.Sender.Send(data)
}

func (e *Executor) send(ctx context.Context, t *queryv1.StatementTicket, to Sender) error {
	c, s, err := e.ticket(ctx, t)
	if err != nil {
		return err
	}
	if query, ok := s.(*sqlfront.Select); ok {
		return e.Runner.SelectFlight(ctx, c.env(e.Now()), query, to)
	}
	rows, err := e.listing(ctx, c, s)
	if err != nil {
		return err
	}
	defer rows.Release()
	w := rowbatch.NewFlightWriter(to, memory.DefaultAllocator)
	if err := w.Start(rowbatch.SchemaHeader(rows.Schema(), memory.DefaultAllocator), nil); err != nil {
		return err
	}
	for {
		batch, err := rows.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		err = w.Write(batch)
		batch.Release()
		if err != nil {
			return err
		}
	}
}

// errNoRows is the cause when a statement without a stream of rows is to be streamed.
var errNoRows = errors.New("the statement returns no stream of rows")

// listing starts a statement about definitions that returns rows.
func (e *Executor) listing(ctx context.Context, c *call, s sqlfront.Statement) (*systemtable.Stream, error) {
	switch s := s.(type) {
	case *sqlfront.ShowNamespaces:
		return e.Listings.Namespaces(c.id)
	case *sqlfront.ShowTables:
		return e.Listings.ShowTables(c.id, s.In)
	case *sqlfront.ShowUsers:
		return e.Listings.Users(c.id)
	case *sqlfront.ShowStorages:
		return e.Storages.Show(c.id)
	case *sqlfront.CheckStorage:
		return e.Storages.Check(c.id, s)
	case *sqlfront.ShowJobs:
		return e.Listings.Jobs(c.id)
	case *sqlfront.ShowBackup:
		return e.Listings.Backup(ctx, c.id, s.Path)
	case *sqlfront.ShowBackups:
		return e.Listings.Backups(ctx, c.id, s.Namespace)
	case *sqlfront.ShowManifest:
		return e.Listings.Manifest(c.id)
	case *sqlfront.Export:
		return e.Listings.Export(c.id, e.Now())
	case *sqlfront.ShowReceipt:
		return e.Listings.Receipt(ctx, c.id, s.ID)
	case *sqlfront.Describe:
		return e.Listings.Describe(ctx, c.id, qualify(*c, s.Table), s.Table.Name, s.History)
	case *sqlfront.ShowStats:
		return e.Listings.Stats(ctx, c.id, qualify(*c, s.Table), s.Table.Name)
	case *sqlfront.Cluster:
		return e.Cluster.Run(c.id, s)
	case *sqlfront.Explain:
		return e.explain(ctx, c, s)
	}
	return nil, dberr.New(dberr.InvalidOperation, "%s: %w", s.Command(), errNoRows)
}

// Describe returns the schema of a statement's result; one that returns no stream of rows has no
// fields.
func (e *Executor) Describe(ctx context.Context, t *queryv1.StatementTicket) (*arrow.Schema, error) {
	ctx, cancel := e.withTimeout(ctx)
	defer cancel()
	var schema *arrow.Schema
	err := e.Catalog.CatchUp(ctx, func() (err error) {
		schema, err = e.schema(ctx, t)
		return err
	})
	return schema, timeoutError(ctx, err)
}

func (e *Executor) schema(ctx context.Context, t *queryv1.StatementTicket) (*arrow.Schema, error) {
	c, s, err := e.ticket(ctx, t)
	if err != nil {
		return nil, err
	}
	if query, ok := s.(*sqlfront.Select); ok {
		return e.Runner.Describe(ctx, c.env(e.Now()), query)
	}
	rows, err := e.listing(ctx, c, s)
	if errors.Is(err, errNoRows) {
		return arrow.NewSchema(nil, nil), nil
	}
	if err != nil {
		return nil, err
	}
	defer rows.Release()
	return rows.Schema(), nil
}
