package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	kalamv1 "github.com/kalamdb/kalamdb-go/proto/kalam/v1"
	"github.com/kalamdb/kalamdb-go/tests/measure"
)

// body is one chat message's text.
var body = strings.Repeat("m", 120)

const insertSQL = "INSERT INTO bench.messages (conversation, body) VALUES ($1, $2)"

func text(s string) *kalamv1.Value { return &kalamv1.Value{Kind: &kalamv1.Value_Text{Text: s}} }

func insertRequest() *kalamv1.ExecuteRequest {
	return &kalamv1.ExecuteRequest{Sql: insertSQL, Params: []*kalamv1.Value{text("c1"), text(body)}}
}

// prepareInserts makes the same table here and there and an account for each worker.
func prepareInserts(ctx context.Context, s settings, c *contenders) (users []string, err error) {
	if _, err := c.root.Exec(ctx, `CREATE USER TABLE IF NOT EXISTS bench.messages (id BIGINT DEFAULT SNOWFLAKE_ID() PRIMARY KEY,
		conversation TEXT, body TEXT, at TIMESTAMP DEFAULT NOW())`); err != nil {
		return nil, err
	}
	for w := range s.workers {
		users = append(users, fmt.Sprintf("writer-%d", w))
	}
	if err := c.accounts(ctx, users); err != nil {
		return nil, err
	}
	_, err = c.pg.pool.Exec(ctx, `CREATE TABLE IF NOT EXISTS messages (id BIGSERIAL PRIMARY KEY, user_id TEXT NOT NULL,
		conversation TEXT, body TEXT, at TIMESTAMP DEFAULT now())`)
	return users, err
}

func runW1(ctx context.Context, s settings, c *contenders) (table, error) {
	t := table{Title: "one client, one-row INSERT, acknowledged after fsync"}
	users, err := prepareInserts(ctx, s, c)
	if err != nil {
		return t, err
	}
	f, err := c.syncFile()
	if err != nil {
		return t, err
	}
	defer f.Close()
	for range s.reps {
		if err := inserts(ctx, &t, s, c, users, 1); err != nil {
			return t, err
		}
		if err := drive(ctx, t.line("fdatasync of an appended record"), 1, s.perRep, func(context.Context, int) error { return appendSync(f) }); err != nil {
			return t, err
		}
	}
	return t, nil
}

func appendSync(f *os.File) error {
	if _, err := f.WriteString(body); err != nil {
		return err
	}
	return syscall.Fdatasync(int(f.Fd()))
}

// inserts adds one repetition of the three contenders to t.
func inserts(ctx context.Context, t *table, s settings, c *contenders, users []string, workers int) error {
	as := make([]context.Context, workers)
	for w := range as {
		as[w] = asUser(ctx, users[w])
	}
	err := drive(ctx, t.line("KalamDB, gRPC Execute"), workers, s.perRep, func(_ context.Context, w int) error {
		_, err := c.conns[w%sharedConns].Execute(as[w], insertRequest())
		return err
	})
	if err != nil {
		return err
	}
	err = drive(ctx, t.line("floor: gRPC call around one synced Pebble write"), workers, s.perRep, func(ctx context.Context, w int) error {
		_, err := c.floor[w%sharedConns].Execute(ctx, insertRequest())
		return err
	})
	if err != nil {
		return err
	}
	return drive(ctx, t.line("PostgreSQL, synchronous_commit=on"), workers, s.perRep, func(ctx context.Context, w int) error {
		_, err := c.pg.pool.Exec(ctx, "INSERT INTO messages (user_id, conversation, body) VALUES ($1, $2, $3)", users[w], "c1", body)
		return err
	})
}

func runW2(ctx context.Context, s settings, c *contenders) (table, error) {
	t := table{Title: fmt.Sprintf("%d clients on %d connections, one-row INSERT; and one streaming call", s.workers, sharedConns)}
	users, err := prepareInserts(ctx, s, c)
	if err != nil {
		return t, err
	}
	for range s.reps {
		if err := inserts(ctx, &t, s, c, users, s.workers); err != nil {
			return t, err
		}
		if err := streamInserts(asUser(ctx, users[0]), t.line("KalamDB, one Write stream, one row a batch"), c.conns[0], s.perRep); err != nil {
			return t, err
		}
	}
	ours, pg := t.line("KalamDB, one Write stream, one row a batch"), t.line("PostgreSQL, synchronous_commit=on")
	t.Notes = append(t.Notes, fmt.Sprintf("streaming is %.2f × PostgreSQL's rate", median(ratios(ours.Rate, pg.Rate))))
	return t, nil
}

// streamed bounds the batches in flight.
const streamed = 1024

func streamInserts(ctx context.Context, l *line, conn kalamv1.KalamServiceClient, d time.Duration) error {
	stream, err := conn.Write(ctx)
	if err != nil {
		return err
	}
	var lat measure.Durations
	sent := make(chan time.Time, streamed)
	failed := make(chan error, 1)
	began := time.Now()
	go func() {
		defer close(sent)
		for id := uint64(1); time.Since(began) < d; id++ {
			sent <- time.Now()
			err := stream.Send(&kalamv1.WriteRequest{BatchId: id, Table: "bench.messages", Rows: &kalamv1.WriteRequest_RowSet{
				RowSet: &kalamv1.RowSet{Columns: []string{"conversation", "body"},
					Rows: []*kalamv1.Row{{Values: []*kalamv1.Value{text("c1"), text(body)}}}}}})
			if err != nil {
				break // Recv has the reason
			}
		}
		failed <- stream.CloseSend()
	}()
	n := 0
	for at := range sent {
		ack, err := stream.Recv()
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if ack.GetError() != nil {
			return errors.New(ack.GetError().GetMessage())
		}
		lat.Add(time.Since(at))
		n++
	}
	l.record(&lat, float64(n)/time.Since(began).Seconds())
	return <-failed
}
