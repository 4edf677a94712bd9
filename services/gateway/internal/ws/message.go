package ws

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/strictjson"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/ws/wsconn"
)

// object is a client message, or a part of one. Numbers are json.Number, with every digit.
type object strictjson.Object

// Limits of one message's tree: no message of either wire comes near them.
const (
	messageDepthMax  = 16
	messageValuesMax = 10_000
)

var errUnsupportedData = errors.New("a binary message must be gzip, or MessagePack when that was negotiated")

// decode makes the tree of a message. Text is JSON; binary is MessagePack when that was negotiated, or
// either of them compressed.
func (s *socket) decode(kind wsconn.Kind, payload []byte) (object, error) {
	binary := kind == wsconn.Binary
	if binary && isGzip(payload) {
		var err error
		if payload, err = decompress(payload, s.h.cfg.MessageBytesMax); err != nil {
			return nil, err
		}
		binary = !looksLikeJSON(payload)
	}
	if !binary {
		return decodeJSON(payload)
	}
	s.mu.Lock()
	packed := s.packed
	s.mu.Unlock()
	if !packed {
		return nil, errUnsupportedData
	}
	return decodeMsgpack(payload)
}

// looksLikeJSON tells a JSON object from a MessagePack map by its first byte that is not white space.
func looksLikeJSON(b []byte) bool {
	for _, c := range b {
		switch c {
		case ' ', '\t', '\r', '\n':
		default:
			return c == '{'
		}
	}
	return false
}

func decodeJSON(b []byte) (object, error) {
	v, err := strictjson.Decode(b, strictjson.Limits{Depth: messageDepthMax, Values: messageValuesMax})
	if err != nil {
		return nil, err
	}
	return toObject(v)
}

func toObject(v any) (object, error) {
	o, ok := v.(strictjson.Object)
	if !ok {
		return nil, errors.New("a message must be an object")
	}
	return object(o), nil
}

// word returns a string member; anything else is "".
func (o object) word(key string) string {
	s, _ := o[key].(string)
	return s
}

// sub returns an object member; nil when it is absent or null.
func (o object) sub(key string) (object, error) {
	switch v := o[key].(type) {
	case nil:
		return nil, nil
	case strictjson.Object:
		return object(v), nil
	}
	return nil, fmt.Errorf("%s must be an object", key)
}

// number returns a member that is a whole number of 63 bits, as a number or as text; nil when it is
// absent or null. asText says which it was.
func (o object) number(key string) (n *uint64, asText bool, err error) {
	var digits string
	switch v := o[key].(type) {
	case nil:
		return nil, false, nil
	case json.Number:
		digits = string(v)
	case string:
		digits, asText = v, true
	default:
		return nil, false, fmt.Errorf("%s must be a whole number", key)
	}
	if strings.HasPrefix(digits, "+") {
		return nil, false, fmt.Errorf("%s must be a whole number", key)
	}
	value, err := strconv.ParseUint(digits, 10, 63)
	if err != nil {
		return nil, false, fmt.Errorf("%s must be a whole number from 0 to 9223372036854775807", key)
	}
	return &value, asText, nil
}

// list returns an array member; nil when it is absent or null.
func (o object) list(key string) ([]any, error) {
	switch v := o[key].(type) {
	case nil:
		return nil, nil
	case []any:
		return v, nil
	}
	return nil, fmt.Errorf("%s must be an array", key)
}

// checkID says what is wrong with a subscription id.
func checkID(id string) string {
	switch {
	case id == "":
		return "a subscription needs an id"
	case len(id) > idBytesMax:
		return fmt.Sprintf("a subscription id may have at most %d bytes", idBytesMax)
	}
	for _, r := range id {
		if r < ' ' || r == 0x7f {
			return "a subscription id may not have control characters"
		}
	}
	return ""
}
