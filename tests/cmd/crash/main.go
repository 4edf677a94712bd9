// Command crash kills the server with SIGKILL at random moments under concurrent writers and
// subscribers. After each restart it checks that every acknowledged write is there, that no
// unacknowledged one is half there, and that the resumed subscribers have missed and repeated nothing.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kalamdb/kalamdb-go/tests/client"
	"github.com/kalamdb/kalamdb-go/tests/process"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	rounds := flag.Int("rounds", 10, "kills")
	writers := flag.Int("writers", 6, "concurrent writers, each with a subscriber")
	server := flag.String("server", "bin/kalamdb", "server binary")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "seed of what is random here")
	keep := flag.Bool("keep", false, "keep the data directory")
	flag.Parse()
	fmt.Printf("crash: %d rounds, %d writers, seed %d\n", *rounds, *writers, *seed)
	if err := run(ctx, *rounds, *writers, *server, *seed, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "crash: FAILED:", err)
		os.Exit(1)
	}
}

// killWindow is how long after a start the kill comes at the latest.
const killWindow = 1500 * time.Millisecond

func run(ctx context.Context, rounds, writers int, binary string, seed uint64, keep bool) (err error) {
	dir, err := os.MkdirTemp("", "kalamdb-crash-")
	if err != nil {
		return err
	}
	defer func() {
		if err == nil && !keep {
			os.RemoveAll(dir)
		} else {
			fmt.Println("data and log are kept in", dir)
		}
	}()
	s, err := process.Start(ctx, process.Options{Binary: binary, DataDir: filepath.Join(dir, "data"),
		Env: []string{"KALAMDB_RATE_LIMIT_MAX_QUERIES_PER_SEC=0", "KALAMDB_AUTH_BCRYPT_COST=4"}})
	if err != nil {
		return err
	}
	defer s.Kill()
	actors, err := setUp(ctx, s, writers, seed)
	if err != nil {
		return err
	}
	defer func() {
		for _, a := range actors {
			a.client.Close()
		}
	}()
	random := rand.New(rand.NewPCG(seed, 0))
	var slowest time.Duration
	for round := 1; round <= rounds; round++ {
		wait := time.Duration(random.Int64N(int64(killWindow)))
		if err := underLoad(ctx, actors, func() { time.Sleep(wait); s.Kill() }); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		began := time.Now()
		if err := s.Restart(ctx); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		slowest = max(slowest, time.Since(began))
		for _, a := range actors {
			if err := a.check(ctx); err != nil {
				return fmt.Errorf("round %d, %s: %w", round, a.user, err)
			}
		}
		fmt.Printf("  round %d/%d: killed after %v, back in %v, %s\n", round, rounds, wait.Round(time.Millisecond),
			time.Since(began).Round(time.Millisecond), totals(actors))
	}
	fmt.Printf("crash: passed: %s; slowest restart %v\n", totals(actors), slowest.Round(time.Millisecond))
	return s.Stop()
}

// underLoad runs every writer and subscriber while kill does its work; they end when the server is gone.
func underLoad(ctx context.Context, actors []*actor, kill func()) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, a := range actors {
		g.Go(func() error { return a.write(ctx) })
		g.Go(func() error { return a.subscribe(ctx, false) })
	}
	kill()
	return g.Wait()
}

func setUp(ctx context.Context, s *process.Server, writers int, seed uint64) ([]*actor, error) {
	root, err := client.Dial(s.GRPCAddr, "root", s.RootPassword)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	for _, sql := range []string{"CREATE NAMESPACE crash",
		"CREATE USER TABLE crash.events (id BIGINT PRIMARY KEY, batch BIGINT NOT NULL, body TEXT)"} {
		if _, err := root.Exec(ctx, sql); err != nil {
			return nil, err
		}
	}
	var actors []*actor
	for i := range writers {
		a := &actor{user: fmt.Sprintf(`w|%d\`, i), random: rand.New(rand.NewPCG(seed, uint64(i)+1)),
			acked: map[int64]row{}, seen: map[int64]row{}}
		if _, err := root.Exec(ctx, "CREATE USER '"+a.user+"' WITH PASSWORD 'crash-Password-1'"); err != nil {
			return nil, err
		}
		if a.client, err = client.Dial(s.GRPCAddr, a.user, "crash-Password-1"); err != nil {
			return nil, err
		}
		actors = append(actors, a)
	}
	return actors, nil
}

func totals(actors []*actor) string {
	var acks, events, resumes int
	for _, a := range actors {
		acks += a.acks
		events += a.events
		resumes += a.resumes
	}
	return fmt.Sprintf("%d acknowledged statements, %d changes received, %d resumes", acks, events, resumes)
}

var errDiffers = errors.New("the table is neither as acknowledged nor as acknowledged plus the statement in flight")
