package rowbatch

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Arrow's reader believes the lengths that a message's flatbuffers claim, and allocates by them: a few
// kilobytes can ask for a hundred gigabytes. checkFrames walks the messages of an IPC stream first and
// proves that every table, vector and string lies within its message.

const (
	// nestingMax bounds how deep types nest.
	nestingMax = 32
	// tablesMax bounds the tables visited in one message: tables may be shared, so a small message could
	// otherwise unfold without end.
	tablesMax = 1 << 16

	continuation = 0xFFFFFFFF
)

// Tags of Message.header and Field.type in Arrow's format/Message.fbs and Schema.fbs.
const (
	headerSchema          = 1
	headerDictionaryBatch = 2
	headerRecordBatch     = 3
	typeUnion             = 14
)

var errBeyond = errors.New("a length or offset points beyond the message")

func checkFrames(data []byte) error {
	for len(data) > 0 {
		if len(data) < 8 || binary.LittleEndian.Uint32(data) != continuation {
			return errors.New("not an Arrow IPC stream")
		}
		size := uint64(binary.LittleEndian.Uint32(data[4:]))
		if data = data[8:]; size == 0 { // end of stream
			return nil
		}
		if size > uint64(len(data)) {
			return errBeyond
		}
		m := message{buf: data[:size]}
		body, err := m.check()
		if err != nil {
			return err
		}
		if data = data[size:]; body > uint64(len(data)) {
			return errBeyond
		}
		data = data[body:]
	}
	return nil
}

// message is the flatbuffer of one IPC message.
type message struct {
	buf     []byte
	visited int
}

// check returns the length of the message's body.
func (m *message) check() (body uint64, err error) {
	root, err := m.offset(0)
	if err != nil {
		return 0, err
	}
	t, err := m.table(root)
	if err != nil {
		return 0, err
	}
	if body, err = t.scalar(3, 8); err != nil {
		return 0, err
	}
	if err := t.keyValues(4); err != nil {
		return 0, err
	}
	kind, err := t.scalar(1, 1)
	if err != nil {
		return 0, err
	}
	header, ok, err := t.child(2)
	if err != nil || !ok {
		return 0, errors.Join(err, errors.New("a message without a header"))
	}
	switch kind {
	case headerSchema:
		err = header.schema()
	case headerRecordBatch:
		err = header.recordBatch()
	case headerDictionaryBatch:
		err = header.dictionaryBatch()
	default:
		err = fmt.Errorf("a message of kind %d", kind)
	}
	return body, err
}

// bytes returns n bytes at a position.
func (m *message) bytes(at, n uint64) ([]byte, error) {
	if at > uint64(len(m.buf)) || n > uint64(len(m.buf))-at {
		return nil, errBeyond
	}
	return m.buf[at : at+n], nil
}

// offset follows the forward reference at a position.
func (m *message) offset(at uint64) (uint64, error) {
	b, err := m.bytes(at, 4)
	if err != nil {
		return 0, err
	}
	return at + uint64(binary.LittleEndian.Uint32(b)), nil
}

// table is one flatbuffer table whose field offsets are known to lie within the message.
type table struct {
	m      *message
	at     uint64
	size   uint64
	fields []byte // two bytes each
}

func (m *message) table(at uint64) (table, error) {
	if m.visited++; m.visited > tablesMax {
		return table{}, fmt.Errorf("more than %d tables in a message", tablesMax)
	}
	b, err := m.bytes(at, 4)
	if err != nil {
		return table{}, err
	}
	vtable := int64(at) - int64(int32(binary.LittleEndian.Uint32(b)))
	if vtable < 0 {
		return table{}, errBeyond
	}
	head, err := m.bytes(uint64(vtable), 4)
	if err != nil {
		return table{}, err
	}
	vsize, size := uint64(binary.LittleEndian.Uint16(head)), uint64(binary.LittleEndian.Uint16(head[2:]))
	if vsize < 4 || vsize%2 != 0 {
		return table{}, errBeyond
	}
	fields, err := m.bytes(uint64(vtable)+4, vsize-4)
	if err != nil {
		return table{}, err
	}
	if _, err := m.bytes(at, size); err != nil {
		return table{}, err
	}
	return table{m: m, at: at, size: size, fields: fields}, nil
}

// field returns the position of a field of so many bytes; ok is false when the table does not have it.
func (t table) field(i int, width uint64) (at uint64, ok bool, err error) {
	if 2*i+2 > len(t.fields) {
		return 0, false, nil
	}
	off := uint64(binary.LittleEndian.Uint16(t.fields[2*i:]))
	if off == 0 {
		return 0, false, nil
	}
	if off < 4 || off+width > t.size {
		return 0, false, errBeyond
	}
	return t.at + off, true, nil
}

func (t table) scalar(i int, width uint64) (uint64, error) {
	at, ok, err := t.field(i, width)
	if err != nil || !ok {
		return 0, err
	}
	b, err := t.m.bytes(at, width)
	if err != nil {
		return 0, err
	}
	if width == 1 {
		return uint64(b[0]), nil
	}
	return binary.LittleEndian.Uint64(b), nil
}

// child follows a reference to a table.
func (t table) child(i int) (child table, ok bool, err error) {
	at, ok, err := t.field(i, 4)
	if err != nil || !ok {
		return table{}, false, err
	}
	if at, err = t.m.offset(at); err != nil {
		return table{}, false, err
	}
	child, err = t.m.table(at)
	return child, err == nil, err
}

// vector checks a vector of elements of a width, and returns where they begin and how many there are.
func (t table) vector(i int, width uint64) (at, n uint64, err error) {
	at, ok, err := t.field(i, 4)
	if err != nil || !ok {
		return 0, 0, err
	}
	if at, err = t.m.offset(at); err != nil {
		return 0, 0, err
	}
	b, err := t.m.bytes(at, 4)
	if err != nil {
		return 0, 0, err
	}
	n = uint64(binary.LittleEndian.Uint32(b))
	_, err = t.m.bytes(at+4, n*width)
	return at + 4, n, err
}

// tables calls visit for every table of a vector.
func (t table) tables(i int, visit func(table) error) error {
	at, n, err := t.vector(i, 4)
	if err != nil {
		return err
	}
	for ; n > 0; n-- {
		pos, err := t.m.offset(at)
		if err != nil {
			return err
		}
		element, err := t.m.table(pos)
		if err != nil {
			return err
		}
		if err := visit(element); err != nil {
			return err
		}
		at += 4
	}
	return nil
}

func (t table) keyValues(i int) error {
	return t.tables(i, func(kv table) error {
		_, _, keyErr := kv.vector(0, 1)
		_, _, valueErr := kv.vector(1, 1)
		return errors.Join(keyErr, valueErr)
	})
}

func (t table) schema() error {
	if err := t.keyValues(2); err != nil {
		return err
	}
	if _, _, err := t.vector(3, 8); err != nil {
		return err
	}
	return t.tables(1, func(f table) error { return f.schemaField(0) })
}

func (t table) schemaField(depth int) error {
	if depth > nestingMax {
		return fmt.Errorf("types nest deeper than %d", nestingMax)
	}
	kind, err := t.scalar(2, 1)
	if err != nil {
		return err
	}
	if kind == typeUnion {
		return errors.New("union types are not supported")
	}
	if _, _, err := t.vector(0, 1); err != nil {
		return err
	}
	if _, _, err := t.child(3); err != nil {
		return err
	}
	if dictionary, ok, err := t.child(4); err != nil {
		return err
	} else if ok {
		if _, _, err := dictionary.child(1); err != nil { // the type of its indices
			return err
		}
	}
	if err := t.keyValues(6); err != nil {
		return err
	}
	return t.tables(5, func(f table) error { return f.schemaField(depth + 1) })
}

// structBytes is the size of FieldNode and of Buffer.
const structBytes = 16

func (t table) recordBatch() error {
	_, _, nodesErr := t.vector(1, structBytes)
	_, _, buffersErr := t.vector(2, structBytes)
	_, _, compressionErr := t.child(3)
	_, _, variadicErr := t.vector(4, 8)
	return errors.Join(nodesErr, buffersErr, compressionErr, variadicErr)
}

func (t table) dictionaryBatch() error {
	data, ok, err := t.child(1)
	if err != nil || !ok {
		return errors.Join(err, errors.New("a dictionary without data"))
	}
	return data.recordBatch()
}
