// Package datum is one SQL value outside of a columnar batch: a cell of a row, a literal, a bind
// parameter. Rows (rowcodec), keys (storage's keycodec), expressions (predicate) and wire formats
// (celljson) all speak Datum.
package datum

import (
	"fmt"
	"math"
	"math/big"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
)

// Kind is a value's type without its parameters. The values are part of the row format.
type Kind uint8

// The kinds. KindInterval exists in expressions only, never in rows.
const (
	KindNull      Kind = 0
	KindBool      Kind = 1
	KindInt       Kind = 2 // SMALLINT, INT, BIGINT
	KindFloat     Kind = 3 // FLOAT, DOUBLE
	KindDecimal   Kind = 4
	KindText      Kind = 5 // TEXT, JSON, FILE
	KindBytes     Kind = 6
	KindTimestamp Kind = 7 // TIMESTAMP and DATETIME, microseconds since the Unix epoch
	KindDate      Kind = 8 // days since the Unix epoch
	KindTime      Kind = 9 // microseconds since midnight
	KindUUID      Kind = 10
	KindEmbedding Kind = 11 // float32 little-endian, concatenated
	KindInterval  Kind = 12
)

// Datum is an immutable value. The zero Datum is NULL.
type Datum struct {
	kind  Kind
	scale uint8 // KindDecimal
	i     int64 // Bool, Int, Timestamp, Date, Time; Float as bits; Decimal: low word; Interval: microseconds
	h     int64 // Decimal: high word; Interval: months<<32 | days
	s     string
}

// Null is SQL's NULL.
var Null = Datum{}

// Bool makes a BOOLEAN.
func Bool(b bool) Datum {
	if b {
		return Datum{kind: KindBool, i: 1}
	}
	return Datum{kind: KindBool}
}

// Int makes a SMALLINT, INT or BIGINT.
func Int(v int64) Datum { return Datum{kind: KindInt, i: v} }

// Float makes a FLOAT or DOUBLE.
func Float(v float64) Datum { return Datum{kind: KindFloat, i: int64(math.Float64bits(v))} }

// Text makes a TEXT, JSON or FILE.
func Text(v string) Datum { return Datum{kind: KindText, s: v} }

// TextOrNull makes a TEXT, or NULL of an empty string.
func TextOrNull(v string) Datum {
	if v == "" {
		return Null
	}
	return Text(v)
}

// Bytes makes a BYTES; it copies v.
func Bytes(v []byte) Datum { return Datum{kind: KindBytes, s: string(v)} }

// Timestamp makes a TIMESTAMP or DATETIME from microseconds since the Unix epoch.
func Timestamp(us int64) Datum { return Datum{kind: KindTimestamp, i: us} }

// Date makes a DATE from days since the Unix epoch.
func Date(days int64) Datum { return Datum{kind: KindDate, i: days} }

// Time makes a TIME from microseconds since midnight.
func Time(us int64) Datum { return Datum{kind: KindTime, i: us} }

// UUID makes a UUID.
func UUID(v [16]byte) Datum { return Datum{kind: KindUUID, s: string(v[:])} }

// Embedding makes an EMBEDDING.
func Embedding(v []float32) Datum {
	b := make([]byte, 0, 4*len(v))
	for _, f := range v {
		u := math.Float32bits(f)
		b = append(b, byte(u), byte(u>>8), byte(u>>16), byte(u>>24))
	}
	return Datum{kind: KindEmbedding, s: string(b)}
}

// Decimal makes a DECIMAL from a 128-bit two's complement unscaled value and a scale.
func Decimal(hi int64, lo uint64, scale uint8) Datum {
	return Datum{kind: KindDecimal, i: int64(lo), h: hi, scale: scale}
}

// Interval makes an INTERVAL.
func Interval(months, days int32, us int64) Datum {
	return Datum{kind: KindInterval, i: us, h: int64(months)<<32 | int64(uint32(days))}
}

// Kind returns the value's kind.
func (d Datum) Kind() Kind { return d.kind }

// IsNull reports whether the value is NULL.
func (d Datum) IsNull() bool { return d.kind == KindNull }

// AsBool returns a BOOLEAN's value.
func (d Datum) AsBool() bool { return d.i != 0 }

// AsInt returns the value of Int, Timestamp, Date and Time.
func (d Datum) AsInt() int64 { return d.i }

// AsFloat returns a Float's value.
func (d Datum) AsFloat() float64 { return math.Float64frombits(uint64(d.i)) }

// AsText returns the value of Text, and the raw bytes of Bytes, UUID and Embedding, as a string.
func (d Datum) AsText() string { return d.s }

// AsUUID returns a UUID's bytes.
func (d Datum) AsUUID() (v [16]byte) {
	copy(v[:], d.s)
	return v
}

// AsEmbedding returns an EMBEDDING's elements.
func (d Datum) AsEmbedding() []float32 {
	v := make([]float32, len(d.s)/4)
	for i := range v {
		b := d.s[4*i:]
		v[i] = math.Float32frombits(uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24)
	}
	return v
}

// AsDecimal returns a DECIMAL's unscaled 128-bit value and its scale.
func (d Datum) AsDecimal() (hi int64, lo uint64, scale uint8) { return d.h, uint64(d.i), d.scale }

// AsInterval returns an INTERVAL's parts.
func (d Datum) AsInterval() (months, days int32, us int64) {
	return int32(d.h >> 32), int32(d.h), d.i
}

// DecimalBig returns a DECIMAL's unscaled value.
func (d Datum) DecimalBig() *big.Int {
	v := new(big.Int).Lsh(big.NewInt(d.h), 64)
	return v.Add(v, new(big.Int).SetUint64(uint64(d.i)))
}

// DecimalFromBig makes a DECIMAL; ok is false when v does not fit 38 digits.
func DecimalFromBig(v *big.Int, scale uint8) (d Datum, ok bool) {
	if v.CmpAbs(decimalLimit) >= 0 {
		return Null, false
	}
	lo := new(big.Int).And(v, maxUint64).Uint64()
	hi := new(big.Int).Rsh(v, 64).Int64()
	return Decimal(hi, lo, scale), true
}

var (
	maxUint64    = new(big.Int).SetUint64(math.MaxUint64)
	decimalLimit = new(big.Int).Exp(big.NewInt(10), big.NewInt(38), nil)
)

// KindOf returns the kind that holds values of a column type.
func KindOf(t catalog.Type) Kind {
	switch t.Kind {
	case catalog.Boolean:
		return KindBool
	case catalog.SmallInt, catalog.Int, catalog.BigInt:
		return KindInt
	case catalog.Float, catalog.Double:
		return KindFloat
	case catalog.Decimal:
		return KindDecimal
	case catalog.Text, catalog.JSON, catalog.File:
		return KindText
	case catalog.Bytes:
		return KindBytes
	case catalog.Timestamp, catalog.DateTime:
		return KindTimestamp
	case catalog.Date:
		return KindDate
	case catalog.Time:
		return KindTime
	case catalog.UUID:
		return KindUUID
	case catalog.Embedding:
		return KindEmbedding
	}
	panic(fmt.Sprintf("datum: type kind %d has no datum kind", t.Kind))
}

// Equal reports whether two values are identical: same kind, same value. NULL equals NULL here; for
// SQL's comparison use Compare.
func Equal(a, b Datum) bool { return a == b }

var kindNames = [...]string{"null", "boolean", "integer", "float", "decimal", "text", "bytes",
	"timestamp", "date", "time", "uuid", "embedding", "interval"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}
