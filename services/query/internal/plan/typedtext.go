package plan

import (
	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/services/query/internal/engine"
)

// The engine reads some texts otherwise than we do: it drops the offset of a timestamp, and takes the
// digits after \x for characters. So texts that become such values are converted explicitly.

// kindOf finds the type of a rewritten expression, as far as it matters here: Timestamp (which stands for
// DATETIME too), Bytes, or none.
func kindOf(n *pg.Node, s *scope) catalog.TypeKind {
	switch e := n.GetNode().(type) {
	case *pg.Node_ColumnRef:
		return s.kindOf(e.ColumnRef)
	case *pg.Node_TypeCast:
		if len(e.TypeCast.GetTypeName().GetArrayBounds()) > 0 {
			return 0
		}
		switch typeSpelling(e.TypeCast.GetTypeName()) {
		case engineTypes[catalog.Timestamp]:
			return catalog.Timestamp
		case engineTypes[catalog.Bytes]:
			return catalog.Bytes
		}
	case *pg.Node_FuncCall:
		switch name, _ := functionName(e.FuncCall); name {
		case "make_timestamp":
			return catalog.Timestamp
		case engine.ToBytes:
			return catalog.Bytes
		case "date_trunc":
			return kindOf(e.FuncCall.GetArgs()[1], s)
		case "min", "max", "any_value":
			if args := e.FuncCall.GetArgs(); len(args) == 1 {
				return kindOf(args[0], s)
			}
		}
	case *pg.Node_CoalesceExpr:
		return kindOf(e.CoalesceExpr.GetArgs()[0], s)
	case *pg.Node_MinMaxExpr:
		return kindOf(e.MinMaxExpr.GetArgs()[0], s)
	}
	return 0
}

// kindOf looks outwards while the column is certainly not one of the tables here.
func (s *scope) kindOf(ref *pg.ColumnRef) catalog.TypeKind {
	for ; s != nil; s = s.outer {
		if _, c := s.resolve(ref); c != nil {
			switch c.Type.Kind {
			case catalog.Timestamp, catalog.DateTime:
				return catalog.Timestamp
			case catalog.Bytes:
				return catalog.Bytes
			}
			return 0
		}
		if len(s.items) > 0 && !s.base() {
			return 0
		}
	}
	return 0
}

// untypedText reports whether an expression is a text that takes the type of what it meets: a constant,
// or a parameter, to which param gives a type when it is something else.
func untypedText(n *pg.Node) bool {
	_, ok := str(n)
	return ok || n.GetParamRef() != nil
}

// typed converts the untyped texts that are compared with a timestamp or bytes.
func typed(e *pg.A_Expr, s *scope) {
	sides := []**pg.Node{&e.Lexpr}
	if l := e.GetRexpr().GetList(); l != nil {
		for i := range l.GetItems() {
			sides = append(sides, &l.Items[i])
		}
	} else {
		sides = append(sides, &e.Rexpr)
	}
	var kind catalog.TypeKind
	for _, side := range sides {
		if kind = kindOf(*side, s); kind != 0 {
			break
		}
	}
	for _, side := range sides {
		switch {
		case !untypedText(*side):
		case kind == catalog.Timestamp:
			*side = toTimestamp(*side, s)
		case kind == catalog.Bytes:
			*side = toBytes(*side, s)
		}
	}
}

// toTimestamp casts to TIMESTAMP. Text is read with its offset, and as UTC without one.
func toTimestamp(n *pg.Node, s *scope) *pg.Node {
	const name = "timestamp"
	if kindOf(n, s) == catalog.Timestamp || isNull(n) {
		return cast(n, name)
	}
	if t, ok := str(n); ok {
		kind := catalog.Type{Kind: catalog.Timestamp}
		if d, err := datum.ParseText(kind, t); err == nil {
			return cast(text(datum.FormatText(d, kind)), name)
		}
	}
	return cast(cast(n, "timestamptz"), name) // the engine's zone is UTC
}

// toBytes casts to BYTES.
func toBytes(n *pg.Node, s *scope) *pg.Node {
	if kindOf(n, s) == catalog.Bytes || isNull(n) {
		return cast(n, engineTypes[catalog.Bytes])
	}
	if untypedText(n) {
		n = cast(n, "text")
	}
	return call(engine.ToBytes, n)
}
