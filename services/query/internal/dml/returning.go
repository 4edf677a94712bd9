package dml

import (
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/predicate"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/plan"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
	"github.com/kalamdb/kalamdb-go/services/query/internal/storedrow"
)

// returning computes the rows of RETURNING from the rows that the storage role stored.
type returning struct {
	table    *catalog.Table
	columns  []catalog.Column
	programs []*predicate.Program
	schema   *arrow.Schema
}

// newReturning binds the list. An expression that only the query engine knows is refused: the rows
// are written before it could be computed.
func newReturning(t *catalog.Table, name sqlfront.Name, alias string, tree *sqlfront.Tree, list []*sqlfront.Node, env *plan.Env) (*returning, error) {
	r := &returning{table: t}
	for _, item := range list {
		target := item.GetResTarget()
		if star(target.GetVal()) {
			r.addAll(t)
			continue
		}
		program, err := compile(target.GetVal(), tree, t, alias, env)
		if dberr.Is(err, dberr.Unsupported) {
			return nil, dberr.New(dberr.Unsupported, "RETURNING takes columns and simple expressions: %w", err)
		}
		if err != nil {
			return nil, err
		}
		r.add(resultColumn(target.GetName(), target.GetVal(), program, t), program)
	}
	var err error
	r.schema, err = rowbatch.SchemaOf(r.columns)
	return r, err
}

// star reports whether a target is *, or table.*.
func star(n *sqlfront.Node) bool {
	fields := n.GetColumnRef().GetFields()
	return len(fields) > 0 && fields[len(fields)-1].GetAStar() != nil
}

// addAll adds what SELECT * shows.
func (r *returning) addAll(t *catalog.Table) {
	for _, c := range append(t.VisibleColumns(), shownSystemColumns(t)...) {
		program, err := predicate.Compile(predicate.Column(c.ID), t)
		if err == nil { // a column of the table always compiles
			r.add(c, program)
		}
	}
}

// shownSystemColumns are the system columns of SELECT * (spec 1.7).
func shownSystemColumns(t *catalog.Table) []catalog.Column {
	if t.Kind == catalog.StreamTable {
		return catalog.SystemColumns[:1] // _seq
	}
	return catalog.SystemColumns
}

func (r *returning) add(c catalog.Column, p *predicate.Program) {
	r.columns = append(r.columns, c)
	r.programs = append(r.programs, p)
}

// resultColumn names and types a column of the result, as SELECT would.
func resultColumn(alias string, n *sqlfront.Node, p *predicate.Program, t *catalog.Table) catalog.Column {
	name := "?column?"
	if fields := n.GetColumnRef().GetFields(); len(fields) > 0 {
		name = fields[len(fields)-1].GetString_().GetSval()
		if c, ok := t.Column(name); ok {
			out := *c
			if alias != "" {
				out.Name = alias
			}
			return out
		}
	} else if call := callName(n); call != "" {
		name = call
	}
	if alias != "" {
		name = alias
	}
	typ := p.Type()
	if typ.Kind == 0 { // NULL, which PostgreSQL gives as text
		typ = catalog.Type{Kind: catalog.Text}
	}
	return catalog.Column{Name: name, Type: typ}
}

// build computes the rows. written is nil when nothing was.
func (r *returning) build(env *plan.Env, written []*storagev1.TableWriteResult, deleted bool) (arrow.RecordBatch, error) {
	b := rowbatch.NewBuilder(memory.DefaultAllocator, r.schema, r.columns)
	defer b.Release()
	for _, part := range written {
		if err := r.appendTo(b, env, part, deleted); err != nil {
			return nil, err
		}
	}
	return b.NewBatch(), nil
}

func (r *returning) appendTo(b *rowbatch.Builder, env *plan.Env, written *storagev1.TableWriteResult, deleted bool) error {
	if n := len(written.GetRows()); n != len(written.GetSeqs()) {
		return dberr.New(dberr.Internal, "the storage role returned %d rows for %d versions", n, len(written.GetSeqs()))
	}
	row := storedrow.New(r.table)
	row.Deleted = deleted
	penv := predicateEnv(env)
	for i, encoded := range written.GetRows() {
		if err := rowcodec.DecodeStored(encoded, r.table, &row.Row); err != nil {
			return err
		}
		row.Seq = written.GetSeqs()[i]
		for j, p := range r.programs {
			v, err := p.Eval(penv, row)
			if err == nil && !v.IsNull() {
				v, err = datum.Convert(v, r.columns[j].Type)
			}
			if err != nil {
				return err
			}
			if err := b.Append(j, v); err != nil {
				return err
			}
		}
		b.EndRow()
	}
	return nil
}
