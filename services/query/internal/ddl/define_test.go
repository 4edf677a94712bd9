package ddl

import (
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
)

func statement(change func(*sqlfront.CreateTable)) *sqlfront.CreateTable {
	s := &sqlfront.CreateTable{Table: sqlfront.Name{Name: "t"}, Kind: catalog.UserTable,
		Columns: []catalog.Column{{Name: "id", Type: catalog.Type{Kind: catalog.Int}, PrimaryKey: true}}}
	if change != nil {
		change(s)
	}
	return s
}

func TestKindAndAccessDefaults(t *testing.T) {
	for _, tc := range []struct {
		name       string
		id         catalog.Identity
		namespace  string
		kind       catalog.TableKind
		seed       bool
		level      catalog.AccessLevel
		wantKind   catalog.TableKind
		wantAccess catalog.AccessLevel
	}{
		{"no kind", catalog.Identity{UserID: "alice", Role: catalog.RoleUser}, "app", 0, true, 0, catalog.SharedTable, catalog.AccessPrivate},
		{"own namespace", catalog.Identity{UserID: "alice", Role: catalog.RoleUser}, "alice", 0, true, 0, catalog.UserTable, 0},
		{"own namespace of an administrator", catalog.Identity{UserID: "root", Role: catalog.RoleDBA}, "root", 0, true, 0, catalog.SharedTable, catalog.AccessPrivate},
		{"seed's SHARED", catalog.Identity{UserID: "root", Role: catalog.RoleDBA}, "app", catalog.SharedTable, true, 0, catalog.SharedTable, catalog.AccessOpen},
		{"newer SHARED", catalog.Identity{UserID: "root", Role: catalog.RoleDBA}, "app", catalog.SharedTable, false, 0, catalog.SharedTable, catalog.AccessPrivate},
		{"named level", catalog.Identity{UserID: "root", Role: catalog.RoleDBA}, "app", catalog.SharedTable, true, catalog.AccessDBA, catalog.SharedTable, catalog.AccessDBA},
	} {
		got, err := define(tc.id, tc.namespace, statement(func(s *sqlfront.CreateTable) {
			s.Kind, s.SeedGrammar, s.Access = tc.kind, tc.seed, tc.level
		}))
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		if got.Kind != tc.wantKind || got.Access != tc.wantAccess {
			t.Errorf("%s: %s, %s; want %s, %s", tc.name, got.Kind, got.Access, tc.wantKind, tc.wantAccess)
		}
	}
}

func TestColumns(t *testing.T) {
	got, err := define(catalog.Identity{}, "app", statement(func(s *sqlfront.CreateTable) {
		s.Columns = []catalog.Column{{Name: "a", Type: catalog.Type{Kind: catalog.Text}},
			{Name: "n", Type: catalog.Type{Kind: catalog.Int}, Default: catalog.Default{Kind: catalog.DefaultSnowflakeID}}}
	}))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Columns) != 3 || got.NextColumnID != 4 {
		t.Fatalf("columns %+v, next id %d", got.Columns, got.NextColumnID)
	}
	if n := got.Columns[1]; n.Type.Kind != catalog.BigInt || n.ID != 2 {
		t.Errorf("a generated INT is %+v", n)
	}
	if k := got.KeyColumn(0); !k.Hidden || k.Name != catalog.HiddenKeyColumn || !k.NotNull || k.Default.Kind != catalog.DefaultSnowflakeID {
		t.Errorf("the hidden key is %+v", k)
	}
	got, err = define(catalog.Identity{}, "app", statement(nil))
	if err != nil || len(got.Columns) != 1 || !got.Columns[0].NotNull {
		t.Errorf("with a key: %+v, %v", got, err)
	}
}

func TestDefineRefuses(t *testing.T) {
	column := func(k catalog.TypeKind, d catalog.DefaultKind) catalog.Column {
		return catalog.Column{Name: "c", Type: catalog.Type{Kind: k}, Default: catalog.Default{Kind: d}}
	}
	for name, tc := range map[string]struct {
		change func(*sqlfront.CreateTable)
		want   dberr.Code
	}{
		"no column":        {func(s *sqlfront.CreateTable) { s.Columns = nil }, dberr.InvalidSQL},
		"twice the same":   {func(s *sqlfront.CreateTable) { s.Columns = append(s.Columns, s.Columns[0]) }, dberr.InvalidSQL},
		"too many":         {func(s *sqlfront.CreateTable) { s.Columns = make([]catalog.Column, columnsMax+1) }, dberr.LimitExceeded},
		"stream, no TTL":   {func(s *sqlfront.CreateTable) { s.Kind = catalog.StreamTable }, dberr.InvalidSQL},
		"TTL elsewhere":    {func(s *sqlfront.CreateTable) { s.Options.TTLSeconds = 1 }, dberr.InvalidSQL},
		"TTL without end":  {func(s *sqlfront.CreateTable) { s.Kind, s.Options.TTLSeconds = catalog.StreamTable, 1<<40 }, dberr.InvalidSQL},
		"buffer elsewhere": {func(s *sqlfront.CreateTable) { s.Options.MaxBufferRows = 1 }, dberr.InvalidSQL},
		"level elsewhere":  {func(s *sqlfront.CreateTable) { s.Access = catalog.AccessPublic }, dberr.InvalidOperation},
		"NOW() in TEXT":    {func(s *sqlfront.CreateTable) { s.Columns = append(s.Columns, column(catalog.Text, catalog.DefaultNow)) }, dberr.InvalidSQL},
		"ULID() in INT":    {func(s *sqlfront.CreateTable) { s.Columns = append(s.Columns, column(catalog.Int, catalog.DefaultULID)) }, dberr.InvalidSQL},
		"JSON as key":      {func(s *sqlfront.CreateTable) { s.Columns[0].Type.Kind = catalog.JSON }, dberr.InvalidSQL},
		"flushed stream": {func(s *sqlfront.CreateTable) {
			s.Kind, s.Options.TTLSeconds, s.Options.FlushRows = catalog.StreamTable, 1, 1
		}, dberr.InvalidSQL},
		"UNIQUE in a stream": {func(s *sqlfront.CreateTable) {
			c := column(catalog.Int, 0)
			c.Unique = true
			s.Kind, s.Options.TTLSeconds, s.Columns = catalog.StreamTable, 1, append(s.Columns, c)
		}, dberr.Unsupported},
	} {
		if _, err := define(catalog.Identity{}, "app", statement(tc.change)); !dberr.Is(err, tc.want) {
			t.Errorf("%s: %v, want %s", name, err, tc.want)
		}
	}
}
