package systemtable

import (
	"cmp"
	"context"
	"slices"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/access"
)

// catalogName is the one SQL catalog (spec 1.10).
const catalogName = "kalam"

// Visible returns the tables the caller may know of, in order of name.
func Visible(state *catalogview.State, id catalog.Identity) []*catalog.Table {
	var out []*catalog.Table
	for _, t := range state.Tables {
		if access.Describe(id, t) == nil {
			out = append(out, t)
		}
	}
	slices.SortFunc(out, func(a, b *catalog.Table) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return out
}

func namespacesOf(state *catalogview.State) []catalogview.Namespace {
	out := make([]catalogview.Namespace, 0, len(state.Namespaces))
	for _, n := range state.Namespaces {
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b catalogview.Namespace) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// rowsOfTables pages one or more rows for every table the caller may know of.
func (t *Tables) rowsOfTables(id catalog.Identity, each func(*catalog.Table) ([][]datum.Datum, error)) pager {
	return paged(func(context.Context) ([][]datum.Datum, error) {
		var out [][]datum.Datum
		for _, table := range Visible(t.cfg.Catalog.State(), id) {
			rows, err := each(table)
			if err != nil {
				return nil, err
			}
			out = append(out, rows...)
		}
		return out, nil
	})
}

func (t *Tables) namespaces(catalog.Identity) pager {
	return paged(func(context.Context) ([][]datum.Datum, error) {
		return NamespaceRows(t.cfg.Catalog.State()), nil
	})
}

// NamespaceRows are the rows of system.namespaces, also for SHOW NAMESPACES.
func NamespaceRows(state *catalogview.State) [][]datum.Datum {
	counts := map[string]int64{}
	for _, table := range state.Tables {
		counts[table.Namespace]++
	}
	var out [][]datum.Datum
	for _, n := range namespacesOf(state) {
		out = append(out, []datum.Datum{datum.Text(n.Name), datum.Text(n.Name), datum.Timestamp(n.CreatedAtUS),
			datum.Null, datum.Int(counts[n.Name])})
	}
	return out
}

func (t *Tables) schemas(id catalog.Identity) pager {
	var tables []*catalog.Table
	var rows [][]datum.Datum
	began := false
	return func(ctx context.Context) ([][]datum.Datum, error) {
		if !began {
			tables, began = Visible(t.cfg.Catalog.State(), id), true
		}
		for len(rows) < pageRows && len(tables) > 0 {
			versions, err := t.Versions(ctx, tables[0])
			if err != nil {
				return nil, err
			}
			for i, v := range versions {
				row, err := SchemaRow(v, i == len(versions)-1)
				if err != nil {
					return nil, err
				}
				rows = append(rows, row)
			}
			tables = tables[1:]
		}
		n := min(len(rows), pageRows)
		page := rows[:n]
		rows = rows[n:]
		return page, nil
	}
}

// Versions are all versions of a table, the given one last.
func (t *Tables) Versions(ctx context.Context, newest *catalog.Table) ([]*catalog.Table, error) {
	var out []*catalog.Table
	for after, more := uint32(0), newest.SchemaVersion > 1; more; {
		resp, err := t.cfg.Users.ListTableVersions(ctx, &catalogv1.ListTableVersionsRequest{TableId: newest.ID, AfterTableId: newest.ID, AfterSchemaVersion: after})
		if err != nil {
			return nil, err
		}
		more = resp.GetHasMore() && len(resp.GetTables()) > 0
		for _, p := range resp.GetTables() {
			after = p.GetSchemaVersion()
			if after < newest.SchemaVersion { // it may have been altered again meanwhile
				out = append(out, catalog.TableFromProto(p))
			}
		}
	}
	return append(out, newest), nil
}

// SchemaRow is the row of a version of a table in system.schemas, also for SHOW TABLES.
func SchemaRow(t *catalog.Table, latest bool) ([]datum.Datum, error) {
	cols, err := columnsJSON(t)
	if err != nil {
		return nil, err
	}
	level, storage, userStorage := datum.Null, datum.Text(StorageID(t)), datum.Null
	switch t.Kind {
	case catalog.SharedTable:
		level = datum.Text(t.Access.String())
	case catalog.UserTable:
		userStorage = datum.Bool(t.Options.UseUserStorage)
	case catalog.StreamTable:
		storage = datum.Null
	}
	return []datum.Datum{datum.Text(t.Namespace + ":" + t.Name), datum.Text(t.Name), datum.Text(t.Namespace),
		datum.Text(t.Kind.String()), datum.Timestamp(t.CreatedAtUS), datum.Int(int64(t.SchemaVersion)),
		datum.Text(cols), datum.Null, datum.Timestamp(t.UpdatedAtUS), datum.Text(optionsJSON(t)), level,
		datum.Bool(latest), storage, userStorage}, nil
}

func (t *Tables) tables(id catalog.Identity) pager {
	return t.rowsOfTables(id, func(table *catalog.Table) ([][]datum.Datum, error) {
		storage := datum.Null
		if table.Kind != catalog.StreamTable {
			storage = datum.Text(StorageID(table))
		}
		return [][]datum.Datum{{datum.Text(table.Namespace), datum.Text(table.Name), datum.Text(table.Kind.String()),
			storage, datum.Int(int64(table.SchemaVersion)), datum.Text(optionsJSON(table)), datum.Null,
			datum.Timestamp(table.UpdatedAtUS), datum.Timestamp(table.CreatedAtUS)}}, nil
	})
}

func (t *Tables) columns(id catalog.Identity) pager {
	return t.rowsOfTables(id, func(table *catalog.Table) ([][]datum.Datum, error) {
		var out [][]datum.Datum
		keys := int64(0)
		for i, c := range table.VisibleColumns() {
			def, err := DefaultText(&c)
			if err != nil {
				return nil, err
			}
			pos := datum.Null
			if c.PrimaryKey {
				keys++
				pos = datum.Int(keys)
			}
			out = append(out, []datum.Datum{datum.Text(table.Namespace), datum.Text(table.Name),
				datum.Int(int64(table.SchemaVersion)), datum.Int(int64(c.ID)), datum.Text(c.Name), datum.Null,
				datum.Text(c.Type.String()), datum.TextOrNull(def), datum.Int(int64(i + 1)), datum.Bool(!c.NotNull),
				datum.Bool(c.PrimaryKey), pos})
		}
		return out, nil
	})
}

func (t *Tables) infoSchemata(catalog.Identity) pager {
	return paged(func(context.Context) ([][]datum.Datum, error) {
		var out [][]datum.Datum
		for _, n := range namespacesOf(t.cfg.Catalog.State()) {
			out = append(out, []datum.Datum{datum.Text(catalogName), datum.Text(n.Name), datum.TextOrNull(n.CreatedBy)})
		}
		for _, name := range []string{InformationSchema, System} {
			out = append(out, []datum.Datum{datum.Text(catalogName), datum.Text(name), datum.Null})
		}
		return out, nil
	})
}

func (t *Tables) infoTables(id catalog.Identity) pager {
	return t.rowsOfTables(id, func(table *catalog.Table) ([][]datum.Datum, error) {
		return [][]datum.Datum{{datum.Text(catalogName), datum.Text(table.Namespace), datum.Text(table.Name),
			datum.Text("BASE TABLE")}}, nil
	})
}

func (t *Tables) infoColumns(id catalog.Identity) pager {
	return t.rowsOfTables(id, func(table *catalog.Table) ([][]datum.Datum, error) {
		var out [][]datum.Datum
		for i, c := range table.VisibleColumns() {
			def, err := DefaultText(&c)
			if err != nil {
				return nil, err
			}
			nullable, precision, scale := "YES", datum.Null, datum.Null
			if c.NotNull {
				nullable = "NO"
			}
			if c.Type.Kind == catalog.Decimal {
				precision, scale = datum.Int(int64(c.Type.Precision)), datum.Int(int64(c.Type.Scale))
			}
			out = append(out, []datum.Datum{datum.Text(catalogName), datum.Text(table.Namespace), datum.Text(table.Name),
				datum.Text(c.Name), datum.Int(int64(i + 1)), datum.TextOrNull(def), datum.Text(nullable),
				datum.Text(c.Type.String()), precision, scale})
		}
		return out, nil
	})
}
