package main

import (
	"context"
	"fmt"
	"time"

	kalamv1 "github.com/kalamdb/kalamdb-go/proto/kalam/v1"
	"github.com/kalamdb/kalamdb-go/tests/measure"
)

// liveUser is the account that writes and listens; the other subscriptions belong to it too, with
// filters of their own that do not match.
const liveUser = "listener"

// runW8 measures commit → frame with 1 and with 1,000 distinct subscriptions open.
func runW8(ctx context.Context, s settings, c *contenders) (table, error) {
	t := table{Title: "from the start of a write to the change frame, and to the acknowledgement"}
	if _, err := c.root.Exec(ctx, `CREATE USER TABLE IF NOT EXISTS bench.live (id BIGINT DEFAULT SNOWFLAKE_ID() PRIMARY KEY,
		conversation TEXT, body TEXT, at TIMESTAMP DEFAULT NOW())`); err != nil {
		return t, err
	}
	if err := c.accounts(ctx, []string{liveUser}); err != nil {
		return t, err
	}
	for range s.reps {
		for _, n := range []int{1, 1000} {
			if err := frames(ctx, &t, s, c, n); err != nil {
				return t, err
			}
		}
		if err := notify(ctx, t.line("PostgreSQL: LISTEN/NOTIFY"), s, c); err != nil {
			return t, err
		}
	}
	return t, nil
}

func frames(ctx context.Context, t *table, s settings, c *contenders, n int) error {
	ctx, cancel := context.WithCancel(asUser(ctx, liveUser))
	defer cancel()
	for i := 1; i < n; i++ {
		if _, err := subscribed(ctx, c, i%sharedConns, fmt.Sprintf("SELECT * FROM bench.live WHERE conversation = 'other-%d'", i)); err != nil {
			return err
		}
	}
	stream, err := subscribed(ctx, c, 0, "SELECT * FROM bench.live WHERE conversation = 'c1'")
	if err != nil {
		return err
	}
	arrived := make(chan time.Time, 1)
	failed := make(chan error, 1)
	go func() {
		for {
			ev, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			if ev.GetChange() != nil {
				arrived <- time.Now()
			}
		}
	}()
	var ack, frame measure.Durations
	began := time.Now()
	for time.Since(began) < s.perRep {
		at := time.Now()
		if _, err := c.conns[1].Execute(ctx, &kalamv1.ExecuteRequest{Sql: "INSERT INTO bench.live (conversation, body) VALUES ($1, $2)",
			Params: []*kalamv1.Value{text("c1"), text(body)}}); err != nil {
			return err
		}
		ack.Add(time.Since(at))
		select {
		case when := <-arrived:
			frame.Add(when.Sub(at))
		case err := <-failed:
			return err
		}
	}
	rate := float64(frame.Len()) / time.Since(began).Seconds()
	t.line(fmt.Sprintf("KalamDB: frame, %d subscriptions", n)).record(&frame, rate)
	t.line(fmt.Sprintf("KalamDB: acknowledgement, %d subscriptions", n)).record(&ack, rate)
	return nil
}

// subscribed opens a subscription without initial rows and returns once it is live.
func subscribed(ctx context.Context, c *contenders, conn int, sql string) (interface {
	Recv() (*kalamv1.SubscribeResponse, error)
}, error) {
	stream, err := c.conns[conn].Subscribe(ctx, &kalamv1.SubscribeRequest{Sql: sql, ChangesOnly: true})
	if err != nil {
		return nil, err
	}
	_, err = stream.Recv()
	return stream, err
}

// notify measures the same with a trigger-less NOTIFY in the inserting statement's transaction.
func notify(ctx context.Context, l *line, s settings, c *contenders) error {
	listener, err := c.pg.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer listener.Release()
	if _, err := listener.Exec(ctx, "LISTEN bench"); err != nil {
		return err
	}
	if _, err := c.pg.pool.Exec(ctx, `CREATE TABLE IF NOT EXISTS live (id BIGSERIAL PRIMARY KEY, conversation TEXT, body TEXT)`); err != nil {
		return err
	}
	var lat measure.Durations
	began := time.Now()
	for time.Since(began) < s.perRep {
		at := time.Now()
		if _, err := c.pg.pool.Exec(ctx, "WITH i AS (INSERT INTO live (conversation, body) VALUES ('c1', $1) RETURNING id) SELECT pg_notify('bench', id::text) FROM i", body); err != nil {
			return err
		}
		if _, err := listener.Conn().WaitForNotification(ctx); err != nil {
			return err
		}
		lat.Add(time.Since(at))
	}
	l.record(&lat, float64(lat.Len())/time.Since(began).Seconds())
	return nil
}
