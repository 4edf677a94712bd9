package predicate

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

var jsonBuilders = map[string]builder{
	"->":  {least: 2, most: 2, build: buildJSONGet},
	"->>": {least: 2, most: 2, build: buildJSONGet},
	"?":   {least: 2, most: 2, build: buildJSONHas},
}

func jsonOperand(name string, n *node) (*node, error) {
	n, err := resolve(n, jsonType)
	if err != nil {
		return nil, err
	}
	if familyOf(n.typ) != textFamily {
		return nil, dberr.New(dberr.InvalidArgument, "%s needs JSON, not %s", name, typeName(n.typ))
	}
	return n, nil
}

// buildJSONGet makes -> (the member as JSON) and ->> (as text). A text selects a member of an object,
// an integer an element of an array, from the end when negative; what is not there is NULL.
func buildJSONGet(name string, args []*node) (*node, error) {
	doc, err := jsonOperand(name, args[0])
	if err != nil {
		return nil, err
	}
	key, err := resolve(args[1], textType)
	if err != nil {
		return nil, err
	}
	if !isInteger(key.typ) && key.typ.Kind != catalog.Text {
		return nil, dberr.New(dberr.InvalidArgument, "%s needs a TEXT or INTEGER key, not %s", name, typeName(key.typ))
	}
	result := jsonType
	if name == "->>" {
		result = textType
	}
	return strict2(result, doc, key, func(x, k datum.Datum) (datum.Datum, error) {
		raw, ok, err := jsonMember(x.AsText(), k)
		if err != nil || !ok {
			return datum.Null, err
		}
		if name == "->>" {
			return jsonAsText(raw)
		}
		return compactJSON(raw)
	}), nil
}

func jsonMember(doc string, key datum.Datum) (json.RawMessage, bool, error) {
	if key.Kind() == datum.KindText {
		members, err := jsonObject(doc)
		raw, ok := members[key.AsText()]
		return raw, ok, err
	}
	if !strings.HasPrefix(strings.TrimLeft(doc, " \t\r\n"), "[") {
		return nil, false, checkJSON(doc)
	}
	var elements []json.RawMessage
	if err := json.Unmarshal([]byte(doc), &elements); err != nil {
		return nil, false, notJSON(err)
	}
	i := key.AsInt()
	if i < 0 {
		i += int64(len(elements))
	}
	if i < 0 || i >= int64(len(elements)) {
		return nil, false, nil
	}
	return elements[i], true, nil
}

// jsonObject returns the members of an object, and none for other JSON.
func jsonObject(doc string) (map[string]json.RawMessage, error) {
	if !strings.HasPrefix(strings.TrimLeft(doc, " \t\r\n"), "{") {
		return nil, checkJSON(doc)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal([]byte(doc), &members); err != nil {
		return nil, notJSON(err)
	}
	return members, nil
}

func checkJSON(doc string) error {
	if json.Valid([]byte(doc)) {
		return nil
	}
	return notJSON(nil)
}

func notJSON(err error) error {
	if err == nil {
		return dberr.New(dberr.InvalidArgument, "text is not valid JSON")
	}
	return dberr.New(dberr.InvalidArgument, "text is not valid JSON: %w", err)
}

func compactJSON(raw json.RawMessage) (datum.Datum, error) {
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		return datum.Null, notJSON(err)
	}
	return datum.Text(b.String()), nil
}

// jsonAsText unquotes strings; null is NULL.
func jsonAsText(raw json.RawMessage) (datum.Datum, error) {
	switch {
	case len(raw) > 0 && raw[0] == '"':
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return datum.Null, notJSON(err)
		}
		return datum.Text(s), nil
	case string(raw) == "null":
		return datum.Null, nil
	}
	return compactJSON(raw)
}

// buildJSONHas makes j ? 'k': is there a member, or an element that is this string?
func buildJSONHas(name string, args []*node) (*node, error) {
	doc, err := jsonOperand(name, args[0])
	if err != nil {
		return nil, err
	}
	key, err := resolveText(name, args[1])
	if err != nil {
		return nil, err
	}
	return strict2(boolType, doc, key, func(x, k datum.Datum) (datum.Datum, error) {
		has, err := jsonHas(x.AsText(), k.AsText())
		return datum.Bool(has), err
	}), nil
}

func jsonHas(doc, key string) (bool, error) {
	trimmed := strings.TrimLeft(doc, " \t\r\n")
	if strings.HasPrefix(trimmed, "{") {
		members, err := jsonObject(doc)
		_, ok := members[key]
		return ok, err
	}
	var elements []any
	if strings.HasPrefix(trimmed, "[") {
		if err := json.Unmarshal([]byte(doc), &elements); err != nil {
			return false, notJSON(err)
		}
	} else {
		var scalar any
		if err := json.Unmarshal([]byte(doc), &scalar); err != nil {
			return false, notJSON(err)
		}
		elements = []any{scalar}
	}
	for _, e := range elements {
		if s, ok := e.(string); ok && s == key {
			return true, nil
		}
	}
	return false, nil
}
