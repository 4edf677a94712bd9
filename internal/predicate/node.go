package predicate

import (
	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	exprv1 "github.com/kalamdb/kalamdb-go/proto/expr/v1"
)

// truth is a value of three-valued logic.
type truth uint8

const (
	isFalse truth = iota
	isTrue
	isUnknown
)

func truthOf(d datum.Datum) truth {
	switch {
	case d.IsNull():
		return isUnknown
	case d.AsBool():
		return isTrue
	}
	return isFalse
}

func truthIf(b bool) truth {
	if b {
		return isTrue
	}
	return isFalse
}

func (v truth) datum() datum.Datum {
	if v == isUnknown {
		return datum.Null
	}
	return datum.Bool(v == isTrue)
}

type (
	evalFunc func(env *Env, row RowReader) (datum.Datum, error)
	testFunc func(env *Env, row RowReader) (truth, error)
)

// node is a compiled expression.
type node struct {
	typ  catalog.Type
	eval evalFunc
	// test is set for every BOOLEAN.
	test testFunc
	// value is what an expression without columns, time and user always gives.
	isConst bool
	value   datum.Datum
	// column is the id of a bare column reference; see isColumn.
	column   uint32
	isColumn bool
	// volatile marks what depends on Env, so that it is not folded.
	volatile bool
	// all are the parts of an AND, against is set for the simplest comparisons: see narrow.
	all     []*node
	against *against
}

func constant(d datum.Datum, t catalog.Type) *node {
	n := &node{typ: t, isConst: true, value: d, eval: func(*Env, RowReader) (datum.Datum, error) { return d, nil }}
	if t.Kind == catalog.Boolean {
		v := truthOf(d)
		n.test = func(*Env, RowReader) (truth, error) { return v, nil }
	}
	return n
}

// valueNode makes a node of any type from its evaluation.
func valueNode(t catalog.Type, eval evalFunc) *node {
	n := &node{typ: t, eval: eval}
	if t.Kind == catalog.Boolean {
		n.test = func(env *Env, row RowReader) (truth, error) {
			d, err := eval(env, row)
			return truthOf(d), err
		}
	}
	return n
}

// testNode makes a BOOLEAN from its test.
func testNode(test testFunc) *node {
	return &node{typ: boolType, test: test, eval: func(env *Env, row RowReader) (datum.Datum, error) {
		v, err := test(env, row)
		if err != nil {
			return datum.Null, err
		}
		return v.datum(), nil
	}}
}

type compiler struct {
	table         *catalog.Table
	nodes         int
	columns       []uint32
	timeDependent bool
}

func (c *compiler) compile(e *exprv1.Expr, depth int) (*node, error) {
	if depth >= DepthMax {
		return nil, dberr.New(dberr.LimitExceeded, "expression is nested deeper than %d", DepthMax)
	}
	if c.nodes++; c.nodes > nodesMax {
		return nil, dberr.New(dberr.LimitExceeded, "expression has more than %d parts", nodesMax)
	}
	switch n := e.GetNode().(type) {
	case *exprv1.Expr_Literal:
		return literal(n.Literal)
	case *exprv1.Expr_ColumnId:
		return c.columnRef(n.ColumnId)
	case *exprv1.Expr_Call:
		return c.call(n.Call, depth)
	}
	return nil, dberr.New(dberr.InvalidArgument, "expression has an empty part")
}

func literal(encoded []byte) (*node, error) {
	d, rest, err := datum.Decode(encoded)
	if err != nil {
		return nil, dberr.New(dberr.InvalidArgument, "bad literal: %w", err)
	}
	if len(rest) > 0 {
		return nil, dberr.New(dberr.InvalidArgument, "bad literal: %d bytes too many", len(rest))
	}
	return constant(d, literalType(d)), nil
}

func (c *compiler) columnRef(id uint32) (*node, error) {
	if c.table == nil {
		return nil, dberr.New(dberr.ColumnNotFound, "columns are not allowed here")
	}
	col, ok := c.table.AnyColumn(id)
	if !ok {
		return nil, dberr.New(dberr.ColumnNotFound, "table %s has no column with id %d", c.table.QualifiedName(), id)
	}
	c.columns = append(c.columns, id)
	n := valueNode(col.Type, func(_ *Env, row RowReader) (datum.Datum, error) { return row.Column(id), nil })
	n.column, n.isColumn = id, true
	return n, nil
}

func (c *compiler) call(call *exprv1.Call, depth int) (*node, error) {
	b, ok := builders[call.GetName()]
	if !ok {
		return nil, dberr.New(dberr.Unsupported, "function or operator %.64q is not known here", call.GetName())
	}
	if n := len(call.GetArgs()); !b.accepts(n) {
		return nil, dberr.New(dberr.Unsupported, "%s with %d arguments is not known here", call.GetName(), n)
	}
	args := make([]*node, len(call.GetArgs()))
	folds, volatile := !b.volatile, b.volatile
	for i, a := range call.GetArgs() {
		n, err := c.compile(a, depth+1)
		if err != nil {
			return nil, err
		}
		args[i] = n
		folds = folds && n.isConst
		volatile = volatile || n.volatile
	}
	c.timeDependent = c.timeDependent || b.time
	n, err := b.build(call.GetName(), args)
	if err != nil {
		return nil, err
	}
	n.volatile = volatile
	if folds && !n.isConst {
		return fold(n), nil
	}
	return n, nil
}

// fold computes a constant expression once. One that fails is left to fail when it is reached:
// CASE may never reach it.
func fold(n *node) *node {
	d, err := n.eval(nil, NoRow{})
	if err != nil {
		return n
	}
	return constant(d, n.typ)
}

// builder makes the node of a call from its compiled arguments.
type builder struct {
	least, most int // number of arguments; most < 0 means any
	volatile    bool
	time        bool
	build       func(name string, args []*node) (*node, error)
}

// builders is every operator and function, by canonical name.
var builders = merge(logicBuilders, comparisonBuilders, conditionalBuilders, arithmeticBuilders,
	textBuilders, temporalBuilders, castBuilders, jsonBuilders, sessionBuilders)

func merge(parts ...map[string]builder) map[string]builder {
	all := map[string]builder{}
	for _, p := range parts {
		for name, b := range p {
			all[name] = b
		}
	}
	return all
}

func (b builder) accepts(args int) bool { return args >= b.least && (b.most < 0 || args <= b.most) }

// Accepts reports whether Compile knows an operator or function with that many arguments.
func Accepts(name string, args int) bool {
	b, ok := builders[name]
	return ok && b.accepts(args)
}
