package predicate

import (
	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

var logicBuilders = map[string]builder{
	"and":            {least: 1, most: -1, build: buildAnd},
	"or":             {least: 1, most: -1, build: buildOr},
	"not":            {least: 1, most: 1, build: buildNot},
	"is null":        {least: 1, most: 1, build: buildIsNull},
	"is not null":    {least: 1, most: 1, build: buildIsNull},
	"is true":        {least: 1, most: 1, build: buildIsTruth},
	"is not true":    {least: 1, most: 1, build: buildIsTruth},
	"is false":       {least: 1, most: 1, build: buildIsTruth},
	"is not false":   {least: 1, most: 1, build: buildIsTruth},
	"is unknown":     {least: 1, most: 1, build: buildIsTruth},
	"is not unknown": {least: 1, most: 1, build: buildIsTruth},
}

// asCondition makes an untyped literal BOOLEAN and refuses what is not.
func asCondition(n *node) (*node, error) {
	n, err := resolve(n, boolType)
	if err != nil {
		return nil, err
	}
	if n.typ.Kind != catalog.Boolean {
		return nil, dberr.New(dberr.InvalidArgument, "a condition must be BOOLEAN, not %s", typeName(n.typ))
	}
	return n, nil
}

func asConditions(args []*node) (nodes []*node, tests []testFunc, err error) {
	nodes, tests = make([]*node, len(args)), make([]testFunc, len(args))
	for i, a := range args {
		if nodes[i], err = asCondition(a); err != nil {
			return nil, nil, err
		}
		tests[i] = nodes[i].test
	}
	return nodes, tests, nil
}

// buildAnd evaluates from left to right and stops at the first FALSE.
func buildAnd(_ string, args []*node) (*node, error) {
	nodes, terms, err := asConditions(args)
	if err != nil {
		return nil, err
	}
	n := testNode(func(env *Env, row RowReader) (truth, error) {
		result := isTrue
		for _, t := range terms {
			v, err := t(env, row)
			switch {
			case err != nil:
				return isUnknown, err
			case v == isFalse:
				return isFalse, nil
			case v == isUnknown:
				result = isUnknown
			}
		}
		return result, nil
	})
	n.all = nodes
	return n, nil
}

// buildOr evaluates from left to right and stops at the first TRUE.
func buildOr(_ string, args []*node) (*node, error) {
	_, terms, err := asConditions(args)
	if err != nil {
		return nil, err
	}
	return testNode(func(env *Env, row RowReader) (truth, error) {
		result := isFalse
		for _, t := range terms {
			v, err := t(env, row)
			switch {
			case err != nil:
				return isUnknown, err
			case v == isTrue:
				return isTrue, nil
			case v == isUnknown:
				result = isUnknown
			}
		}
		return result, nil
	}), nil
}

func buildNot(_ string, args []*node) (*node, error) {
	n, err := asCondition(args[0])
	if err != nil {
		return nil, err
	}
	return negate(n), nil
}

func negate(n *node) *node {
	test := n.test
	return testNode(func(env *Env, row RowReader) (truth, error) {
		v, err := test(env, row)
		switch v {
		case isTrue:
			return isFalse, err
		case isFalse:
			return isTrue, err
		}
		return isUnknown, err
	})
}

func buildIsNull(name string, args []*node) (*node, error) {
	eval, wantNull := args[0].eval, name == "is null"
	if args[0].isColumn {
		id := args[0].column
		return testNode(func(_ *Env, row RowReader) (truth, error) {
			return truthIf(row.Column(id).IsNull() == wantNull), nil
		}), nil
	}
	return testNode(func(env *Env, row RowReader) (truth, error) {
		d, err := eval(env, row)
		return truthIf(d.IsNull() == wantNull), err
	}), nil
}

func buildIsTruth(name string, args []*node) (*node, error) {
	n, err := asCondition(args[0])
	if err != nil {
		return nil, err
	}
	var want truth
	positive := true
	switch name {
	case "is true":
		want = isTrue
	case "is not true":
		want, positive = isTrue, false
	case "is false":
		want = isFalse
	case "is not false":
		want, positive = isFalse, false
	case "is unknown":
		want = isUnknown
	default:
		want, positive = isUnknown, false
	}
	test := n.test
	return testNode(func(env *Env, row RowReader) (truth, error) {
		v, err := test(env, row)
		return truthIf((v == want) == positive), err
	}), nil
}

var sessionBuilders = map[string]builder{
	"current_user": {volatile: true, build: func(string, []*node) (*node, error) {
		return valueNode(textType, func(env *Env, _ RowReader) (datum.Datum, error) {
			return datum.Text(env.UserID), nil
		}), nil
	}},
	"current_role": {volatile: true, build: func(string, []*node) (*node, error) {
		return valueNode(textType, func(env *Env, _ RowReader) (datum.Datum, error) {
			return datum.Text(env.Role.String()), nil
		}), nil
	}},
}
