package predicate

import (
	"slices"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	exprv1 "github.com/kalamdb/kalamdb-go/proto/expr/v1"
)

// Op is how a Term restricts its column.
type Op uint8

// The operators of terms. OpIn holds the values that the column may equal, one for plain equality.
const (
	OpIn Op = iota + 1
	OpLess
	OpLessEqual
	OpGreater
	OpGreaterEqual
	OpPrefix // text that begins with the value
)

// Term is a condition on one column that every matching row fulfils.
type Term struct {
	Column uint32
	Op     Op
	// Values are constants of the column's kind, none of them NULL; one unless Op is OpIn. An OpIn
	// without values matches nothing.
	Values []datum.Datum
	// Exact says that the condition is this term and nothing more, so that it needs no evaluation
	// where the term has been applied.
	Exact bool
}

// Terms finds the conditions on single columns among a filter's top-level ANDs. Conditions of other
// forms are left out: the result describes a superset of the rows that match. Filters that Compile
// refuses have no terms.
func Terms(filter *exprv1.Expr, t *catalog.Table) []Term {
	var out []Term
	for _, e := range Conjuncts(filter) {
		out = append(out, termsOf(e.GetCall(), t)...)
	}
	return out
}

func termsOf(call *exprv1.Call, t *catalog.Table) []Term {
	args := call.GetArgs()
	switch name := call.GetName(); name {
	case "=", "<", "<=", ">", ">=":
		if len(args) != 2 {
			return nil
		}
		if columnOf(args[0]) == 0 {
			args, name = []*exprv1.Expr{args[1], args[0]}, mirrored(name)
		}
		return comparisonTerm(name, args[0], args[1], t)
	case "between":
		if len(args) != 3 {
			return nil
		}
		return append(comparisonTerm(">=", args[0], args[1], t), comparisonTerm("<=", args[0], args[2], t)...)
	case "in":
		if len(args) < 2 {
			return nil
		}
		return inTerm(args[0], args[1:], t)
	case "like":
		return prefixTerm(args, t)
	}
	return nil
}

// columnOf returns the id of a bare column, or 0, which no column has.
func columnOf(e *exprv1.Expr) uint32 { return e.GetColumnId() }

var termOps = map[string]Op{"=": OpIn, "<": OpLess, "<=": OpLessEqual, ">": OpGreater, ">=": OpGreaterEqual}

func comparisonTerm(name string, column, value *exprv1.Expr, t *catalog.Table) []Term {
	id, d, ok := columnAndConstant(column, value, t)
	if !ok {
		return nil
	}
	if d.IsNull() { // never TRUE
		return []Term{{Column: id, Op: OpIn, Exact: true}}
	}
	return []Term{{Column: id, Op: termOps[name], Values: []datum.Datum{d}, Exact: true}}
}

// columnAndConstant compiles a column and a constant as a comparison does, and keeps the constant when
// it is of the column's own kind: others (an INT column against 1.5) have no place in a key.
func columnAndConstant(column, value *exprv1.Expr, t *catalog.Table) (uint32, datum.Datum, bool) {
	id := columnOf(column)
	col, ok := t.AnyColumn(id)
	if !ok {
		return 0, datum.Null, false
	}
	p, err := Compile(value, nil)
	if err != nil || !p.root.isConst {
		return 0, datum.Null, false
	}
	n, err := resolve(p.root, col.Type)
	if err != nil || n.typ.Kind == unknownKind {
		return 0, datum.Null, false
	}
	if n.value.IsNull() {
		return id, datum.Null, true
	}
	if n.value.Kind() != datum.KindOf(col.Type) || col.Type.Kind == catalog.Decimal || col.Type.Kind == catalog.Float {
		return exactConstant(id, n, col)
	}
	return id, n.value, true
}

// exactConstant converts a constant to the column's type where that changes nothing of its value.
func exactConstant(id uint32, n *node, col *catalog.Column) (uint32, datum.Datum, bool) {
	if !areComparable(n.typ, col.Type) {
		return 0, datum.Null, false
	}
	_, aligned := alignFloat(constant(datum.Null, col.Type), n)
	d, err := datum.Convert(aligned.value, col.Type)
	if err != nil {
		return 0, datum.Null, false
	}
	same, ok := datum.Compare(d, aligned.value)
	return id, d, ok && same == 0
}

func inTerm(column *exprv1.Expr, items []*exprv1.Expr, t *catalog.Table) []Term {
	term := Term{Op: OpIn, Exact: true}
	for _, item := range items {
		id, d, ok := columnAndConstant(column, item, t)
		if !ok {
			return nil
		}
		term.Column = id
		if !d.IsNull() {
			term.Values = append(term.Values, d)
		}
	}
	return []Term{term}
}

func prefixTerm(args []*exprv1.Expr, t *catalog.Table) []Term {
	if len(args) < 2 {
		return nil
	}
	col, ok := t.AnyColumn(columnOf(args[0]))
	if !ok || familyOf(col.Type) != textFamily {
		return nil
	}
	parts := []string{"", `\`}
	for i, a := range args[1:] {
		p, err := Compile(a, nil)
		if err != nil || p.root.value.Kind() != datum.KindText || i >= len(parts) {
			return nil
		}
		parts[i] = p.root.value.AsText()
	}
	pattern, err := compileLike(parts[0], parts[1], false)
	if err != nil {
		return nil
	}
	prefix, exact := pattern.literalPrefix()
	if pattern.start && pattern.end && len(pattern.pieces) <= 1 && (len(pattern.pieces) == 0 || pattern.pieces[0].any == nil) {
		return []Term{{Column: col.ID, Op: OpIn, Values: []datum.Datum{datum.Text(prefix)}, Exact: true}}
	}
	if prefix == "" {
		return nil
	}
	return []Term{{Column: col.ID, Op: OpPrefix, Values: []datum.Datum{datum.Text(prefix)}, Exact: exact}}
}

// Bound is one end of a range; without Set the range is open there.
type Bound struct {
	Set       bool
	Value     datum.Datum
	Inclusive bool
}

// Range is where the values of a table's first key column must lie for a row to match.
type Range struct {
	Column   uint32
	Low, Top Bound
	// Points, when not nil, are the only values possible: ascending, each within Low and Top.
	Points []datum.Datum
	// Empty says that no row matches.
	Empty bool
}

// KeyRange finds the bounds that a filter's top-level ANDs put on the first key column. Without any
// the range is open at both ends.
func KeyRange(filter *exprv1.Expr, t *catalog.Table) Range {
	key := t.KeyColumn(0).ID
	r := Range{Column: key}
	for _, term := range Terms(filter, t) {
		if len(term.Values) == 0 { // whatever the column
			r.Empty = true
		}
		if term.Column == key && !r.Empty {
			r.restrict(term)
		}
	}
	r.finish()
	return r
}

func (r *Range) restrict(term Term) {
	switch v := term.Values[0]; term.Op {
	case OpIn:
		r.intersect(term.Values)
	case OpLess, OpLessEqual:
		r.cutTop(Bound{Set: true, Value: v, Inclusive: term.Op == OpLessEqual})
	case OpGreater, OpGreaterEqual:
		r.cutLow(Bound{Set: true, Value: v, Inclusive: term.Op == OpGreaterEqual})
	case OpPrefix:
		r.cutLow(Bound{Set: true, Value: v, Inclusive: true})
		if next, ok := afterPrefix(v.AsText()); ok {
			r.cutTop(Bound{Set: true, Value: datum.Text(next)})
		}
	}
}

// order compares two values of the key's kind.
func order(a, b datum.Datum) int {
	c, _ := datum.Compare(a, b)
	return c
}

func (r *Range) cutLow(b Bound) {
	if c := order(b.Value, r.Low.Value); !r.Low.Set || c > 0 || c == 0 && !b.Inclusive {
		r.Low = b
	}
}

func (r *Range) cutTop(b Bound) {
	if c := order(b.Value, r.Top.Value); !r.Top.Set || c < 0 || c == 0 && !b.Inclusive {
		r.Top = b
	}
}

func (r *Range) intersect(values []datum.Datum) {
	if r.Points == nil {
		r.Points = slices.Clone(values)
		return
	}
	r.Points = slices.DeleteFunc(r.Points, func(p datum.Datum) bool {
		return !slices.ContainsFunc(values, func(v datum.Datum) bool { return order(p, v) == 0 })
	})
}

func (r *Range) contains(d datum.Datum) bool {
	if r.Low.Set {
		if c := order(d, r.Low.Value); c < 0 || c == 0 && !r.Low.Inclusive {
			return false
		}
	}
	if r.Top.Set {
		if c := order(d, r.Top.Value); c > 0 || c == 0 && !r.Top.Inclusive {
			return false
		}
	}
	return true
}

func (r *Range) finish() {
	if r.Points != nil {
		r.Points = slices.DeleteFunc(r.Points, func(p datum.Datum) bool { return !r.contains(p) })
		slices.SortFunc(r.Points, order)
		r.Points = slices.CompactFunc(r.Points, func(a, b datum.Datum) bool { return order(a, b) == 0 })
		r.Empty = r.Empty || len(r.Points) == 0
	}
	if r.Low.Set && r.Top.Set {
		c := order(r.Low.Value, r.Top.Value)
		r.Empty = r.Empty || c > 0 || c == 0 && !(r.Low.Inclusive && r.Top.Inclusive)
	}
	if r.Empty {
		r.Points = nil
	}
}

// afterPrefix is the least text above everything with the prefix; there is none after bytes 0xFF.
func afterPrefix(prefix string) (string, bool) {
	b := []byte(prefix)
	for len(b) > 0 {
		if b[len(b)-1] < 0xFF {
			b[len(b)-1]++
			return string(b), true
		}
		b = b[:len(b)-1]
	}
	return "", false
}
