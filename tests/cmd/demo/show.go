package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sort"
	"strings"
	"time"

	kalamv1 "github.com/kalamdb/kalamdb-go/proto/kalam/v1"
	"github.com/kalamdb/kalamdb-go/tests/client"
	"github.com/kalamdb/kalamdb-go/tests/measure"
)

// quote makes an SQL string literal.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// as runs one statement with a person's own rows.
func (d *demo) as(ctx context.Context, person, sql string) (*client.Result, error) {
	return d.root.Exec(ctx, "EXECUTE AS USER "+quote(person)+" ("+sql+")")
}

// checkCounts asks every person's own table for its count and compares with the data.
func (d *demo) checkCounts(ctx context.Context) error {
	var lat measure.Durations
	d.counts = map[string]int64{}
	for _, person := range d.chat.people {
		began := time.Now()
		r, err := d.as(ctx, person, "SELECT count(*) FROM chat.messages")
		if err != nil {
			return fmt.Errorf("count of %q: %w", person, err)
		}
		lat.Add(time.Since(began))
		n, ok := r.Rows[0][0].(int64)
		if !ok {
			return fmt.Errorf("count of %q is a %T", person, r.Rows[0][0])
		}
		d.counts[person] = n
		if want := int64(len(d.chat.byPerson[person])); n < want {
			return fmt.Errorf("%q has %d rows, the data has %d", person, n, want)
		}
	}
	fmt.Printf("every one of %d people has their own messages; SELECT count(*): %s\n", len(d.counts), &lat)
	return nil
}

// checkIsolation compares the rows of the two busiest people: they must have none in common.
func (d *demo) checkIsolation(ctx context.Context) error {
	if len(d.chat.people) < 2 {
		return nil
	}
	owner := map[any]string{}
	for _, person := range d.chat.people[:2] {
		r, err := d.as(ctx, person, "SELECT id FROM chat.messages")
		if err != nil {
			return err
		}
		for _, row := range r.Rows {
			if other, taken := owner[row[0]]; taken {
				return fmt.Errorf("row %v is in the tables of both %q and %q", row[0], other, person)
			}
			owner[row[0]] = person
		}
	}
	fmt.Printf("%q and %q share none of their %d rows\n", d.chat.people[0], d.chat.people[1], len(owner))
	return nil
}

func (d *demo) writeCounts(path string) error {
	people := make([]string, 0, len(d.counts))
	for p := range d.counts {
		people = append(people, p)
	}
	sort.Strings(people)
	var b strings.Builder
	for _, p := range people {
		fmt.Fprintf(&b, "%s\t%d\n", p, d.counts[p])
	}
	return os.WriteFile(path, []byte(b.String()), 0o644)
}

func (d *demo) show(ctx context.Context) error {
	person := d.chat.people[0]
	own, err := d.login(ctx, person)
	if err != nil {
		return err
	}
	defer own.Close()
	fmt.Printf("\nWhat %s sees, logged in (their own rows and what is shared):\n", person)
	for _, q := range []struct{ what, sql string }{
		{"the last five messages", `SELECT timestamp, channel, content FROM chat.messages ORDER BY timestamp DESC LIMIT 5`},
		{"a search", `SELECT timestamp, content FROM chat.messages WHERE content ILIKE '%install%' ORDER BY timestamp LIMIT 3`},
		{"counts by hour", `SELECT extract(hour FROM timestamp) AS hour, count(*) AS messages FROM chat.messages
			GROUP BY 1 ORDER BY messages DESC LIMIT 5`},
		{"a join with a shared table", `SELECT m.channel, c.topic, count(*) AS messages FROM chat.messages m
			JOIN chat.channels c ON c.channel = m.channel GROUP BY 1, 2 ORDER BY messages DESC LIMIT 3`},
	} {
		began := time.Now()
		r, err := own.Exec(ctx, q.sql)
		if err != nil {
			return fmt.Errorf("%s: %w", q.what, err)
		}
		fmt.Printf("\n— %s (%s)\n", q.what, measure.Short(time.Since(began)))
		printRows(r)
	}
	return d.replayLive(ctx, own, person)
}

func printRows(r *client.Result) {
	fmt.Println("  " + strings.Join(r.Columns, " | "))
	for _, row := range r.Rows {
		cells := make([]string, len(row))
		for i, v := range row {
			cells[i] = fmt.Sprint(v)
			if us, ok := v.(int64); ok && strings.Contains(r.Columns[i], "timestamp") {
				cells[i] = time.UnixMicro(us).UTC().Format("2006-01-02 15:04:05")
			}
			if len(cells[i]) > 70 {
				cells[i] = cells[i][:67] + "…"
			}
		}
		fmt.Println("  " + strings.Join(cells, " | "))
	}
}

// login gives a person an account and connects with it.
func (d *demo) login(ctx context.Context, person string) (*client.Client, error) {
	const password = "demo-Password-2026"
	if _, err := d.root.Exec(ctx, "CREATE USER IF NOT EXISTS "+quote(person)+" WITH PASSWORD '"+password+"'"); err != nil {
		return nil, err
	}
	c, err := client.Dial(d.addr, person, password)
	if err != nil {
		return nil, err
	}
	_, err = c.Exec(ctx, "SELECT 1") // the first call checks the password, which is slow on purpose
	return c, err
}

// replayLive subscribes as the person and replays some messages: each must arrive once, in order.
func (d *demo) replayLive(ctx context.Context, own *client.Client, person string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sub, err := own.RPC.Subscribe(ctx, &kalamv1.SubscribeRequest{ChangesOnly: true,
		Sql: `SELECT channel, content FROM chat.messages WHERE kind = 'replay'`})
	if err != nil {
		return err
	}
	first, err := sub.Recv()
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	if first.GetAck() == nil {
		return errors.New("subscribe: the first message is not the acknowledgement")
	}
	fmt.Printf("\n— live: %s is subscribed, their messages are replayed\n", person)
	var lat measure.Durations
	for i, m := range d.chat.byPerson[person][:min(10, len(d.chat.byPerson[person]))] {
		began := time.Now()
		if _, err := own.Exec(ctx, `INSERT INTO chat.messages (channel, kind, content) VALUES ($1, 'replay', $2)`,
			m.Channel, m.Text); err != nil {
			return err
		}
		for {
			ev, err := sub.Recv()
			if err != nil {
				return err
			}
			if ev.GetChange() == nil {
				continue // a progress mark
			}
			lat.Add(time.Since(began))
			_, rows, err := client.DecodeIPC(ev.GetChange().GetArrowIpc())
			if err != nil {
				return err
			}
			if rows[0][1] != m.Text {
				return fmt.Errorf("message %d arrived as %q, want %q", i, rows[0][1], m.Text)
			}
			fmt.Printf("  live ▸ %v %v\n", rows[0][0], rows[0][1])
			break
		}
	}
	fmt.Printf("  write to arrival: %s\n", &lat)
	_, err = own.Exec(ctx, `DELETE FROM chat.messages WHERE kind = 'replay'`)
	return err
}
