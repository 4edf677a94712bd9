package exec

import (
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/kalamdb/kalamdb-go/internal/datum"
)

// Texts that become timestamps or bytes mean the same in the engine as everywhere else.
func TestTextsBecomeTimestampsAndBytes(t *testing.T) {
	messages := messagesTable()
	f := start(t, memory.DefaultAllocator, messages)
	noon := time.Date(2024, 6, 1, 10, 0, 0, 0, time.UTC).UnixMicro()
	f.put(t, messages, "alice", datum.Int(1), datum.Null, datum.Text(`\xdead`), datum.Timestamp(noon), datum.Null, datum.Null,
		datum.Null, datum.Null, datum.Null, datum.Bytes([]byte{0xde, 0xad}))
	zoned, raw := datum.Text("2024-06-01T12:00:00+02:00"), datum.Text(`\xdead`)
	for _, c := range []struct {
		sql    string
		params []datum.Datum
	}{
		{"SELECT '2024-06-01T12:00:00+02:00'::timestamp = make_timestamp(1717236000000000)", nil},
		{"SELECT timestamp '2024-06-01 10:00:00' = make_timestamp(1717236000000000)", nil},
		{"SELECT $1::timestamp = make_timestamp(1717236000000000)", []datum.Datum{zoned}},
		{"SELECT ('2024-06-01T12:00:00' || '+02:00')::datetime = make_timestamp(1717236000000000)", nil},
		{"SELECT ts = '2024-06-01T12:00:00+02:00' FROM messages", nil},
		{"SELECT '2024-06-01T12:00:00+02:00' = m.ts FROM messages m", nil},
		{"SELECT ts = $1 FROM messages", []datum.Datum{zoned}},
		{"SELECT ts IN ('2020-01-01', '2024-06-01T12:00:00+02:00') FROM messages", nil},
		{"SELECT ts IN ('2020-01-01', $1) FROM messages", []datum.Datum{zoned}},
		{"SELECT ts BETWEEN '2024-06-01T11:59:00+02:00' AND '2024-06-01T12:00:00+02:00' FROM messages", nil},
		{"SELECT ts IS NOT DISTINCT FROM '2024-06-01T12:00:00+02:00' FROM messages", nil},
		{"SELECT true FROM messages GROUP BY room HAVING max(ts) = '2024-06-01T12:00:00+02:00'", nil},
		{"SELECT EXISTS (SELECT 1 FROM messages b WHERE b.id = 1 AND m.ts = '2024-06-01T12:00:00+02:00') FROM messages m", nil},
		{"SELECT date_trunc('hour', ts) = '2024-06-01T12:00:00+02:00' FROM messages", nil},
		{"SELECT ts::timestamp = ts AND ts::date::timestamp = '2024-06-01' FROM messages", nil},
		{"SELECT NULL::timestamp IS NULL", nil},

		{`SELECT octet_length('\xdead'::bytes::text) > 0 AND '\xdead'::bytes = '\336\255'::bytes`, nil},
		{`SELECT raw = '\xdead' FROM messages`, nil},
		{`SELECT raw = '\xdead'::bytes AND '\xde' < raw FROM messages`, nil},
		{`SELECT raw = $1 FROM messages`, []datum.Datum{raw}},
		{`SELECT raw IN ($1) AND raw = $1::bytes FROM messages`, []datum.Datum{raw}},
		{`SELECT raw = body::bytes FROM messages`, nil},
		{`SELECT q.raw::bytes = '\xdead'::bytes FROM (SELECT raw FROM messages) q`, nil},
		{`SELECT (raw || '\xff'::bytes) = '\xdeadff'::bytes FROM messages`, nil},
	} {
		if got, err := f.query(t, c.sql, c.params...); err != nil || len(got) != 1 || got[0] != "true" {
			t.Errorf("%s: %q, %v", c.sql, got, err)
		}
	}
}
