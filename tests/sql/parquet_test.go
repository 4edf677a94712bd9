package sqltest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/cockroachdb/pebble/v2/vfs"
	duckdb "github.com/duckdb/duckdb-go-bindings"

	"github.com/kalamdb/kalamdb-go/services/storage"
	"github.com/kalamdb/kalamdb-go/tests/cluster"
)

// reader is DuckDB as anybody has it: nothing of this program.
type reader struct {
	t    *testing.T
	db   duckdb.Database
	conn duckdb.Connection
}

func newReader(t *testing.T) *reader {
	t.Helper()
	r := &reader{t: t}
	if duckdb.Open("", &r.db) != duckdb.StateSuccess || duckdb.Connect(r.db, &r.conn) != duckdb.StateSuccess {
		t.Fatal("DuckDB does not open")
	}
	t.Cleanup(func() {
		duckdb.Disconnect(&r.conn)
		duckdb.Close(&r.db)
	})
	return r
}

// lines are the rows of a query with one column of text.
func (r *reader) lines(sql string) (out []string) {
	r.t.Helper()
	var result duckdb.Result
	defer duckdb.DestroyResult(&result)
	if duckdb.Query(r.conn, sql, &result) != duckdb.StateSuccess {
		r.t.Fatalf("%s: %s", sql, duckdb.ResultError(&result))
	}
	for {
		chunk := duckdb.FetchChunk(result)
		if chunk.Ptr == nil {
			return out
		}
		texts := unsafe.Slice((*duckdb.StringT)(duckdb.VectorGetData(duckdb.DataChunkGetVector(chunk, 0))), duckdb.DataChunkGetSize(chunk))
		for i := range texts {
			out = append(out, duckdb.StringTData(&texts[i]))
		}
		duckdb.DestroyDataChunk(&chunk)
	}
}

// segmentsIn is how many segments a partition's manifest names.
func segmentsIn(t *testing.T, folder string) int {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(folder, "manifest.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	var m struct {
		Segments []struct{} `json:"segments"`
	}
	if err := errors.Join(err, json.Unmarshal(raw, &m)); err != nil {
		t.Fatal(err)
	}
	return len(m.Segments)
}

// Others read a partition by the rule of RFC 0003 and find what SELECT finds, merged or not. The statements are
// those of docs/operations.md.
func TestOthersReadThePartitionsFiles(t *testing.T) {
	dir := t.TempDir()
	c := cluster.Start(t, cluster.On(vfs.Default), cluster.Storage(func(cfg *storage.Config) { cfg.Dir = dir }))
	asRoot(t, c, "CREATE NAMESPACE app; CREATE USER TABLE app.notes (id INT PRIMARY KEY, body TEXT, made TIMESTAMP)")
	work := func(sql string) {
		for _, id := range jobID.FindAllString(asRoot(t, c, sql), -1) {
			if status := endOf(t, c, id); status != "completed" {
				t.Fatalf("%s is %s", sql, status)
			}
		}
	}
	as := func(sql string) string { return asRoot(t, c, "EXECUTE AS USER 'Ann' ("+sql+")") }
	for n := range 20 {
		as(fmt.Sprintf("INSERT INTO app.notes VALUES (%d, 'note %d', TIMESTAMP '2026-01-01 00:00:00')", n, n))
	}
	work("STORAGE FLUSH TABLE app.notes")
	as("UPDATE app.notes SET body = NULL WHERE id < 5")
	as("DELETE FROM app.notes WHERE id > 15")
	work("STORAGE FLUSH TABLE app.notes")
	as("INSERT INTO app.notes VALUES (17, 'again', NULL)")
	as("DELETE FROM app.notes WHERE id = 2")
	work("STORAGE FLUSH TABLE app.notes")
	r := newReader(t)
	folder := filepath.Join(dir, "segments", "user", "%41nn", "app", "notes")
	const columns = "concat_ws('|', id::TEXT, coalesce(body, '-'), coalesce(made::TEXT, '-'))"
	for _, segments := range []int{3, 1} {
		for segmentsIn(t, folder) != segments { // it is written after the commit
			runtime.Gosched()
		}
		r.lines("SET VARIABLE files = (SELECT list('" + folder + "/' || s.path) FROM (SELECT unnest(segments) AS s FROM read_json('" + folder + "/manifest.json')))")
		got := r.lines("SELECT " + columns + " FROM (SELECT * FROM read_parquet(getvariable('files'), union_by_name => true)" +
			" QUALIFY row_number() OVER (PARTITION BY id ORDER BY _seq DESC) = 1 AND NOT _deleted) ORDER BY id")
		_, want, _ := strings.Cut(as("SELECT "+columns+" AS line FROM app.notes ORDER BY id"), "\n")
		if len(got) != 16 || strings.Join(got, "\n")+"\n" != want {
			t.Errorf("%d segments: DuckDB reads\n%s\nand SELECT\n%s", segments, strings.Join(got, "\n"), want)
		}
		if segments > 1 {
			work("STORAGE COMPACT TABLE app.notes")
		}
	}
}
