package plan

import (
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/query/internal/engine"
)

// replace rewrites an expression where it stands.
func (p *planning) replace(n **pg.Node, s *scope) error {
	if *n == nil {
		return nil
	}
	r, err := p.expr(*n, s)
	if err != nil {
		return err
	}
	*n = r
	return nil
}

func (p *planning) exprs(list []*pg.Node, s *scope) error {
	for i := range list {
		if err := p.replace(&list[i], s); err != nil {
			return err
		}
	}
	return nil
}

// expr rewrites an expression for the engine. Kinds of nodes that are not listed are refused.
func (p *planning) expr(n *pg.Node, s *scope) (*pg.Node, error) {
	switch e := n.GetNode().(type) {
	case nil:
		return n, nil
	case *pg.Node_ColumnRef:
		return p.columnRef(e.ColumnRef, s)
	case *pg.Node_AConst:
		return n, nil
	case *pg.Node_ParamRef:
		return p.param(e.ParamRef)
	case *pg.Node_TypeCast:
		return p.typeCast(n, e.TypeCast, s)
	case *pg.Node_SqlvalueFunction:
		return p.sqlValue(e.SqlvalueFunction)
	case *pg.Node_FuncCall:
		return p.funcCall(e.FuncCall, s)
	case *pg.Node_AExpr:
		return p.operator(e.AExpr, s)
	case *pg.Node_SubLink:
		return n, p.subLink(e.SubLink, s)
	}
	return p.plainExpr(n, s)
}

// plainExpr rewrites the parts of expressions that stay as they are.
func (p *planning) plainExpr(n *pg.Node, s *scope) (*pg.Node, error) {
	switch e := n.GetNode().(type) {
	case *pg.Node_BoolExpr:
		return n, p.exprs(e.BoolExpr.Args, s)
	case *pg.Node_NullTest:
		return n, p.replace(&e.NullTest.Arg, s)
	case *pg.Node_BooleanTest:
		return n, p.replace(&e.BooleanTest.Arg, s)
	case *pg.Node_CoalesceExpr:
		return n, p.exprs(e.CoalesceExpr.Args, s)
	case *pg.Node_MinMaxExpr:
		return n, p.exprs(e.MinMaxExpr.Args, s)
	case *pg.Node_CaseExpr:
		if err := p.replace(&e.CaseExpr.Arg, s); err != nil {
			return nil, err
		}
		if err := p.exprs(e.CaseExpr.Args, s); err != nil {
			return nil, err
		}
		return n, p.replace(&e.CaseExpr.Defresult, s)
	case *pg.Node_CaseWhen:
		if err := p.replace(&e.CaseWhen.Expr, s); err != nil {
			return nil, err
		}
		return n, p.replace(&e.CaseWhen.Result, s)
	case *pg.Node_List:
		return n, p.exprs(e.List.Items, s)
	case *pg.Node_AArrayExpr:
		if err := p.multiply(len(e.AArrayExpr.GetElements())); err != nil {
			return nil, err
		}
		return n, p.exprs(e.AArrayExpr.Elements, s)
	case *pg.Node_SortBy:
		if len(e.SortBy.GetUseOp()) > 0 {
			return nil, p.at(dberr.New(dberr.Unsupported, "ORDER BY … USING is not supported"), e.SortBy.GetLocation())
		}
		return n, p.replace(&e.SortBy.Node, s)
	case *pg.Node_WindowDef:
		return n, p.window(e.WindowDef, s)
	case *pg.Node_GroupingSet:
		return n, p.exprs(e.GroupingSet.Content, s)
	case *pg.Node_GroupingFunc:
		return n, p.exprs(e.GroupingFunc.Args, s)
	case *pg.Node_AIndirection:
		return n, p.indirection(e.AIndirection, s)
	case *pg.Node_CollateClause:
		return p.collate(e.CollateClause, s)
	}
	return nil, dberr.New(dberr.Unsupported, "this kind of expression is not supported (%s)",
		strings.TrimPrefix(nodeName(n), "*pg_query.Node_"))
}

// columnRef leaves the name to the engine, with the table's alias at most: the engine knows no
// namespaces. _version is another name of _seq.
func (p *planning) columnRef(ref *pg.ColumnRef, s *scope) (*pg.Node, error) {
	parts, star := path(ref)
	if star || len(parts) == 0 {
		return nil, p.at(dberr.New(dberr.InvalidSQL, "* is allowed in the list of results and in count(*) only"), ref.GetLocation())
	}
	if len(parts) == 1 && s.wholeRow(parts[0]) {
		if err := p.expand(); err != nil {
			return nil, err
		}
	}
	if len(parts) > 2 {
		parts = parts[len(parts)-2:]
	}
	r := columnRef{column: parts[len(parts)-1], location: ref.GetLocation()}
	if len(parts) == 2 {
		r.table = parts[0]
	}
	p.refs = append(p.refs, r)
	if last := &parts[len(parts)-1]; *last == catalog.VersionColumn {
		*last = catalog.SeqColumn
	}
	return column(parts...), nil
}

const (
	// arrayCopiesMax bounds the product of the lengths of the array constructors of a statement: nested in
	// subqueries, each multiplies what it is given, outside of the engine's memory limit.
	arrayCopiesMax = 10_000
	// starsMax bounds the stars over subqueries: each may double the columns of the one below.
	starsMax = 12
)

func (p *planning) multiply(n int) error {
	p.copies = max(p.copies, 1) * max(n, 1)
	if p.copies > arrayCopiesMax {
		return dberr.New(dberr.LimitExceeded, "the statement's arrays have too many elements (limit array_copies_max, %d)", arrayCopiesMax)
	}
	return nil
}

func (p *planning) expand() error {
	p.stars++
	if p.stars > starsMax {
		return dberr.New(dberr.LimitExceeded, "the statement has more than %d stars over subqueries (limit stars_max)", starsMax)
	}
	return nil
}

// param gives a parameter the type of its value. Text stays untyped, like a quoted literal: it becomes
// what it is compared with.
func (p *planning) param(ref *pg.ParamRef) (*pg.Node, error) {
	n := int(ref.GetNumber())
	if n < 1 || n > len(p.params) {
		return nil, p.at(dberr.New(dberr.InvalidArgument, "the statement has parameter $%d, but %d were given", n, len(p.params)), ref.GetLocation())
	}
	if p.params[n-1].IsNull() {
		return null(), nil
	}
	node := p.own(n)
	switch p.params[n-1].Kind() {
	case datum.KindBool:
		return cast(node, "bool"), nil
	case datum.KindInt:
		return cast(node, "int8"), nil
	case datum.KindFloat:
		return cast(node, "float8"), nil
	case datum.KindBytes:
		return cast(node, "blob"), nil
	}
	return node, nil
}

// own refers to one of the engine's parameters. They are numbered as they are used: the engine wants
// numbers without gaps, and conditions that were pushed down take theirs with them.
func (p *planning) own(which int) *pg.Node {
	i := slices.Index(p.used, which)
	if i < 0 {
		i = len(p.used)
		p.used = append(p.used, which)
	}
	return pg.MakeParamRefNode(int32(i+1), -1)
}

// now is the statement's time.
func (p *planning) now() *pg.Node {
	return call("make_timestamp", cast(p.own(paramNow), "int8"))
}

func (p *planning) typeCast(n *pg.Node, c *pg.TypeCast, s *scope) (*pg.Node, error) {
	tn, err := rewriteType(c.GetTypeName())
	if err != nil {
		return nil, p.at(asError(err), c.GetLocation())
	}
	if err := p.replace(&c.Arg, s); err != nil {
		return nil, err
	}
	if len(tn.GetArrayBounds()) == 0 {
		switch typeSpelling(tn) {
		case engineTypes[catalog.Timestamp]:
			return toTimestamp(c.GetArg(), s), nil
		case engineTypes[catalog.Bytes]:
			return toBytes(c.GetArg(), s), nil
		}
	}
	c.TypeName = tn
	return n, nil
}

func (p *planning) sqlValue(f *pg.SQLValueFunction) (*pg.Node, error) {
	switch f.GetOp() {
	case pg.SQLValueFunctionOp_SVFOP_CURRENT_TIMESTAMP, pg.SQLValueFunctionOp_SVFOP_CURRENT_TIMESTAMP_N,
		pg.SQLValueFunctionOp_SVFOP_LOCALTIMESTAMP, pg.SQLValueFunctionOp_SVFOP_LOCALTIMESTAMP_N:
		return p.now(), nil
	case pg.SQLValueFunctionOp_SVFOP_CURRENT_DATE:
		return cast(p.now(), "date"), nil
	case pg.SQLValueFunctionOp_SVFOP_CURRENT_TIME, pg.SQLValueFunctionOp_SVFOP_CURRENT_TIME_N,
		pg.SQLValueFunctionOp_SVFOP_LOCALTIME, pg.SQLValueFunctionOp_SVFOP_LOCALTIME_N:
		return cast(p.now(), "time"), nil
	case pg.SQLValueFunctionOp_SVFOP_CURRENT_USER, pg.SQLValueFunctionOp_SVFOP_USER, pg.SQLValueFunctionOp_SVFOP_SESSION_USER:
		return cast(p.own(paramUser), "text"), nil
	case pg.SQLValueFunctionOp_SVFOP_CURRENT_ROLE:
		return cast(p.own(paramRole), "text"), nil
	case pg.SQLValueFunctionOp_SVFOP_CURRENT_SCHEMA:
		return cast(p.own(paramNamespace), "text"), nil
	case pg.SQLValueFunctionOp_SVFOP_CURRENT_CATALOG:
		return text(catalogName), nil
	}
	return nil, p.at(dberr.New(dberr.Unsupported, "this value function is not supported"), f.GetLocation())
}

func (p *planning) window(w *pg.WindowDef, s *scope) error {
	if w == nil {
		return nil
	}
	if err := p.exprs(w.PartitionClause, s); err != nil {
		return err
	}
	if err := p.exprs(w.OrderClause, s); err != nil {
		return err
	}
	if err := p.replace(&w.StartOffset, s); err != nil {
		return err
	}
	return p.replace(&w.EndOffset, s)
}

func (p *planning) subLink(l *pg.SubLink, s *scope) error {
	sub := l.GetSubselect().GetSelectStmt()
	if sub == nil {
		return p.at(dberr.New(dberr.InvalidSQL, "a subquery must be a SELECT"), l.GetLocation())
	}
	for _, op := range names(l.GetOperName()) {
		if !comparisons[op] {
			return p.at(dberr.New(dberr.Unsupported, "operator %s is not supported with a subquery", op), l.GetLocation())
		}
	}
	if err := p.replace(&l.Testexpr, s); err != nil {
		return err
	}
	return p.query(sub, s, false)
}

// indirection allows a[i] and a[i:j].
func (p *planning) indirection(e *pg.A_Indirection, s *scope) error {
	for _, i := range e.GetIndirection() {
		ix := i.GetAIndices()
		if ix == nil {
			return dberr.New(dberr.Unsupported, "selecting a field of a composite value is not supported")
		}
		if err := p.replace(&ix.Lidx, s); err != nil {
			return err
		}
		if err := p.replace(&ix.Uidx, s); err != nil {
			return err
		}
	}
	return p.replace(&e.Arg, s)
}

// collate drops the collations that mean what text compares like anyway.
func (p *planning) collate(c *pg.CollateClause, s *scope) (*pg.Node, error) {
	list := names(c.GetCollname())
	switch strings.ToLower(list[len(list)-1]) {
	case "c", "posix", "default", "ucs_basic":
		return p.expr(c.GetArg(), s)
	}
	return nil, p.at(dberr.New(dberr.Unsupported, "collation %q is not supported; text compares by its bytes (collation \"C\")",
		strings.Join(list, ".")), c.GetLocation())
}

// guardZero lets a division by zero fail, as in PostgreSQL, where the engine would answer NULL.
func guardZero(divisor *pg.Node) *pg.Node {
	if c := divisor.GetAConst(); c != nil {
		if v, ok := integer(divisor); c.GetIsnull() || ok && v != 0 {
			return divisor
		}
		if f, ok := c.GetVal().(*pg.A_Const_Fval); ok && strings.Trim(f.Fval.GetFval(), "0.") != "" &&
			strings.ContainsAny(strings.SplitN(strings.ToLower(f.Fval.GetFval()), "e", 2)[0], "123456789") {
			return divisor
		}
		if _, isText := str(divisor); isText {
			return divisor // '2' takes the dividend's type; '0' is left to the engine
		}
	}
	return call(engine.NonZero, divisor)
}
