package dml

import (
	"context"
	"errors"
	"io"
	"math"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/partition"
	"github.com/kalamdb/kalamdb-go/internal/predicate"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	exprv1 "github.com/kalamdb/kalamdb-go/proto/expr/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/plan"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
	"github.com/kalamdb/kalamdb-go/services/query/internal/storedrow"
)

// Update executes UPDATE.
func (w *Writer) Update(ctx context.Context, env plan.Env, s *sqlfront.Update) (*Result, error) {
	return statement(ctx, func(sent *sending) (*Result, error) { return w.updateOnce(ctx, &env, s, sent) })
}

// Delete executes DELETE.
func (w *Writer) Delete(ctx context.Context, env plan.Env, s *sqlfront.Delete) (*Result, error) {
	return statement(ctx, func(sent *sending) (*Result, error) { return w.deleteOnce(ctx, &env, s, sent) })
}

func (w *Writer) updateOnce(ctx context.Context, env *plan.Env, s *sqlfront.Update, sent *sending) (*Result, error) {
	c, err := w.newChange(env, s.Table, s.Alias, s.Tree, s.Where, s.Returning)
	if err != nil {
		return nil, err
	}
	if c.table.Kind == catalog.StreamTable {
		return nil, dberr.New(dberr.InvalidOperation, "UPDATE is not supported for STREAM tables")
	}
	sets, err := c.assignments(s.Sets)
	if err != nil {
		return nil, err
	}
	b := c.batch(storagev1.Operation_OPERATION_UPDATE)
	apply := func(row *storedrow.Row, computed []datum.Datum) error { return w.set(env, b, row, sets, computed) }
	if c.engine {
		err = w.throughEngine(ctx, env, c, sets, allColumns(c.table), apply)
	} else {
		err = w.scan(ctx, env, c, c.filter, allColumns(c.table), func(row *storedrow.Row) error { return apply(row, nil) })
	}
	if err != nil {
		return nil, err
	}
	return w.send(ctx, env, b, sent, "Updated", c.returning)
}

func (w *Writer) deleteOnce(ctx context.Context, env *plan.Env, s *sqlfront.Delete, sent *sending) (*Result, error) {
	c, err := w.newChange(env, s.Table, s.Alias, s.Tree, s.Where, s.Returning)
	if err != nil {
		return nil, err
	}
	b := c.batch(storagev1.Operation_OPERATION_DELETE)
	apply := func(row *storedrow.Row, _ []datum.Datum) error {
		b.row = row.Row
		return b.addExpecting(row.Seq)
	}
	if c.engine {
		err = w.throughEngine(ctx, env, c, nil, c.deleted(), apply)
	} else {
		err = w.scan(ctx, env, c, c.filter, c.deleted(), func(row *storedrow.Row) error { return apply(row, nil) })
	}
	if err != nil {
		return nil, err
	}
	return w.send(ctx, env, b, sent, "Deleted", c.returning)
}

// deleted are the columns that a DELETE reads: the key, which it sends, and in a transaction all, which statements after
// it may show as those of a deleted row.
func (c *change) deleted() []int {
	if c.env.Transaction != nil {
		return allColumns(c.table)
	}
	return c.table.Key()
}

// change is an UPDATE or DELETE bound to its table.
type change struct {
	target
	env       *plan.Env
	name      sqlfront.Name
	alias     string
	tree      *sqlfront.Tree
	where     *sqlfront.Node
	filter    *exprv1.Expr
	returning *returning
	// engine says that WHERE or a value needs the query engine.
	engine bool
	scope  []uint32 // see batch.scope
}

func (c *change) batch(op storagev1.Operation) *batch {
	b := c.newBatch(op)
	b.scope = c.scope
	return b
}

func (w *Writer) newChange(env *plan.Env, name sqlfront.Name, alias string, tree *sqlfront.Tree, where *sqlfront.Node, list []*sqlfront.Node) (*change, error) {
	state := w.Catalog.State()
	t, err := table(state, env.Namespace, name)
	if err != nil {
		return nil, err
	}
	tg, err := bind(state, env.Identity, t)
	if err != nil {
		return nil, err
	}
	c := &change{target: tg, env: env, name: sqlfront.Name{Namespace: t.Namespace, Name: t.Name}, alias: alias, tree: tree, where: where}
	c.filter, err = toExpr(where, tree, t, alias, env)
	if err == nil {
		_, err = predicate.CompileFilter(c.filter, t)
	}
	if dberr.Is(err, dberr.Unsupported) {
		c.engine, err = true, nil
	}
	if err == nil && t.Partitioned() {
		var all bool
		if c.scope, all, err = partition.Matching(t, c.filter); !all && c.scope == nil {
			c.scope = []uint32{}
		}
	}
	if err == nil && list != nil {
		c.returning, err = newReturning(t, name, alias, tree, list, env)
	}
	return c, err
}

// assignment is one column = value.
type assignment struct {
	position int
	node     *sqlfront.Node
	program  *predicate.Program // nil when the engine computes it, or for DEFAULT and generators
	kind     cellKind
	computed int // position among the engine's columns
}

func (c *change) assignments(sets []sqlfront.Assignment) ([]assignment, error) {
	out := make([]assignment, 0, len(sets))
	seen := map[int]bool{}
	for _, s := range sets {
		position, err := writable(c.table, s.Column)
		if err != nil {
			return nil, err
		}
		if c.table.Columns[position].PrimaryKey {
			return nil, dberr.New(dberr.InvalidOperation, "UPDATE may not change the primary key column '%s'", s.Column)
		}
		if seen[position] {
			return nil, dberr.New(dberr.InvalidSQL, "column \"%s\" is assigned more than once", s.Column)
		}
		seen[position] = true
		a := assignment{position: position, node: s.Value}
		if err := c.prepareAssignment(&a); err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

func (c *change) prepareAssignment(a *assignment) error {
	switch kind, generator := generators[callName(a.node)]; {
	case sqlfront.IsDefault(a.node):
		a.kind = cellDefault
	case generator:
		a.kind = kind
	default:
		program, err := compile(a.node, c.tree, c.table, c.alias, c.env)
		if dberr.Is(err, dberr.Unsupported) {
			a.kind, c.engine = cellExpr, true
			return nil
		}
		if err != nil {
			return cellError(err, &c.table.Columns[a.position], 1)
		}
		a.kind, a.program = cellProgram, program
	}
	return nil
}

// set computes a row's new values and adds it when one differs.
func (w *Writer) set(env *plan.Env, b *batch, old *storedrow.Row, sets []assignment, computed []datum.Datum) error {
	copy(b.row.Values, old.Row.Values)
	for i := range b.row.Set {
		b.row.Set[i] = true
	}
	changed := false
	for i := range sets {
		a := &sets[i]
		v, err := w.assigned(env, b.table, a, old, computed)
		if err != nil {
			return cellError(err, &b.table.Columns[a.position], b.rows+1)
		}
		if err := b.put(a.position, v, b.rows+1); err != nil {
			return err
		}
		changed = changed || !datum.Equal(b.row.Values[a.position], old.Row.Values[a.position])
	}
	if !changed {
		return nil
	}
	return b.addExpecting(old.Seq)
}

func (w *Writer) assigned(env *plan.Env, t *catalog.Table, a *assignment, old *storedrow.Row, computed []datum.Datum) (datum.Datum, error) {
	switch a.kind {
	case cellDefault:
		return w.generated(env, &t.Columns[a.position])
	case cellProgram:
		return a.program.Eval(predicateEnv(env), old)
	case cellExpr:
		return computed[a.computed], nil
	}
	c := cell{kind: a.kind}
	return c.eval(env, w)
}

// scan reads the rows of the partition for which filter is true. Each sees a row that is reused.
func (w *Writer) scan(ctx context.Context, env *plan.Env, c *change, filter *exprv1.Expr, positions []int, each func(*storedrow.Row) error) error {
	req := &storagev1.ScanRequest{Filter: filter, NowUs: env.NowUS}
	for _, p := range positions {
		req.ColumnIds = append(req.ColumnIds, c.table.Columns[p].ID)
	}
	req.ColumnIds = append(req.ColumnIds, catalog.SeqColumnID)
	rows, err := w.Runner.ScanTable(ctx, env, c.table, req)
	if err != nil {
		return err
	}
	defer rows.Release()
	row := storedrow.New(c.table)
	for {
		rec, err := rows.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		err = eachStored(rec, c.table, positions, row, each)
		rec.Release()
		if err != nil {
			return err
		}
	}
}

// eachStored walks a batch whose columns are those at positions, and _seq last.
func eachStored(rec arrow.RecordBatch, t *catalog.Table, positions []int, row *storedrow.Row, each func(*storedrow.Row) error) error {
	seqs := rec.Column(len(positions))
	for i := range int(rec.NumRows()) {
		row.Row.Reset()
		for j, p := range positions {
			row.Row.Put(p, rowbatch.DatumAt(rec.Column(j), i, t.Columns[p].Type))
		}
		row.Seq = uint64(rowbatch.DatumAt(seqs, i, catalog.Type{Kind: catalog.BigInt}).AsInt())
		if err := each(row); err != nil {
			return err
		}
	}
	return nil
}

// throughEngine lets the query engine choose the rows and compute the values, as
// SELECT _seq, value… FROM table WHERE …, and then reads the rows so chosen. A row that changed in
// between is not found by its _seq: Conflict, and the statement starts over.
func (w *Writer) throughEngine(ctx context.Context, env *plan.Env, c *change, sets []assignment, positions []int, each func(*storedrow.Row, []datum.Datum) error) error {
	chosen, err := w.choose(ctx, env, c, sets)
	if err != nil || len(chosen) == 0 {
		return err
	}
	lowest, highest := int64(math.MaxInt64), int64(0)
	for seq := range chosen {
		lowest, highest = min(lowest, int64(seq)), max(highest, int64(seq))
	}
	within := predicate.And(
		predicate.Call(">=", predicate.Column(catalog.SeqColumnID), predicate.Literal(datum.Int(lowest))),
		predicate.Call("<=", predicate.Column(catalog.SeqColumnID), predicate.Literal(datum.Int(highest))))
	found := 0
	err = w.scan(ctx, env, c, within, positions, func(row *storedrow.Row) error {
		computed, ok := chosen[row.Seq]
		if !ok {
			return nil
		}
		found++
		return each(row, computed)
	})
	if err == nil && found != len(chosen) {
		return dberr.New(dberr.Conflict, "rows of %s changed while the statement ran", c.table.QualifiedName())
	}
	return err
}

// choose asks the engine for the rows and their values, by _seq.
func (w *Writer) choose(ctx context.Context, env *plan.Env, c *change, sets []assignment) (map[uint64][]datum.Datum, error) {
	rows, err := w.Runner.Select(ctx, *env, chooseQuery(c, sets))
	if err != nil {
		return nil, err
	}
	defer rows.Release()
	types := rowbatch.ColumnsOf(rows.Schema())
	chosen := map[uint64][]datum.Datum{}
	for {
		rec, err := rows.Next(ctx)
		if errors.Is(err, io.EOF) {
			return chosen, nil
		}
		if err != nil {
			return nil, err
		}
		for i := range int(rec.NumRows()) {
			values := make([]datum.Datum, len(types)-1)
			for j := range values {
				values[j] = rowbatch.DatumAt(rec.Column(j+1), i, types[j+1].Type)
			}
			chosen[uint64(rowbatch.DatumAt(rec.Column(0), i, types[0].Type).AsInt())] = values
		}
		rec.Release()
		if len(chosen) > statementRowsMax {
			return nil, dberr.New(dberr.LimitExceeded, "one statement writes at most %d rows (limit statement_rows_max)", statementRowsMax)
		}
	}
}

func allColumns(t *catalog.Table) []int {
	positions := make([]int, len(t.Columns))
	for i := range positions {
		positions[i] = i
	}
	return positions
}
