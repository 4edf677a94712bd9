package celljson

import (
	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// AppendArrayStart opens an array of n elements. JSON ignores n.
func AppendArrayStart(dst []byte, n int, d Dialect) []byte {
	if d == Msgpack {
		return AppendMsgpackArray(dst, n)
	}
	return append(dst, '[')
}

// AppendArraySeparator goes between two elements.
func AppendArraySeparator(dst []byte, d Dialect) []byte {
	if d == Msgpack {
		return dst
	}
	return append(dst, ',')
}

// AppendArrayEnd closes an array.
func AppendArrayEnd(dst []byte, d Dialect) []byte {
	if d == Msgpack {
		return dst
	}
	return append(dst, ']')
}

// RowEncoder writes rows of datums as objects. Column names are encoded once. It is immutable and safe
// for concurrent use.
type RowEncoder struct {
	dialect Dialect
	types   []catalog.Type
	keys    keys
}

// NewRowEncoder makes an encoder for rows whose values are in the order of cols.
func NewRowEncoder(cols []catalog.Column, d Dialect) *RowEncoder {
	e := &RowEncoder{dialect: d, types: make([]catalog.Type, len(cols))}
	names := make([]string, len(cols))
	for i := range cols {
		e.types[i], names[i] = cols[i].Type, cols[i].Name
	}
	e.keys = newKeys(names, d)
	return e
}

// AppendObject appends the whole row.
func (e *RowEncoder) AppendObject(dst []byte, row []datum.Datum) ([]byte, error) {
	return e.appendObject(dst, row, nil, len(row))
}

// AppendObjectOf appends only the columns for which present is true.
func (e *RowEncoder) AppendObjectOf(dst []byte, row []datum.Datum, present []bool) ([]byte, error) {
	n := 0
	for _, p := range present {
		if p {
			n++
		}
	}
	return e.appendObject(dst, row, present, n)
}

func (e *RowEncoder) appendObject(dst []byte, row []datum.Datum, present []bool, n int) ([]byte, error) {
	if len(row) != len(e.types) || present != nil && len(present) != len(row) {
		return dst, dberr.New(dberr.Internal, "encode row: %d values for %d columns", len(row), len(e.types))
	}
	dst = e.keys.start(dst, n)
	first := true
	var err error
	for i := range row {
		if present != nil && !present[i] {
			continue
		}
		dst = e.keys.appendKey(dst, i, first)
		first = false
		if dst, err = AppendValue(dst, row[i], e.types[i], e.dialect); err != nil {
			return dst, err
		}
	}
	return e.keys.end(dst), nil
}

// AppendRowObject appends one row as an object; for many rows of one shape use a RowEncoder.
func AppendRowObject(dst []byte, cols []catalog.Column, row []datum.Datum, d Dialect) ([]byte, error) {
	return NewRowEncoder(cols, d).AppendObject(dst, row)
}

// keys are an object's member names, encoded once: `"name":` in JSON, a string in MessagePack.
type keys struct {
	msgpack bool
	encoded []string
}

func newKeys(names []string, d Dialect) keys {
	k := keys{msgpack: d == Msgpack, encoded: make([]string, len(names))}
	for i, name := range names {
		if k.msgpack {
			k.encoded[i] = string(AppendMsgpackText(nil, name))
		} else {
			k.encoded[i] = string(append(AppendJSONText(nil, name), ':'))
		}
	}
	return k
}

func (k *keys) start(dst []byte, n int) []byte {
	if k.msgpack {
		return AppendMsgpackMap(dst, n)
	}
	return append(dst, '{')
}

func (k *keys) appendKey(dst []byte, i int, first bool) []byte {
	if !first && !k.msgpack {
		dst = append(dst, ',')
	}
	return append(dst, k.encoded[i]...)
}

func (k *keys) end(dst []byte) []byte {
	if k.msgpack {
		return dst
	}
	return append(dst, '}')
}
