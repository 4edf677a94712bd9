package datum

import (
	"encoding/json"
	"math"
	"math/big"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Convert makes d a value of type t, as assigning it to a column of that type does: text is read as a
// literal, numbers are rounded and checked against the type's range, dates and timestamps become
// each other, and integers become dates, times and timestamps in the units results show them
// in (days, microseconds), so that a value read from a result can be written back.
func Convert(d Datum, t catalog.Type) (Datum, error) {
	if d.kind == KindNull {
		return Null, nil
	}
	if d.kind == KindText && KindOf(t) != KindText {
		return ParseText(t, d.s)
	}
	switch t.Kind {
	case catalog.Boolean:
		if d.kind == KindBool {
			return d, nil
		}
	case catalog.SmallInt, catalog.Int, catalog.BigInt:
		return toInt(d, t)
	case catalog.Float, catalog.Double:
		if d.numeric() {
			return narrowFloat(t, d.ToFloat())
		}
	case catalog.Decimal:
		return toDecimal(d, t)
	case catalog.Text:
		return Text(FormatText(d, naturalType(d))), nil
	case catalog.JSON, catalog.File:
		return toJSON(d, t)
	case catalog.Timestamp, catalog.DateTime, catalog.Date, catalog.Time:
		return toInstant(d, t)
	case catalog.Embedding:
		if d.kind == KindEmbedding && len(d.s) == 4*int(t.Dimension) {
			return d, nil
		}
		if d.kind == KindEmbedding {
			return Null, dberr.New(dberr.InvalidArgument, "%s needs %d numbers, got %d", t, t.Dimension, len(d.s)/4)
		}
	default:
		if d.kind == KindOf(t) {
			return d, nil
		}
	}
	return Null, noConversion(d, t)
}

func noConversion(d Datum, t catalog.Type) error {
	return dberr.New(dberr.InvalidArgument, "cannot convert %s to %s", d.kind, t)
}

// naturalType is a type whose text form suits a value whose column is not known.
func naturalType(d Datum) catalog.Type {
	if d.kind == KindFloat {
		return catalog.Type{Kind: catalog.Double}
	}
	return catalog.Type{Kind: catalog.Timestamp}
}

func toInt(d Datum, t catalog.Type) (Datum, error) {
	switch d.kind {
	case KindInt:
		return narrowInt(t, d.i)
	case KindFloat:
		v := math.RoundToEven(d.AsFloat())
		if math.IsNaN(v) || v < -(1<<63) || v >= 1<<63 {
			return Null, outOfRange(t, FormatText(d, catalog.Type{Kind: catalog.Double}))
		}
		return narrowInt(t, int64(v))
	case KindDecimal:
		v := divRound(d.DecimalBig(), pow10(uint(d.scale)))
		if !v.IsInt64() {
			return Null, outOfRange(t, FormatText(d, t))
		}
		return narrowInt(t, v.Int64())
	}
	return Null, noConversion(d, t)
}

func toDecimal(d Datum, t catalog.Type) (Datum, error) {
	switch d.kind {
	case KindInt, KindDecimal:
		return Rescale(d.ToDecimal(), t)
	case KindFloat:
		f := d.AsFloat()
		if math.IsNaN(f) || math.IsInf(f, 0) {
			return Null, outOfRange(t, FormatText(d, catalog.Type{Kind: catalog.Double}))
		}
		// PostgreSQL goes through the 15 digits that every float keeps.
		exact, err := parseDecimal(t, string(appendFloat15(f)))
		if err != nil {
			return Null, err
		}
		return Rescale(exact, t)
	}
	return Null, noConversion(d, t)
}

func appendFloat15(f float64) []byte {
	return new(big.Float).SetPrec(53).SetFloat64(f).Append(nil, 'g', 15)
}

// toJSON accepts JSON text, and numbers, booleans and NULL as the JSON values they are.
func toJSON(d Datum, t catalog.Type) (Datum, error) {
	switch d.kind {
	case KindText:
		return jsonText(t, d.s)
	case KindBool, KindInt, KindDecimal:
		return Text(FormatText(d, naturalType(d))), nil
	case KindFloat:
		b, err := json.Marshal(d.AsFloat())
		if err != nil { // NaN, infinities
			return Null, outOfRange(t, FormatText(d, naturalType(d)))
		}
		return Text(string(b)), nil
	}
	return Null, noConversion(d, t)
}

func toInstant(d Datum, t catalog.Type) (Datum, error) {
	want := KindOf(t)
	switch {
	case d.kind == want:
		return d, nil
	case d.kind == KindInt && want == KindTimestamp:
		return Timestamp(d.i), nil
	case d.kind == KindInt && want == KindDate:
		if d.i < math.MinInt32 || d.i > math.MaxInt32 {
			return Null, outOfRange(t, FormatText(d, t))
		}
		return Date(d.i), nil
	case d.kind == KindInt && want == KindTime:
		if d.i < 0 || d.i > usPerDay {
			return Null, outOfRange(t, FormatText(d, t))
		}
		return Time(d.i), nil
	case d.kind == KindDate && want == KindTimestamp:
		return DateToTimestamp(d)
	case d.kind == KindTimestamp && want == KindDate:
		days, _ := floorDiv(d.i, usPerDay)
		return Date(days), nil
	case d.kind == KindTimestamp && want == KindTime:
		_, us := floorDiv(d.i, usPerDay)
		return Time(us), nil
	}
	return Null, noConversion(d, t)
}

// DateToTimestamp returns the midnight at which a date begins.
func DateToTimestamp(d Datum) (Datum, error) {
	us, ok := mulInt64(d.i, usPerDay)
	if !ok {
		return Null, outOfRange(catalog.Type{Kind: catalog.Timestamp}, FormatText(d, catalog.Type{Kind: catalog.Date}))
	}
	return Timestamp(us), nil
}
