package keycodec

import (
	"bytes"
	"encoding/binary"
	"math"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/datum"
)

// Text, bytes and user ids end with escape+endMark; a zero byte inside is escape+zeroMark. endMark is
// lower than zeroMark, so a value sorts before all it is a prefix of.
const (
	escape   byte = 0x00
	endMark  byte = 0x01
	zeroMark byte = 0xFF
)

const signBit = 1 << 63

// AppendDatum appends d so that encodings of one kind compare as their values do (bytes.Compare):
//
//	null                         kind byte alone, before everything else
//	bool                         0 or 1
//	int, timestamp, date, time   u64 with the sign bit flipped
//	float                        IEEE 754 bits, negative ones inverted, others with the sign flipped;
//	                             -0 is 0, every NaN is one NaN above +Inf
//	decimal                      scale byte (fixed per column), high word as int, low word u64
//	text, bytes, embedding       escaped bytes
//	uuid                         16 bytes
//	interval                     months, days, microseconds as int
//
// The kind byte comes first, so a key decodes without its table. No encoding is a prefix of another.
func AppendDatum(dst []byte, d datum.Datum) []byte {
	dst = append(dst, byte(d.Kind()))
	switch d.Kind() {
	case datum.KindNull:
	case datum.KindBool:
		if d.AsBool() {
			return append(dst, 1)
		}
		return append(dst, 0)
	case datum.KindInt, datum.KindTimestamp, datum.KindDate, datum.KindTime:
		return appendInt(dst, d.AsInt())
	case datum.KindFloat:
		return binary.BigEndian.AppendUint64(dst, floatBits(d.AsFloat()))
	case datum.KindDecimal:
		hi, lo, scale := d.AsDecimal()
		return binary.BigEndian.AppendUint64(appendInt(append(dst, scale), hi), lo)
	case datum.KindUUID:
		return append(dst, d.AsText()...)
	case datum.KindInterval:
		months, days, us := d.AsInterval()
		return appendInt(appendInt(appendInt(dst, int64(months)), int64(days)), us)
	default: // text, bytes, embedding
		return appendEscaped(dst, d.AsText())
	}
	return dst
}

// DecodeDatum reads one value and returns what follows. It shares no memory with src. Malformed input
// is answered with a Corrupt error.
func DecodeDatum(src []byte) (d datum.Datum, rest []byte, err error) {
	if len(src) == 0 {
		return datum.Null, nil, corrupt("no kind byte")
	}
	kind, src := datum.Kind(src[0]), src[1:]
	if n := fixedBytes(kind); len(src) < n {
		return datum.Null, nil, corrupt("short " + kind.String())
	}
	switch kind {
	case datum.KindNull:
		return datum.Null, src, nil
	case datum.KindBool:
		if src[0] > 1 {
			return datum.Null, nil, corrupt("bad boolean")
		}
		return datum.Bool(src[0] == 1), src[1:], nil
	case datum.KindInt:
		return datum.Int(cutInt(src)), src[8:], nil
	case datum.KindTimestamp:
		return datum.Timestamp(cutInt(src)), src[8:], nil
	case datum.KindDate:
		return datum.Date(cutInt(src)), src[8:], nil
	case datum.KindTime:
		return datum.Time(cutInt(src)), src[8:], nil
	case datum.KindFloat:
		return datum.Float(bitsFloat(binary.BigEndian.Uint64(src))), src[8:], nil
	case datum.KindDecimal:
		return datum.Decimal(cutInt(src[1:]), binary.BigEndian.Uint64(src[9:]), src[0]), src[17:], nil
	case datum.KindUUID:
		return datum.UUID([16]byte(src[:16])), src[16:], nil
	case datum.KindInterval:
		return decodeInterval(src)
	case datum.KindText, datum.KindBytes, datum.KindEmbedding:
		return decodeEscaped(kind, src)
	}
	return datum.Null, nil, corrupt("unknown kind")
}

func fixedBytes(k datum.Kind) int {
	switch k {
	case datum.KindBool:
		return 1
	case datum.KindInt, datum.KindTimestamp, datum.KindDate, datum.KindTime, datum.KindFloat:
		return 8
	case datum.KindDecimal:
		return 17
	case datum.KindUUID:
		return 16
	case datum.KindInterval:
		return 24
	}
	return 0
}

func decodeInterval(src []byte) (datum.Datum, []byte, error) {
	months, days := cutInt(src), cutInt(src[8:])
	if months != int64(int32(months)) || days != int64(int32(days)) {
		return datum.Null, nil, corrupt("interval out of range")
	}
	return datum.Interval(int32(months), int32(days), cutInt(src[16:])), src[24:], nil
}

func decodeEscaped(kind datum.Kind, src []byte) (datum.Datum, []byte, error) {
	s, rest, err := cutEscaped(src)
	if err != nil {
		return datum.Null, nil, err
	}
	switch kind {
	case datum.KindText:
		return datum.Text(s), rest, nil
	case datum.KindBytes:
		return datum.Bytes([]byte(s)), rest, nil
	}
	if len(s)%4 != 0 {
		return datum.Null, nil, corrupt("bad embedding length")
	}
	v := make([]float32, len(s)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32([]byte(s[4*i : 4*i+4])))
	}
	return datum.Embedding(v), rest, nil
}

func appendInt(dst []byte, v int64) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(v)^signBit)
}

func cutInt(src []byte) int64 { return int64(binary.BigEndian.Uint64(src) ^ signBit) }

func floatBits(f float64) uint64 {
	if f != f { // NaN sorts last and equals itself, as in PostgreSQL
		f = math.NaN()
	}
	if f == 0 {
		f = 0 // drops the sign of -0
	}
	b := math.Float64bits(f)
	if b&signBit != 0 {
		return ^b
	}
	return b | signBit
}

func bitsFloat(b uint64) float64 {
	if b&signBit != 0 {
		return math.Float64frombits(b &^ signBit)
	}
	return math.Float64frombits(^b)
}

func appendEscaped(dst []byte, s string) []byte {
	for {
		i := strings.IndexByte(s, escape)
		if i < 0 {
			return append(append(dst, s...), escape, endMark)
		}
		dst = append(append(dst, s[:i]...), escape, zeroMark)
		s = s[i+1:]
	}
}

func cutEscaped(src []byte) (s string, rest []byte, err error) {
	var buf []byte
	for {
		i := bytes.IndexByte(src, escape)
		if i < 0 || i+1 == len(src) {
			return "", nil, corrupt("text without an end")
		}
		buf = append(buf, src[:i]...)
		mark := src[i+1]
		src = src[i+2:]
		switch mark {
		case endMark:
			return string(buf), src, nil
		case zeroMark:
			buf = append(buf, escape)
		default:
			return "", nil, corrupt("bad escape in text")
		}
	}
}
