package dml

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync/atomic"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/plan"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
)

// PreparedInsert is an INSERT bound to a version of its table. It is immutable and may be run by many
// callers: with it, an INSERT whose text was seen before costs the conversion of its parameters.
type PreparedInsert struct {
	namespace string // the default namespace it was bound in
	table     *catalog.Table
	positions []int
	rows      [][]cell
	returning *returning
	// engine says that a value needs the query engine: all rows are then computed by it.
	engine bool
	// once says that values of parameters went into the binding (RETURNING $1), so it is not kept.
	once bool
}

func (p *PreparedInsert) valid(state *catalogview.State, namespace string) bool {
	return p != nil && p.namespace == namespace && state.Tables[p.table.ID] == p.table
}

// Insert executes INSERT. slot, when given, keeps the prepared form between calls with the same text.
func (w *Writer) Insert(ctx context.Context, env plan.Env, s *sqlfront.Insert, slot *atomic.Pointer[PreparedInsert]) (*Result, error) {
	return statement(ctx, func(sent *sending) (*Result, error) { return w.insertOnce(ctx, &env, s, slot, sent) })
}

func (w *Writer) insertOnce(ctx context.Context, env *plan.Env, s *sqlfront.Insert, slot *atomic.Pointer[PreparedInsert], sent *sending) (*Result, error) {
	state := w.Catalog.State()
	var p *PreparedInsert
	if slot != nil {
		p = slot.Load()
	}
	if !p.valid(state, env.Namespace) {
		var err error
		if p, err = prepare(state, env, s); err != nil {
			return nil, err
		}
		if slot != nil && !p.once {
			slot.Store(p)
		}
	}
	tg, err := bind(state, env.Identity, p.table)
	if err != nil {
		return nil, err
	}
	b := tg.newBatch(storagev1.Operation_OPERATION_INSERT)
	if s.DoNothing {
		b.setOnConflict(storagev1.OnConflict_ON_CONFLICT_DO_NOTHING)
	}
	if env.Transaction != nil {
		b.complete = func(row *rowcodec.Row) error { return w.complete(env, b, row) }
	}
	switch {
	case s.Select != nil:
		err = w.fillFromQuery(ctx, env, s.Select, p.positions, b)
	case p.engine:
		err = w.fillFromQuery(ctx, env, valuesQuery(s), p.positions, b)
	default:
		err = w.fill(env, p, b)
	}
	if err != nil {
		return nil, err
	}
	if env.Transaction != nil && s.DoNothing {
		if err := w.skipExisting(ctx, env, b); err != nil {
			return nil, err
		}
	}
	return w.send(ctx, env, b, sent, "Inserted", p.returning)
}

// prepare binds an INSERT to the newest version of its table.
func prepare(state *catalogview.State, env *plan.Env, s *sqlfront.Insert) (*PreparedInsert, error) {
	t, err := table(state, env.Namespace, s.Table)
	if err != nil {
		return nil, err
	}
	p := &PreparedInsert{namespace: env.Namespace, table: t}
	if p.positions, err = writableAll(t, s.Columns); err != nil {
		return nil, err
	}
	if err := checkConflictTarget(t, s.ConflictColumns); err != nil {
		return nil, err
	}
	if s.Returning != nil {
		if p.returning, err = newReturning(t, s.Table, "", s.Tree, s.Returning, env); err != nil {
			return nil, err
		}
		p.once = slices.ContainsFunc(s.Returning, func(n *sqlfront.Node) bool { return sqlfront.HasParams(n) })
	}
	if s.Select == nil {
		err = p.prepareRows(s, env)
	}
	return p, err
}

// checkConflictTarget accepts the primary key, named or not.
func checkConflictTarget(t *catalog.Table, columns []string) error {
	if len(columns) == 0 {
		return nil
	}
	var key []string
	for i := range t.Key() {
		key = append(key, t.KeyColumn(i).Name)
	}
	named := slices.Clone(columns)
	slices.Sort(named)
	slices.Sort(key)
	if !slices.Equal(named, key) {
		return dberr.New(dberr.Unsupported, "ON CONFLICT names columns that are not the primary key of %s", t.QualifiedName())
	}
	return nil
}

// prepareRows classifies the values of VALUES.
func (p *PreparedInsert) prepareRows(s *sqlfront.Insert, env *plan.Env) error {
	p.rows = make([][]cell, len(s.Rows))
	defaults := false
	for i, values := range s.Rows {
		if len(values) == 0 { // DEFAULT VALUES
			continue
		}
		if err := checkCount(len(values), len(p.positions), len(s.Columns) > 0); err != nil {
			return err
		}
		cells := make([]cell, len(values))
		for j, node := range values {
			column := &p.table.Columns[p.positions[j]]
			var err error
			if cells[j], err = newCell(node, column, s.Tree, env); dberr.Is(err, dberr.Unsupported) {
				p.engine, err = true, nil
			}
			if err != nil {
				return cellError(err, column, i+1)
			}
			defaults = defaults || cells[j].kind == cellDefault
		}
		p.rows[i] = cells
	}
	if p.engine && defaults {
		return dberr.New(dberr.Unsupported, "DEFAULT cannot stand in VALUES beside an expression that needs the query engine")
	}
	return nil
}

// cellError names the place of a conversion error; other errors have one of their own.
func cellError(err error, c *catalog.Column, row int) error {
	switch dberr.CodeOf(err) {
	case dberr.InvalidSQL, dberr.ColumnNotFound, dberr.Internal:
		return err
	}
	return assignError(err, c, row)
}

func checkCount(values, columns int, listed bool) error {
	switch {
	case values > columns:
		return dberr.New(dberr.InvalidSQL, "INSERT has more expressions than target columns (%d for %d)", values, columns)
	case values < columns && listed:
		return dberr.New(dberr.InvalidSQL, "INSERT has more target columns than expressions (%d for %d)", columns, values)
	case values < columns:
		return dberr.New(dberr.InvalidSQL, "INSERT without a column list needs a value for every column (%d values for %d columns)", values, columns)
	}
	return nil
}

// fill computes the rows of VALUES.
func (w *Writer) fill(env *plan.Env, p *PreparedInsert, b *batch) error {
	for i, cells := range p.rows {
		b.row.Reset()
		for j := range cells {
			if err := w.fillCell(env, &cells[j], p.positions[j], i+1, b); err != nil {
				return err
			}
		}
		if err := b.add(); err != nil {
			return err
		}
	}
	return nil
}

func (w *Writer) fillCell(env *plan.Env, c *cell, position, row int, b *batch) error {
	switch c.kind {
	case cellDefault: // absent: the storage role fills it in
		return nil
	case cellConstant:
		b.row.Put(position, c.value)
		return nil
	}
	v, err := c.eval(env, w)
	if err != nil {
		return cellError(err, &b.table.Columns[position], row)
	}
	return b.put(position, v, row)
}

// fillFromQuery reads the rows of INSERT … SELECT, batch by batch.
func (w *Writer) fillFromQuery(ctx context.Context, env *plan.Env, s *sqlfront.Select, positions []int, b *batch) error {
	rows, err := w.Runner.Select(ctx, *env, s)
	if err != nil {
		return err
	}
	defer rows.Release()
	from, err := fieldsFor(rows.Schema(), len(positions))
	if err != nil {
		return err
	}
	for {
		rec, err := rows.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		err = b.addRecord(rec, positions, from)
		rec.Release()
		if err != nil {
			return err
		}
	}
}

// fieldsFor matches a query's columns with those to write. SELECT * shows the server's own columns,
// which nobody can write: they are left out when that makes the numbers match.
func fieldsFor(schema *arrow.Schema, columns int) ([]int, error) {
	all := make([]int, 0, schema.NumFields())
	own := make([]int, 0, schema.NumFields())
	for i, f := range schema.Fields() {
		all = append(all, i)
		if id, ok := rowbatch.ColumnID(f); !ok || id < catalog.SeqColumnID {
			own = append(own, i)
		}
	}
	switch columns {
	case len(all):
		return all, nil
	case len(own):
		return own, nil
	}
	return nil, dberr.New(dberr.InvalidSQL, "INSERT has %d target columns, but the query returns %d", columns, len(own))
}
