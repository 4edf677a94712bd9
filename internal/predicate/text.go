package predicate

import (
	"strings"
	"unicode/utf8"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// resultTextMax bounds the text that one expression may build from a row: replace() can multiply.
const resultTextMax = 16 << 20

var textBuilders = map[string]builder{
	"like":      {least: 2, most: 3, build: buildLike},
	"not like":  {least: 2, most: 3, build: buildLike},
	"ilike":     {least: 2, most: 3, build: buildLike},
	"not ilike": {least: 2, most: 3, build: buildLike},
	"||":        {least: 2, most: 2, build: buildConcatOperator},
	"concat":    {least: 1, most: -1, build: buildConcat},
	"lower":     textFunction(textType, "t", func(a []datum.Datum) (datum.Datum, error) { return datum.Text(strings.ToLower(a[0].AsText())), nil }),
	"upper":     textFunction(textType, "t", func(a []datum.Datum) (datum.Datum, error) { return datum.Text(strings.ToUpper(a[0].AsText())), nil }),
	"length":    textFunction(intType, "t", func(a []datum.Datum) (datum.Datum, error) { return countRunes(a[0].AsText()), nil }),
	"replace":   textFunction(textType, "ttt", replace),
	"starts_with": textFunction(boolType, "tt", func(a []datum.Datum) (datum.Datum, error) {
		return datum.Bool(strings.HasPrefix(a[0].AsText(), a[1].AsText())), nil
	}),
	"strpos": textFunction(intType, "tt", func(a []datum.Datum) (datum.Datum, error) {
		at := strings.Index(a[0].AsText(), a[1].AsText())
		if at < 0 {
			return datum.Int(0), nil
		}
		return datum.Int(countRunes(a[0].AsText()[:at]).AsInt() + 1), nil
	}),
	"left":  textFunction(textType, "ti", left),
	"right": textFunction(textType, "ti", right),
	"substring": textFunction(textType, "ti|i", func(a []datum.Datum) (datum.Datum, error) {
		return substring(a)
	}),
	"trim":  textFunction(textType, "t|t", func(a []datum.Datum) (datum.Datum, error) { return trim(a, strings.Trim), nil }),
	"ltrim": textFunction(textType, "t|t", func(a []datum.Datum) (datum.Datum, error) { return trim(a, strings.TrimLeft), nil }),
	"rtrim": textFunction(textType, "t|t", func(a []datum.Datum) (datum.Datum, error) { return trim(a, strings.TrimRight), nil }),
}

// textFunction makes a builder for a function that is NULL when an argument is. The signature has one
// letter per argument, t for text and i for integer; those after | are optional.
func textFunction(result catalog.Type, signature string, f func(args []datum.Datum) (datum.Datum, error)) builder {
	required, optional, _ := strings.Cut(signature, "|")
	kinds := required + optional
	return builder{least: len(required), most: len(kinds), build: func(name string, args []*node) (*node, error) {
		evals := make([]evalFunc, len(args))
		for i, a := range args {
			n, err := argument(name, kinds[i], a)
			if err != nil {
				return nil, err
			}
			evals[i] = n.eval
		}
		return valueNode(result, func(env *Env, row RowReader) (datum.Datum, error) {
			var values [3]datum.Datum
			for i, eval := range evals {
				d, err := eval(env, row)
				if err != nil || d.IsNull() {
					return datum.Null, err
				}
				values[i] = d
			}
			return f(values[:len(evals)])
		}), nil
	}}
}

func argument(name string, kind byte, n *node) (*node, error) {
	if kind == 't' {
		return resolveText(name, n)
	}
	n, err := resolve(n, intType)
	if err != nil {
		return nil, err
	}
	if !isInteger(n.typ) {
		return nil, dberr.New(dberr.InvalidArgument, "%s needs an INTEGER, not %s", name, typeName(n.typ))
	}
	return n, nil
}

func countRunes(s string) datum.Datum { return datum.Int(int64(utf8.RuneCountInString(s))) }

func replace(a []datum.Datum) (datum.Datum, error) {
	s, from, to := a[0].AsText(), a[1].AsText(), a[2].AsText()
	if from == "" {
		return a[0], nil
	}
	if grown := strings.Count(s, from) * (len(to) - len(from)); len(s)+grown > resultTextMax {
		return datum.Null, tooLong()
	}
	return datum.Text(strings.ReplaceAll(s, from, to)), nil
}

func tooLong() error {
	return dberr.New(dberr.LimitExceeded, "text built by an expression is longer than %d bytes", resultTextMax)
}

// byteOffset is where the n-th character of s begins; len(s) past the end.
func byteOffset(s string, n int64) int {
	if n >= int64(len(s)) {
		return len(s)
	}
	at := 0
	for ; n > 0 && at < len(s); n-- {
		_, size := utf8.DecodeRuneInString(s[at:])
		at += size
	}
	return at
}

// left returns the first n characters; a negative n leaves off the last -n.
func left(a []datum.Datum) (datum.Datum, error) {
	s, n := a[0].AsText(), a[1].AsInt()
	if n < 0 {
		n = max(0, countRunes(s).AsInt()+n)
	}
	return datum.Text(s[:byteOffset(s, n)]), nil
}

// right returns the last n characters; a negative n leaves off the first -n.
func right(a []datum.Datum) (datum.Datum, error) {
	s, n := a[0].AsText(), a[1].AsInt()
	skip := countRunes(s).AsInt() - n
	if n < 0 {
		skip = -max(n, -int64(len(s)))
	}
	return datum.Text(s[byteOffset(s, max(0, skip)):]), nil
}

// substring counts characters from 1; a start before the text uses up length.
func substring(a []datum.Datum) (datum.Datum, error) {
	s, start := a[0].AsText(), a[1].AsInt()
	end := int64(len(s)) + 1
	if len(a) == 3 {
		n := a[2].AsInt()
		if n < 0 {
			return datum.Null, dberr.New(dberr.InvalidArgument, "negative substring length not allowed")
		}
		if start <= end && n < end { // else the end lies past the text anyway
			end = min(end, start+n)
		} else if start < 0 {
			end = max(min(end, start+n), 0)
		}
	}
	from := byteOffset(s, max(start, 1)-1)
	to := byteOffset(s, max(end, 1)-1)
	if to <= from {
		return datum.Text(""), nil
	}
	return datum.Text(s[from:to]), nil
}

func trim(a []datum.Datum, cut func(s, cutset string) string) datum.Datum {
	cutset := " "
	if len(a) == 2 {
		cutset = a[1].AsText()
	}
	return datum.Text(cut(a[0].AsText(), cutset))
}

// buildConcatOperator makes ||: one side must be text, the other may be anything that has a text form.
func buildConcatOperator(name string, args []*node) (*node, error) {
	a, b := args[0], args[1]
	for _, n := range args {
		if k := n.typ.Kind; k == catalog.Bytes || k == catalog.Embedding {
			return nil, dberr.New(dberr.Unsupported, "|| of %s is not known here", typeName(n.typ))
		}
	}
	if f, g := familyOf(a.typ), familyOf(b.typ); f != textFamily && f != unknownFamily && g != textFamily && g != unknownFamily {
		return nil, dberr.New(dberr.InvalidArgument, "cannot apply || to %s and %s", typeName(a.typ), typeName(b.typ))
	}
	left, right := a.typ, b.typ
	return strict2(textType, a, b, func(x, y datum.Datum) (datum.Datum, error) {
		s, t := datum.FormatText(x, left), datum.FormatText(y, right)
		if len(s)+len(t) > resultTextMax {
			return datum.Null, tooLong()
		}
		return datum.Text(s + t), nil
	}), nil
}

// buildConcat makes CONCAT, which passes over NULLs.
func buildConcat(_ string, args []*node) (*node, error) {
	return valueNode(textType, func(env *Env, row RowReader) (datum.Datum, error) {
		var out []byte
		for _, a := range args {
			d, err := a.eval(env, row)
			if err != nil {
				return datum.Null, err
			}
			if out = datum.AppendText(out, d, a.typ); len(out) > resultTextMax {
				return datum.Null, tooLong()
			}
		}
		return datum.Text(string(out)), nil
	}), nil
}
