package celljson

import (
	"math/big"
	"strconv"
)

// appendDecimal writes a 128-bit unscaled value with its scale: text in JSON and MessagePack, an exact
// number in Seed.
func appendDecimal(dst []byte, hi int64, lo uint64, scale int32, d Dialect) []byte {
	var buf [48]byte
	digits := appendDecimalDigits(buf[:0], hi, lo, scale)
	switch d {
	case Msgpack:
		return AppendMsgpackText(dst, string(digits))
	case Seed:
		return append(dst, digits...)
	}
	return append(append(append(dst, '"'), digits...), '"')
}

func appendDecimalDigits(dst []byte, hi int64, lo uint64, scale int32) []byte {
	var buf [48]byte
	var digits []byte
	negative := hi < 0
	switch {
	case hi == 0:
		digits = strconv.AppendUint(buf[:0], lo, 10)
	case hi == -1 && lo != 0: // fits 64 bits below zero
		digits = strconv.AppendUint(buf[:0], -lo, 10)
	default:
		v := new(big.Int).Lsh(big.NewInt(hi), 64)
		v.Add(v, new(big.Int).SetUint64(lo))
		digits = v.Abs(v).Append(buf[:0], 10)
	}
	if negative {
		dst = append(dst, '-')
	}
	if scale <= 0 {
		dst = append(dst, digits...)
		for range -scale {
			dst = append(dst, '0')
		}
		return dst
	}
	whole := len(digits) - int(scale)
	if whole > 0 {
		dst = append(dst, digits[:whole]...)
	} else {
		dst = append(dst, '0')
	}
	dst = append(dst, '.')
	for range -whole {
		dst = append(dst, '0')
	}
	return append(dst, digits[max(whole, 0):]...)
}
