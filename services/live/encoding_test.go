package live

import (
	"fmt"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
)

// Initial rows have the same columns in the same encoding as changes.
func TestInitialRowsInEveryEncoding(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 700 { // more than one record of the scan
		w.put("alice", int64(i), "a", "x")
	}
	w.put("alice", 3, "b", "y")
	g := w.gateway()
	last := func(e livev1.Encoding) ([]byte, *livev1.Subscribed) {
		c := g.subscribe("alice", withSnapshot, withEncoding(e), withColumns(3, 2), withLast(500))
		s := c.waitSubscribed()
		r := c.waitRows()
		if r.GetRowCount() != 500 || r.GetHasMore() {
			t.Fatalf("%s: %d rows", e, r.GetRowCount())
		}
		return r.GetRows(), s
	}
	seq := fmt.Sprint(w.storage.Position())

	if rows, _ := last(livev1.Encoding_ENCODING_JSON); !strings.HasSuffix(string(rows), `,{"body":"y","room":"b","id":"3","_seq":"`+seq+`"}]`) {
		t.Errorf("json ends %s", rows[len(rows)-80:])
	}
	if rows, _ := last(livev1.Encoding_ENCODING_SEED_JSON); !strings.HasSuffix(string(rows), `,{"body":"y","room":"b"}]`) {
		t.Errorf("seed json ends %s", rows[len(rows)-80:])
	}
	rows, _ := last(livev1.Encoding_ENCODING_MSGPACK)
	var maps []map[string]any
	if err := msgpack.Unmarshal(rows, &maps); err != nil || len(maps) != 500 || fmt.Sprint(maps[499]) != "map[_seq:"+seq+" body:y id:3 room:b]" {
		t.Errorf("msgpack: %v, %d rows", err, len(maps))
	}
	rows, subscribed := last(livev1.Encoding_ENCODING_ARROW_IPC)
	schema, batches, err := rowbatch.Decode(memory.DefaultAllocator, rows, 1<<20)
	if err != nil || len(batches) != 1 || batches[0].NumRows() != 500 {
		t.Fatalf("arrow: %v, %d batches", err, len(batches))
	}
	defer batches[0].Release()
	announced, _, err := rowbatch.Decode(memory.DefaultAllocator, subscribed.GetSchemaIpc(), 1<<20)
	if err != nil || !announced.Equal(schema) || schema.Field(schema.NumFields()-1).Name != catalog.SeqColumn {
		t.Errorf("announced %v, sent %v, %v", announced, schema, err)
	}
	seqs := batches[0].Column(3)
	if got := rowbatch.DatumAt(seqs, 499, catalog.Type{Kind: catalog.BigInt}).AsInt(); fmt.Sprint(got) != seq {
		t.Errorf("last row has _seq %d", got)
	}
}
