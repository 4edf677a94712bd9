package predicate

import (
	"math"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Two kinds exist in expressions only: the type of NULL and quoted literals, and INTERVAL.
const (
	unknownKind  catalog.TypeKind = 0
	intervalKind catalog.TypeKind = 255
)

var (
	boolType     = catalog.Type{Kind: catalog.Boolean}
	intType      = catalog.Type{Kind: catalog.Int}
	bigIntType   = catalog.Type{Kind: catalog.BigInt}
	doubleType   = catalog.Type{Kind: catalog.Double}
	textType     = catalog.Type{Kind: catalog.Text}
	jsonType     = catalog.Type{Kind: catalog.JSON}
	timeType     = catalog.Type{Kind: catalog.Time}
	dateType     = catalog.Type{Kind: catalog.Date}
	stampType    = catalog.Type{Kind: catalog.Timestamp}
	intervalType = catalog.Type{Kind: intervalKind}
	unknownType  = catalog.Type{}
)

// decimalType is a DECIMAL result: the digits are those of the value, only the scale is known.
func decimalType(scale uint8) catalog.Type {
	return catalog.Type{Kind: catalog.Decimal, Precision: 38, Scale: min(scale, 38)}
}

func typeName(t catalog.Type) string {
	switch t.Kind {
	case unknownKind:
		return "an untyped literal"
	case intervalKind:
		return "INTERVAL"
	}
	return t.String()
}

// literalType gives an integer literal the smallest of INT and BIGINT that holds it.
func literalType(d datum.Datum) catalog.Type {
	switch d.Kind() {
	case datum.KindBool:
		return boolType
	case datum.KindInt:
		if v := d.AsInt(); v >= math.MinInt32 && v <= math.MaxInt32 {
			return intType
		}
		return bigIntType
	case datum.KindFloat:
		return doubleType
	case datum.KindDecimal:
		_, _, scale := d.AsDecimal()
		return decimalType(scale)
	case datum.KindBytes:
		return catalog.Type{Kind: catalog.Bytes}
	case datum.KindTimestamp:
		return stampType
	case datum.KindDate:
		return dateType
	case datum.KindTime:
		return timeType
	case datum.KindUUID:
		return catalog.Type{Kind: catalog.UUID}
	case datum.KindEmbedding:
		return catalog.Type{Kind: catalog.Embedding, Dimension: uint16(len(d.AsText()) / 4)}
	case datum.KindInterval:
		return intervalType
	}
	return unknownType
}

// family groups the types that compare with each other.
type family uint8

const (
	unknownFamily family = iota
	numberFamily
	textFamily
	boolFamily
	instantFamily
	otherFamily // comparable with its own kind only
)

func familyOf(t catalog.Type) family {
	switch t.Kind {
	case unknownKind:
		return unknownFamily
	case catalog.SmallInt, catalog.Int, catalog.BigInt, catalog.Float, catalog.Double, catalog.Decimal:
		return numberFamily
	case catalog.Text, catalog.JSON, catalog.File:
		return textFamily
	case catalog.Boolean:
		return boolFamily
	case catalog.Timestamp, catalog.DateTime, catalog.Date:
		return instantFamily
	}
	return otherFamily
}

func areComparable(a, b catalog.Type) bool {
	fa, fb := familyOf(a), familyOf(b)
	if fa == otherFamily {
		return a.Kind == b.Kind
	}
	return fa == fb
}

func isInteger(t catalog.Type) bool {
	return t.Kind == catalog.SmallInt || t.Kind == catalog.Int || t.Kind == catalog.BigInt
}

func isFloat(t catalog.Type) bool { return t.Kind == catalog.Float || t.Kind == catalog.Double }

func isInstant(t catalog.Type) bool { return familyOf(t) == instantFamily }

// resolve gives an untyped literal the type t; every other node stays as it is.
func resolve(n *node, t catalog.Type) (*node, error) {
	if n.typ.Kind != unknownKind || t.Kind == unknownKind {
		return n, nil
	}
	if !n.isConst { // an expression of NULLs only
		return valueNode(t, n.eval), nil
	}
	if n.value.IsNull() {
		return constant(datum.Null, t), nil
	}
	d, err := parseAs(n.value.AsText(), t)
	if err != nil {
		return nil, err
	}
	return constant(d, t), nil
}

// parseAs reads a quoted literal. Decimals keep the digits they are written with, and JSON is not
// checked, because comparing must not depend on how the other side would be stored.
func parseAs(text string, t catalog.Type) (datum.Datum, error) {
	switch t.Kind {
	case intervalKind:
		return datum.ParseInterval(text)
	case catalog.Decimal:
		return datum.ParseDecimal(text)
	case catalog.JSON, catalog.File:
		return datum.Text(text), nil
	}
	return datum.ParseText(t, text)
}

// resolveText makes untyped literals TEXT and refuses what is not text.
func resolveText(name string, n *node) (*node, error) {
	if familyOf(n.typ) == textFamily {
		return n, nil
	}
	if n.typ.Kind != unknownKind {
		return nil, dberr.New(dberr.InvalidArgument, "%s needs TEXT, not %s", strings.ToUpper(name), typeName(n.typ))
	}
	return resolve(n, textType)
}

// resolvePair gives two operands comparable types.
func resolvePair(name string, a, b *node) (*node, *node, error) {
	var err error
	if a.typ.Kind == unknownKind && b.typ.Kind == unknownKind {
		if a, err = resolve(a, textType); err != nil {
			return nil, nil, err
		}
	}
	if a, err = resolve(a, b.typ); err != nil {
		return nil, nil, err
	}
	if b, err = resolve(b, a.typ); err != nil {
		return nil, nil, err
	}
	if !areComparable(a.typ, b.typ) {
		return nil, nil, dberr.New(dberr.InvalidArgument, "cannot apply %s to %s and %s", name, typeName(a.typ), typeName(b.typ))
	}
	return a, b, nil
}

// resolveAll gives alternatives (CASE, COALESCE, GREATEST, …) one common type.
func resolveAll(name string, args []*node) ([]*node, catalog.Type, error) {
	common := unknownType
	for _, n := range args {
		if n.typ.Kind == unknownKind {
			continue
		}
		if common.Kind == unknownKind {
			common = n.typ
			continue
		}
		if !areComparable(common, n.typ) {
			return nil, unknownType, dberr.New(dberr.InvalidArgument, "%s cannot mix %s and %s", name,
				typeName(common), typeName(n.typ))
		}
		common = wider(common, n.typ)
	}
	if common.Kind == unknownKind {
		common = textType
	}
	out := make([]*node, len(args))
	for i, n := range args {
		r, err := resolve(n, common)
		if err != nil {
			return nil, unknownType, err
		}
		out[i] = widen(r, common)
	}
	return out, common, nil
}

// wider returns the type that holds the values of two comparable types.
func wider(a, b catalog.Type) catalog.Type {
	switch {
	case a == b:
		return a
	case isFloat(a) || isFloat(b):
		return doubleType
	case a.Kind == catalog.Decimal || b.Kind == catalog.Decimal:
		return decimalType(max(a.Scale, b.Scale))
	case isInteger(a):
		return catalog.Type{Kind: max(a.Kind, b.Kind)} // the integer kinds ascend with their width
	case a.Kind == catalog.DateTime || b.Kind == catalog.DateTime:
		return catalog.Type{Kind: catalog.DateTime}
	case isInstant(a):
		return stampType
	}
	return textType
}

// widen converts the values of n, whose type t contains.
func widen(n *node, t catalog.Type) *node {
	from := datum.Kind(0)
	if n.typ.Kind != intervalKind && n.typ.Kind != unknownKind {
		from = datum.KindOf(n.typ)
	}
	if t.Kind == intervalKind || from == datum.KindOf(t) {
		return n
	}
	inner := n.eval
	out := valueNode(t, func(env *Env, row RowReader) (datum.Datum, error) {
		d, err := inner(env, row)
		if err != nil || d.IsNull() {
			return datum.Null, err
		}
		if t.Kind == catalog.Decimal {
			return d.ToDecimal(), nil
		}
		return datum.Convert(d, t)
	})
	out.volatile = n.volatile
	if n.isConst {
		return fold(out)
	}
	return out
}
