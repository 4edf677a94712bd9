package datum

import (
	"cmp"
	"math"
	"math/big"
	"math/bits"
	"strings"
)

// Compare orders two values as PostgreSQL does: -1, 0 or 1. Numbers of different kinds are compared
// by value (an integer or decimal against a float as floats), dates against timestamps as their
// midnight, text and bytes by bytes, NaN above every number and equal to itself. ok is false when one
// is NULL or the kinds have no common order.
func Compare(a, b Datum) (order int, ok bool) {
	if a.kind == b.kind {
		return compareSame(a, b)
	}
	switch {
	case a.kind == KindNull || b.kind == KindNull:
		return 0, false
	case a.numeric() && b.numeric():
		return compareNumbers(a, b), true
	case a.kind == KindTimestamp && b.kind == KindDate:
		return -compareDateTimestamp(b, a), true
	case a.kind == KindDate && b.kind == KindTimestamp:
		return compareDateTimestamp(a, b), true
	}
	return 0, false
}

func (d Datum) numeric() bool {
	return d.kind == KindInt || d.kind == KindFloat || d.kind == KindDecimal
}

func compareSame(a, b Datum) (int, bool) {
	switch a.kind {
	case KindNull:
		return 0, false
	case KindBool, KindInt, KindTimestamp, KindDate, KindTime:
		return cmp.Compare(a.i, b.i), true
	case KindFloat:
		return CompareFloat(a.AsFloat(), b.AsFloat()), true
	case KindDecimal:
		return compareDecimal(a, b), true
	case KindInterval:
		return compareInterval(a, b), true
	case KindEmbedding:
		return compareEmbedding(a, b), true
	}
	return strings.Compare(a.s, b.s), true
}

// CompareFloat orders floats as PostgreSQL does: NaN equals NaN and is above every number.
func CompareFloat(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	case a == b:
		return 0
	}
	aNaN, bNaN := math.IsNaN(a), math.IsNaN(b)
	switch {
	case aNaN && bNaN:
		return 0
	case aNaN:
		return 1
	}
	return -1
}

func compareNumbers(a, b Datum) int {
	if a.kind == KindFloat || b.kind == KindFloat {
		return CompareFloat(a.ToFloat(), b.ToFloat())
	}
	return compareDecimal(a.ToDecimal(), b.ToDecimal())
}

// ToFloat returns a number's nearest float.
func (d Datum) ToFloat() float64 {
	switch d.kind {
	case KindInt:
		return float64(d.i)
	case KindDecimal:
		if d.fitsInt64() && d.scale <= 15 && d.i < 1<<53 && d.i > -(1<<53) {
			return float64(d.i) / math.Pow10(int(d.scale)) // both exact, so the quotient is the nearest
		}
		f, _ := new(big.Rat).SetFrac(d.DecimalBig(), pow10(uint(d.scale))).Float64()
		return f
	}
	return d.AsFloat()
}

// ToDecimal returns an integer as a decimal of scale 0, and a decimal as it is.
func (d Datum) ToDecimal() Datum {
	if d.kind == KindInt {
		return Datum{kind: KindDecimal, i: d.i, h: d.i >> 63}
	}
	return d
}

// fitsInt64 reports whether a decimal's unscaled value is an int64.
func (d Datum) fitsInt64() bool { return d.h == d.i>>63 }

func compareDecimal(a, b Datum) int {
	if a.scale == b.scale {
		if c := cmp.Compare(a.h, b.h); c != 0 {
			return c
		}
		return cmp.Compare(uint64(a.i), uint64(b.i))
	}
	if a.scale > b.scale {
		return -compareDecimal(b, a)
	}
	diff := b.scale - a.scale
	if a.fitsInt64() && b.fitsInt64() && int(diff) < len(smallPow10) {
		if v, ok := mulInt64(a.i, smallPow10[diff]); ok {
			return cmp.Compare(v, b.i)
		}
	}
	scaled := a.DecimalBig()
	return scaled.Mul(scaled, pow10(uint(diff))).Cmp(b.DecimalBig())
}

// smallPow10 are the powers of ten that an int64 holds.
var smallPow10 = func() (p [19]int64) {
	p[0] = 1
	for i := 1; i < len(p); i++ {
		p[i] = p[i-1] * 10
	}
	return p
}()

func pow10(n uint) *big.Int {
	if n < uint(len(smallPow10)) {
		return big.NewInt(smallPow10[n])
	}
	return new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil)
}

func mulInt64(a, b int64) (int64, bool) {
	neg := (a < 0) != (b < 0)
	hi, lo := bits.Mul64(absInt64(a), absInt64(b))
	if hi != 0 {
		return 0, false
	}
	if neg {
		return -int64(lo), lo <= 1<<63
	}
	return int64(lo), lo < 1<<63
}

func absInt64(v int64) uint64 {
	if v < 0 {
		return -uint64(v)
	}
	return uint64(v)
}

const (
	usPerDay     = 24 * 60 * 60 * 1_000_000
	daysPerMonth = 30 // PostgreSQL's, when it compares intervals
)

// compareDateTimestamp compares without multiplying, as a far date's midnight overflows.
func compareDateTimestamp(date, ts Datum) int {
	days, rest := floorDiv(ts.i, usPerDay)
	if c := cmp.Compare(date.i, days); c != 0 {
		return c
	}
	return cmp.Compare(0, rest)
}

func compareInterval(a, b Datum) int {
	ad, au := a.intervalSpan()
	bd, bu := b.intervalSpan()
	if c := cmp.Compare(ad, bd); c != 0 {
		return c
	}
	return cmp.Compare(au, bu)
}

// intervalSpan is an interval as days and microseconds of a day.
func (d Datum) intervalSpan() (days, us int64) {
	months, dd, total := d.AsInterval()
	days, us = floorDiv(total, usPerDay)
	return days + int64(months)*daysPerMonth + int64(dd), us
}

func compareEmbedding(a, b Datum) int {
	x, y := a.AsEmbedding(), b.AsEmbedding()
	for i := range min(len(x), len(y)) {
		if c := CompareFloat(float64(x[i]), float64(y[i])); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(x), len(y))
}

// floorDiv divides towards minus infinity, so that the rest is never negative.
func floorDiv(v, by int64) (q, rest int64) {
	q, rest = v/by, v%by
	if rest < 0 {
		return q - 1, rest + by
	}
	return q, rest
}
