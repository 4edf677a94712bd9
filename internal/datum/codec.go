package datum

import (
	"encoding/binary"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Append encodes d: a kind byte, then
//
//	null                         nothing
//	bool                         one byte
//	int, timestamp, date, time   zigzag varint
//	float                        8 bytes big-endian IEEE 754
//	decimal                      scale byte, 8 bytes high word, 8 bytes low word, big-endian
//	text, bytes, uuid, embedding uvarint length, bytes
//	interval                     varint months, varint days, varint microseconds
//
// The encoding is not order-preserving; it is a disk and wire format and does not change.
func Append(dst []byte, d Datum) []byte {
	dst = append(dst, byte(d.kind))
	switch d.kind {
	case KindNull:
	case KindBool:
		dst = append(dst, byte(d.i))
	case KindInt, KindTimestamp, KindDate, KindTime:
		dst = binary.AppendVarint(dst, d.i)
	case KindFloat:
		dst = binary.BigEndian.AppendUint64(dst, uint64(d.i))
	case KindDecimal:
		dst = append(dst, d.scale)
		dst = binary.BigEndian.AppendUint64(dst, uint64(d.h))
		dst = binary.BigEndian.AppendUint64(dst, uint64(d.i))
	case KindInterval:
		months, days, us := d.AsInterval()
		dst = binary.AppendVarint(dst, int64(months))
		dst = binary.AppendVarint(dst, int64(days))
		dst = binary.AppendVarint(dst, us)
	default:
		dst = binary.AppendUvarint(dst, uint64(len(d.s)))
		dst = append(dst, d.s...)
	}
	return dst
}

// Decode reads one value and returns what follows it. Text shares no memory with src.
// Malformed input is answered with a Corrupt error.
func Decode(src []byte) (d Datum, rest []byte, err error) {
	if len(src) == 0 {
		return Null, nil, corrupt("no kind byte")
	}
	d.kind, src = Kind(src[0]), src[1:]
	switch d.kind {
	case KindNull:
		return d, src, nil
	case KindBool:
		if len(src) < 1 || src[0] > 1 {
			return Null, nil, corrupt("bad boolean")
		}
		d.i = int64(src[0])
		return d, src[1:], nil
	case KindInt, KindTimestamp, KindDate, KindTime:
		d.i, src, err = varint(src)
		return d, src, err
	case KindFloat:
		if len(src) < 8 {
			return Null, nil, corrupt("short float")
		}
		d.i = int64(binary.BigEndian.Uint64(src))
		return d, src[8:], nil
	case KindDecimal:
		if len(src) < 17 || src[0] > 38 {
			return Null, nil, corrupt("bad decimal")
		}
		d.scale = src[0]
		d.h = int64(binary.BigEndian.Uint64(src[1:]))
		d.i = int64(binary.BigEndian.Uint64(src[9:]))
		return d, src[17:], nil
	case KindInterval:
		return decodeInterval(src)
	case KindText, KindBytes, KindUUID, KindEmbedding:
		n, w := binary.Uvarint(src)
		if w <= 0 || n > uint64(len(src)-w) {
			return Null, nil, corrupt("length beyond the end")
		}
		if d.kind == KindUUID && n != 16 || d.kind == KindEmbedding && n%4 != 0 {
			return Null, nil, corrupt("bad length for its kind")
		}
		d.s = string(src[w : w+int(n)])
		return d, src[w+int(n):], nil
	}
	return Null, nil, corrupt("unknown kind")
}

func decodeInterval(src []byte) (Datum, []byte, error) {
	var part [3]int64
	var err error
	for i := range part {
		if part[i], src, err = varint(src); err != nil {
			return Null, nil, err
		}
	}
	if part[0] != int64(int32(part[0])) || part[1] != int64(int32(part[1])) {
		return Null, nil, corrupt("interval out of range")
	}
	return Interval(int32(part[0]), int32(part[1]), part[2]), src, nil
}

func varint(src []byte) (int64, []byte, error) {
	v, w := binary.Varint(src)
	if w <= 0 {
		return 0, nil, corrupt("bad varint")
	}
	return v, src[w:], nil
}

func corrupt(what string) error { return dberr.New(dberr.Corrupt, "decode value: %s", what) }
