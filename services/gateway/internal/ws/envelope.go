package ws

import (
	"strconv"

	"github.com/kalamdb/kalamdb-go/internal/celljson"
)

// depthMax is how deep our own frames nest objects and arrays.
const depthMax = 8

// envelope writes one message, as JSON or as MessagePack. Objects and arrays of ours have fewer than 16
// members, except arrays whose length is said beforehand.
type envelope struct {
	buf    []byte
	packed bool
	level  int
	at     [depthMax]int // where an object's MessagePack head is
	count  [depthMax]int // members written so far
}

// reset begins another message in the same buffer.
func (e *envelope) reset(packed bool) { e.buf, e.packed, e.level = e.buf[:0], packed, 0 }

func (e *envelope) open() {
	e.level++
	e.at[e.level], e.count[e.level] = len(e.buf), 0
	if e.packed {
		e.buf = append(e.buf, 0) // patched by close
		return
	}
	e.buf = append(e.buf, '{')
}

func (e *envelope) close() {
	if e.packed {
		e.buf[e.at[e.level]] = 0x80 | byte(e.count[e.level])
	} else {
		e.buf = append(e.buf, '}')
	}
	e.level--
}

func (e *envelope) key(name string) {
	if e.packed {
		e.buf = celljson.AppendMsgpackText(e.buf, name)
	} else {
		if e.count[e.level] > 0 {
			e.buf = append(e.buf, ',')
		}
		e.buf = append(celljson.AppendJSONText(e.buf, name), ':')
	}
	e.count[e.level]++
}

func (e *envelope) openList(n int) {
	e.level++
	e.count[e.level] = 0
	e.buf = celljson.AppendArrayStart(e.buf, n, e.dialect())
}

// element goes before each element of a list.
func (e *envelope) element() {
	if e.count[e.level] > 0 {
		e.buf = celljson.AppendArraySeparator(e.buf, e.dialect())
	}
	e.count[e.level]++
}

func (e *envelope) closeList() {
	e.buf = celljson.AppendArrayEnd(e.buf, e.dialect())
	e.level--
}

func (e *envelope) dialect() celljson.Dialect {
	if e.packed {
		return celljson.Msgpack
	}
	return celljson.JSON
}

func (e *envelope) text(s string) { e.buf = celljson.AppendText(e.buf, s, e.dialect()) }

func (e *envelope) null() { e.buf = celljson.AppendNull(e.buf, e.dialect()) }

func (e *envelope) boolean(v bool) {
	if e.packed {
		e.buf = celljson.AppendMsgpackBool(e.buf, v)
		return
	}
	e.buf = strconv.AppendBool(e.buf, v)
}

func (e *envelope) integer(v int64) {
	if e.packed {
		e.buf = celljson.AppendMsgpackInt(e.buf, v)
		return
	}
	e.buf = strconv.AppendInt(e.buf, v, 10)
}

// raw splices a value that is encoded already.
func (e *envelope) raw(b []byte) { e.buf = append(e.buf, b...) }

// field is key and text.
func (e *envelope) field(name, value string) {
	e.key(name)
	e.text(value)
}
