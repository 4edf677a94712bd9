package engine

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	duckdb "github.com/duckdb/duckdb-go-bindings"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// prepared is a prepared SELECT whose result columns all have types of ours.
type prepared struct {
	key    string // empty: belongs to one execution
	stmt   duckdb.PreparedStatement
	schema *arrow.Schema
	// unresolved: the type of some result column depends on a parameter's value.
	unresolved bool
}

// prepare prepares a SELECT. When a result column has a type that is not one of ours, the SELECT is
// wrapped in another that casts the column.
func prepare(c duckdb.Connection, sql string) (*prepared, error) {
	p, casts, err := prepareAs(c, sql)
	if err != nil || casts == nil || p.unresolved {
		return p, err
	}
	names := p.schema
	p.destroy()
	p, casts, err = prepareAs(c, wrap(sql, casts))
	if err != nil {
		return nil, err
	}
	if casts != nil {
		p.destroy()
		return nil, dberr.New(dberr.Unsupported, "the statement's result has a column of a type that cannot be returned")
	}
	p.schema = renamed(p.schema, names)
	return p, nil
}

// prepareAs prepares sql as it is; casts is not nil when some column needs one.
func prepareAs(c duckdb.Connection, sql string) (p *prepared, casts []string, err error) {
	p = &prepared{}
	if duckdb.Prepare(c, sql, &p.stmt) == duckdb.StateError {
		err := classify(duckdb.PrepareError(p.stmt))
		p.destroy()
		return nil, nil, err
	}
	if t := duckdb.PreparedStatementType(p.stmt); t != duckdb.StatementTypeSelect {
		p.destroy()
		return nil, nil, dberr.New(dberr.InvalidSQL, "only SELECT can be run by the engine")
	}
	n := int(duckdb.PreparedStatementColumnCount(p.stmt))
	var all columns
	for i := range duckdb.IdxT(n) {
		lt := duckdb.PreparedStatementColumnLogicalType(p.stmt, i)
		p.unresolved = p.unresolved || duckdb.GetTypeId(lt) == duckdb.TypeInvalid
		all.add(duckdb.PreparedStatementColumnName(p.stmt, i), lt)
	}
	p.schema = all.schema()
	return p, all.needed(), nil
}

// columns collects a result's columns.
type columns struct {
	fields []arrow.Field
	casts  []string
	cast   bool
}

// add takes lt over.
func (c *columns) add(name string, lt duckdb.LogicalType) {
	t, cast := resultType(lt)
	duckdb.DestroyLogicalType(&lt)
	c.fields = append(c.fields, resultField(name, t))
	c.casts = append(c.casts, cast)
	c.cast = c.cast || cast != ""
}

func (c *columns) schema() *arrow.Schema { return arrow.NewSchema(c.fields, nil) }

// needed returns the casts, or nil when no column needs one.
func (c *columns) needed() []string {
	if !c.cast {
		return nil
	}
	return c.casts
}

// resolve finds the schema of a result whose column types were unknown before its parameters were.
func resolve(res *duckdb.Result) (*arrow.Schema, error) {
	var all columns
	for i := range duckdb.ColumnCount(res) {
		all.add(duckdb.ColumnName(res, i), duckdb.ColumnLogicalType(res, i))
	}
	if all.needed() != nil {
		return nil, dberr.New(dberr.Unsupported, "the type of a result column depends on a parameter; give the parameter a type, as in CAST($1 AS TEXT)")
	}
	return all.schema(), nil
}

// wrap casts columns; they are renamed by position, since names may repeat.
func wrap(sql string, casts []string) string {
	var list, names strings.Builder
	for i, cast := range casts {
		if i > 0 {
			list.WriteString(", ")
			names.WriteString(", ")
		}
		col := fmt.Sprintf("c%d", i)
		names.WriteString(col)
		if cast == "" {
			list.WriteString(col)
		} else {
			fmt.Fprintf(&list, cast, col)
		}
	}
	return "SELECT " + list.String() + " FROM (" + sql + ") AS q(" + names.String() + ")"
}

func renamed(s, names *arrow.Schema) *arrow.Schema {
	fields := s.Fields()
	for i := range fields {
		fields[i].Name = names.Field(i).Name
	}
	return arrow.NewSchema(fields, nil)
}

// typeKey is the key of the field metadata that holds a column's type as JSON (see internal/rowbatch).
const typeKey = "kalam.type"

func resultField(name string, t catalog.Type) arrow.Field {
	return arrow.Field{Name: name, Type: arrowType(t), Nullable: true,
		Metadata: arrow.MetadataFrom(map[string]string{typeKey: t.WireJSON()})}
}

// bind gives the statement its parameters. Not every number need occur in it.
func (p *prepared) bind(params []datum.Datum) error {
	duckdb.ClearBindings(p.stmt)
	bound := 0
	for i, d := range params {
		var index duckdb.IdxT
		if duckdb.BindParameterIndex(p.stmt, &index, strconv.Itoa(i+1)) == duckdb.StateError {
			continue
		}
		if bindValue(p.stmt, index, d) == duckdb.StateError {
			return dberr.New(dberr.InvalidArgument, "parameter $%d cannot be bound: a %s", i+1, d.Kind())
		}
		bound++
	}
	if n := int(duckdb.NParams(p.stmt)); n != bound {
		return dberr.New(dberr.InvalidArgument, "the statement has %d parameters, of which %d were given", n, bound)
	}
	return nil
}

func (p *prepared) destroy() { duckdb.DestroyPrepare(&p.stmt) }
