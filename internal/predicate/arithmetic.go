package predicate

import (
	"math"
	"math/big"
	"math/bits"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

var arithmeticBuilders = map[string]builder{
	"+":     {least: 1, most: 2, build: buildArithmetic},
	"-":     {least: 1, most: 2, build: buildArithmetic},
	"*":     {least: 2, most: 2, build: buildArithmetic},
	"/":     {least: 2, most: 2, build: buildArithmetic},
	"%":     {least: 2, most: 2, build: buildArithmetic},
	"abs":   {least: 1, most: 1, build: buildRounding},
	"round": {least: 1, most: 1, build: buildRounding},
	"floor": {least: 1, most: 1, build: buildRounding},
	"ceil":  {least: 1, most: 1, build: buildRounding},
}

func buildArithmetic(name string, args []*node) (*node, error) {
	if len(args) == 1 {
		return buildUnary(name, args[0])
	}
	a, b := args[0], args[1]
	if n, ok, err := temporalArithmetic(name, a, b); ok || err != nil {
		return n, err
	}
	if a.typ.Kind == unknownKind && b.typ.Kind == unknownKind {
		return nil, dberr.New(dberr.InvalidArgument, "%s needs a number or a time, not two untyped literals", name)
	}
	a, b, err := resolvePair(name, a, b)
	if err != nil {
		return nil, err
	}
	if familyOf(a.typ) != numberFamily {
		return nil, dberr.New(dberr.InvalidArgument, "cannot apply %s to %s and %s", name, typeName(a.typ), typeName(b.typ))
	}
	op := name[0]
	switch {
	case isFloat(a.typ) || isFloat(b.typ):
		return floatArithmetic(op, a, b), nil
	case a.typ.Kind == catalog.Decimal || b.typ.Kind == catalog.Decimal:
		return decimalArithmetic(op, a, b), nil
	}
	return intArithmetic(op, a, b), nil
}

func buildUnary(name string, a *node) (*node, error) {
	if a.typ.Kind == intervalKind && name == "-" {
		return intervalTimes(a, constant(datum.Int(-1), intType)), nil
	}
	if a.typ.Kind == unknownKind {
		var err error
		if a, err = resolve(a, doubleType); err != nil {
			return nil, err
		}
	}
	if familyOf(a.typ) != numberFamily {
		return nil, dberr.New(dberr.InvalidArgument, "cannot apply %s to %s", name, typeName(a.typ))
	}
	if name == "+" {
		return a, nil
	}
	if a.isConst && a.typ.Kind == catalog.BigInt && a.value.AsInt() == math.MaxInt32+1 {
		return constant(datum.Int(math.MinInt32), intType), nil // -2147483648 is an INT
	}
	return buildArithmetic("-", []*node{constant(datum.Int(0), catalog.Type{Kind: catalog.SmallInt}), a})
}

// strict2 evaluates two operands and gives NULL when one is.
func strict2(t catalog.Type, a, b *node, f func(x, y datum.Datum) (datum.Datum, error)) *node {
	left, right := a.eval, b.eval
	return valueNode(t, func(env *Env, row RowReader) (datum.Datum, error) {
		x, err := left(env, row)
		if err != nil || x.IsNull() {
			return datum.Null, err
		}
		y, err := right(env, row)
		if err != nil || y.IsNull() {
			return datum.Null, err
		}
		return f(x, y)
	})
}

// strict1 is strict2 for one operand.
func strict1(t catalog.Type, a *node, f func(x datum.Datum) (datum.Datum, error)) *node {
	eval := a.eval
	return valueNode(t, func(env *Env, row RowReader) (datum.Datum, error) {
		x, err := eval(env, row)
		if err != nil || x.IsNull() {
			return datum.Null, err
		}
		return f(x)
	})
}

func divisionByZero() error { return dberr.New(dberr.ValueOutOfRange, "division by zero") }

func overflow(t catalog.Type) error {
	return dberr.New(dberr.ValueOutOfRange, "%s out of range", typeName(t))
}

func intArithmetic(op byte, a, b *node) *node {
	t := wider(a.typ, b.typ)
	least, most := datum.IntBounds(t.Kind)
	return strict2(t, a, b, func(x, y datum.Datum) (datum.Datum, error) {
		v, err := intOperation(op, x.AsInt(), y.AsInt(), t)
		if err == nil && (v < least || v > most) {
			err = overflow(t)
		}
		if err != nil {
			return datum.Null, err
		}
		return datum.Int(v), nil
	})
}

func intOperation(op byte, x, y int64, t catalog.Type) (int64, error) {
	switch op {
	case '+':
		sum := x + y
		if (sum > x) != (y > 0) && y != 0 {
			return 0, overflow(t)
		}
		return sum, nil
	case '-':
		diff := x - y
		if (diff < x) != (y > 0) && y != 0 {
			return 0, overflow(t)
		}
		return diff, nil
	case '*':
		return multiply(x, y, t)
	}
	if y == 0 {
		return 0, divisionByZero()
	}
	if y == -1 { // the one division that overflows
		if op == '%' {
			return 0, nil
		}
		return intOperation('-', 0, x, t)
	}
	if op == '/' {
		return x / y, nil
	}
	return x % y, nil
}

func multiply(x, y int64, t catalog.Type) (int64, error) {
	hi, lo := bits.Mul64(uint64(x), uint64(y))
	// signed high word of the 128-bit product
	high := int64(hi)
	if x < 0 {
		high -= y
	}
	if y < 0 {
		high -= x
	}
	if high != int64(lo)>>63 {
		return 0, overflow(t)
	}
	return int64(lo), nil
}

func floatArithmetic(op byte, a, b *node) *node {
	t := doubleType
	if a.typ.Kind == catalog.Float && b.typ.Kind == catalog.Float {
		t = a.typ
	}
	return strict2(t, a, b, func(x, y datum.Datum) (datum.Datum, error) {
		u, v := x.ToFloat(), y.ToFloat()
		r, err := floatOperation(op, u, v)
		if err != nil {
			return datum.Null, err
		}
		if t.Kind == catalog.Float {
			r = float64(float32(r))
		}
		if math.IsInf(r, 0) && !math.IsInf(u, 0) && !math.IsInf(v, 0) {
			return datum.Null, overflow(t)
		}
		return datum.Float(r), nil
	})
}

func floatOperation(op byte, x, y float64) (float64, error) {
	switch op {
	case '+':
		return x + y, nil
	case '-':
		return x - y, nil
	case '*':
		return x * y, nil
	}
	if y == 0 {
		return 0, divisionByZero()
	}
	if op == '/' {
		return x / y, nil
	}
	return math.Mod(x, y), nil
}

func decimalArithmetic(op byte, a, b *node) *node {
	scale := max(a.typ.Scale, b.typ.Scale)
	switch op {
	case '*':
		scale = a.typ.Scale + b.typ.Scale
	case '/':
		scale = max(scale, quotientScale)
	}
	t := decimalType(scale)
	return strict2(t, a, b, func(x, y datum.Datum) (datum.Datum, error) {
		v, s, err := decimalOperation(op, x.ToDecimal(), y.ToDecimal())
		if err != nil {
			return datum.Null, err
		}
		d, ok := datum.FitDecimal(v, s)
		if !ok {
			return datum.Null, overflow(t)
		}
		return d, nil
	})
}

// quotientScale is the least number of digits after the point of a quotient; PostgreSQL promises at
// least 16 significant digits.
const quotientScale = 16

func decimalOperation(op byte, x, y datum.Datum) (v *big.Int, scale int, err error) {
	_, _, xs := x.AsDecimal()
	_, _, ys := y.AsDecimal()
	p, q := x.DecimalBig(), y.DecimalBig()
	if op == '*' {
		return p.Mul(p, q), int(xs) + int(ys), nil
	}
	if (op == '/' || op == '%') && q.Sign() == 0 {
		return nil, 0, divisionByZero()
	}
	scale = int(max(xs, ys))
	p.Mul(p, tenTo(scale-int(xs)))
	q.Mul(q, tenTo(scale-int(ys)))
	switch op {
	case '+':
		return p.Add(p, q), scale, nil
	case '-':
		return p.Sub(p, q), scale, nil
	case '%':
		return p.Rem(p, q), scale, nil
	}
	scale = max(scale, quotientScale)
	return roundedQuotient(p.Mul(p, tenTo(scale)), q), scale, nil
}

// roundedQuotient rounds half away from zero.
func roundedQuotient(p, q *big.Int) *big.Int {
	v, rest := new(big.Int).QuoRem(p, q, new(big.Int))
	if rest.Lsh(rest, 1).CmpAbs(q) >= 0 {
		v.Add(v, big.NewInt(int64(p.Sign()*q.Sign())))
	}
	return v
}

func tenTo(n int) *big.Int { return new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil) }

// buildRounding makes ABS, ROUND, FLOOR and CEIL; ROUND rounds half away from zero.
func buildRounding(name string, args []*node) (*node, error) {
	a, err := resolve(args[0], doubleType)
	if err != nil {
		return nil, err
	}
	switch {
	case isInteger(a.typ) && name != "abs":
		return a, nil
	case isInteger(a.typ):
		least, _ := datum.IntBounds(a.typ.Kind)
		return strict1(a.typ, a, func(x datum.Datum) (datum.Datum, error) {
			if x.AsInt() == least {
				return datum.Null, overflow(a.typ)
			}
			return datum.Int(max(x.AsInt(), -x.AsInt())), nil
		}), nil
	case isFloat(a.typ):
		f := map[string]func(float64) float64{"abs": math.Abs, "round": math.Round, "floor": math.Floor, "ceil": math.Ceil}[name]
		return strict1(a.typ, a, func(x datum.Datum) (datum.Datum, error) { return datum.Float(f(x.AsFloat())), nil }), nil
	case a.typ.Kind == catalog.Decimal:
		return roundDecimal(name, a), nil
	}
	return nil, dberr.New(dberr.InvalidArgument, "%s needs a number, not %s", name, typeName(a.typ))
}

func roundDecimal(name string, a *node) *node {
	t := decimalType(0)
	if name == "abs" {
		t = a.typ
	}
	return strict1(t, a, func(x datum.Datum) (datum.Datum, error) {
		_, _, scale := x.AsDecimal()
		v, unit := x.DecimalBig(), tenTo(int(scale))
		switch name {
		case "abs":
			v.Abs(v)
		case "round":
			v, scale = roundedQuotient(v, unit), 0
		case "floor":
			v, scale = floorQuotient(v, unit), 0
		default:
			v, scale = v.Neg(floorQuotient(v.Neg(v), unit)), 0
		}
		d, ok := datum.FitDecimal(v, int(scale))
		if !ok {
			return datum.Null, overflow(t)
		}
		return d, nil
	})
}

// floorQuotient rounds towards minus infinity; q is positive, for which Div does just that.
func floorQuotient(p, q *big.Int) *big.Int { return new(big.Int).Div(p, q) }
