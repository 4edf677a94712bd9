package predicate

import (
	"math"
	"math/big"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

const (
	usPerSecond = int64(1_000_000)
	usPerHour   = 3600 * usPerSecond
	usPerDay    = 24 * usPerHour
)

var temporalBuilders = map[string]builder{
	"now": {volatile: true, time: true, build: func(string, []*node) (*node, error) {
		return valueNode(stampType, func(env *Env, _ RowReader) (datum.Datum, error) {
			return datum.Timestamp(env.NowUS), nil
		}), nil
	}},
	"current_date": {volatile: true, time: true, build: func(string, []*node) (*node, error) {
		return valueNode(dateType, func(env *Env, _ RowReader) (datum.Datum, error) {
			days, _ := datum.SplitTimestamp(env.NowUS)
			return datum.Date(days), nil
		}), nil
	}},
	"date_trunc": {least: 2, most: 2, build: buildDateTrunc},
	"extract":    {least: 2, most: 2, build: buildExtract}, // field, source
}

// temporalArithmetic makes the operators of dates, times and intervals; ok is false when the operands
// are none.
func temporalArithmetic(name string, a, b *node) (n *node, ok bool, err error) {
	if name == "+" && (isMoment(b.typ) || b.typ.Kind == intervalKind && !isMoment(a.typ)) {
		a, b = b, a
	}
	switch {
	case isMoment(a.typ):
		return momentArithmetic(name, a, b)
	case isMoment(b.typ) && name == "-": // untyped literal - moment
		if a, err = resolve(a, b.typ); err != nil {
			return nil, false, err
		}
		return momentArithmetic(name, a, b)
	case a.typ.Kind == intervalKind:
		return intervalArithmetic(name, a, b)
	case b.typ.Kind == intervalKind && name == "*":
		return intervalArithmetic(name, b, a)
	}
	return nil, false, nil
}

func isMoment(t catalog.Type) bool { return isInstant(t) || t.Kind == catalog.Time }

func momentArithmetic(name string, a, b *node) (n *node, ok bool, err error) {
	if b.typ.Kind == unknownKind {
		t := a.typ // '-' takes the literal for another moment, '+' can only mean an interval
		if name == "+" {
			t = intervalType
		}
		if b, err = resolve(b, t); err != nil {
			return nil, false, err
		}
	}
	switch {
	case name != "+" && name != "-":
	case b.typ.Kind == intervalKind:
		return addInterval(name == "-", a, b), true, nil
	case a.typ.Kind == catalog.Date && isInteger(b.typ):
		return addDays(name == "-", a, b), true, nil
	case name == "-" && a.typ.Kind == catalog.Date && b.typ.Kind == catalog.Date:
		return strict2(intType, a, b, func(x, y datum.Datum) (datum.Datum, error) {
			return datum.Int(x.AsInt() - y.AsInt()), nil
		}), true, nil
	case name == "-" && areComparable(a.typ, b.typ):
		return differenceOf(a, b), true, nil
	}
	return nil, false, dberr.New(dberr.InvalidArgument, "cannot apply %s to %s and %s", name, typeName(a.typ), typeName(b.typ))
}

// differenceOf is the interval between two timestamps, in days and microseconds, or two times.
func differenceOf(a, b *node) *node {
	if isInstant(a.typ) {
		a, b = widen(a, stampType), widen(b, stampType)
	}
	asDays := isInstant(a.typ)
	return strict2(intervalType, a, b, func(x, y datum.Datum) (datum.Datum, error) {
		us, err := intOperation('-', x.AsInt(), y.AsInt(), intervalType)
		if err != nil || !asDays {
			return datum.Interval(0, 0, us), err
		}
		return datum.Interval(0, int32(us/usPerDay), us%usPerDay), nil
	})
}

func addDays(minus bool, a, b *node) *node {
	return strict2(dateType, a, b, func(x, y datum.Datum) (datum.Datum, error) {
		op := byte('+')
		if minus {
			op = '-'
		}
		days, err := intOperation(op, x.AsInt(), y.AsInt(), dateType)
		if err == nil && (days < math.MinInt32 || days > math.MaxInt32) {
			err = overflow(dateType)
		}
		return datum.Date(days), err
	})
}

// addInterval moves a moment: first by months, ending no later than the month's last day, then by
// days, then by microseconds. A date becomes a timestamp, a time wraps around midnight.
func addInterval(minus bool, a, b *node) *node {
	if a.typ.Kind == catalog.Time {
		return strict2(timeType, a, b, func(x, y datum.Datum) (datum.Datum, error) {
			_, _, us := y.AsInterval()
			us %= usPerDay
			if minus {
				us = -us
			}
			_, ofDay := datum.SplitTimestamp(x.AsInt() + us)
			return datum.Time(ofDay), nil
		})
	}
	a = widen(a, wider(a.typ, stampType))
	return strict2(a.typ, a, b, func(x, y datum.Datum) (datum.Datum, error) {
		months, days, us := y.AsInterval()
		if minus {
			if months == math.MinInt32 || days == math.MinInt32 || us == math.MinInt64 {
				return datum.Null, overflow(a.typ)
			}
			months, days, us = -months, -days, -us
		}
		moved, err := shiftTimestamp(x.AsInt(), months, days, us, a.typ)
		return datum.Timestamp(moved), err
	})
}

func shiftTimestamp(at int64, months, days int32, us int64, t catalog.Type) (int64, error) {
	if months != 0 {
		day, ofDay := datum.SplitTimestamp(at)
		day = shiftMonths(day, int64(months))
		midnight, err := multiply(day, usPerDay, t)
		if err != nil {
			return 0, err
		}
		if at, err = intOperation('+', midnight, ofDay, t); err != nil {
			return 0, err
		}
	}
	at, err := intOperation('+', at, int64(days)*usPerDay, t) // 2^31 days fit in 2^63 µs
	if err != nil {
		return 0, err
	}
	return intOperation('+', at, us, t)
}

func shiftMonths(day, months int64) int64 {
	year, month, dayOfMonth := datum.Civil(day)
	total := year*12 + month - 1 + months
	year, month = total/12, total%12+1
	if month < 1 {
		year, month = year-1, month+12
	}
	return datum.Days(year, month, min(dayOfMonth, datum.DaysInMonth(year, month)))
}

func intervalArithmetic(name string, a, b *node) (n *node, ok bool, err error) {
	if b.typ.Kind == unknownKind && (name == "+" || name == "-") {
		if b, err = resolve(b, intervalType); err != nil {
			return nil, false, err
		}
	}
	switch {
	case (name == "+" || name == "-") && b.typ.Kind == intervalKind:
		return sumIntervals(name[0], a, b), true, nil
	case name == "*" && familyOf(b.typ) == numberFamily:
		return intervalTimes(a, b), true, nil
	}
	return nil, false, dberr.New(dberr.InvalidArgument, "cannot apply %s to %s and %s", name, typeName(a.typ), typeName(b.typ))
}

func sumIntervals(op byte, a, b *node) *node {
	return strict2(intervalType, a, b, func(x, y datum.Datum) (datum.Datum, error) {
		xm, xd, xu := x.AsInterval()
		ym, yd, yu := y.AsInterval()
		months, _ := intOperation(op, int64(xm), int64(ym), intervalType) // 32-bit parts cannot overflow 64
		days, _ := intOperation(op, int64(xd), int64(yd), intervalType)
		us, err := intOperation(op, xu, yu, intervalType)
		if err != nil || months != int64(int32(months)) || days != int64(int32(days)) {
			return datum.Null, overflow(intervalType)
		}
		return datum.Interval(int32(months), int32(days), us), nil
	})
}

// intervalTimes multiplies an interval; fractions of months become days, of days microseconds.
func intervalTimes(a, b *node) *node {
	return strict2(intervalType, a, b, func(x, y datum.Datum) (datum.Datum, error) {
		m, d, us := x.AsInterval()
		factor := y.ToFloat()
		months, monthRest := math.Modf(float64(m) * factor)
		days, dayRest := math.Modf(float64(d)*factor + monthRest*30)
		micros := math.RoundToEven(float64(us)*factor + dayRest*float64(usPerDay))
		if !(math.Abs(months) <= math.MaxInt32 && math.Abs(days) <= math.MaxInt32 && math.Abs(micros) < 1<<63) {
			return datum.Null, overflow(intervalType)
		}
		if y.Kind() == datum.KindInt { // exact where floats would not be
			exact, err := multiply(us, y.AsInt(), intervalType)
			return datum.Interval(int32(months), int32(days), exact), err
		}
		return datum.Interval(int32(months), int32(days), int64(micros)), nil
	})
}

// constantField reads the field name that DATE_TRUNC and EXTRACT need while compiling.
func constantField(name string, n *node) (string, error) {
	if !n.isConst || n.value.Kind() != datum.KindText {
		return "", dberr.New(dberr.Unsupported, "%s needs a constant field name", name)
	}
	field := strings.ToLower(n.value.AsText())
	if long, ok := fieldAliases[field]; ok {
		field = long
	}
	return field, nil
}

var fieldAliases = map[string]string{"microseconds": "microsecond", "milliseconds": "millisecond",
	"seconds": "second", "minutes": "minute", "hours": "hour", "days": "day", "weeks": "week",
	"months": "month", "quarters": "quarter", "years": "year"}

// momentArgument makes the argument a timestamp.
func momentArgument(name string, n *node) (*node, error) {
	n, err := resolve(n, stampType)
	if err != nil {
		return nil, err
	}
	if !isInstant(n.typ) {
		return nil, dberr.New(dberr.InvalidArgument, "%s needs a DATE or TIMESTAMP, not %s", name, typeName(n.typ))
	}
	return widen(n, wider(n.typ, stampType)), nil
}

func buildDateTrunc(name string, args []*node) (*node, error) {
	field, err := constantField(name, args[0])
	if err != nil {
		return nil, err
	}
	source, err := momentArgument(name, args[1])
	if err != nil {
		return nil, err
	}
	if unit, ok := clockUnits[field]; ok {
		return strict1(source.typ, source, func(x datum.Datum) (datum.Datum, error) {
			days, ofDay := datum.SplitTimestamp(x.AsInt())
			return datum.Timestamp(days*usPerDay + ofDay - ofDay%unit), nil
		}), nil
	}
	truncate, ok := dayTruncations[field]
	if !ok {
		return nil, dberr.New(dberr.InvalidArgument, "DATE_TRUNC does not know the field %.32q", field)
	}
	return strict1(source.typ, source, func(x datum.Datum) (datum.Datum, error) {
		days, _ := datum.SplitTimestamp(x.AsInt())
		year, month, _ := datum.Civil(days)
		us, err := multiply(truncate(days, year, month), usPerDay, source.typ)
		return datum.Timestamp(us), err
	}), nil
}

var clockUnits = map[string]int64{"microsecond": 1, "millisecond": 1000, "second": usPerSecond,
	"minute": 60 * usPerSecond, "hour": usPerHour, "day": usPerDay}

// dayTruncations give the first day of the field's period.
var dayTruncations = map[string]func(days, year, month int64) int64{
	"week":    func(days, _, _ int64) int64 { return days - weekday(days) },
	"month":   func(_, year, month int64) int64 { return datum.Days(year, month, 1) },
	"quarter": func(_, year, month int64) int64 { return datum.Days(year, month-(month-1)%3, 1) },
	"year":    func(_, year, _ int64) int64 { return datum.Days(year, 1, 1) },
}

// weekday counts from Monday = 0.
func weekday(days int64) int64 {
	d := (days + 3) % 7 // 1970-01-01 was a Thursday
	if d < 0 {
		d += 7
	}
	return d
}

func buildExtract(name string, args []*node) (*node, error) {
	field, err := constantField(name, args[0])
	if err != nil {
		return nil, err
	}
	source, err := momentArgument(name, args[1])
	if err != nil {
		return nil, err
	}
	if scale, ok := fractionFields[field]; ok {
		return extractFraction(field, scale, source), nil
	}
	part, ok := wholeFields[field]
	if !ok {
		return nil, dberr.New(dberr.Unsupported, "EXTRACT of the field %.32q is not known here", field)
	}
	return strict1(bigIntType, source, func(x datum.Datum) (datum.Datum, error) {
		days, ofDay := datum.SplitTimestamp(x.AsInt())
		return datum.Int(part(days, ofDay)), nil
	}), nil
}

// fractionFields have digits after the point: as many as given.
var fractionFields = map[string]uint8{"second": 6, "millisecond": 3, "epoch": 6}

func extractFraction(field string, scale uint8, source *node) *node {
	return strict1(decimalType(scale), source, func(x datum.Datum) (datum.Datum, error) {
		us := x.AsInt()
		if field != "epoch" {
			_, ofDay := datum.SplitTimestamp(us)
			us = ofDay % (60 * usPerSecond)
		}
		d, ok := datum.DecimalFromBig(big.NewInt(us), scale)
		if !ok {
			return datum.Null, overflow(decimalType(scale))
		}
		return d, nil
	})
}

// wholeFields are computed from days since 1970 and microseconds of the day.
var wholeFields = map[string]func(days, ofDay int64) int64{
	"year":        func(days, _ int64) int64 { y, _, _ := datum.Civil(days); return y },
	"month":       func(days, _ int64) int64 { _, m, _ := datum.Civil(days); return m },
	"day":         func(days, _ int64) int64 { _, _, d := datum.Civil(days); return d },
	"quarter":     func(days, _ int64) int64 { _, m, _ := datum.Civil(days); return (m + 2) / 3 },
	"hour":        func(_, ofDay int64) int64 { return ofDay / usPerHour },
	"minute":      func(_, ofDay int64) int64 { return ofDay / (60 * usPerSecond) % 60 },
	"microsecond": func(_, ofDay int64) int64 { return ofDay % (60 * usPerSecond) },
	"isodow":      func(days, _ int64) int64 { return weekday(days) + 1 },
	"dow":         func(days, _ int64) int64 { return (weekday(days) + 1) % 7 },
	"doy": func(days, _ int64) int64 {
		y, _, _ := datum.Civil(days)
		return days - datum.Days(y, 1, 1) + 1
	},
	"week": func(days, _ int64) int64 {
		_, first := isoYear(days)
		return (days-first)/7 + 1
	},
	"isoyear": func(days, _ int64) int64 { y, _ := isoYear(days); return y },
}

// isoYear is the year that a day's Thursday lies in, and the Monday of that year's first week.
func isoYear(days int64) (year, first int64) {
	year, _, _ = datum.Civil(days - weekday(days) + 3)
	fourth := datum.Days(year, 1, 4) // always in week 1
	return year, fourth - weekday(fourth)
}
