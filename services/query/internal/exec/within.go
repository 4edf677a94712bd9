package exec

import (
	"context"
	"errors"
	"io"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/partition"
	"github.com/kalamdb/kalamdb-go/internal/predicate"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/plan"
	"github.com/kalamdb/kalamdb-go/services/query/internal/storedrow"
	"github.com/kalamdb/kalamdb-go/services/query/internal/transaction"
)

// transactional refuses what a transaction cannot read.
func transactional(env *plan.Env, s *plan.Scan) error {
	switch {
	case env.Transaction == nil:
		return nil
	case s.AllUsers:
		return dberr.New(dberr.InvalidOperation, "a transaction covers the rows of one user: it cannot read %s of all users", s.Table.QualifiedName())
	case s.Table == nil:
		return dberr.New(dberr.InvalidOperation, "%s.%s is a system table: it cannot be part of a transaction", s.System.Namespace, s.System.Name)
	}
	return nil
}

// scanWithin runs a scan for a transaction: it notes what was read, and shows what the transaction wrote.
func (r *Runner) scanWithin(ctx context.Context, env *plan.Env, t *catalog.Table, req *storagev1.ScanRequest) (Rows, error) {
	tx := env.Transaction
	if err := tx.Enter(env.Identity, t, partition.Place{Shard: req.GetShard(), Owner: req.GetUserId()}); err != nil {
		return nil, err
	}
	staged, err := tx.Table(t)
	if err != nil {
		return nil, err
	}
	under, _ := proto.Clone(req).(*storagev1.ScanRequest)
	under.Consistency, under.MaxStalenessMs = storagev1.Consistency_CONSISTENCY_LINEARIZABLE, 0
	var key []int
	if staged != nil {
		under.Order, under.Limit, under.Offset = nil, 0, 0
		under.ColumnIds, key = withKey(under.GetColumnIds(), t)
	}
	rows, err := r.Storage.Scan(ctx, under)
	if err != nil {
		return nil, err
	}
	tx.Read(t, rows.Position())
	if staged == nil {
		return rows, nil
	}
	return r.newOverlay(rows, t, staged, req, key)
}

// withKey adds the columns of the key that are missing, and says where each of the key's is.
func withKey(columns []uint32, t *catalog.Table) (all []uint32, key []int) {
	all = slices.Clip(columns)
	for i := range t.Key() {
		id := t.KeyColumn(i).ID
		at := slices.Index(all, id)
		if at < 0 {
			at = len(all)
			all = append(all, id)
		}
		key = append(key, at)
	}
	return all, key
}

// overlay is a scan with a transaction's rows over it: what the scan has of them is left out, and they come
// at the end, as far as they match.
type overlay struct {
	under  Rows  // the columns asked for, then those of the key that were not
	key    []int // where the key's columns are
	table  *catalog.Table
	staged *transaction.Table
	schema *arrow.Schema
	ready  []arrow.RecordBatch // parts of the scan's last batch
	over   arrow.RecordBatch   // the transaction's rows, until they were handed over
}

func (r *Runner) newOverlay(under Rows, t *catalog.Table, staged *transaction.Table, req *storagev1.ScanRequest, key []int) (*overlay, error) {
	o := &overlay{under: under, key: key, table: t, staged: staged}
	fields := under.Schema().Fields()
	if len(fields) < len(req.GetColumnIds()) || len(fields) <= slices.Max(key) {
		under.Release()
		return nil, dberr.New(dberr.Internal, "scan of %s returned %d columns", t.QualifiedName(), len(fields))
	}
	o.schema = arrow.NewSchema(fields[:len(req.GetColumnIds())], nil)
	var err error
	if o.over, err = r.stagedRows(t, staged, req); err != nil {
		under.Release()
		return nil, err
	}
	return o, nil
}

// stagedRows are the transaction's rows that a scan asks for.
func (r *Runner) stagedRows(t *catalog.Table, staged *transaction.Table, req *storagev1.ScanRequest) (arrow.RecordBatch, error) {
	filter, err := predicate.CompileFilter(req.GetFilter(), t)
	if err != nil {
		return nil, err
	}
	columns := make([]catalog.Column, len(req.GetColumnIds()))
	for i, id := range req.GetColumnIds() {
		c, ok := t.AnyColumn(id)
		if !ok {
			return nil, dberr.New(dberr.Internal, "%s has no column %d", t.QualifiedName(), id)
		}
		columns[i] = *c
	}
	schema, err := rowbatch.SchemaOf(columns)
	if err != nil {
		return nil, err
	}
	b := rowbatch.NewBuilder(r.alloc, schema, columns)
	defer b.Release()
	env := &predicate.Env{NowUS: req.GetNowUs(), UserID: req.GetIdentity().GetUserId(), Role: catalog.IdentityFromProto(req.GetIdentity()).Role}
	for row := range staged.Rows() {
		if row.Deleted && !req.GetIncludeDeleted() {
			continue
		}
		if err := appendMatching(b, filter, env, columns, row); err != nil {
			return nil, err
		}
	}
	return b.NewBatch(), nil
}

func appendMatching(b *rowbatch.Builder, filter *predicate.Program, env *predicate.Env, columns []catalog.Column, row *storedrow.Row) error {
	matches, err := filter.Matches(env, row)
	if err != nil || !matches {
		return err
	}
	for i := range columns {
		if err := b.Append(i, row.Column(columns[i].ID)); err != nil {
			return err
		}
	}
	b.EndRow()
	return nil
}

func (o *overlay) Schema() *arrow.Schema { return o.schema }

func (o *overlay) Next(ctx context.Context) (arrow.RecordBatch, error) {
	for {
		if len(o.ready) > 0 {
			batch := o.ready[0]
			o.ready = o.ready[1:]
			return batch, nil
		}
		batch, err := o.under.Next(ctx)
		if errors.Is(err, io.EOF) && o.over != nil {
			over := o.over
			o.over = nil
			return over, nil
		}
		if err != nil {
			return nil, err
		}
		o.ready = o.visible(batch)
		batch.Release()
	}
}

// visible cuts a batch into the runs of rows that the transaction did not write.
func (o *overlay) visible(batch arrow.RecordBatch) []arrow.RecordBatch {
	shown := array.NewRecordBatch(o.schema, batch.Columns()[:o.schema.NumFields()], batch.NumRows())
	defer shown.Release()
	var runs []arrow.RecordBatch
	from := int64(0)
	cut := func(to int64) {
		if to > from {
			runs = append(runs, shown.NewSlice(from, to))
		}
		from = to + 1
	}
	for i := range batch.NumRows() {
		if o.staged.Has(func(k int) datum.Datum {
			return rowbatch.DatumAt(batch.Column(o.key[k]), int(i), o.table.KeyColumn(k).Type)
		}) {
			cut(i)
		}
	}
	cut(batch.NumRows())
	return runs
}

func (o *overlay) Release() {
	for _, batch := range o.ready {
		batch.Release()
	}
	o.ready = nil
	if o.over != nil {
		o.over.Release()
		o.over = nil
	}
	o.under.Release()
}
