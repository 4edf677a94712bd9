// Package predicate compiles scalar expressions (expr.v1) once and evaluates them on rows and on
// Arrow batches, with SQL's three-valued logic. It serves live filters, filters and projections that
// are pushed down to storage, and values of simple writes. Meaning follows PostgreSQL; text is
// compared and sorted by bytes (collation C). What the package does not know it refuses at Compile
// with Unsupported, so that the caller can use the query engine instead.
package predicate

import (
	"slices"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	exprv1 "github.com/kalamdb/kalamdb-go/proto/expr/v1"
)

const (
	// DepthMax bounds the nesting of an expression: compiling and evaluating recurse.
	DepthMax = 256
	// nodesMax bounds an expression's size; it leaves room for the longest IN list that SQL may
	// hold (10,000 items) and little more.
	nodesMax = 20_000
)

// Env is what an expression may know besides its row. It is the same for all rows of a statement.
type Env struct {
	// NowUS is the statement's time, microseconds since the Unix epoch.
	NowUS  int64
	UserID string
	Role   catalog.Role
}

// RowReader gives the values of one row.
type RowReader interface {
	// Column returns the value of a column by its id; NULL when the row has none.
	Column(id uint32) datum.Datum
}

// Program is a compiled expression. It is immutable and safe for concurrent use.
type Program struct {
	root          *node
	columns       []uint32
	timeDependent bool
}

// Compile checks an expression's types against t and makes it ready to run. A nil t allows no
// columns. Wrong types and bad literals are InvalidArgument, unknown columns ColumnNotFound, unknown
// functions Unsupported.
func Compile(e *exprv1.Expr, t *catalog.Table) (*Program, error) {
	c := &compiler{table: t}
	root, err := c.compile(e, 0)
	if err != nil {
		return nil, err
	}
	slices.Sort(c.columns)
	return &Program{root: root, columns: slices.Compact(c.columns), timeDependent: c.timeDependent}, nil
}

// CompileFilter is Compile for a condition: anything but BOOLEAN is refused. A nil expression
// compiles to TRUE.
func CompileFilter(e *exprv1.Expr, t *catalog.Table) (*Program, error) {
	if e == nil {
		return &Program{root: constant(datum.Bool(true), boolType)}, nil
	}
	p, err := Compile(e, t)
	if err != nil {
		return nil, err
	}
	if p.root, err = asCondition(p.root); err != nil {
		return nil, err
	}
	return p, nil
}

// Matches reports whether the condition is TRUE for a row; FALSE and unknown are both false.
func (p *Program) Matches(env *Env, row RowReader) (bool, error) {
	if p.root.test == nil {
		return false, dberr.New(dberr.InvalidArgument, "a condition must be BOOLEAN, not %s", typeName(p.root.typ))
	}
	v, err := p.root.test(env, row)
	return v == isTrue && err == nil, err
}

// Eval computes the expression's value.
func (p *Program) Eval(env *Env, row RowReader) (datum.Datum, error) { return p.root.eval(env, row) }

// Columns are the ids of the columns the expression reads, ascending.
func (p *Program) Columns() []uint32 { return p.columns }

// TimeDependent reports whether the value changes with Env.NowUS.
func (p *Program) TimeDependent() bool { return p.timeDependent }

// Type is the value's type. A quoted literal is TEXT; Kind is zero for NULL and for INTERVAL, which
// no column can hold. Values of a DECIMAL may carry another scale than the type says: convert them
// with datum.Convert before storing.
func (p *Program) Type() catalog.Type {
	switch p.root.typ.Kind {
	case intervalKind:
		return catalog.Type{}
	case unknownKind:
		if p.root.isConst && p.root.value.IsNull() {
			return catalog.Type{}
		}
		return textType
	}
	return p.root.typ
}

// Constant returns the value of an expression that depends on nothing.
func (p *Program) Constant() (datum.Datum, bool) { return p.root.value, p.root.isConst }

// NoRow is the row of expressions without columns.
type NoRow struct{}

// Column returns NULL.
func (NoRow) Column(uint32) datum.Datum { return datum.Null }
