package datum

import (
	"encoding/binary"
	"unsafe"
)

// DecodeShared is Decode without copying: text shares src's memory, so the value is good only until src
// changes. It is for scans, which look at a row and go on.
func DecodeShared(src []byte) (d Datum, rest []byte, err error) {
	if len(src) == 0 {
		return Null, nil, corrupt("no kind byte")
	}
	kind := Kind(src[0])
	if !hasLength(kind) {
		return Decode(src)
	}
	body, rest, err := cutBody(kind, src[1:])
	if err != nil {
		return Null, nil, err
	}
	return Datum{kind: kind, s: unsafe.String(unsafe.SliceData(body), len(body))}, rest, nil
}

// Skip returns what follows the first value. Only its frame is checked.
func Skip(src []byte) (rest []byte, err error) {
	if len(src) == 0 {
		return nil, corrupt("no kind byte")
	}
	kind := Kind(src[0])
	if !hasLength(kind) {
		_, rest, err = Decode(src)
		return rest, err
	}
	_, rest, err = cutBody(kind, src[1:])
	return rest, err
}

func hasLength(k Kind) bool {
	return k == KindText || k == KindBytes || k == KindUUID || k == KindEmbedding
}

func cutBody(kind Kind, src []byte) (body, rest []byte, err error) {
	n, w := binary.Uvarint(src)
	if w <= 0 || n > uint64(len(src)-w) {
		return nil, nil, corrupt("length beyond the end")
	}
	if kind == KindUUID && n != 16 || kind == KindEmbedding && n%4 != 0 {
		return nil, nil, corrupt("bad length for its kind")
	}
	return src[w : w+int(n)], src[w+int(n):], nil
}
