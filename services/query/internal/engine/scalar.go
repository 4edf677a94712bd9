package engine

/*
#include <stdlib.h>
#include "bridge.h"
*/
import "C"

import (
	"crypto/rand"
	"fmt"
	"runtime/cgo"
	"time"
	"unsafe"

	duckdb "github.com/duckdb/duckdb-go-bindings"
	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Names of the functions this package adds. They all start alike, and the planner lets no statement
// call such a name by itself.
const (
	scanFunction = "kalam_scan"
	// NonZero(x) is x, or the error of a division by zero.
	NonZero = "kalam_nonzero"
	// Concat, Repeat, Replace, PadLeft, PadRight and RegexpReplace make text longer than their
	// arguments, which DuckDB's own functions do outside of its memory limit; see text.go.
	Concat        = "kalam_concat"
	Repeat        = "kalam_repeat"
	Replace       = "kalam_replace"
	PadLeft       = "kalam_lpad"
	PadRight      = "kalam_rpad"
	RegexpReplace = "kalam_regexp_replace"
	// BoundedJSON(j) is j, a JSON value, unless a chunk's values are too long together.
	BoundedJSON = "kalam_bounded_json"
	// JSONGet, JSONGetText and JSONHas are the operators ->, ->> and ?; see json.go.
	JSONGet     = "kalam_json_get"
	JSONGetText = "kalam_json_get_text"
	JSONHas     = "kalam_json_has"
	// ToBytes(text) reads BYTES as they are written, \x00 or characters; bytes it leaves alone.
	ToBytes = "kalam_to_bytes"
	// Like(text, pattern, escape) and ILike are LIKE, ILIKE; see like.go.
	Like  = "kalam_like"
	ILike = "kalam_ilike"
	// Levenshtein(a, b) is the edit distance of texts that are not too long.
	Levenshtein = "kalam_levenshtein"
	// SnowflakeID(), UUIDv7() and ULID() are fresh for each row.
	SnowflakeID = "kalam_snowflake_id"
	UUIDv7      = "kalam_uuid_v7"
	ULID        = "kalam_ulid"
)

// scalar is one of our functions.
type scalar struct {
	in       *instance
	name     string
	volatile bool
	// overloads lists the argument types of each overload.
	overloads [][]duckdb.Type
	// resultLike is the argument whose type the result has; negative: result.
	resultLike int
	result     duckdb.Type
	// json gives the result the type JSON, which is a kind of VARCHAR.
	json bool
	// run fills the output for the rows of a chunk.
	run func(s *site, in duckdb.DataChunk, rows int, out duckdb.Vector) error
}

func scalarFunctions(cfg Config) []*scalar {
	return []*scalar{
		{name: NonZero, run: nonZero, overloads: [][]duckdb.Type{{duckdb.TypeSmallInt}, {duckdb.TypeInteger},
			{duckdb.TypeBigInt}, {duckdb.TypeHugeInt}, {duckdb.TypeFloat}, {duckdb.TypeDouble}}},
		{name: JSONGet, run: jsonFunction("->"), overloads: jsonKeys, json: true},
		{name: JSONGetText, run: jsonFunction("->>"), overloads: jsonKeys},
		{name: JSONHas, run: jsonFunction("?"), overloads: jsonKeys[:1], resultLike: -1, result: duckdb.TypeBoolean},
		{name: BoundedJSON, run: boundedJSON, overloads: [][]duckdb.Type{{duckdb.TypeVarchar}}, json: true},
		{name: Concat, run: textFunction(concat), overloads: [][]duckdb.Type{{duckdb.TypeVarchar, duckdb.TypeVarchar},
			{duckdb.TypeBlob, duckdb.TypeBlob}}},
		{name: Repeat, run: textFunction(repeat), overloads: [][]duckdb.Type{{duckdb.TypeVarchar, duckdb.TypeBigInt}}},
		{name: Replace, run: textFunction(replace), overloads: [][]duckdb.Type{{duckdb.TypeVarchar, duckdb.TypeVarchar, duckdb.TypeVarchar}}},
		{name: PadLeft, run: textFunction(padLeft), overloads: [][]duckdb.Type{{duckdb.TypeVarchar, duckdb.TypeBigInt, duckdb.TypeVarchar}}},
		{name: PadRight, run: textFunction(padRight), overloads: [][]duckdb.Type{{duckdb.TypeVarchar, duckdb.TypeBigInt, duckdb.TypeVarchar}}},
		{name: RegexpReplace, run: textFunction(regexpReplace), overloads: [][]duckdb.Type{{duckdb.TypeVarchar, duckdb.TypeVarchar,
			duckdb.TypeVarchar, duckdb.TypeVarchar}}},
		{name: ToBytes, run: bytesFunction, overloads: [][]duckdb.Type{{duckdb.TypeVarchar}, {duckdb.TypeBlob}},
			resultLike: -1, result: duckdb.TypeBlob},
		{name: Like, run: likeFunction(false), overloads: likeArguments, resultLike: -1, result: duckdb.TypeBoolean},
		{name: ILike, run: likeFunction(true), overloads: likeArguments, resultLike: -1, result: duckdb.TypeBoolean},
		{name: Levenshtein, run: levenshteinFunction, overloads: [][]duckdb.Type{{duckdb.TypeVarchar, duckdb.TypeVarchar}},
			resultLike: -1, result: duckdb.TypeBigInt},
		{name: SnowflakeID, volatile: true, overloads: [][]duckdb.Type{{}}, resultLike: -1, result: duckdb.TypeBigInt,
			run: snowflakes(cfg.SnowflakeID)},
		{name: UUIDv7, volatile: true, overloads: [][]duckdb.Type{{}}, resultLike: -1, result: duckdb.TypeVarchar, run: texts(newUUIDv7)},
		{name: ULID, volatile: true, overloads: [][]duckdb.Type{{}}, resultLike: -1, result: duckdb.TypeVarchar,
			run: texts(func() (string, error) { return newULID(cfg.Now) })},
	}
}

// register makes the function known to DuckDB; the handle lives as long as the database.
func (f *scalar) register(c duckdb.Connection) (cgo.Handle, error) {
	h := cgo.NewHandle(f)
	name := C.CString(f.name)
	defer C.free(unsafe.Pointer(name))
	argc := len(f.overloads[0])
	types := make([]C.int, 0, argc*len(f.overloads)+1)
	for _, o := range f.overloads {
		for _, t := range o {
			types = append(types, C.int(t))
		}
	}
	types = append(types, 0) // never empty: its address is passed
	if !C.kalam_register_scalar(c.Ptr, name, C.uintptr_t(h), C.bool(f.volatile), C.int(argc), C.int(len(f.overloads)),
		&types[0], C.int(f.resultLike), C.int(f.result), C.bool(f.json)) {
		return h, dberr.New(dberr.Internal, "register %s", f.name)
	}
	return h, nil
}

//export kalamScalar
func kalamScalar(info, input, output unsafe.Pointer) {
	fn := duckdb.FunctionInfo{Ptr: info}
	f, ok := cgo.Handle(C.kalam_scalar_function(info)).Value().(*scalar)
	if !ok {
		duckdb.ScalarFunctionSetError(fn, "not one of our functions")
		return
	}
	s, ok := cgo.Handle(C.kalam_scalar_site(info)).Value().(*site)
	if !ok || s.run == nil {
		duckdb.ScalarFunctionSetError(fn, "no statement is running")
		return
	}
	s.next()
	in := duckdb.DataChunk{Ptr: input}
	if err := f.run(s, in, int(duckdb.DataChunkGetSize(in)), duckdb.Vector{Ptr: output}); err != nil {
		duckdb.ScalarFunctionSetError(fn, markError(dberr.CodeOf(err), err.Error()))
	}
}

// valid returns a test for NULL.
func valid(v duckdb.Vector) func(row int) bool {
	mask := (*uint64)(duckdb.VectorGetValidity(v))
	if mask == nil {
		return func(int) bool { return true }
	}
	return func(row int) bool {
		word := *(*uint64)(unsafe.Add(unsafe.Pointer(mask), row/64*8))
		return word&(1<<(row%64)) != 0
	}
}

func values[T any](v duckdb.Vector, rows int) []T {
	return unsafe.Slice((*T)(duckdb.VectorGetData(v)), rows)
}

func nonZero(_ *site, in duckdb.DataChunk, rows int, out duckdb.Vector) error {
	v := duckdb.DataChunkGetVector(in, 0)
	lt := duckdb.VectorGetColumnType(v)
	id := duckdb.GetTypeId(lt)
	duckdb.DestroyLogicalType(&lt)
	var found bool
	switch id {
	case duckdb.TypeSmallInt:
		found = hasZero(values[int16](v, rows), valid(v))
	case duckdb.TypeInteger:
		found = hasZero(values[int32](v, rows), valid(v))
	case duckdb.TypeBigInt:
		found = hasZero(values[int64](v, rows), valid(v))
	case duckdb.TypeHugeInt:
		found = hasZero(values[[2]uint64](v, rows), valid(v))
	case duckdb.TypeFloat:
		found = hasZero(values[float32](v, rows), valid(v))
	case duckdb.TypeDouble:
		found = hasZero(values[float64](v, rows), valid(v))
	default:
		return dberr.New(dberr.Internal, "%s: a type it was not registered for", NonZero)
	}
	if found {
		return dberr.New(dberr.ValueOutOfRange, "division by zero")
	}
	duckdb.VectorReferenceVector(out, v)
	return nil
}

func hasZero[T comparable](vals []T, valid func(int) bool) bool {
	var zero T
	for i := range vals {
		if vals[i] == zero && valid(i) {
			return true
		}
	}
	return false
}

func setNull(v duckdb.Vector, row int) {
	duckdb.VectorEnsureValidityWritable(v)
	duckdb.ValiditySetRowInvalid(duckdb.VectorGetValidity(v), duckdb.IdxT(row))
}

func snowflakes(next func() int64) func(*site, duckdb.DataChunk, int, duckdb.Vector) error {
	return func(_ *site, _ duckdb.DataChunk, rows int, out duckdb.Vector) error {
		if next == nil {
			return dberr.New(dberr.Unsupported, "SNOWFLAKE_ID() is not available here")
		}
		vals := values[int64](out, rows)
		for i := range vals {
			vals[i] = next()
		}
		return nil
	}
}

func texts(next func() (string, error)) func(*site, duckdb.DataChunk, int, duckdb.Vector) error {
	return func(_ *site, _ duckdb.DataChunk, rows int, out duckdb.Vector) error {
		for i := range rows {
			s, err := next()
			if err != nil {
				return dberr.New(dberr.Internal, "make an id: %w", err)
			}
			duckdb.VectorAssignStringElement(out, duckdb.IdxT(i), s)
		}
		return nil
	}
}

func newUUIDv7() (string, error) {
	id, err := uuid.NewV7()
	return id.String(), err
}

func newULID(now func() time.Time) (string, error) {
	id, err := ulid.New(ulid.Timestamp(now()), rand.Reader)
	if err != nil {
		return "", fmt.Errorf("ulid: %w", err)
	}
	return id.String(), nil
}
