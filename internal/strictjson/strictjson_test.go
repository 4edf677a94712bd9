package strictjson

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestDecode(t *testing.T) {
	got, err := Decode([]byte(` {"a":[1,2.50,null,true,"\ud83d\ude00\u2028"],"b":{"c":12345678901234567890}} `), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	want := Object{"a": []any{json.Number("1"), json.Number("2.50"), nil, true, "😀\u2028"},
		"b": Object{"c": json.Number("12345678901234567890")}}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got %#v", got)
	}
}

func TestRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"empty":            "",
		"blank":            " \n",
		"repeated key":     `{"a":1,"a":2}`,
		"repeated escaped": `{"a":1,"\u0061":2}`,
		"trailing":         `{} {}`,
		"trailing bracket": `{}]`,
		"half surrogate":   `"\ud800"`,
		"low surrogate":    `"\udc00"`,
		"broken pair":      `"\ud800\u0041"`,
		"invalid UTF-8":    "\"\xff\"",
		"control":          "\"\x01\"",
		"comment":          `{/* */}`,
		"missing comma":    `[1 2]`,
		"missing colon":    `{"a" 1}`,
		"trailing comma":   `[1,]`,
		"leading zero":     `01`,
		"bare word":        `NaN`,
		"open":             `{"a":`,
		"deep":             strings.Repeat("[", 1_000_000),
		"deep and closed":  strings.Repeat("[", 33) + strings.Repeat("]", 33),
		"many":             "[" + strings.Repeat("1,", 100_000) + "1]",
	} {
		if v, err := Decode([]byte(text), Limits{}); err == nil {
			t.Errorf("%s: decoded to %v", name, v)
		}
	}
}

func TestDecodeObject(t *testing.T) {
	if _, err := DecodeObject([]byte(`{"user":"a","User":"b"}`), Limits{}, "user"); err == nil ||
		!strings.Contains(err.Error(), `unknown field "User"`) {
		t.Errorf("a key in another case: %v", err)
	}
	if _, err := DecodeObject([]byte(`[]`), Limits{}); err == nil {
		t.Error("an array passed as an object")
	}
	o, err := DecodeObject([]byte(`{"user":"a","n":1,"gone":null}`), Limits{}, "user", "n", "gone")
	if err != nil {
		t.Fatal(err)
	}
	if s, ok, err := o.Text("user"); s != "a" || !ok || err != nil {
		t.Errorf("user: %q %v %v", s, ok, err)
	}
	if _, ok, err := o.Text("gone"); ok || err != nil {
		t.Errorf("null: %v %v", ok, err)
	}
	if _, _, err := o.Text("n"); err == nil {
		t.Error("a number passed as a string")
	}
}

// FuzzDecode: what we accept, encoding/json accepts with the same meaning.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":[1,"\ud83d\ude00",{"b":null}]}`, `"\u00zz"`, `[[[[]]]]`, `1e400`, `{"a":1}x`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := Decode(data, Limits{})
		if err != nil {
			return
		}
		again, err := json.Marshal(got)
		if err != nil {
			t.Fatalf("%q decoded to %#v, which does not encode: %v", data, got, err)
		}
		second, err := Decode(again, Limits{})
		if err != nil || !reflect.DeepEqual(got, second) {
			t.Fatalf("%q: %#v became %#v (%v)", data, got, second, err)
		}
	})
}
