// Package celljson writes cells as clients see them: as JSON in two dialects and as MessagePack, from
// datums and from Arrow columns. Every function appends to a byte slice and allocates nothing else in
// the common cases, because result sets and live changes are written cell by cell.
//
// Output is always well formed: text that is not valid UTF-8 is written with U+FFFD for each bad byte,
// and numbers JSON has no form for (NaN, infinities) are an error.
package celljson

import (
	"math"
	"strconv"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Dialect is how cells look.
type Dialect uint8

const (
	// JSON is the dialect of spec 1.6: BIGINT, DECIMAL and UUID as strings, points in time as numbers
	// (microseconds, days), BYTES and EMBEDDING as arrays of numbers.
	JSON Dialect = 1
	// Seed is the first generation's JSON: every number a JSON number, points in time as ISO 8601
	// text, BYTES as base64.
	Seed Dialect = 2
	// Msgpack holds the same content as JSON.
	Msgpack Dialect = 3
)

// Valid reports whether d is one of the dialects.
func (d Dialect) Valid() bool { return d >= JSON && d <= Msgpack }

// AppendValue appends one cell of a column of type t.
func AppendValue(dst []byte, v datum.Datum, t catalog.Type, d Dialect) ([]byte, error) {
	switch v.Kind() {
	case datum.KindNull:
		return AppendNull(dst, d), nil
	case datum.KindBool:
		return appendBool(dst, v.AsBool(), d), nil
	case datum.KindInt:
		return appendInt(dst, v.AsInt(), t.Kind == catalog.BigInt, d), nil
	case datum.KindFloat:
		if t.Kind == catalog.Float {
			return appendFloat(dst, v.AsFloat(), 32, d)
		}
		return appendFloat(dst, v.AsFloat(), 64, d)
	case datum.KindDecimal:
		hi, lo, scale := v.AsDecimal()
		return appendDecimal(dst, hi, lo, int32(scale), d), nil
	case datum.KindText:
		return AppendText(dst, v.AsText(), d), nil
	case datum.KindBytes:
		return appendBytes(dst, v.AsText(), d), nil
	case datum.KindTimestamp:
		return appendTimestamp(dst, v.AsInt(), d), nil
	case datum.KindDate:
		return appendDate(dst, v.AsInt(), d), nil
	case datum.KindTime:
		return appendTime(dst, v.AsInt(), d), nil
	case datum.KindUUID:
		return appendUUID(dst, v.AsText(), d), nil
	case datum.KindEmbedding:
		return appendEmbedding(dst, v.AsText(), d)
	}
	return dst, dberr.New(dberr.Unsupported, "a value of kind %s cannot be returned", v.Kind())
}

// AppendNull appends NULL.
func AppendNull(dst []byte, d Dialect) []byte {
	if d == Msgpack {
		return AppendMsgpackNil(dst)
	}
	return append(dst, "null"...)
}

// AppendText appends a string.
func AppendText(dst []byte, s string, d Dialect) []byte {
	if d == Msgpack {
		return AppendMsgpackText(dst, s)
	}
	return AppendJSONText(dst, s)
}

func appendBool(dst []byte, v bool, d Dialect) []byte {
	if d == Msgpack {
		return AppendMsgpackBool(dst, v)
	}
	return strconv.AppendBool(dst, v)
}

// appendInt writes an integer; big ones are text where the dialect protects clients whose numbers are
// doubles.
func appendInt(dst []byte, v int64, big bool, d Dialect) []byte {
	switch {
	case d == Msgpack && big:
		var digits [20]byte
		return AppendMsgpackText(dst, string(strconv.AppendInt(digits[:0], v, 10)))
	case d == Msgpack:
		return AppendMsgpackInt(dst, v)
	case d == JSON && big:
		return append(strconv.AppendInt(append(dst, '"'), v, 10), '"')
	}
	return strconv.AppendInt(dst, v, 10)
}

// appendUint is for engine results; columns have no unsigned type.
func appendUint(dst []byte, v uint64, d Dialect) []byte {
	switch d {
	case Msgpack:
		return AppendMsgpackText(dst, strconv.FormatUint(v, 10))
	case JSON:
		return append(strconv.AppendUint(append(dst, '"'), v, 10), '"')
	}
	return strconv.AppendUint(dst, v, 10)
}

func appendFloat(dst []byte, v float64, bits int, d Dialect) ([]byte, error) {
	if bits == 32 {
		v = float64(float32(v)) // one too big for its column's type becomes infinite here, not while printing
	}
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return dst, dberr.New(dberr.ValueOutOfRange, "the number %v cannot be returned: JSON has no form for it", v)
	}
	if d == Msgpack {
		if bits == 32 {
			return AppendMsgpackFloat32(dst, float32(v)), nil
		}
		return AppendMsgpackFloat64(dst, v), nil
	}
	// Plain digits in the range people write by hand, an exponent outside, as JavaScript does.
	format := byte('f')
	if abs := math.Abs(v); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(dst, v, format, -1, bits), nil
}

func appendBytes(dst []byte, v string, d Dialect) []byte {
	switch d {
	case Seed:
		return appendBase64(dst, v)
	case Msgpack:
		dst = AppendMsgpackArray(dst, len(v))
		for i := range len(v) {
			dst = AppendMsgpackInt(dst, int64(v[i]))
		}
		return dst
	}
	dst = append(dst, '[')
	for i := range len(v) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendUint(dst, uint64(v[i]), 10)
	}
	return append(dst, ']')
}

// appendEmbedding takes float32 little-endian, concatenated.
func appendEmbedding(dst []byte, v string, d Dialect) ([]byte, error) {
	n := len(v) / 4
	dst = AppendArrayStart(dst, n, d)
	var err error
	for i := range n {
		if i > 0 {
			dst = AppendArraySeparator(dst, d)
		}
		b := v[4*i:]
		bits := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
		if dst, err = appendFloat(dst, float64(math.Float32frombits(bits)), 32, d); err != nil {
			return dst, err
		}
	}
	return AppendArrayEnd(dst, d), nil
}

const hexDigits = "0123456789abcdef"

func appendUUID(dst []byte, v string, d Dialect) []byte {
	var text [36]byte
	at := 0
	for i := range min(len(v), 16) {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			text[at] = '-'
			at++
		}
		text[at], text[at+1] = hexDigits[v[i]>>4], hexDigits[v[i]&15]
		at += 2
	}
	if d == Msgpack {
		return AppendMsgpackText(dst, string(text[:at]))
	}
	return append(append(append(dst, '"'), text[:at]...), '"')
}
