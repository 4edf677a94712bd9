package ws

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/kalamdb/kalamdb-go/internal/strictjson"
)

// decodeMsgpack makes of a client's MessagePack map the same tree as decodeJSON of the JSON with the same
// content. Lengths are checked against what is there, depth and number of values are bounded, and a
// key may not appear twice.
func decodeMsgpack(b []byte) (object, error) {
	p := unpacker{rest: b, left: messageValuesMax}
	v, err := p.value(messageDepthMax)
	if err != nil {
		return nil, err
	}
	if len(p.rest) > 0 {
		return nil, errors.New("bytes after the MessagePack map")
	}
	return toObject(v)
}

type unpacker struct {
	rest []byte
	left int // values it may still make
}

var errShort = errors.New("the MessagePack ends too early")

func (p *unpacker) take(n uint64) ([]byte, error) {
	if n > uint64(len(p.rest)) {
		return nil, errShort
	}
	b := p.rest[:n]
	p.rest = p.rest[n:]
	return b, nil
}

// uint reads a big-endian number of n bytes.
func (p *unpacker) uint(n uint64) (uint64, error) {
	b, err := p.take(n)
	if err != nil {
		return 0, err
	}
	var wide [8]byte
	copy(wide[8-n:], b)
	return binary.BigEndian.Uint64(wide[:]), nil
}

func (p *unpacker) value(depth int) (any, error) {
	if p.left--; p.left < 0 {
		return nil, errors.New("more values than are allowed in one message")
	}
	head, err := p.take(1)
	if err != nil {
		return nil, err
	}
	switch c := head[0]; {
	case c <= 0x7f:
		return number(strconv.Itoa(int(c))), nil
	case c >= 0xe0:
		return number(strconv.Itoa(int(int8(c)))), nil
	case c <= 0x8f:
		return p.object(uint64(c&0x0f), depth)
	case c <= 0x9f:
		return p.array(uint64(c&0x0f), depth)
	case c <= 0xbf:
		return p.text(uint64(c & 0x1f))
	default:
		return p.tagged(c, depth)
	}
}

func number(digits string) json.Number { return json.Number(digits) }

// tagged reads the values whose first byte says only what follows.
func (p *unpacker) tagged(c byte, depth int) (any, error) {
	switch c {
	case 0xc0:
		return nil, nil
	case 0xc2, 0xc3:
		return c == 0xc3, nil
	case 0xca, 0xcb:
		return p.float(c)
	case 0xcc, 0xcd, 0xce, 0xcf:
		v, err := p.uint(1 << (c - 0xcc))
		return number(strconv.FormatUint(v, 10)), err
	case 0xd0, 0xd1, 0xd2, 0xd3:
		n := uint64(1) << (c - 0xd0)
		v, err := p.uint(n)
		shift := 64 - 8*n
		return number(strconv.FormatInt(int64(v<<shift)>>shift, 10)), err
	case 0xd9, 0xda, 0xdb:
		n, err := p.uint(1 << (c - 0xd9))
		if err != nil {
			return nil, err
		}
		return p.text(n)
	case 0xdc, 0xdd:
		n, err := p.uint(2 << (c - 0xdc))
		if err != nil {
			return nil, err
		}
		return p.array(n, depth)
	case 0xde, 0xdf:
		n, err := p.uint(2 << (c - 0xde))
		if err != nil {
			return nil, err
		}
		return p.object(n, depth)
	}
	return nil, fmt.Errorf("MessagePack type 0x%02x has no place in a message", c)
}

func (p *unpacker) float(c byte) (any, error) {
	var v float64
	if c == 0xca {
		bits, err := p.uint(4)
		if err != nil {
			return nil, err
		}
		v = float64(math.Float32frombits(uint32(bits)))
	} else {
		bits, err := p.uint(8)
		if err != nil {
			return nil, err
		}
		v = math.Float64frombits(bits)
	}
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil, errors.New("a number must be finite")
	}
	return number(strconv.FormatFloat(v, 'g', -1, 64)), nil
}

func (p *unpacker) text(n uint64) (any, error) {
	b, err := p.take(n)
	if err != nil {
		return nil, err
	}
	if !utf8.Valid(b) {
		return nil, errors.New("text must be UTF-8")
	}
	return string(b), nil
}

func (p *unpacker) array(n uint64, depth int) (any, error) {
	if depth <= 0 {
		return nil, fmt.Errorf("nested deeper than %d", messageDepthMax)
	}
	list := []any{}
	for range n {
		v, err := p.value(depth - 1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

func (p *unpacker) object(n uint64, depth int) (any, error) {
	if depth <= 0 {
		return nil, fmt.Errorf("nested deeper than %d", messageDepthMax)
	}
	o := strictjson.Object{}
	for range n {
		k, err := p.value(depth - 1)
		if err != nil {
			return nil, err
		}
		key, ok := k.(string)
		if !ok {
			return nil, errors.New("a key must be text")
		}
		if _, twice := o[key]; twice {
			return nil, errors.New("a key appears twice")
		}
		if o[key], err = p.value(depth - 1); err != nil {
			return nil, err
		}
	}
	return o, nil
}
