package exec

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/cockroachdb/datadriven"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
)

func typed(kind catalog.TypeKind) catalog.Type { return catalog.Type{Kind: kind} }

// The tables of these tests. Column ids leave gaps, as ALTER TABLE would.
func messagesTable() *catalog.Table {
	return &catalog.Table{ID: 1, Namespace: "app", Name: "messages", Kind: catalog.UserTable, SchemaVersion: 1, Columns: []catalog.Column{
		{ID: 1, Name: "id", Type: typed(catalog.BigInt), PrimaryKey: true, NotNull: true},
		{ID: 2, Name: "room", Type: typed(catalog.Text)},
		{ID: 4, Name: "body", Type: typed(catalog.Text)},
		{ID: 5, Name: "ts", Type: typed(catalog.Timestamp)},
		{ID: 6, Name: "n", Type: typed(catalog.Int)},
		{ID: 7, Name: "price", Type: catalog.Type{Kind: catalog.Decimal, Precision: 10, Scale: 2}},
		{ID: 8, Name: "ok", Type: typed(catalog.Boolean)},
		{ID: 9, Name: "meta", Type: typed(catalog.JSON)},
		{ID: 10, Name: "score", Type: typed(catalog.Double)},
		{ID: 11, Name: "raw", Type: typed(catalog.Bytes)},
	}}
}

func roomsTable() *catalog.Table {
	return &catalog.Table{ID: 2, Namespace: "app", Name: "rooms", Kind: catalog.SharedTable, Access: catalog.AccessOpen, SchemaVersion: 3,
		Columns: []catalog.Column{{ID: 1, Name: "id", Type: typed(catalog.Text), PrimaryKey: true, NotNull: true},
			{ID: 2, Name: "title", Type: typed(catalog.Text), NotNull: true}, {ID: 3, Name: "size", Type: typed(catalog.Int)}}}
}

func logTable() *catalog.Table {
	return &catalog.Table{ID: 3, Namespace: "app", Name: "log", Kind: catalog.UserTable, SchemaVersion: 1, Columns: []catalog.Column{
		{ID: 1, Name: "_row_id", Type: typed(catalog.BigInt), PrimaryKey: true, NotNull: true, Hidden: true},
		{ID: 2, Name: "line", Type: typed(catalog.Text)}}}
}

func secretsTable() *catalog.Table {
	return &catalog.Table{ID: 4, Namespace: "app", Name: "secrets", Kind: catalog.SharedTable, Access: catalog.AccessPrivate, SchemaVersion: 1,
		Columns: []catalog.Column{{ID: 1, Name: "id", Type: typed(catalog.Text), PrimaryKey: true, NotNull: true}}}
}

func eventsTable() *catalog.Table {
	return &catalog.Table{ID: 5, Namespace: "app", Name: "events", Kind: catalog.StreamTable, SchemaVersion: 1, Columns: []catalog.Column{
		{ID: 1, Name: "id", Type: typed(catalog.BigInt), PrimaryKey: true, NotNull: true},
		{ID: 2, Name: "kind", Type: typed(catalog.Text)},
		{ID: 3, Name: "vec", Type: catalog.Type{Kind: catalog.Embedding, Dimension: 2}}}}
}

// chat fills the tables with a few rows.
func chat(t testing.TB, alloc memory.Allocator) *fixture {
	t.Helper()
	messages, rooms, log, secrets, events := messagesTable(), roomsTable(), logTable(), secretsTable(), eventsTable()
	f := start(t, alloc, messages, rooms, log, secrets, events)
	null := datum.Null
	dec := func(v int64) datum.Datum { return datum.Decimal(v>>63, uint64(v), 2) }
	day := int64(86_400_000_000)
	add := func(user string, id int64, room, body string, rest ...datum.Datum) {
		f.put(t, messages, user, append([]datum.Datum{datum.Int(id), datum.Text(room), datum.Text(body)}, rest...)...)
	}
	add("alice", 3, "b", "Gamma_x", datum.Timestamp(nowUS-3*day), datum.Int(7), dec(1234), datum.Bool(true), datum.Text(`{"k":{"a":1},"t":"x"}`), datum.Float(0.5), datum.Bytes([]byte{1, 2}))
	add("alice", 1, "a", "alpha", datum.Timestamp(nowUS-1*day), datum.Int(-7), dec(-50), datum.Bool(false), null, datum.Float(2.5), null)
	add("alice", 2, "a", "Beta%", null, null, null, null, datum.Text(`[1,"k"]`), null, null)
	add("alice", 4, "b", "delta", datum.Timestamp(nowUS), datum.Int(0), dec(0), null, datum.Text(`{"k":2}`), datum.Float(-1), datum.Bytes(nil))
	add("bob", 1, "a", "bob's", null, null, null, null, null, null, null)
	f.storage.rows[partitionKey(1, "alice")][3].deleted = true
	f.put(t, rooms, "", datum.Text("a"), datum.Text("Room A"), datum.Int(10))
	f.put(t, rooms, "", datum.Text("b"), datum.Text("Room B"), null)
	f.put(t, rooms, "", datum.Text("c"), datum.Text("Empty"), datum.Int(0))
	f.put(t, log, "alice", datum.Int(20), datum.Text("second"))
	f.put(t, log, "alice", datum.Int(10), datum.Text("first"))
	f.put(t, secrets, "", datum.Text("s"))
	f.put(t, events, "alice", datum.Int(1), datum.Text("typing"), datum.Embedding([]float32{1, 0}))
	f.put(t, events, "alice", datum.Int(2), datum.Text("read"), datum.Embedding([]float32{0, 0}))
	return f
}

// TestSelect runs testdata/*.txt. A query's input is SQL; "-- $1 = value" lines before it give text,
// integer (digits) or NULL parameters.
func TestSelect(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		f := chat(t, memory.DefaultAllocator)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			env := f.env
			for _, arg := range d.CmdArgs {
				switch arg.Key {
				case "user":
					env.Identity.UserID = arg.Vals[0]
				case "role":
					env.Identity.Role, _ = catalog.ParseRole(arg.Vals[0])
				case "namespace":
					env.Namespace = arg.Vals[0]
				}
			}
			sql, params := splitParams(d.Input)
			env.Params = params
			list, err := sqlfront.Parse(sql, sqlfront.Limits{})
			if err != nil {
				return showError(err)
			}
			sel, ok := list[0].(*sqlfront.Select)
			if !ok {
				return fmt.Sprintf("a %T\n", list[0])
			}
			switch d.Cmd {
			case "query":
				rows, err := f.Select(t.Context(), env, sel)
				if err != nil {
					return showError(err)
				}
				defer rows.Release()
				return showRows(t.Context(), rows)
			case "explain":
				lines, err := f.Explain(t.Context(), env, sel)
				if err != nil {
					return showError(err)
				}
				return strings.Join(lines, "\n") + "\n"
			}
			return "unknown command"
		})
	})
}

func splitParams(input string) (string, []datum.Datum) {
	var params []datum.Datum
	for {
		line, rest, _ := strings.Cut(input, "\n")
		value, ok := strings.CutPrefix(line, fmt.Sprintf("-- $%d = ", len(params)+1))
		if !ok {
			return input, params
		}
		n, notInteger := strconv.ParseInt(value, 10, 64)
		switch {
		case value == "NULL":
			params = append(params, datum.Null)
		case value == "true":
			params = append(params, datum.Bool(true))
		case notInteger == nil:
			params = append(params, datum.Int(n))
		default:
			params = append(params, datum.Text(value))
		}
		input = rest
	}
}

func showError(err error) string {
	place := ""
	if line := dberr.FieldOf(err, dberr.FieldLine); line != "" {
		place = fmt.Sprintf(" at %s:%s", line, dberr.FieldOf(err, dberr.FieldColumn))
	}
	return fmt.Sprintf("%s%s: %v\n", dberr.CodeOf(err), place, err)
}

// showRows prints a line of column names with types and flags, then the rows.
func showRows(ctx context.Context, rows Rows) string {
	var b strings.Builder
	for i, f := range rows.Schema().Fields() {
		if i > 0 {
			b.WriteString(" | ")
		}
		typ, _ := f.Metadata.GetValue("kalam.type")
		flags, _ := f.Metadata.GetValue("kalam.flags")
		fmt.Fprintf(&b, "%s %s", f.Name, strings.Trim(typ, `"`))
		if flags != "" {
			fmt.Fprintf(&b, " (%s)", flags)
		}
	}
	b.WriteByte('\n')
	lines, err := readAll(ctx, rows)
	for _, l := range lines {
		b.WriteString("  " + l + "\n")
	}
	if err != nil {
		b.WriteString(showError(err))
	}
	return b.String()
}
