package predicate

import (
	"strconv"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

var castBuilders = map[string]builder{
	// cast takes a value and the type's name as a text literal.
	"cast": {least: 2, most: 2, build: buildCast},
}

func buildCast(_ string, args []*node) (*node, error) {
	if !args[1].isConst || args[1].value.Kind() != datum.KindText {
		return nil, dberr.New(dberr.InvalidArgument, "CAST needs the name of a type")
	}
	t, err := parseTypeName(args[1].value.AsText())
	if err != nil {
		return nil, err
	}
	from := args[0]
	if from.typ.Kind == unknownKind {
		return castLiteral(from, t)
	}
	if from.typ == t {
		return from, nil
	}
	if !castable(from.typ, t) {
		return nil, dberr.New(dberr.InvalidArgument, "cannot cast %s to %s", typeName(from.typ), typeName(t))
	}
	source := from.typ
	return strict1(t, from, func(x datum.Datum) (datum.Datum, error) { return castValue(x, source, t) }), nil
}

// parseTypeName reads NAME or NAME(parameters), as catalog.Type writes them, and INTERVAL.
func parseTypeName(text string) (catalog.Type, error) {
	name, list, found := strings.Cut(text, "(")
	if strings.EqualFold(strings.TrimSpace(name), "interval") && !found {
		return intervalType, nil
	}
	var params []int
	if found {
		list, closed := strings.CutSuffix(strings.TrimSpace(list), ")")
		if !closed {
			return catalog.Type{}, dberr.New(dberr.InvalidArgument, "bad type name %.64q", text)
		}
		for _, p := range strings.Split(list, ",") {
			v, err := strconv.Atoi(strings.TrimSpace(p))
			if err != nil {
				return catalog.Type{}, dberr.New(dberr.InvalidArgument, "bad type name %.64q", text)
			}
			params = append(params, v)
		}
	}
	return catalog.ParseType(name, params)
}

// castLiteral reads a quoted literal as the type: CAST('…' AS t) and t '…'.
func castLiteral(n *node, t catalog.Type) (*node, error) {
	if !n.isConst || n.value.IsNull() {
		return resolve(n, t)
	}
	if t.Kind == intervalKind {
		d, err := datum.ParseInterval(n.value.AsText())
		return constant(d, t), err
	}
	d, err := datum.ParseText(t, n.value.AsText())
	if err != nil {
		return nil, err
	}
	return constant(d, t), nil
}

// castable says which explicit casts exist: those of PostgreSQL among our types.
func castable(from, to catalog.Type) bool {
	f, t := familyOf(from), familyOf(to)
	switch {
	case t == textFamily:
		return true
	case f == textFamily:
		return true
	case from.Kind == to.Kind:
		return true
	case f == numberFamily && t == numberFamily, f == instantFamily && t == instantFamily:
		return true
	case f == boolFamily:
		return to.Kind == catalog.Int
	case t == boolFamily:
		return from.Kind == catalog.Int
	case to.Kind == catalog.Time:
		return from.Kind == catalog.Timestamp || from.Kind == catalog.DateTime
	}
	return false
}

func castValue(x datum.Datum, from, to catalog.Type) (datum.Datum, error) {
	switch {
	case to.Kind == catalog.Text:
		return datum.Text(datum.FormatText(x, from)), nil
	case to.Kind == intervalKind:
		return datum.ParseInterval(x.AsText())
	case x.Kind() == datum.KindBool && to.Kind == catalog.Int:
		if x.AsBool() {
			return datum.Int(1), nil
		}
		return datum.Int(0), nil
	case x.Kind() == datum.KindInt && to.Kind == catalog.Boolean:
		return datum.Bool(x.AsInt() != 0), nil
	case familyOf(to) == textFamily && familyOf(from) != textFamily && familyOf(from) != numberFamily && familyOf(from) != boolFamily:
		quoted := strconv.Quote(datum.FormatText(x, from)) // moments, ids and bytes hold nothing that JSON writes differently
		return datum.Text(quoted), nil
	}
	return datum.Convert(x, to)
}
