package exec

import (
	"context"
	"errors"
	"io"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/flight"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	"github.com/kalamdb/kalamdb-go/services/query/internal/plan"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
)

// fastSchema is the schema of a fast plan's result.
func fastSchema(b *plan.Bound) (*arrow.Schema, error) {
	columns := make([]catalog.Column, len(b.Output))
	for i, o := range b.Output {
		if o.Column == nil { // count(*)
			columns[i] = catalog.Column{Type: catalog.Type{Kind: catalog.BigInt}, NotNull: true}
		} else {
			columns[i] = *o.Column
		}
		columns[i].Name = o.Name
	}
	return rowbatch.SchemaOf(columns)
}

func columnIDs(columns []catalog.Column) []uint32 {
	ids := make([]uint32, len(columns))
	for i := range columns {
		ids[i] = columns[i].ID
	}
	return ids
}

// openFast opens the one scan that is the whole result.
func (r *Runner) openFast(ctx context.Context, state *catalogview.State, env *plan.Env, b *plan.Bound) (Rows, error) {
	schema, err := fastSchema(b)
	if err != nil {
		return nil, err
	}
	s := &b.Scans[0]
	if s.Empty {
		return &fixed{schema: schema}, nil
	}
	reqs, err := requests(s, columnIDs(s.Columns), state, env)
	if err != nil {
		return nil, err
	}
	if len(reqs) != 1 {
		return nil, dberr.New(dberr.Internal, "a fast plan of %s takes %d scans", s.Table.QualifiedName(), len(reqs))
	}
	rows, err := r.scan(ctx, env, s.Table, reqs[0])
	if err != nil {
		return nil, err
	}
	if !sameTypes(rows.Schema(), schema) {
		rows.Release()
		return nil, dberr.New(dberr.Internal, "scan of %s returned other columns than asked for", s.Table.QualifiedName())
	}
	return relabeled(rows, schema), nil
}

// count adds up the rows of a scan without columns.
func (r *Runner) count(ctx context.Context, state *catalogview.State, env *plan.Env, b *plan.Bound) (Rows, error) {
	schema, err := fastSchema(b)
	if err != nil {
		return nil, err
	}
	reqs, err := requests(&b.Scans[0], nil, state, env)
	if err != nil {
		return nil, err
	}
	rows, err := r.read(ctx, env, b.Scans[0].Table, reqs)
	if err != nil {
		return nil, err
	}
	defer rows.Release()
	var n int64
	for {
		batch, err := rows.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		n += batch.NumRows()
		batch.Release()
	}
	builder := array.NewRecordBuilder(r.alloc, schema)
	defer builder.Release()
	cell, ok := builder.Field(0).(*array.Int64Builder)
	if !ok {
		return nil, dberr.New(dberr.Internal, "count: not a BIGINT")
	}
	cell.Append(n)
	return &fixed{schema: schema, batch: builder.NewRecordBatch()}, nil
}

// Sender receives a Flight stream.
type Sender interface {
	Send(*flight.FlightData) error
}

// SelectFlight runs a SELECT and sends its result as a Flight stream. What the storage role answers
// alone is passed on message by message, without decoding it.
func (r *Runner) SelectFlight(ctx context.Context, env plan.Env, sel *sqlfront.Select, to Sender) error {
	sent, err := r.passThrough(ctx, env, sel, to)
	if sent || err != nil {
		return err
	}
	rows, err := r.Select(ctx, env, sel)
	if err != nil {
		return err
	}
	defer rows.Release()
	w := rowbatch.NewFlightWriter(to, r.alloc)
	if err := w.Start(rowbatch.SchemaHeader(rows.Schema(), r.alloc), nil); err != nil {
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

// passThrough sends a fast scan's messages with the schema message replaced: names may be aliases. sent
// is false when the statement is not such a scan.
func (r *Runner) passThrough(ctx context.Context, env plan.Env, sel *sqlfront.Select, to Sender) (sent bool, err error) {
	err = r.retry(ctx, func(state *catalogview.State) error {
		b, err := r.bind(state, &env, sel)
		if err != nil || b.Kind != plan.FastScan || b.Scans[0].Empty {
			return err
		}
		schema, err := fastSchema(b)
		if err != nil {
			return err
		}
		s := &b.Scans[0]
		reqs, err := requests(s, columnIDs(s.Columns), state, &env)
		if err != nil || len(reqs) != 1 {
			return err
		}
		raw, err := r.Storage.ScanRaw(ctx, reqs[0])
		if err != nil {
			return err
		}
		defer raw.Release()
		sent = true
		first, err := raw.Recv()
		if err != nil {
			return err
		}
		first = &flight.FlightData{DataHeader: rowbatch.SchemaHeader(schema, r.alloc), AppMetadata: first.GetAppMetadata()}
		for err == nil {
			if err = to.Send(first); err != nil {
				return err
			}
			first, err = raw.Recv()
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if dberr.Is(err, dberr.SchemaChanged) { // rows are out: trying again would repeat them
			return dberr.New(dberr.Unavailable, "the table changed while it was read: %w", err)
		}
		return err
	})
	return sent, err
}
