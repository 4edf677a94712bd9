// Command scale gives many users one row each and reports what they cost: load time, resident memory,
// start-up time, and the latencies of reads, writes and subscriptions, beside the same with 1,000
// users (performance targets W5 and W11).
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/kalamdb/kalamdb-go/tests/measure"
	"github.com/kalamdb/kalamdb-go/tests/scaling"
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

func run(ctx context.Context, server string, few, many, probes int) error {
	var reports []*scaling.Report
	for _, users := range []int{few, many} {
		r, err := scaling.Measure(ctx, server, users, probes)
		if err != nil {
			return fmt.Errorf("%d users: %w", users, err)
		}
		fmt.Printf("%d users loaded in %v (%.0f rows/s)\n", users, r.Load.Round(time.Millisecond), float64(users)/r.Load.Seconds())
		reports = append(reports, r)
	}
	a, b := reports[0], reports[1]
	fmt.Printf("\n%-34s %14d %14d %8s\n", "users", a.Users, b.Users, "ratio")
	line := func(what string, x, y float64, unit string) {
		fmt.Printf("%-34s %11.2f %-2s %11.2f %-2s %8.2f\n", what, x, unit, y, unit, y/x)
	}
	line("load, all rows durable", a.Load.Seconds(), b.Load.Seconds(), "s")
	line("start-up after that", a.Start.Seconds()*1e3, b.Start.Seconds()*1e3, "ms")
	line("resident memory after the load", mib(a.LoadedBytes), mib(b.LoadedBytes), "MB")
	line("resident memory after the start", mib(a.StartedBytes), mib(b.StartedBytes), "MB")
	line("data on disk", mib(a.DiskBytes), mib(b.DiskBytes), "MB")
	for _, m := range []struct {
		what string
		x, y *measure.Durations
	}{{"read own row", &a.Read, &b.Read}, {"write a row", &a.Write, &b.Write},
		{"subscribe, initial row received", &a.Subscribe, &b.Subscribe}, {"write to change received", &a.Change, &b.Change}} {
		line(m.what+", p50", m.x.Quantile(.5).Seconds()*1e3, m.y.Quantile(.5).Seconds()*1e3, "ms")
		line(m.what+", p99", m.x.Quantile(.99).Seconds()*1e3, m.y.Quantile(.99).Seconds()*1e3, "ms")
	}
	return nil
}

func mib(b int64) float64 { return float64(b) / (1 << 20) }
