package engine

import (
	duckdb "github.com/duckdb/duckdb-go-bindings"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/predicate"
)

// likeArguments are the text, the pattern and the escape character.
var likeArguments = [][]duckdb.Type{{duckdb.TypeVarchar, duckdb.TypeVarchar, duckdb.TypeVarchar}}

// likeFunction is LIKE as the storage role evaluates it. DuckDB's own tries every place for every %
// when a pattern holds _ or an escape, and looks at no clock meanwhile.
func likeFunction(fold bool) func(*site, duckdb.DataChunk, int, duckdb.Vector) error {
	return func(s *site, in duckdb.DataChunk, rows int, out duckdb.Vector) error {
		args := newTextColumns(in, rows)
		result := values[bool](out, rows)
		var like *predicate.Like
		var pattern, escape string
		stop := func() error { return s.poll(0) }
		for r := range rows {
			if err := s.poll(r); err != nil {
				return err
			}
			if !args.valid(r) {
				setNull(out, r)
				continue
			}
			if p, e := args.at(1, r), args.at(2, r); like == nil || p != pattern || e != escape {
				var err error
				if like, err = predicate.CompileLike(p, e, fold); err != nil {
					return err
				}
				pattern, escape = p, e
			}
			var err error
			if result[r], err = like.Match(args.at(0, r), stop); err != nil {
				return err
			}
		}
		return nil
	}
}

// textColumns are a chunk's columns of text.
type textColumns struct {
	cells [][]stringCell
	ok    []func(int) bool
}

func newTextColumns(in duckdb.DataChunk, rows int) textColumns {
	var c textColumns
	for i := range duckdb.DataChunkGetColumnCount(in) {
		v := duckdb.DataChunkGetVector(in, i)
		c.cells = append(c.cells, values[stringCell](v, rows))
		c.ok = append(c.ok, valid(v))
	}
	return c
}

// valid reports whether a row has no NULL.
func (c textColumns) valid(row int) bool {
	for _, ok := range c.ok {
		if !ok(row) {
			return false
		}
	}
	return true
}

// at is valid while the chunk is.
func (c textColumns) at(column, row int) string { return c.cells[column][row].get() }

// levenshteinMax bounds the product of the lengths, which is what one distance costs: 10 ms.
const levenshteinMax = 10_000_000

func levenshteinFunction(s *site, in duckdb.DataChunk, rows int, out duckdb.Vector) error {
	args := newTextColumns(in, rows)
	result := values[int64](out, rows)
	for r := range rows {
		if err := s.poll(0); err != nil { // before each row: one takes long
			return err
		}
		if !args.valid(r) {
			setNull(out, r)
			continue
		}
		a, b := args.at(0, r), args.at(1, r)
		if len(a) > 0 && len(b) > levenshteinMax/len(a) {
			return dberr.New(dberr.LimitExceeded, "levenshtein: texts of %d and %d bytes are too long to compare (limit levenshtein_max)", len(a), len(b))
		}
		result[r] = levenshtein([]rune(a), []rune(b))
	}
	return nil
}

// levenshtein counts the characters to insert, delete or replace to make b of a.
func levenshtein(a, b []rune) int64 {
	row := make([]int64, len(b)+1) // the distances of a[:i] to all b[:j]
	for j := range row {
		row[j] = int64(j)
	}
	for i, x := range a {
		diagonal := row[0]
		row[0] = int64(i + 1)
		for j, y := range b {
			changed := diagonal
			if x != y {
				changed++
			}
			diagonal = row[j+1]
			row[j+1] = min(changed, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
