package datum

import (
	"encoding/hex"
	"encoding/json"
	"math"
	"math/big"
	"strconv"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// ParseText reads a value of type t from its text form, as PostgreSQL reads a quoted literal.
func ParseText(t catalog.Type, s string) (Datum, error) {
	switch t.Kind {
	case catalog.Boolean:
		return parseBool(t, s)
	case catalog.SmallInt, catalog.Int, catalog.BigInt:
		return parseInt(t, s)
	case catalog.Float, catalog.Double:
		return parseFloat(t, s)
	case catalog.Decimal:
		d, err := parseDecimal(t, s)
		if err != nil {
			return Null, err
		}
		return Rescale(d, t)
	case catalog.Text:
		return Text(s), nil
	case catalog.JSON, catalog.File:
		return jsonText(t, s)
	case catalog.Bytes:
		return parseBytes(t, s)
	case catalog.Timestamp, catalog.DateTime:
		return parseTimestamp(t, s)
	case catalog.Date:
		return parseDate(t, s)
	case catalog.Time:
		return parseTime(t, s)
	case catalog.UUID:
		return parseUUID(t, s)
	case catalog.Embedding:
		return parseEmbedding(t, s)
	}
	return Null, dberr.New(dberr.InvalidArgument, "unknown type %d", t.Kind)
}

func parseBool(t catalog.Type, s string) (Datum, error) {
	word := strings.ToLower(strings.TrimSpace(s))
	switch {
	case word == "":
	case word == "1" || word == "on" || strings.HasPrefix("true", word) || strings.HasPrefix("yes", word):
		return Bool(true), nil
	case word == "0" || word == "of" || word == "off" || strings.HasPrefix("false", word) || strings.HasPrefix("no", word):
		return Bool(false), nil
	}
	return Null, badText(t, s)
}

func parseInt(t catalog.Type, s string) (Datum, error) {
	v, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil {
		if ne, ok := err.(*strconv.NumError); ok && ne.Err == strconv.ErrRange {
			return Null, outOfRange(t, quoteShort(s))
		}
		return Null, badText(t, s)
	}
	return narrowInt(t, v)
}

// IntBounds are the least and the greatest value of an integer type.
func IntBounds(k catalog.TypeKind) (least, most int64) {
	switch k {
	case catalog.SmallInt:
		return math.MinInt16, math.MaxInt16
	case catalog.Int:
		return math.MinInt32, math.MaxInt32
	}
	return math.MinInt64, math.MaxInt64
}

func narrowInt(t catalog.Type, v int64) (Datum, error) {
	if least, most := IntBounds(t.Kind); v < least || v > most {
		return Null, outOfRange(t, strconv.FormatInt(v, 10))
	}
	return Int(v), nil
}

func outOfRange(t catalog.Type, value string) error {
	return dberr.New(dberr.ValueOutOfRange, "%s is out of range for %s", value, t)
}

func parseFloat(t catalog.Type, s string) (Datum, error) {
	word := strings.TrimSpace(s)
	if strings.ContainsAny(word, "xXpP_") { // Go's hexadecimal and grouped forms are not SQL's
		return Null, badText(t, s)
	}
	v, err := strconv.ParseFloat(word, 64)
	if err != nil {
		if ne, ok := err.(*strconv.NumError); ok && ne.Err == strconv.ErrRange {
			return Null, outOfRange(t, quoteShort(s))
		}
		return Null, badText(t, s)
	}
	return narrowFloat(t, v)
}

// narrowFloat rounds to float32 for FLOAT.
func narrowFloat(t catalog.Type, v float64) (Datum, error) {
	if t.Kind != catalog.Float {
		return Float(v), nil
	}
	f := float64(float32(v))
	if math.IsInf(f, 0) && !math.IsInf(v, 0) {
		return Null, outOfRange(t, strconv.FormatFloat(v, 'g', -1, 64))
	}
	return Float(f), nil
}

// decimalExponentMax bounds the exponent of decimal text, and decimalDigitsMax its digits: beyond
// both no value fits 38 digits, and reading on would only burn time.
const (
	decimalExponentMax = 1000
	decimalDigitsMax   = 1000
)

// ParseDecimal reads decimal text, e.g. -12.50 or 1.2e-3, keeping the digits after the point.
func ParseDecimal(s string) (Datum, error) {
	return parseDecimal(catalog.Type{Kind: catalog.Decimal, Precision: decimalDigits, Scale: 10}, s)
}

// decimalDigits is how many digits a decimal holds.
const decimalDigits = 38

func parseDecimal(t catalog.Type, s string) (Datum, error) {
	word := strings.TrimSpace(s)
	mantissa, exponent, err := splitExponent(word)
	if err != nil || len(mantissa) > decimalDigitsMax {
		return Null, badText(t, s)
	}
	whole, frac, _ := strings.Cut(mantissa, ".")
	digits := strings.TrimLeft(whole, "+-") + frac
	if digits == "" || strings.Trim(digits, "0123456789") != "" || len(whole)-len(strings.TrimLeft(whole, "+-")) > 1 {
		return Null, badText(t, s)
	}
	v, ok := new(big.Int).SetString(digits, 10)
	if !ok {
		return Null, badText(t, s)
	}
	if strings.HasPrefix(whole, "-") {
		v.Neg(v)
	}
	scale := len(frac) - exponent
	if scale < 0 {
		v.Mul(v, pow10(uint(-scale)))
		scale = 0
	}
	if scale > decimalDigits {
		v = divRound(v, pow10(uint(scale-decimalDigits)))
		scale = decimalDigits
	}
	d, ok := fitDecimal(v, scale)
	if !ok {
		return Null, outOfRange(t, quoteShort(s))
	}
	return d, nil
}

func splitExponent(word string) (mantissa string, exponent int, err error) {
	at := strings.IndexAny(word, "eE")
	if at < 0 {
		return word, 0, nil
	}
	exponent, err = strconv.Atoi(word[at+1:])
	if err == nil && (exponent > decimalExponentMax || exponent < -decimalExponentMax) {
		err = strconv.ErrRange
	}
	return word[:at], exponent, err
}

// fitDecimal drops digits after the point, rounding, until the value fits 38 digits.
func fitDecimal(v *big.Int, scale int) (Datum, bool) {
	for {
		if d, ok := DecimalFromBig(v, uint8(scale)); ok {
			return d, true
		}
		if scale == 0 {
			return Null, false
		}
		drop := max(1, min(scale, len(new(big.Int).Abs(v).String())-decimalDigits))
		v, scale = divRound(v, pow10(uint(drop))), scale-drop
	}
}

// FitDecimal makes a decimal of v and scale; when it has more than 38 digits, it rounds away digits
// after the point. ok is false when the whole part alone does not fit.
func FitDecimal(v *big.Int, scale int) (d Datum, ok bool) {
	if scale > decimalDigits {
		v, scale = divRound(v, pow10(uint(scale-decimalDigits))), decimalDigits
	}
	return fitDecimal(v, scale)
}

// divRound divides and rounds half away from zero.
func divRound(v, by *big.Int) *big.Int {
	q, r := new(big.Int).QuoRem(v, by, new(big.Int))
	if r.Lsh(r, 1).CmpAbs(by) >= 0 {
		q.Add(q, big.NewInt(int64(v.Sign())))
	}
	return q
}

// Rescale rounds a decimal to t's scale, half away from zero, and checks t's precision.
func Rescale(d Datum, t catalog.Type) (Datum, error) {
	v := d.DecimalBig()
	switch {
	case d.scale < t.Scale:
		v.Mul(v, pow10(uint(t.Scale-d.scale)))
	case d.scale > t.Scale:
		v = divRound(v, pow10(uint(d.scale-t.Scale)))
	}
	if v.CmpAbs(pow10(uint(t.Precision))) >= 0 {
		return Null, outOfRange(t, string(appendDecimal(nil, d)))
	}
	out, ok := DecimalFromBig(v, t.Scale)
	if !ok {
		return Null, outOfRange(t, string(appendDecimal(nil, d)))
	}
	return out, nil
}

func jsonText(t catalog.Type, s string) (Datum, error) {
	if !json.Valid([]byte(s)) {
		return Null, badText(t, s)
	}
	return Text(s), nil
}

// parseBytes reads \x and hexadecimal digits, or PostgreSQL's escape form: text in which \\ is a
// backslash and \ooo an octal byte.
func parseBytes(t catalog.Type, s string) (Datum, error) {
	if strings.HasPrefix(s, `\x`) {
		b, err := hex.DecodeString(s[2:])
		if err != nil {
			return Null, badText(t, s)
		}
		return Bytes(b), nil
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			out = append(out, s[i])
			continue
		}
		if strings.HasPrefix(s[i+1:], `\`) {
			out = append(out, '\\')
			i++
			continue
		}
		if len(s)-i < 4 {
			return Null, badText(t, s)
		}
		v, err := strconv.ParseUint(s[i+1:i+4], 8, 8)
		if err != nil {
			return Null, badText(t, s)
		}
		out = append(out, byte(v))
		i += 3
	}
	return Bytes(out), nil
}

// parseUUID reads 32 hexadecimal digits with or without hyphens between groups of four, and braces.
func parseUUID(t catalog.Type, s string) (Datum, error) {
	word := strings.TrimSpace(s)
	if strings.HasPrefix(word, "{") && strings.HasSuffix(word, "}") {
		word = word[1 : len(word)-1]
	}
	var digits [32]byte
	n := 0
	for i := 0; i < len(word); i++ {
		if word[i] == '-' && n%4 == 0 && n > 0 && i > 0 && word[i-1] != '-' && i+1 < len(word) {
			continue
		}
		if n == len(digits) {
			return Null, badText(t, s)
		}
		digits[n] = word[i]
		n++
	}
	var id [16]byte
	if n != len(digits) {
		return Null, badText(t, s)
	}
	if _, err := hex.Decode(id[:], digits[:]); err != nil {
		return Null, badText(t, s)
	}
	return UUID(id), nil
}

func parseEmbedding(t catalog.Type, s string) (Datum, error) {
	word := strings.TrimSpace(s)
	if len(word) < 2 || word[0] != '[' || word[len(word)-1] != ']' {
		return Null, badText(t, s)
	}
	parts := strings.Split(word[1:len(word)-1], ",")
	if len(parts) == 1 && strings.TrimSpace(parts[0]) == "" {
		parts = nil
	}
	if len(parts) != int(t.Dimension) {
		return Null, dberr.New(dberr.InvalidArgument, "%s needs %d numbers, got %d", t, t.Dimension, len(parts))
	}
	out := make([]float32, len(parts))
	for i, p := range parts {
		d, err := parseFloat(catalog.Type{Kind: catalog.Float}, p)
		if err != nil {
			return Null, badText(t, s)
		}
		out[i] = float32(d.AsFloat())
		if math.IsNaN(d.AsFloat()) || math.IsInf(d.AsFloat(), 0) {
			return Null, badText(t, s)
		}
	}
	return Embedding(out), nil
}
