package predicate

import (
	"slices"
	"sort"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

var comparisonBuilders = map[string]builder{
	"=":                    {least: 2, most: 2, build: buildComparison},
	"<>":                   {least: 2, most: 2, build: buildComparison},
	"!=":                   {least: 2, most: 2, build: buildComparison},
	"<":                    {least: 2, most: 2, build: buildComparison},
	"<=":                   {least: 2, most: 2, build: buildComparison},
	">":                    {least: 2, most: 2, build: buildComparison},
	">=":                   {least: 2, most: 2, build: buildComparison},
	"is distinct from":     {least: 2, most: 2, build: buildDistinct},
	"is not distinct from": {least: 2, most: 2, build: buildDistinct},
	"between":              {least: 3, most: 3, build: buildBetween},
	"not between":          {least: 3, most: 3, build: buildBetween},
	"in":                   {least: 2, most: -1, build: buildIn},
	"not in":               {least: 2, most: -1, build: buildIn},
}

// accepts says for each order (-1, 0, 1) whether an operator is true.
type accepts [3]bool

func (a accepts) order(c int) truth { return truthIf(a[c+1]) }

var comparisons = map[string]accepts{
	"=": {1: true}, "<>": {0: true, 2: true}, "!=": {0: true, 2: true},
	"<": {0: true}, "<=": {0: true, 1: true}, ">": {2: true}, ">=": {1: true, 2: true},
}

func buildComparison(name string, args []*node) (*node, error) {
	a, b, err := resolvePair(name, args[0], args[1])
	if err != nil {
		return nil, err
	}
	a, b = alignFloat(a, b)
	if b.isColumn && a.isConst { // constant on the right, for the fast forms below
		a, b, name = b, a, mirrored(name)
	}
	accept := comparisons[name]
	if a.isColumn && b.isConst && !b.value.IsNull() && datum.KindOf(a.typ) == b.value.Kind() {
		if n := compareColumn(a, b.value, accept); n != nil {
			return n, nil
		}
	}
	left, right := a.eval, b.eval
	return testNode(func(env *Env, row RowReader) (truth, error) {
		x, err := left(env, row)
		if err != nil || x.IsNull() {
			return isUnknown, err
		}
		y, err := right(env, row)
		if err != nil || y.IsNull() {
			return isUnknown, err
		}
		return compareValues(x, y, accept)
	}), nil
}

func compareValues(x, y datum.Datum, accept accepts) (truth, error) {
	c, ok := datum.Compare(x, y)
	if !ok { // types were checked: a row holds a value that is not of its column's type
		return isUnknown, dberr.New(dberr.Corrupt, "cannot compare %s with %s", x.Kind(), y.Kind())
	}
	return accept.order(c), nil
}

func mirrored(name string) string {
	switch name {
	case "<":
		return ">"
	case "<=":
		return ">="
	case ">":
		return "<"
	case ">=":
		return "<="
	}
	return name
}

// compareColumn compares a column with a constant of its kind, without copying datums about.
func compareColumn(col *node, value datum.Datum, accept accepts) *node {
	id := col.column
	switch value.Kind() {
	case datum.KindInt, datum.KindTimestamp, datum.KindDate, datum.KindTime, datum.KindBool:
		kind, want := value.Kind(), value.AsInt()
		n := testNode(func(_ *Env, row RowReader) (truth, error) {
			d := row.Column(id)
			if d.Kind() != kind {
				return otherKind(d, value, accept)
			}
			return accept.order(compareInt(d.AsInt(), want)), nil
		})
		n.against = &against{column: id, kind: kind, value: want, accept: accept}
		return n
	case datum.KindText, datum.KindUUID, datum.KindBytes:
		kind, want := value.Kind(), value.AsText()
		if accept == comparisons["="] {
			return testNode(func(_ *Env, row RowReader) (truth, error) {
				d := row.Column(id)
				if d.Kind() != kind {
					return otherKind(d, value, accept)
				}
				return truthIf(d.AsText() == want), nil
			})
		}
	}
	return nil
}

// otherKind handles NULL and values that are not of the column's kind.
func otherKind(d, value datum.Datum, accept accepts) (truth, error) {
	if d.IsNull() {
		return isUnknown, nil
	}
	return compareValues(d, value, accept)
}

func compareInt(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// alignFloat rounds a decimal constant that meets a FLOAT to FLOAT: f = 0.1 is then true for the
// nearest float, as it is in the query engine.
func alignFloat(a, b *node) (*node, *node) {
	switch {
	case a.typ.Kind == catalog.Float && b.isConst && b.typ.Kind == catalog.Decimal:
		return a, roundToFloat(b)
	case b.typ.Kind == catalog.Float && a.isConst && a.typ.Kind == catalog.Decimal:
		return roundToFloat(a), b
	}
	return a, b
}

func roundToFloat(n *node) *node {
	d, err := datum.Convert(n.value, catalog.Type{Kind: catalog.Float})
	if err != nil { // beyond FLOAT's range: comparing as DOUBLE is right
		return n
	}
	return constant(d, catalog.Type{Kind: catalog.Float})
}

func buildDistinct(name string, args []*node) (*node, error) {
	a, b, err := resolvePair(name, args[0], args[1])
	if err != nil {
		return nil, err
	}
	a, b = alignFloat(a, b)
	left, right, wantDistinct := a.eval, b.eval, name == "is distinct from"
	return testNode(func(env *Env, row RowReader) (truth, error) {
		x, err := left(env, row)
		if err != nil {
			return isUnknown, err
		}
		y, err := right(env, row)
		if err != nil {
			return isUnknown, err
		}
		if x.IsNull() || y.IsNull() {
			return truthIf((x.IsNull() != y.IsNull()) == wantDistinct), nil
		}
		same, err := compareValues(x, y, comparisons["="])
		return truthIf((same != isTrue) == wantDistinct), err
	}), nil
}

func buildBetween(name string, args []*node) (*node, error) {
	low, err := buildComparison(">=", []*node{args[0], args[1]})
	if err != nil {
		return nil, err
	}
	high, err := buildComparison("<=", []*node{args[0], args[2]})
	if err != nil {
		return nil, err
	}
	both, err := buildAnd("and", []*node{low, high})
	if err != nil || name == "between" {
		return both, err
	}
	return negate(both), nil
}

// sortedListMin is the length from which a list of constants is searched by halving.
const sortedListMin = 8

func buildIn(name string, args []*node) (*node, error) {
	items := args[1:]
	if args[0].typ.Kind == unknownKind { // NULL IN (…), 'x' IN (…): the list decides the type
		_, t, err := resolveAll(name, items)
		if err != nil {
			return nil, err
		}
		if args[0], err = resolve(args[0], t); err != nil {
			return nil, err
		}
	}
	allConst := true
	for i, item := range items {
		_, b, err := resolvePair(name, args[0], item)
		if err != nil {
			return nil, err
		}
		_, items[i] = alignFloat(args[0], b)
		allConst = allConst && b.isConst
	}
	var n *node
	if allConst {
		n = inConstants(args[0], items)
	} else {
		n = inExpressions(args[0], items)
	}
	if name == "not in" {
		return negate(n), nil
	}
	return n, nil
}

// inConstants is x IN (constants): TRUE when found, else unknown if the list holds a NULL.
func inConstants(x *node, items []*node) *node {
	missing := isFalse
	values := make([]datum.Datum, 0, len(items))
	texts := map[string]struct{}{}
	for _, item := range items {
		if item.value.IsNull() {
			missing = isUnknown
			continue
		}
		values = append(values, item.value)
		texts[item.value.AsText()] = struct{}{}
	}
	eval, find := x.eval, inSorted(values)
	if k := x.typ.Kind; k == catalog.Text || k == catalog.UUID || k == catalog.JSON || k == catalog.File {
		find = func(d datum.Datum) bool {
			_, ok := texts[d.AsText()]
			return ok
		}
	}
	return testNode(func(env *Env, row RowReader) (truth, error) {
		d, err := eval(env, row)
		switch {
		case err != nil || d.IsNull():
			return isUnknown, err
		case find(d):
			return isTrue, nil
		}
		return missing, nil
	})
}

// inSorted finds a value of any kind in a list; the values of one list compare with each other.
func inSorted(values []datum.Datum) func(datum.Datum) bool {
	if len(values) < sortedListMin {
		return func(d datum.Datum) bool {
			return slices.ContainsFunc(values, func(v datum.Datum) bool {
				c, ok := datum.Compare(d, v)
				return ok && c == 0
			})
		}
	}
	slices.SortFunc(values, func(a, b datum.Datum) int {
		c, _ := datum.Compare(a, b)
		return c
	})
	return func(d datum.Datum) bool {
		i := sort.Search(len(values), func(i int) bool {
			c, _ := datum.Compare(values[i], d)
			return c >= 0
		})
		if i == len(values) {
			return false
		}
		c, ok := datum.Compare(values[i], d)
		return ok && c == 0
	}
}

func inExpressions(x *node, items []*node) *node {
	eval := x.eval
	candidates := make([]evalFunc, len(items))
	for i, item := range items {
		candidates[i] = item.eval
	}
	return testNode(func(env *Env, row RowReader) (truth, error) {
		d, err := eval(env, row)
		if err != nil || d.IsNull() {
			return isUnknown, err
		}
		result := isFalse
		for _, c := range candidates {
			v, err := c(env, row)
			if err != nil {
				return isUnknown, err
			}
			if v.IsNull() {
				result = isUnknown
				continue
			}
			same, err := compareValues(d, v, comparisons["="])
			if err != nil || same == isTrue {
				return same, err
			}
		}
		return result, nil
	})
}
