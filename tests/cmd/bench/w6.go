package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	duckdb "github.com/duckdb/duckdb-go-bindings"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	kalamv1 "github.com/kalamdb/kalamdb-go/proto/kalam/v1"
)

const (
	eventGroups  = 20
	eventAuthors = 100_000
	// eventSet is how many rows one message carries.
	eventSet = 5_000
)

// analyses are the queries of W6: %s is the table. The result is one row, so that what is measured is not sending it.
var analyses = []struct{ name, sql string }{
	{"filter", "SELECT count(*), sum(value) FROM %s WHERE value BETWEEN 100 AND 300"},
	{"20 groups", "SELECT count(*), max(s) FROM (SELECT kind, sum(value) AS s FROM %s GROUP BY kind) AS g"},
	{"100,000 groups", "SELECT count(*), max(s) FROM (SELECT author, sum(value) AS s FROM %s GROUP BY author) AS g"},
}

// event is the row number i of the table.
func event(i int) (kind, author, value int64) {
	h := int64(uint64(i)*0x9e3779b97f4a7c15>>33) & 0x3fffffff
	return h % eventGroups, h / 7 % eventAuthors, h / 11 % 1000
}

// runW6 analyses a large SHARED table that is in segments: KalamDB, DuckDB on the same files, and PostgreSQL.
func runW6(ctx context.Context, s settings, c *contenders) (table, error) {
	t := table{Title: fmt.Sprintf("full scan, filter and GROUP BY over %d cold rows of a SHARED table", s.rows)}
	if err := loadEvents(ctx, &t, s, c); err != nil {
		return t, err
	}
	duck, err := openDuck()
	if err != nil {
		return t, err
	}
	defer duck.close()
	files, err := eventFiles(c)
	if err != nil {
		return t, err
	}
	for range s.reps {
		for _, a := range analyses {
			if err := analyse(ctx, &t, s, c, duck, a.name, a.sql, files); err != nil {
				return t, err
			}
		}
	}
	for _, a := range analyses {
		ours := t.line("KalamDB, " + a.name)
		t.Notes = append(t.Notes, fmt.Sprintf("%s: %.2f × DuckDB's time, %.2f × PostgreSQL's", a.name, median(ratios(ours.P50, t.line("DuckDB, "+a.name).P50)),
			median(ratios(ours.P50, t.line("PostgreSQL, "+a.name).P50))))
	}
	return t, nil
}

// eventFiles are the segments that the manifest names: those that were merged lie beside them for an hour.
func eventFiles(c *contenders) (string, error) {
	dir := filepath.Join(c.dir, "kalam", "data", "segments", "shared", "bench", "events")
	raw, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		return "", err
	}
	var m struct {
		Segments []struct {
			Path string `json:"path"`
		} `json:"segments"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return "", err
	}
	var list []string
	for _, s := range m.Segments {
		list = append(list, "'"+filepath.Join(dir, s.Path)+"'")
	}
	return "read_parquet([" + strings.Join(list, ", ") + "])", nil
}

func analyse(ctx context.Context, t *table, s settings, c *contenders, duck *duck, name, sql, files string) error {
	var want string
	same := func(who, got string) error {
		if want == "" {
			want = got
		}
		if got != want {
			return fmt.Errorf("%s answers %s instead of %s", who, got, want)
		}
		return nil
	}
	if err := drive(ctx, t.line("KalamDB, "+name), 1, s.perRep, func(ctx context.Context, _ int) error {
		r, err := c.root.Exec(ctx, fmt.Sprintf(sql, "bench.events"))
		if err != nil {
			return err
		}
		return same("KalamDB", fmt.Sprint(r.Rows[0]...))
	}); err != nil {
		return err
	}
	if err := drive(ctx, t.line("DuckDB, "+name), 1, s.perRep, func(context.Context, int) error {
		got, err := duck.row("SELECT " + "concat_ws(' ', *COLUMNS(*)) FROM (" + fmt.Sprintf(sql, files) + ")")
		if err != nil {
			return err
		}
		return same("DuckDB", got)
	}); err != nil {
		return err
	}
	return drive(ctx, t.line("PostgreSQL, "+name), 1, s.perRep, func(ctx context.Context, _ int) error {
		var n, x int64
		if err := c.pg.pool.QueryRow(ctx, fmt.Sprintf(sql, "events")).Scan(&n, &x); err != nil {
			return err
		}
		return same("PostgreSQL", fmt.Sprint(n, " ", x))
	})
}

func loadEvents(ctx context.Context, t *table, s settings, c *contenders) error {
	if _, err := c.root.Exec(ctx, "CREATE SHARED TABLE bench.events (id BIGINT DEFAULT SNOWFLAKE_ID() PRIMARY KEY, kind INT, author BIGINT, value BIGINT)"); err != nil {
		return err
	}
	began := time.Now()
	if err := writeEvents(ctx, s.rows, c); err != nil {
		return err
	}
	t.Notes = append(t.Notes, fmt.Sprintf("written in %v, %.0f rows/s", time.Since(began).Round(time.Millisecond), float64(s.rows)/time.Since(began).Seconds()))
	began = time.Now()
	if _, err := c.root.Exec(ctx, "FLUSH TABLE bench.events"); err != nil {
		return err
	}
	message, err := c.jobsEnd(ctx)
	if err != nil {
		return err
	}
	t.Notes = append(t.Notes, fmt.Sprintf("%s in %v, %.0f rows/s", message, time.Since(began).Round(time.Millisecond), float64(s.rows)/time.Since(began).Seconds()))
	return copyEvents(ctx, s.rows, c)
}

func writeEvents(ctx context.Context, rows int, c *contenders) error {
	stream, err := c.root.RPC.Write(ctx)
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.Go(func() error {
		for i := 0; i < rows; {
			set := &kalamv1.RowSet{Columns: []string{"kind", "author", "value"}}
			for ; len(set.Rows) < eventSet && i < rows; i++ {
				kind, author, value := event(i)
				set.Rows = append(set.Rows, &kalamv1.Row{Values: []*kalamv1.Value{integer(kind), integer(author), integer(value)}})
			}
			if err := stream.Send(&kalamv1.WriteRequest{Table: "bench.events", Rows: &kalamv1.WriteRequest_RowSet{RowSet: set}}); err != nil {
				break // Recv has the reason
			}
		}
		return stream.CloseSend()
	})
	g.Go(func() error {
		for {
			ack, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if ack.GetError() != nil {
				return errors.New(ack.GetError().GetMessage())
			}
		}
	})
	return g.Wait()
}

func integer(n int64) *kalamv1.Value {
	return &kalamv1.Value{Kind: &kalamv1.Value_Integer{Integer: n}}
}

func copyEvents(ctx context.Context, rows int, c *contenders) error {
	if _, err := c.pg.pool.Exec(ctx, "CREATE TABLE events (id BIGSERIAL PRIMARY KEY, kind INT, author BIGINT, value BIGINT)"); err != nil {
		return err
	}
	i := 0
	if _, err := c.pg.pool.CopyFrom(ctx, pgx.Identifier{"events"}, []string{"kind", "author", "value"}, pgx.CopyFromFunc(func() ([]any, error) {
		if i == rows {
			return nil, nil
		}
		kind, author, value := event(i)
		i++
		return []any{kind, author, value}, nil
	})); err != nil {
		return err
	}
	_, err := c.pg.pool.Exec(ctx, "VACUUM ANALYZE events")
	return err
}

// duck is DuckDB in this process, as it opens by itself.
type duck struct {
	db   duckdb.Database
	conn duckdb.Connection
}

func openDuck() (*duck, error) {
	d := &duck{}
	if duckdb.Open("", &d.db) != duckdb.StateSuccess || duckdb.Connect(d.db, &d.conn) != duckdb.StateSuccess {
		return nil, errors.New("DuckDB does not open")
	}
	return d, nil
}

func (d *duck) close() {
	duckdb.Disconnect(&d.conn)
	duckdb.Close(&d.db)
}

// row is the only value of a query with one row of text.
func (d *duck) row(sql string) (string, error) {
	var result duckdb.Result
	defer duckdb.DestroyResult(&result)
	if duckdb.Query(d.conn, sql, &result) != duckdb.StateSuccess {
		return "", errors.New(duckdb.ResultError(&result))
	}
	chunk := duckdb.FetchChunk(result)
	if chunk.Ptr == nil {
		return "", errors.New("no row")
	}
	defer duckdb.DestroyDataChunk(&chunk)
	return duckdb.StringTData((*duckdb.StringT)(unsafe.Pointer(duckdb.VectorGetData(duckdb.DataChunkGetVector(chunk, 0))))), nil
}
