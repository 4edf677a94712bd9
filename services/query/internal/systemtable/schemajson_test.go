package systemtable

import (
	"encoding/json"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/datum"
)

func literal(d datum.Datum) catalog.Default {
	return catalog.Default{Kind: catalog.DefaultLiteral, Literal: datum.Append(nil, d)}
}

func TestColumnsJSON(t *testing.T) {
	table := (&catalog.Table{Namespace: "app", Name: "t", Columns: []catalog.Column{
		{ID: 1, Name: "id", Type: catalog.Type{Kind: catalog.BigInt}, NotNull: true, PrimaryKey: true, Default: catalog.Default{Kind: catalog.DefaultSnowflakeID}},
		{ID: 2, Name: "v", Type: catalog.Type{Kind: catalog.Text}, Default: literal(datum.Text(`a"b'c`))},
		{ID: 4, Name: "d", Type: catalog.Type{Kind: catalog.Decimal, Precision: 10, Scale: 2}},
		{ID: 5, Name: "_row_id", Type: catalog.Type{Kind: catalog.BigInt}, Hidden: true}}}).Index()
	got, err := columnsJSON(table)
	if err != nil {
		t.Fatal(err)
	}
	const want = `[{"column_id":1,"column_name":"id","column_comment":null,"data_type":"BigInt","default_value":{"FunctionCall":{"name":"SNOWFLAKE_ID","args":[]}},"ordinal_position":1,"is_nullable":false,"is_primary_key":true,"is_partition_key":false},` +
		`{"column_id":2,"column_name":"v","column_comment":null,"data_type":"Text","default_value":{"Literal":"a\"b'c"},"ordinal_position":2,"is_nullable":true,"is_primary_key":false,"is_partition_key":false},` +
		`{"column_id":4,"column_name":"d","column_comment":null,"data_type":{"Decimal":{"precision":10,"scale":2}},"default_value":"None","ordinal_position":3,"is_nullable":true,"is_primary_key":false,"is_partition_key":false}]`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if !json.Valid([]byte(got)) {
		t.Error("not JSON")
	}
}

func TestDefaultText(t *testing.T) {
	for _, tc := range []struct {
		typ  catalog.Type
		def  catalog.Default
		want string
	}{
		{catalog.Type{Kind: catalog.Text}, catalog.Default{}, ""},
		{catalog.Type{Kind: catalog.Text}, literal(datum.Text("it's")), "'it''s'"},
		{catalog.Type{Kind: catalog.BigInt}, literal(datum.Int(-7)), "-7"},
		{catalog.Type{Kind: catalog.Boolean}, literal(datum.Bool(true)), "true"},
		{catalog.Type{Kind: catalog.Double}, literal(datum.Float(1.5)), "1.5"},
		{catalog.Type{Kind: catalog.Timestamp}, literal(datum.Timestamp(0)), "'1970-01-01 00:00:00'"},
		{catalog.Type{Kind: catalog.Bytes}, literal(datum.Bytes([]byte{0xde, 0xad})), `'\xdead'`},
		{catalog.Type{Kind: catalog.Timestamp}, catalog.Default{Kind: catalog.DefaultNow}, "NOW()"},
		{catalog.Type{Kind: catalog.Text}, literal(datum.Null), "NULL"},
	} {
		got, err := DefaultText(&catalog.Column{Type: tc.typ, Default: tc.def})
		if err != nil || got != tc.want {
			t.Errorf("%s: %q, %v, want %q", tc.typ, got, err, tc.want)
		}
	}
	if _, err := DefaultText(&catalog.Column{Default: catalog.Default{Kind: catalog.DefaultLiteral}}); err == nil {
		t.Error("a malformed literal was accepted")
	}
}

func TestOptionsJSONIsJSON(t *testing.T) {
	for _, kind := range []catalog.TableKind{catalog.UserTable, catalog.SharedTable, catalog.StreamTable} {
		for _, o := range []catalog.TableOptions{{}, {StorageID: `a"b`, FlushRows: 1, FlushIntervalSeconds: 2, TTLSeconds: 3,
			Ephemeral: true, MaxBufferRows: 4, DeletedRetentionHours: 5, Compression: "zstd", OwnerID: "o", UseUserStorage: true},
			{FlushRows: 1}, {FlushIntervalSeconds: 1}} {
			if s := optionsJSON(&catalog.Table{Kind: kind, Options: o, Access: catalog.AccessOpen}); !json.Valid([]byte(s)) {
				t.Errorf("%s: %s", kind, s)
			}
		}
	}
}

func TestVisibleHidesWhatCannotBeRead(t *testing.T) {
	state := &catalogview.State{Tables: map[uint32]*catalog.Table{
		1: {ID: 1, Namespace: "b", Name: "x", Kind: catalog.UserTable},
		2: {ID: 2, Namespace: "a", Name: "private", Kind: catalog.SharedTable, Access: catalog.AccessPrivate},
		3: {ID: 3, Namespace: "a", Name: "open", Kind: catalog.SharedTable, Access: catalog.AccessOpen}}}
	for role, want := range map[catalog.Role]string{catalog.RoleAnonymous: "", catalog.RoleUser: "a.open b.x ", catalog.RoleDBA: "a.open a.private b.x "} {
		got := ""
		for _, table := range Visible(state, catalog.Identity{UserID: "u", Role: role}) {
			got += table.QualifiedName() + " "
		}
		if got != want {
			t.Errorf("%s sees %q, want %q", role, got, want)
		}
	}
}

func TestLookup(t *testing.T) {
	tables := New(Config{})
	for name, want := range map[string]string{"users": "users", "live_queries": "live", "table_schemas": "schemas", "jobs": "jobs", "job_nodes": "", "Users": ""} {
		got := ""
		if d, ok := tables.Lookup(System, name); ok {
			got = d.Name
		}
		if got != want {
			t.Errorf("system.%s is %q, want %q", name, got, want)
		}
	}
	if _, ok := tables.Lookup(InformationSchema, "live_queries"); ok {
		t.Error("an alias of system was found in information_schema")
	}
	for _, d := range []string{"users", "stats", "namespaces", "jobs"} {
		table, _ := tables.Lookup(System, d)
		if _, err := tables.Open(catalog.Identity{UserID: "u", Role: catalog.RoleService}, table); err == nil {
			t.Errorf("a service reads system.%s", d)
		}
	}
}
