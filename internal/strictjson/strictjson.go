// Package strictjson decodes JSON from strangers: what encoding/json repairs or overlooks (repeated
// keys, invalid UTF-8, half surrogates, text after the document, keys in another case) is an error
// here, nesting and size are bounded, and numbers keep every digit.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"unicode/utf8"
)

// Limits bound one document. Zero means the default.
type Limits struct {
	// Depth is how deep objects and arrays may nest.
	Depth int
	// Values is how many values (members, elements, the document itself) it may hold.
	Values int
}

const (
	// depthDefault is far above what any request of ours needs.
	depthDefault = 32
	// valuesDefault keeps a small text from becoming a large tree: "[[],[],…" costs 30 times its bytes.
	valuesDefault = 100_000
)

// Object is a JSON object.
type Object map[string]any

// Decode parses exactly one document. Values are nil, bool, string, json.Number, []any and Object.
func Decode(data []byte, lim Limits) (any, error) {
	if lim.Depth == 0 {
		lim.Depth = depthDefault
	}
	if lim.Values == 0 {
		lim.Values = valuesDefault
	}
	if err := checkText(data, lim); err != nil {
		return nil, err
	}
	p := parser{dec: json.NewDecoder(bytes.NewReader(data)), left: lim.Values}
	p.dec.UseNumber()
	v, err := p.value()
	if err != nil {
		return nil, err
	}
	if _, err := p.dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("text after the JSON document")
	}
	return v, nil
}

// DecodeObject is Decode for a document that must be an object with no other keys than those allowed.
func DecodeObject(data []byte, lim Limits, allowed ...string) (Object, error) {
	v, err := Decode(data, lim)
	if err != nil {
		return nil, err
	}
	o, ok := v.(Object)
	if !ok {
		return nil, errors.New("the document must be a JSON object")
	}
	for k := range o {
		if !contains(allowed, k) {
			return nil, fmt.Errorf("unknown field %s", strconv.Quote(clip(k)))
		}
	}
	return o, nil
}

// Text returns a string member; absent and null are "", false.
func (o Object) Text(key string) (string, bool, error) {
	switch v := o[key].(type) {
	case nil:
		return "", false, nil
	case string:
		return v, true, nil
	}
	return "", false, fmt.Errorf("field %q must be a string", key)
}

func contains(list []string, s string) bool {
	for _, e := range list {
		if e == s {
			return true
		}
	}
	return false
}

// clip keeps a hostile key from filling an error text.
func clip(s string) string {
	const shown = 64
	if len(s) <= shown {
		return s
	}
	return s[:shown] + "…"
}

// checkText does in one pass what the tokenizer does not: depth (before anything recurses), UTF-8,
// and surrogates. The grammar itself is left to json.Valid.
func checkText(data []byte, lim Limits) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return errors.New("the document is empty")
	}
	if !utf8.Valid(data) {
		return errors.New("the text is not UTF-8")
	}
	depth, inString := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case inString && c == '\\':
			n, ok := escapeLength(data[i:])
			if !ok {
				return fmt.Errorf("half a surrogate pair at byte %d", i)
			}
			i += n - 1
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			if depth++; depth > lim.Depth {
				return fmt.Errorf("nested deeper than %d", lim.Depth)
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	if !json.Valid(data) {
		return errors.New("not valid JSON")
	}
	return nil
}

// escapeLength returns the length of the escape at the start of b; a surrogate pair counts as one
// escape, half of one is not ok. Malformed escapes are left to the grammar check.
func escapeLength(b []byte) (n int, ok bool) {
	const short, unicode = 2, 6 // \n and \u00e9
	r, isUnicode := hexEscape(b)
	switch {
	case !isUnicode:
		return short, true
	case r < 0xD800 || r > 0xDFFF:
		return unicode, true
	case r > 0xDBFF:
		return 0, false
	}
	low, isUnicode := hexEscape(b[unicode:])
	if !isUnicode || low < 0xDC00 || low > 0xDFFF {
		return 0, false
	}
	return 2 * unicode, true
}

func hexEscape(b []byte) (uint64, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	r, err := strconv.ParseUint(string(b[2:6]), 16, 16)
	return r, err == nil
}

// parser builds the tree. It recurses no deeper than checkText allowed.
type parser struct {
	dec  *json.Decoder
	left int // values it may still make
}

func (p *parser) value() (any, error) {
	tok, err := p.dec.Token()
	if err != nil {
		return nil, err
	}
	return p.rest(tok)
}

// rest returns the value that starts with tok.
func (p *parser) rest(tok json.Token) (any, error) {
	if p.left--; p.left < 0 {
		return nil, errors.New("more values than are allowed in one document")
	}
	switch tok {
	case json.Delim('{'):
		return p.object()
	case json.Delim('['):
		return p.array()
	}
	return tok, nil
}

func (p *parser) object() (any, error) {
	o := Object{}
	for p.dec.More() {
		k, err := p.dec.Token()
		if err != nil {
			return nil, err
		}
		key, ok := k.(string)
		if !ok {
			return nil, errors.New("an object key must be a string")
		}
		if _, twice := o[key]; twice {
			return nil, fmt.Errorf("field %s appears twice", strconv.Quote(clip(key)))
		}
		if o[key], err = p.value(); err != nil {
			return nil, err
		}
	}
	_, err := p.dec.Token() // the closing brace
	return o, err
}

func (p *parser) array() (any, error) {
	list := []any{}
	for p.dec.More() {
		v, err := p.value()
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := p.dec.Token() // the closing bracket
	return list, err
}
