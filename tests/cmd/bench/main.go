// Command bench measures the server against the floor (one gRPC call around one synced Pebble write),
// fdatasync and PostgreSQL, all in one run on one machine, interleaved, medians of several
// repetitions. It prints a table and writes every sample's summary as JSON.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if len(os.Args) == 3 && os.Args[1] == "floor-server" {
		if err := serveFloor(ctx, os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "floor:", err)
			os.Exit(1)
		}
		return
	}
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// settings are the flags.
type settings struct {
	server  string
	bin     string
	reps    int
	perRep  time.Duration
	users   []int
	workers int
	rows    int
}

func run(ctx context.Context) error {
	s := settings{workers: 64}
	flag.StringVar(&s.server, "server", "bin/kalamdb", "server binary")
	flag.IntVar(&s.reps, "reps", 5, "repetitions, interleaved between the contenders")
	flag.DurationVar(&s.perRep, "time", 2*time.Second, "time for each contender in each repetition")
	flag.StringVar(&s.bin, "bin", "bin", "folder of the binaries of a cluster's nodes")
	only := flag.String("only", "W1,W2,W4,W5,W6,W8,W11", "works to run")
	many := flag.Int("users", 20_000, "the larger number of users in W5 and W11 (the smaller is 1,000)")
	flag.IntVar(&s.rows, "rows", 10_000_000, "rows of the table in W6")
	out := flag.String("json", "", "write the raw figures to this file")
	flag.Parse()
	s.users = []int{1000, *many}

	dir, err := os.MkdirTemp("", "kalamdb-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c, err := startContenders(ctx, s, dir)
	if err != nil {
		return err
	}
	defer c.stop()

	var tables []table
	for _, w := range []struct {
		name string
		run  func(context.Context, settings, *contenders) (table, error)
	}{{"W1", runW1}, {"W2", runW2}, {"W4", runW4}, {"W5", runW5}, {"W6", runW6}, {"W8", runW8}, {"W11", runW11}} {
		if !strings.Contains(","+*only+",", ","+w.name+",") {
			continue
		}
		fmt.Fprintf(os.Stderr, "%s …\n", w.name)
		t, err := w.run(ctx, s, c)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		t.Work = w.name
		fmt.Print(t.String())
		tables = append(tables, t)
	}
	if *out == "" {
		return nil
	}
	raw, err := json.MarshalIndent(map[string]any{"cpus": runtime.NumCPU(), "go": runtime.Version(), "tables": tables}, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(*out), 0o755); err != nil {
		return err
	}
	return os.WriteFile(*out, append(raw, '\n'), 0o644)
}
