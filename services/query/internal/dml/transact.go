package dml

import (
	"context"
	"errors"
	"io"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/predicate"
	"github.com/kalamdb/kalamdb-go/internal/requestid"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/plan"
	"github.com/kalamdb/kalamdb-go/services/query/internal/transaction"
)

// stage keeps a statement's rows for the transaction's end. Every statement is one write of the request, also one
// without rows: so a repeated request has the writes of the one before it.
func (w *Writer) stage(env *plan.Env, b *batch, verb string, ret *returning) (*Result, error) {
	p, err := b.only()
	if err != nil {
		return nil, err
	}
	result := &Result{Verb: verb, Durability: durabilityOf(b.table)}
	write := &storagev1.TableWrite{TableId: b.table.ID, SchemaVersion: b.table.SchemaVersion, Operation: b.operation}
	if p != nil {
		if err := env.Transaction.Enter(b.id, b.table, p.place); err != nil {
			return nil, err
		}
		write = p.write
	}
	n, seqs, err := env.Transaction.Stage(b.table, b.version, write)
	if err != nil {
		return nil, err
	}
	result.Rows = uint64(len(seqs))
	result.Committed = func(resp *storagev1.WriteResponse) (*Result, error) {
		if n >= len(resp.GetResults()) {
			return nil, dberr.New(dberr.Internal, "the storage role answered a transaction with %d results", len(resp.GetResults()))
		}
		s := &sending{done: map[uint32]*storagev1.WriteResponse{0: {Results: resp.GetResults()[n : n+1], Durability: resp.GetDurability(),
			Position: resp.GetPosition()}}}
		return s.result(env, b, verb, ret)
	}
	if ret == nil {
		return result, nil
	}
	staged := &storagev1.TableWriteResult{Rows: write.GetRows(), Seqs: seqs}
	result.Returning, err = ret.build(env, []*storagev1.TableWriteResult{staged}, b.operation == storagev1.Operation_OPERATION_DELETE)
	return result, err
}

// only is the part of a batch that a transaction writes; nil when the statement found no row and does not say in
// which partition it looked.
func (b *batch) only() (*part, error) {
	if len(b.parts) == 0 && len(b.scope) == 1 {
		return b.partition(b.scope[0]), nil
	}
	switch len(b.parts) {
	case 0:
		return nil, nil
	case 1:
		return b.parts[0], nil
	}
	return nil, dberr.New(dberr.InvalidOperation, "a transaction writes one partition of %s, and the statement's rows belong to %d",
		b.table.QualifiedName(), len(b.parts))
}

// complete fills in the columns an INSERT leaves out, as the storage role does for other statements.
func (w *Writer) complete(env *plan.Env, b *batch, row *rowcodec.Row) error {
	for i := range b.table.Columns {
		if row.Set[i] {
			continue
		}
		c := &b.table.Columns[i]
		if c.Hidden && c.Default.Kind == catalog.NoDefault {
			row.Put(i, datum.Int(w.NextID()))
			continue
		}
		v, err := w.generated(env, c)
		if err == nil {
			err = b.put(i, v, b.rows+1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// skipExisting is ON CONFLICT DO NOTHING of a transaction: the statements after it must know which rows were inserted, so
// it reads which keys are taken. That nobody takes another one until COMMIT is checked there, as for every reading.
func (w *Writer) skipExisting(ctx context.Context, env *plan.Env, b *batch) error {
	for i := range b.table.Columns {
		if c := &b.table.Columns[i]; c.Unique && !(c.PrimaryKey && len(b.table.Key()) == 1) {
			return dberr.New(dberr.Unsupported, "ON CONFLICT DO NOTHING in a transaction: %s has the UNIQUE column '%s' besides its "+
				"primary key, which is supported in statements of their own only", b.table.QualifiedName(), c.Name)
		}
	}
	p, err := b.only()
	if err != nil || p == nil {
		return err
	}
	taken, err := w.takenKeys(ctx, env, b, p.write.GetRows())
	if err != nil {
		return err
	}
	kept := p.write.GetRows()[:0]
	row := rowcodec.NewRow(b.table)
	for _, encoded := range p.write.GetRows() {
		if err := rowcodec.Decode(encoded, b.table, &row); err != nil {
			return err
		}
		if key := keyOf(b.table, func(i int) datum.Datum { return row.Values[b.table.Key()[i]] }); !taken[key] {
			taken[key] = true // the statement may name a key twice
			kept = append(kept, encoded)
		}
	}
	p.write.Rows, p.write.OnConflict = kept, storagev1.OnConflict_ON_CONFLICT_UNSPECIFIED
	return nil
}

// keyListMax is up to how many rows those that may be taken are looked up by key; for more the table is read.
const keyListMax = 1000

// takenKeys are the keys of rows there are, among them all that belong to one of these rows.
func (w *Writer) takenKeys(ctx context.Context, env *plan.Env, b *batch, rows [][]byte) (map[string]bool, error) {
	t := b.table
	first := t.KeyColumn(0)
	req := &storagev1.ScanRequest{NowUs: env.NowUS}
	for i := range t.Key() {
		req.ColumnIds = append(req.ColumnIds, t.KeyColumn(i).ID)
	}
	if len(rows) <= keyListMax {
		in := predicate.Call("in", predicate.Column(first.ID))
		row := rowcodec.NewRow(t)
		for _, encoded := range rows {
			if err := rowcodec.Decode(encoded, t, &row); err != nil {
				return nil, err
			}
			in.GetCall().Args = append(in.GetCall().Args, predicate.Literal(row.Values[t.Key()[0]]))
		}
		req.Filter = in
	}
	scan, err := w.Runner.ScanTable(ctx, env, t, req)
	if err != nil {
		return nil, err
	}
	defer scan.Release()
	taken := map[string]bool{}
	for {
		rec, err := scan.Next(ctx)
		if errors.Is(err, io.EOF) {
			return taken, nil
		}
		if err != nil {
			return nil, err
		}
		for i := range int(rec.NumRows()) {
			taken[keyOf(t, func(k int) datum.Datum { return rowbatch.DatumAt(rec.Column(k), i, t.KeyColumn(k).Type) })] = true
		}
		rec.Release()
	}
}

func keyOf(t *catalog.Table, value func(i int) datum.Datum) string {
	var key []byte
	for i := range t.Key() {
		key = datum.Append(key, value(i))
	}
	return string(key)
}

// Commit writes what the transaction staged, once; nil when it touched nothing. A Conflict says that what it read
// has changed: it may be run again from its first statement. remembered says that an earlier attempt of the request had
// committed it, so what this attempt read is not what that one had read.
func (w *Writer) Commit(ctx context.Context, tx *transaction.Transaction, returnRows bool) (resp *storagev1.WriteResponse, remembered bool, err error) {
	repeated := requestid.Repeated(ctx)
	req := tx.Request(requestid.From(ctx), repeated, returnRows)
	if req == nil {
		return &storagev1.WriteResponse{}, false, nil
	}
	return w.commit(ctx, req)
}

// Confirm checks that what a transaction read was so at one moment; it writes nothing.
func (w *Writer) Confirm(ctx context.Context, tx *transaction.Transaction) error {
	req := tx.Confirmation()
	if req == nil {
		return nil
	}
	_, _, err := w.commit(ctx, req)
	return err
}

func (w *Writer) commit(ctx context.Context, req *storagev1.CommitRequest) (*storagev1.WriteResponse, bool, error) {
	resp, err := w.Storage.Commit(ctx, req)
	if err != nil {
		return nil, false, err
	}
	return resp.GetWrite(), resp.GetRemembered() && requestid.Repeated(ctx), nil
}
