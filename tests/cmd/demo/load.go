package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kalamdb/kalamdb-go/tests/client"
	"github.com/kalamdb/kalamdb-go/tests/measure"

	kalamv1 "github.com/kalamdb/kalamdb-go/proto/kalam/v1"
)

const (
	// batchRows is how many of one person's messages go into one atomic batch.
	batchRows = 500
	// inFlight bounds the batches sent and not yet acknowledged.
	inFlight = 256
)

type demo struct {
	addr   string
	root   *client.Client
	chat   *chat
	counts map[string]int64
}

func (d *demo) createTables(ctx context.Context) error {
	for _, sql := range []string{
		`CREATE NAMESPACE IF NOT EXISTS chat`,
		`CREATE USER TABLE IF NOT EXISTS chat.messages (id BIGINT DEFAULT SNOWFLAKE_ID() PRIMARY KEY,
			channel TEXT, kind TEXT, content TEXT, timestamp TIMESTAMP DEFAULT NOW()) FLUSH ROW_THRESHOLD 1000`,
		`CREATE SHARED TABLE IF NOT EXISTS chat.channel_log (id BIGINT DEFAULT SNOWFLAKE_ID() PRIMARY KEY,
			channel TEXT, author TEXT, content TEXT, timestamp TIMESTAMP)`,
		`CREATE SHARED TABLE IF NOT EXISTS chat.channels (channel TEXT PRIMARY KEY, topic TEXT)`,
	} {
		if _, err := d.root.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", firstLine(sql), err)
		}
	}
	_, err := d.root.Exec(ctx, `INSERT INTO chat.channels VALUES ('#ubuntu', 'support for the desktop'),
		('#ubuntu-devel', 'development'), ('#help', 'questions') ON CONFLICT DO NOTHING`)
	return err
}

// batch is one acknowledged unit of the load.
type batch struct {
	table, asUser string
	rows          *kalamv1.RowSet
}

func (d *demo) loadPeople(ctx context.Context) error {
	return d.load(ctx, fmt.Sprintf("%d people's own chat.messages", len(d.chat.people)), func(send func(batch) error) error {
		for _, person := range d.chat.people {
			mine := d.chat.byPerson[person]
			for len(mine) > 0 {
				n := min(batchRows, len(mine))
				set := &kalamv1.RowSet{Columns: []string{"channel", "kind", "content", "timestamp"}}
				for _, m := range mine[:n] {
					set.Rows = append(set.Rows, row(m.Channel, m.Kind, m.Text, m.At.Format(time.RFC3339Nano)))
				}
				if err := send(batch{table: "chat.messages", asUser: person, rows: set}); err != nil {
					return err
				}
				mine = mine[n:]
			}
		}
		return nil
	})
}

func (d *demo) loadChannelLog(ctx context.Context) error {
	return d.load(ctx, "the shared chat.channel_log", func(send func(batch) error) error {
		for all := d.chat.all; len(all) > 0; {
			n := min(batchRows, len(all))
			set := &kalamv1.RowSet{Columns: []string{"channel", "author", "content", "timestamp"}}
			for _, m := range all[:n] {
				set.Rows = append(set.Rows, row(m.Channel, m.Nick, m.Text, m.At.Format(time.RFC3339Nano)))
			}
			if err := send(batch{table: "chat.channel_log", rows: set}); err != nil {
				return err
			}
			all = all[n:]
		}
		return nil
	})
}

func row(cells ...string) *kalamv1.Row {
	r := &kalamv1.Row{}
	for _, c := range cells {
		r.Values = append(r.Values, &kalamv1.Value{Kind: &kalamv1.Value_Text{Text: c}})
	}
	return r
}

// load streams batches with many in flight and reports speed and acknowledgement latency.
func (d *demo) load(ctx context.Context, what string, produce func(send func(batch) error) error) error {
	g, ctx := errgroup.WithContext(ctx)
	stream, err := d.root.RPC.Write(ctx)
	if err != nil {
		return err
	}
	var lat measure.Durations
	sent := make(chan time.Time, inFlight)
	bar := newProgress(what, len(d.chat.all))
	g.Go(func() error {
		defer close(sent)
		id := uint64(0)
		err := produce(func(b batch) error {
			id++
			select {
			case sent <- time.Now():
			case <-ctx.Done():
				return ctx.Err()
			}
			return stream.Send(&kalamv1.WriteRequest{BatchId: id, Table: b.table, AsUser: b.asUser,
				Rows: &kalamv1.WriteRequest_RowSet{RowSet: b.rows}})
		})
		return errors.Join(err, stream.CloseSend())
	})
	g.Go(func() error {
		for began := range sent {
			ack, err := stream.Recv()
			if err == io.EOF {
				return errors.New("the server ended the stream before the last acknowledgement")
			}
			if err != nil {
				return err
			}
			if ack.GetError() != nil {
				return fmt.Errorf("batch %d: %s: %s", ack.GetBatchId(), ack.GetError().GetCode(), ack.GetError().GetMessage())
			}
			lat.Add(time.Since(began))
			bar.add(int(ack.GetRows()))
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return fmt.Errorf("load %s: %w", what, err)
	}
	bar.done()
	fmt.Printf("  acknowledged after fsync, %d batches in flight: %s\n", inFlight, &lat)
	return nil
}

// progress is a bar on one line.
type progress struct {
	what        string
	total, rows int
	began       time.Time
	shown       time.Time
}

func newProgress(what string, total int) *progress {
	return &progress{what: what, total: total, began: time.Now()}
}

func (p *progress) add(rows int) {
	p.rows += rows
	if time.Since(p.shown) > 100*time.Millisecond {
		p.draw("\r")
	}
}

func (p *progress) draw(start string) {
	p.shown = time.Now()
	filled := 30 * p.rows / max(p.total, 1)
	fmt.Fprintf(os.Stdout, "%s%-34s [%s%s] %7d/%d  %6.0f rows/s", start, p.what, strings.Repeat("█", filled),
		strings.Repeat(" ", 30-filled), p.rows, p.total, float64(p.rows)/time.Since(p.began).Seconds())
}

func (p *progress) done() {
	p.draw("\r")
	fmt.Println()
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
