// Command scale gives many users one row each and reports what they cost: load time, resident memory,
// start-up time, and the latencies of reads, writes and subscriptions, beside the same with 1,000
// users (performance targets W5 and W11).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	kalamv1 "github.com/kalamdb/kalamdb-go/proto/kalam/v1"
	"github.com/kalamdb/kalamdb-go/tests/client"
	"github.com/kalamdb/kalamdb-go/tests/measure"
	"github.com/kalamdb/kalamdb-go/tests/process"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	users := flag.Int("users", 100_000, "users that get a row each")
	few := flag.Int("few", 1000, "users of the run it is compared with")
	probes := flag.Int("probes", 2000, "measured reads, writes and subscriptions")
	server := flag.String("server", "bin/kalamdb", "server binary")
	flag.Parse()
	if err := run(ctx, *server, *few, *users, *probes); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

// report is what one number of users costs.
type report struct {
	users                          int
	load, start                    time.Duration
	loadedBytes, startedBytes      int64
	diskBytes                      int64
	read, write, subscribe, change measure.Durations
}

func run(ctx context.Context, server string, few, many, probes int) error {
	var reports []*report
	for _, users := range []int{few, many} {
		r, err := measureUsers(ctx, server, users, probes)
		if err != nil {
			return fmt.Errorf("%d users: %w", users, err)
		}
		reports = append(reports, r)
	}
	a, b := reports[0], reports[1]
	fmt.Printf("\n%-34s %14d %14d %8s\n", "users", a.users, b.users, "ratio")
	line := func(what string, x, y float64, unit string) {
		fmt.Printf("%-34s %11.2f %-2s %11.2f %-2s %8.2f\n", what, x, unit, y, unit, y/x)
	}
	line("load, all rows durable", a.load.Seconds(), b.load.Seconds(), "s")
	line("start-up after that", a.start.Seconds()*1e3, b.start.Seconds()*1e3, "ms")
	line("resident memory after the load", mib(a.loadedBytes), mib(b.loadedBytes), "MB")
	line("resident memory after the start", mib(a.startedBytes), mib(b.startedBytes), "MB")
	line("data on disk", mib(a.diskBytes), mib(b.diskBytes), "MB")
	for _, m := range []struct {
		what string
		x, y *measure.Durations
	}{{"read own row", &a.read, &b.read}, {"write a row", &a.write, &b.write},
		{"subscribe, initial row received", &a.subscribe, &b.subscribe}, {"write to change received", &a.change, &b.change}} {
		line(m.what+", p50", m.x.Quantile(.5).Seconds()*1e3, m.y.Quantile(.5).Seconds()*1e3, "ms")
		line(m.what+", p99", m.x.Quantile(.99).Seconds()*1e3, m.y.Quantile(.99).Seconds()*1e3, "ms")
	}
	return nil
}

func mib(b int64) float64 { return float64(b) / (1 << 20) }

func measureUsers(ctx context.Context, binary string, users, probes int) (*report, error) {
	dir, err := os.MkdirTemp("", "kalamdb-scale-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	s, err := process.Start(ctx, process.Options{Binary: binary, DataDir: filepath.Join(dir, "data"),
		Env: []string{"KALAMDB_RATE_LIMIT_MAX_QUERIES_PER_SEC=0", "KALAMDB_AUTH_BCRYPT_COST=4"}})
	if err != nil {
		return nil, err
	}
	defer s.Kill()
	r := &report{users: users}
	root, err := client.Dial(s.GRPCAddr, "root", s.RootPassword)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if err := createTables(ctx, root); err != nil {
		return nil, err
	}
	began := time.Now()
	if err := load(ctx, root, users); err != nil {
		return nil, err
	}
	r.load = time.Since(began)
	fmt.Printf("%d users loaded in %v (%.0f rows/s)\n", users, r.load.Round(time.Millisecond), float64(users)/r.load.Seconds())
	if r.loadedBytes, err = s.ResidentBytes(); err != nil {
		return nil, err
	}
	s.Kill()
	r.diskBytes = diskUse(dir)
	began = time.Now()
	if err := s.Restart(ctx); err != nil {
		return nil, err
	}
	r.start = time.Since(began)
	if r.startedBytes, err = s.ResidentBytes(); err != nil {
		return nil, err
	}
	return r, r.probe(ctx, root, s.GRPCAddr, probes)
}

func createTables(ctx context.Context, root *client.Client) error {
	for _, sql := range []string{"CREATE NAMESPACE scale",
		"CREATE USER TABLE scale.messages (id BIGINT DEFAULT SNOWFLAKE_ID() PRIMARY KEY, body TEXT, at TIMESTAMP DEFAULT NOW())"} {
		if _, err := root.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

func userID(i int) string { return fmt.Sprintf("user-%07d", i) }

// loadStreams is how many write streams share the load.
const loadStreams = 4

func load(ctx context.Context, root *client.Client, users int) error {
	g, ctx := errgroup.WithContext(ctx)
	for part := range loadStreams {
		stream, err := root.RPC.Write(ctx)
		if err != nil {
			return err
		}
		g.Go(func() error {
			for i := part; i < users; i += loadStreams {
				if err := stream.Send(&kalamv1.WriteRequest{Table: "scale.messages", AsUser: userID(i),
					Rows: &kalamv1.WriteRequest_RowSet{RowSet: oneRow()}}); err != nil {
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
				if e := ack.GetError(); e != nil {
					return fmt.Errorf("%s: %s", e.GetCode(), e.GetMessage())
				}
			}
		})
	}
	return g.Wait()
}

func oneRow() *kalamv1.RowSet {
	return &kalamv1.RowSet{Columns: []string{"body"}, Rows: []*kalamv1.Row{{Values: []*kalamv1.Value{
		{Kind: &kalamv1.Value_Text{Text: strings.Repeat("x", 100)}}}}}}
}

// probe measures random users' reads, writes and subscriptions, one at a time.
func (r *report) probe(ctx context.Context, root *client.Client, addr string, probes int) error {
	random := rand.New(rand.NewPCG(1, uint64(r.users)))
	for range probes {
		as := "EXECUTE AS USER '" + userID(random.IntN(r.users)) + "' "
		began := time.Now()
		res, err := root.Exec(ctx, as+"(SELECT id, body, at FROM scale.messages)")
		if err != nil {
			return err
		}
		r.read.Add(time.Since(began))
		if len(res.Rows) == 0 {
			return errors.New("a user's row is missing")
		}
		began = time.Now()
		if _, err := root.Exec(ctx, as+"(INSERT INTO scale.messages (body) VALUES ('probe'))"); err != nil {
			return err
		}
		r.write.Add(time.Since(began))
	}
	return r.probeSubscriptions(ctx, root, addr, random, probes/20)
}

// probeSubscriptions needs accounts: a subscription acts for the account that opens it.
func (r *report) probeSubscriptions(ctx context.Context, root *client.Client, addr string, random *rand.Rand, n int) error {
	for range n {
		user := userID(random.IntN(r.users))
		if _, err := root.Exec(ctx, "CREATE USER IF NOT EXISTS '"+user+"' WITH PASSWORD 'scale-Password-1'"); err != nil {
			return err
		}
		c, err := client.Dial(addr, user, "scale-Password-1")
		if err != nil {
			return err
		}
		if _, err = c.Exec(ctx, "SELECT 1"); err == nil { // the connection and the credentials are not what is measured
			err = r.probeSubscription(ctx, c)
		}
		c.Close()
		if err != nil {
			return fmt.Errorf("subscription of %s: %w", user, err)
		}
	}
	return nil
}

func (r *report) probeSubscription(ctx context.Context, c *client.Client) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	began := time.Now()
	stream, err := c.RPC.Subscribe(ctx, &kalamv1.SubscribeRequest{Sql: "SELECT * FROM scale.messages"})
	if err != nil {
		return err
	}
	for initial := false; !initial; {
		ev, err := stream.Recv()
		if err != nil {
			return err
		}
		initial = ev.GetInitialRows() != nil && !ev.GetInitialRows().GetHasMore()
	}
	r.subscribe.Add(time.Since(began))
	began = time.Now()
	if _, err := c.Exec(ctx, "INSERT INTO scale.messages (body) VALUES ('live')"); err != nil {
		return err
	}
	for {
		ev, err := stream.Recv()
		if err != nil {
			return err
		}
		if ev.GetChange() != nil {
			r.change.Add(time.Since(began))
			return nil
		}
	}
}

func diskUse(dir string) (total int64) {
	_ = filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			total += info.Size()
		}
		return nil
	})
	return total
}
