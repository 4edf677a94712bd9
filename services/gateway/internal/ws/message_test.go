package ws

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/kalamdb/kalamdb-go/internal/strictjson"
)

var clientMessages = []string{
	`{"type":"authenticate","method":"jwt","token":"eyJ","protocol":{"serialization":"json","compression":"gzip"}}`,
	`{"type":"subscribe","subscription":{"id":"sub-1","sql":"SELECT id FROM a.b WHERE r = 'é'","options":{"batch_size":100,"last_rows":50,"from":249871236123492352}}}`,
	`{"type":"next_batch","subscription_id":"sub-1","last_seq_id":249871236123492352}`,
	`{"type":"unsubscribe","subscription_id":"sub-1"}`,
	`{"subscriptions":[{"query_id":"sub1","sql":"SELECT 1","options":{"last_rows":10}}]}`,
	`{"type":"unsubscribe","query_ids":["sub1",null,true,-5,1.5]}`,
	`{"type":"ping"}`,
}

// TestMsgpackReadsAsJSON: both forms of a message make the same tree.
func TestMsgpackReadsAsJSON(t *testing.T) {
	for _, text := range clientMessages {
		want, err := decodeJSON([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeMsgpack(pack(t, text))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, %v; want %v", got, err, want)
		}
	}
}

// pack makes MessagePack with whole numbers as integers.
func pack(t testing.TB, text string) []byte {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	b, err := msgpack.Marshal(numbers(v))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func numbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64()
		return f
	case map[string]any:
		for k := range v {
			v[k] = numbers(v[k])
		}
	case []any:
		for i := range v {
			v[i] = numbers(v[i])
		}
	}
	return v
}

func TestHostileMsgpack(t *testing.T) {
	for name, b := range map[string][]byte{
		"nothing":                   {},
		"not a map":                 {0x01},
		"deep":                      bytes.Repeat([]byte{0x91}, 100_000),
		"deep maps":                 bytes.Repeat([]byte{0x81, 0xa1, 'a'}, 100_000),
		"four billion elements":     {0x81, 0xa1, 'a', 0xdd, 0xff, 0xff, 0xff, 0xff},
		"four billion nils":         append([]byte{0x81, 0xa1, 'a', 0xdd, 0xff, 0xff, 0xff, 0xff}, bytes.Repeat([]byte{0xc0}, 1<<20)...),
		"four gigabytes of text":    {0x81, 0xdb, 0xff, 0xff, 0xff, 0xff},
		"a number as key":           {0x81, 0x01, 0x01},
		"a key twice":               {0x82, 0xa1, 'a', 0x01, 0xa1, 'a', 0x02},
		"an extension":              {0x81, 0xa1, 'a', 0xd4, 0x01, 0x02},
		"raw bytes":                 {0x81, 0xa1, 'a', 0xc4, 0x01, 0x02},
		"text that is not UTF-8":    {0x81, 0xa1, 0xff, 0x01},
		"not a number":              {0x81, 0xa1, 'a', 0xca, 0x7f, 0xc0, 0, 0},
		"more after the map":        {0x80, 0x80},
		"a byte that means nothing": {0x81, 0xa1, 'a', 0xc1},
	} {
		if m, err := decodeMsgpack(b); err == nil {
			t.Errorf("%s: %v", name, m)
		}
	}
}

// walk reads a decoded message in all the ways the wires do.
func walk(o object) {
	for k := range o {
		o.word(k)
		_, _, _ = o.number(k)
		_, _ = o.list(k)
		if sub, err := o.sub(k); err == nil && sub != nil {
			_ = (&wish{}).readOptions(sub)
		}
	}
	wireOf(o)
}

func FuzzDecodeJSON(f *testing.F) {
	for _, m := range clientMessages {
		f.Add([]byte(m))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if o, err := decodeJSON(b); err == nil {
			if !json.Valid(b) {
				t.Fatalf("%q was taken", b)
			}
			walk(o)
		}
	})
}

func FuzzDecodeMsgpack(f *testing.F) {
	for _, m := range clientMessages {
		f.Add(pack(f, m))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := decodeMsgpack(b)
		if err != nil {
			return
		}
		walk(o)
		// What was taken is JSON too, with the same content.
		text, err := json.Marshal(strictjson.Object(o))
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeJSON(text)
		if err != nil || !reflect.DeepEqual(again, o) {
			t.Fatalf("%x reads %v, as JSON %v, %v", b, o, again, err)
		}
	})
}

func FuzzGzip(f *testing.F) {
	packed, err := newCompressors().appendCompressed(nil, []byte(clientMessages[0]))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed[2:])
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 4096
		if out, err := decompress(b, limit); err == nil && len(out) > limit {
			t.Fatalf("%d bytes", len(out))
		}
	})
}
