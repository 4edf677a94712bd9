package engine

import (
	duckdb "github.com/duckdb/duckdb-go-bindings"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/predicate"
)

// The JSON operators are those of internal/predicate, so that a condition means the same here and in the
// storage role: DuckDB's own read a key that begins with $ or / as a path, find nothing in arrays, and
// write numbers differently.

// jsonKeys are the arguments: a document, and a key or an index.
var jsonKeys = [][]duckdb.Type{{duckdb.TypeVarchar, duckdb.TypeVarchar}, {duckdb.TypeVarchar, duckdb.TypeBigInt}}

const (
	jsonDocument uint32 = 1
	jsonKey      uint32 = 2
)

// jsonRow is one row's arguments.
type jsonRow struct{ document, key datum.Datum }

func (r *jsonRow) Column(id uint32) datum.Datum {
	if id == jsonDocument {
		return r.document
	}
	return r.key
}

// jsonProgram compiles an operator for a kind of key.
func jsonProgram(op string, key catalog.TypeKind) (*predicate.Program, error) {
	t := (&catalog.Table{Columns: []catalog.Column{{ID: jsonDocument, Name: "document", Type: catalog.Type{Kind: catalog.JSON}},
		{ID: jsonKey, Name: "key", Type: catalog.Type{Kind: key}}}}).Index()
	return predicate.Compile(predicate.Call(op, predicate.Column(jsonDocument), predicate.Column(jsonKey)), t)
}

// jsonFunction evaluates an operator on the rows of a chunk.
func jsonFunction(op string) func(*site, duckdb.DataChunk, int, duckdb.Vector) error {
	return func(s *site, in duckdb.DataChunk, rows int, out duckdb.Vector) error {
		documents, keys := duckdb.DataChunkGetVector(in, 0), duckdb.DataChunkGetVector(in, 1)
		kind := catalog.Text
		lt := duckdb.VectorGetColumnType(keys)
		if duckdb.GetTypeId(lt) == duckdb.TypeBigInt {
			kind = catalog.BigInt
		}
		duckdb.DestroyLogicalType(&lt)
		program, err := jsonProgram(op, kind)
		if err != nil {
			return err
		}
		haveDocument, haveKey := valid(documents), valid(keys)
		texts := values[stringCell](documents, rows)
		var row jsonRow
		env := &predicate.Env{}
		for i := range rows {
			if err := s.poll(i); err != nil {
				return err
			}
			if !haveDocument(i) || !haveKey(i) {
				setNull(out, i)
				continue
			}
			row.document = datum.Text(texts[i].get())
			if kind == catalog.BigInt {
				row.key = datum.Int(values[int64](keys, rows)[i])
			} else {
				row.key = datum.Text(values[stringCell](keys, rows)[i].get())
			}
			d, err := program.Eval(env, &row)
			if err != nil {
				return err
			}
			if d.Kind() == datum.KindText {
				if err := s.take(len(d.AsText())); err != nil {
					return err
				}
			}
			put(out, i, rows, d)
		}
		return nil
	}
}

func put(out duckdb.Vector, i, rows int, d datum.Datum) {
	switch d.Kind() {
	case datum.KindNull:
		setNull(out, i)
	case datum.KindBool:
		values[bool](out, rows)[i] = d.AsBool()
	default:
		duckdb.VectorAssignStringElement(out, duckdb.IdxT(i), d.AsText())
	}
}
