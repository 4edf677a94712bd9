package predicate

import (
	"github.com/kalamdb/kalamdb-go/internal/datum"
)

var conditionalBuilders = map[string]builder{
	// case takes condition, result, …, and optionally the ELSE result last.
	"case":     {least: 2, most: -1, build: buildCase},
	"coalesce": {least: 1, most: -1, build: buildCoalesce},
	"nullif":   {least: 2, most: 2, build: buildNullIf},
	"greatest": {least: 1, most: -1, build: buildGreatest},
	"least":    {least: 1, most: -1, build: buildGreatest},
}

func buildCase(name string, args []*node) (*node, error) {
	var conditions, results []*node
	for i := 0; i+1 < len(args); i += 2 {
		conditions, results = append(conditions, args[i]), append(results, args[i+1])
	}
	if len(args)%2 == 1 {
		results = append(results, args[len(args)-1])
	} else {
		results = append(results, constant(datum.Null, unknownType))
	}
	_, whens, err := asConditions(conditions)
	if err != nil {
		return nil, err
	}
	results, typ, err := resolveAll(name, results)
	if err != nil {
		return nil, err
	}
	return valueNode(typ, func(env *Env, row RowReader) (datum.Datum, error) {
		for i, when := range whens {
			v, err := when(env, row)
			if err != nil {
				return datum.Null, err
			}
			if v == isTrue {
				return results[i].eval(env, row)
			}
		}
		return results[len(whens)].eval(env, row)
	}), nil
}

func buildCoalesce(name string, args []*node) (*node, error) {
	args, typ, err := resolveAll(name, args)
	if err != nil {
		return nil, err
	}
	return valueNode(typ, func(env *Env, row RowReader) (datum.Datum, error) {
		for _, a := range args {
			d, err := a.eval(env, row)
			if err != nil || !d.IsNull() {
				return d, err
			}
		}
		return datum.Null, nil
	}), nil
}

func buildNullIf(name string, args []*node) (*node, error) {
	a, b, err := resolvePair(name, args[0], args[1])
	if err != nil {
		return nil, err
	}
	equal, err := buildComparison("=", []*node{a, b})
	if err != nil {
		return nil, err
	}
	return valueNode(a.typ, func(env *Env, row RowReader) (datum.Datum, error) {
		v, err := equal.test(env, row)
		if err != nil || v == isTrue {
			return datum.Null, err
		}
		return a.eval(env, row)
	}), nil
}

// buildGreatest makes GREATEST and LEAST, which pass over NULLs.
func buildGreatest(name string, args []*node) (*node, error) {
	args, typ, err := resolveAll(name, args)
	if err != nil {
		return nil, err
	}
	accept := comparisons["<"]
	if name == "greatest" {
		accept = comparisons[">"]
	}
	return valueNode(typ, func(env *Env, row RowReader) (datum.Datum, error) {
		best := datum.Null
		for _, a := range args {
			d, err := a.eval(env, row)
			if err != nil {
				return datum.Null, err
			}
			if d.IsNull() {
				continue
			}
			if best.IsNull() {
				best = d
				continue
			}
			better, err := compareValues(d, best, accept)
			if err != nil {
				return datum.Null, err
			}
			if better == isTrue {
				best = d
			}
		}
		return best, nil
	}), nil
}
