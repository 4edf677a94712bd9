package datum

import (
	"encoding/hex"
	"math"
	"strconv"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
)

// FormatText writes a value as PostgreSQL's cast to text does. The type tells FLOAT from DOUBLE and
// TIMESTAMP from DATETIME. NULL gives an empty string.
func FormatText(d Datum, t catalog.Type) string {
	if d.kind == KindText {
		return d.s
	}
	return string(AppendText(nil, d, t))
}

// AppendText appends what FormatText returns.
func AppendText(dst []byte, d Datum, t catalog.Type) []byte {
	switch d.kind {
	case KindBool:
		return strconv.AppendBool(dst, d.AsBool())
	case KindInt:
		return strconv.AppendInt(dst, d.i, 10)
	case KindFloat:
		return appendFloat(dst, d.AsFloat(), t.Kind == catalog.Float)
	case KindDecimal:
		return appendDecimal(dst, d)
	case KindText:
		return append(dst, d.s...)
	case KindBytes:
		return hex.AppendEncode(append(dst, `\x`...), []byte(d.s))
	case KindTimestamp:
		return appendTimestamp(dst, d.i, t.Kind == catalog.DateTime)
	case KindDate:
		return appendDate(dst, d.i)
	case KindTime:
		return appendClock(dst, d.i)
	case KindUUID:
		return appendUUID(dst, d.s)
	case KindEmbedding:
		return appendEmbedding(dst, d)
	case KindInterval:
		return appendInterval(dst, d)
	}
	return dst
}

// appendFloat writes the shortest text that reads back as the same number, with an exponent where
// PostgreSQL uses one.
func appendFloat(dst []byte, v float64, single bool) []byte {
	switch {
	case math.IsNaN(v):
		return append(dst, "NaN"...)
	case math.IsInf(v, 1):
		return append(dst, "Infinity"...)
	case math.IsInf(v, -1):
		return append(dst, "-Infinity"...)
	}
	bitSize, fixedBelow := 64, 1e15
	if single {
		bitSize, fixedBelow = 32, 1e6
	}
	if abs := math.Abs(v); abs != 0 && (abs < 1e-4 || abs >= fixedBelow) {
		return strconv.AppendFloat(dst, v, 'e', -1, bitSize)
	}
	return strconv.AppendFloat(dst, v, 'f', -1, bitSize)
}

func appendDecimal(dst []byte, d Datum) []byte {
	digits := d.DecimalBig().String()
	if digits[0] == '-' {
		dst, digits = append(dst, '-'), digits[1:]
	}
	scale := int(d.scale)
	for len(digits) <= scale {
		digits = "0" + digits
	}
	dst = append(dst, digits[:len(digits)-scale]...)
	if scale == 0 {
		return dst
	}
	return append(append(dst, '.'), digits[len(digits)-scale:]...)
}

func appendTimestamp(dst []byte, us int64, zone bool) []byte {
	days, ofDay := floorDiv(us, usPerDay)
	year, month, day := Civil(days)
	bc := year < 1
	if bc {
		year = 1 - year
	}
	dst = appendClock(append(appendYMD(dst, year, month, day), ' '), ofDay)
	if zone {
		dst = append(dst, "+00"...)
	}
	if bc {
		dst = append(dst, " BC"...)
	}
	return dst
}

func appendUUID(dst []byte, id string) []byte {
	for i, cut := range [...]int{4, 6, 8, 10, 16} {
		from := [...]int{0, 4, 6, 8, 10}[i]
		if i > 0 {
			dst = append(dst, '-')
		}
		dst = hex.AppendEncode(dst, []byte(id[from:cut]))
	}
	return dst
}

func appendEmbedding(dst []byte, d Datum) []byte {
	dst = append(dst, '[')
	for i, f := range d.AsEmbedding() {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendFloat(dst, float64(f), 'g', -1, 32)
	}
	return append(dst, ']')
}
