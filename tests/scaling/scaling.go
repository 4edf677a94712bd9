// Package scaling measures what users cost: it gives many users one row each in a server of its own and
// reports load time, memory, start-up time and latencies.
package scaling

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	kalamv1 "github.com/kalamdb/kalamdb-go/proto/kalam/v1"
	"github.com/kalamdb/kalamdb-go/tests/client"
	"github.com/kalamdb/kalamdb-go/tests/measure"
	"github.com/kalamdb/kalamdb-go/tests/process"
)

// Report is what one number of users costs.
type Report struct {
	// Users is how many have a row.
	Users int
	// Load ends when every row is durable; Start is a start after kill -9.
	Load, Start time.Duration
	// Resident memory after the load and after the start.
	LoadedBytes, StartedBytes int64
	DiskBytes                 int64
	// Latencies of random users, one at a time.
	Read, Write, Subscribe, Change measure.Durations
}

// Measure runs one server with that many users; probes is the number of measured reads and writes.
func Measure(ctx context.Context, binary string, users, probes int) (*Report, error) {
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
	r := &Report{Users: users}
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
	r.Load = time.Since(began)
	if r.LoadedBytes, err = s.ResidentBytes(); err != nil {
		return nil, err
	}
	s.Kill()
	r.DiskBytes = diskUse(dir)
	began = time.Now()
	if err := s.Restart(ctx); err != nil {
		return nil, err
	}
	r.Start = time.Since(began)
	if r.StartedBytes, err = s.ResidentBytes(); err != nil {
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
func (r *Report) probe(ctx context.Context, root *client.Client, addr string, probes int) error {
	random := rand.New(rand.NewPCG(1, uint64(r.Users)))
	for range probes {
		as := "EXECUTE AS USER '" + userID(random.IntN(r.Users)) + "' "
		began := time.Now()
		res, err := root.Exec(ctx, as+"(SELECT id, body, at FROM scale.messages)")
		if err != nil {
			return err
		}
		r.Read.Add(time.Since(began))
		if len(res.Rows) == 0 {
			return errors.New("a user's row is missing")
		}
		began = time.Now()
		if _, err := root.Exec(ctx, as+"(INSERT INTO scale.messages (body) VALUES ('probe'))"); err != nil {
			return err
		}
		r.Write.Add(time.Since(began))
	}
	return r.probeSubscriptions(ctx, root, addr, random, probes/20)
}

// probeSubscriptions needs accounts: a subscription acts for the account that opens it.
func (r *Report) probeSubscriptions(ctx context.Context, root *client.Client, addr string, random *rand.Rand, n int) error {
	for range n {
		user := userID(random.IntN(r.Users))
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

func (r *Report) probeSubscription(ctx context.Context, c *client.Client) error {
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
	r.Subscribe.Add(time.Since(began))
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
			r.Change.Add(time.Since(began))
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
