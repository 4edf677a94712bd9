package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	kalamv1 "github.com/kalamdb/kalamdb-go/proto/kalam/v1"
)

const (
	rowsPerUser = 50
	// probedUsers are those whose rows are read: accounts are made for them only.
	probedUsers = 200
	latestSQL   = "SELECT id, body, at FROM bench.%s WHERE conversation = $1 ORDER BY id DESC LIMIT 50"
	latestPG    = "SELECT id, body, at FROM %s WHERE user_id = $1 AND conversation = $2 ORDER BY at DESC LIMIT 50"
)

// tiers are where the rows are: all in the hot store, then all in segments, of which only those read lately are in memory.
var tiers = []string{"hot", "cold"}

// runW5 reads the latest 50 messages of one user's conversation among few and many users, from the hot store and from segments.
func runW5(ctx context.Context, s settings, c *contenders) (table, error) {
	t := table{Title: "latest 50 messages of one conversation of one user, hot and cold"}
	for _, users := range s.users {
		if err := loadConversations(ctx, c, users); err != nil {
			return t, err
		}
	}
	for _, tier := range tiers {
		if tier == "cold" {
			if err := flushConversations(ctx, &t, s, c); err != nil {
				return t, err
			}
		}
		for range s.reps {
			for _, users := range s.users {
				for _, workers := range []int{1, 16} {
					if err := readLatest(ctx, &t, s, c, tier, users, workers); err != nil {
						return t, err
					}
				}
			}
		}
	}
	for _, tier := range tiers {
		few, many := t.line(oursLatest(tier, s.users[0], 1)), t.line(oursLatest(tier, s.users[1], 1))
		t.Notes = append(t.Notes, fmt.Sprintf("%s: p50 with %d users is %.2f × p50 with %d", tier, s.users[1], median(ratios(many.P50, few.P50)), s.users[0]))
		for _, users := range s.users {
			for _, workers := range []int{1, 16} {
				ours, pg := t.line(oursLatest(tier, users, workers)), t.line(pgLatest(users, workers))
				t.Notes = append(t.Notes, fmt.Sprintf("%s, %d users, %d clients: p50 %.2f × PostgreSQL's, rate %.2f ×", tier, users, workers,
					median(ratios(ours.P50, pg.P50)), median(ratios(ours.Rate, pg.Rate))))
			}
		}
	}
	return t, nil
}

// flushConversations moves everything to segments and notes how long that took: one segment for each user.
func flushConversations(ctx context.Context, t *table, s settings, c *contenders) error {
	for _, users := range s.users {
		began := time.Now()
		name := fmt.Sprintf("conversations_%d", users)
		if _, err := c.root.Exec(ctx, "FLUSH TABLE bench."+name); err != nil {
			return err
		}
		message, err := c.jobsEnd(ctx)
		if err != nil {
			return err
		}
		took := time.Since(began)
		t.Notes = append(t.Notes, fmt.Sprintf("flush of %d users: %s in %v, %.0f rows/s", users, message, took.Round(time.Millisecond), float64(users*rowsPerUser)/took.Seconds()))
	}
	return nil
}

// jobsEnd waits for the newest job and returns what it says.
func (c *contenders) jobsEnd(ctx context.Context) (string, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		r, err := c.root.Exec(ctx, "SELECT status, message FROM system.jobs ORDER BY created_at DESC LIMIT 1")
		if err != nil {
			return "", err
		}
		switch job := r.Rows[0]; fmt.Sprint(job[0]) {
		case "completed":
			return fmt.Sprint(job[1]), nil
		case "failed", "cancelled", "skipped":
			return "", fmt.Errorf("the flush is %v: %v", job[0], job[1])
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-tick.C:
		}
	}
}

func oursLatest(tier string, users, workers int) string {
	return fmt.Sprintf("KalamDB %s, %d users, %d clients", tier, users, workers)
}

func pgLatest(users, workers int) string {
	return fmt.Sprintf("PostgreSQL, %d users, %d clients", users, workers)
}

func conversationUser(i int) string { return fmt.Sprintf("reader-%07d", i) }

func readLatest(ctx context.Context, t *table, s settings, c *contenders, tier string, users, workers int) error {
	name := fmt.Sprintf("conversations_%d", users)
	as := make([]context.Context, probedUsers)
	for i := range as {
		as[i] = asUser(ctx, conversationUser(i))
	}
	err := drive(ctx, t.line(oursLatest(tier, users, workers)), workers, s.perRep, func(_ context.Context, w int) error {
		resp, err := c.conns[w%sharedConns].Execute(as[rand.IntN(probedUsers)], &kalamv1.ExecuteRequest{
			Sql: fmt.Sprintf(latestSQL, name), Params: []*kalamv1.Value{text("c1")}})
		if err == nil && resp.GetResults()[0].GetRowCount() != rowsPerUser {
			return fmt.Errorf("%d rows", resp.GetResults()[0].GetRowCount())
		}
		return err
	})
	if err != nil {
		return err
	}
	return drive(ctx, t.line(pgLatest(users, workers)), workers, s.perRep, func(ctx context.Context, _ int) error {
		rows, err := c.pg.pool.Query(ctx, fmt.Sprintf(latestPG, name), conversationUser(rand.IntN(probedUsers)), "c1")
		if err != nil {
			return err
		}
		n := 0
		for rows.Next() {
			if _, err := rows.Values(); err != nil {
				return err
			}
			n++
		}
		if n != rowsPerUser {
			return fmt.Errorf("%d rows", n)
		}
		return rows.Err()
	})
}

func loadConversations(ctx context.Context, c *contenders, users int) error {
	name := fmt.Sprintf("conversations_%d", users)
	if _, err := c.root.Exec(ctx, "CREATE USER TABLE bench."+name+` (id BIGINT DEFAULT SNOWFLAKE_ID() PRIMARY KEY,
		conversation TEXT, body TEXT, at TIMESTAMP DEFAULT NOW())`); err != nil {
		return err
	}
	var probed []string
	for i := range probedUsers {
		probed = append(probed, conversationUser(i))
	}
	if err := c.accounts(ctx, probed); err != nil {
		return err
	}
	if err := loadKalam(ctx, c, name, users); err != nil {
		return err
	}
	return loadPostgres(ctx, c, name, users)
}

func loadKalam(ctx context.Context, c *contenders, name string, users int) error {
	stream, err := c.root.RPC.Write(ctx)
	if err != nil {
		return err
	}
	set := &kalamv1.RowSet{Columns: []string{"conversation", "body"}}
	for range rowsPerUser {
		set.Rows = append(set.Rows, &kalamv1.Row{Values: []*kalamv1.Value{text("c1"), text(body)}})
	}
	var g errgroup.Group
	g.Go(func() error {
		for i := range users {
			if err := stream.Send(&kalamv1.WriteRequest{Table: "bench." + name, AsUser: conversationUser(i),
				Rows: &kalamv1.WriteRequest_RowSet{RowSet: set}}); err != nil {
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

func loadPostgres(ctx context.Context, c *contenders, name string, users int) error {
	if _, err := c.pg.pool.Exec(ctx, "CREATE TABLE "+name+` (id BIGSERIAL PRIMARY KEY, user_id TEXT NOT NULL, conversation TEXT,
		body TEXT, at TIMESTAMP DEFAULT clock_timestamp())`); err != nil {
		return err
	}
	i := 0
	_, err := c.pg.pool.CopyFrom(ctx, pgx.Identifier{name}, []string{"user_id", "conversation", "body"},
		pgx.CopyFromFunc(func() ([]any, error) {
			if i == users*rowsPerUser {
				return nil, nil
			}
			row := []any{conversationUser(i % users), "c1", body} // interleaved, as messages arrive
			i++
			return row, nil
		}))
	if err != nil {
		return err
	}
	for _, sql := range []string{"CREATE INDEX ON " + name + " (user_id, conversation, at DESC)", "VACUUM ANALYZE " + name} {
		if _, err := c.pg.pool.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}
