// Command idle measures what a Raft group costs that nobody writes to: it runs clusters of storage processes that
// differ only in their number of shards, watches each for a while, and takes the slope of CPU, memory and
// traffic over the number of groups. It also measures how long replicas take to be placed and to come back, and what
// requests and subscriptions cost each role.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/kalamdb/kalamdb-go/tests/scaling"
)

// storageNodes is the default number of replicas, so every process has one of every group.
const storageNodes = 3

// manyShards is the default of a new cluster.
const manyShards = 8

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "idle:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	opt := scaling.IdleOptions{Nodes: storageNodes}
	flag.StringVar(&opt.Bin, "bin", "bin", "folder of the binaries")
	flag.DurationVar(&opt.Window, "time", 20*time.Second, "how long an idle cluster is watched")
	list := flag.String("shards", "8,32,64,256", "numbers of shards, at least two")
	clients := flag.Int("clients", 16, "clients that write and read at a time when requests are measured")
	subscriptions := flag.Int("subscriptions", 1000, "open subscriptions whose memory is measured; 0 leaves requests and subscriptions out")
	out := flag.String("json", "", "write the raw figures to this file")
	flag.Parse()
	sizes, err := parseSizes(*list)
	if err != nil {
		return err
	}
	load := loadAverage()
	fmt.Printf("%d storage processes and this tool share %d cores; load average before: %s; each cluster watched for %v\n",
		opt.Nodes, runtime.NumCPU(), load, opt.Window)
	var reports []*scaling.IdleReport
	for _, shards := range sizes {
		r, err := scaling.MeasureIdle(ctx, opt, shards)
		if err != nil {
			return fmt.Errorf("%d shards: %w", shards, err)
		}
		printNodes(r)
		reports = append(reports, r)
	}
	costs, unknown := scaling.GroupCosts(reports)
	if unknown == nil {
		printCosts(costs)
	}
	raw := map[string]any{"cpus": runtime.NumCPU(), "go": runtime.Version(), "load_before": load,
		"window_seconds": opt.Window.Seconds(), "clusters": reports, "costs": costs}
	if *subscriptions > 0 {
		if raw["roles"], err = measureRoles(ctx, opt, *clients, *subscriptions); err != nil {
			return err
		}
	}
	if *out == "" {
		return unknown
	}
	return errors.Join(unknown, writeJSON(*out, raw))
}

func parseSizes(list string) (sizes []int, err error) {
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("-shards: %q is no number of shards", text)
		}
		sizes = append(sizes, n)
	}
	if len(sizes) < 2 {
		return nil, fmt.Errorf("-shards %s: the cost of a group is a difference, so two sizes are needed", list)
	}
	return sizes, nil
}

// loadAverage says what else the machine did: figures taken beside other work are too high.
func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(b))[:3], " ")
}

func printNodes(r *scaling.IdleReport) {
	fmt.Printf("\n%d shards, %d groups\n%-12s %8s %10s %12s %12s %10s %10s %10s\n", r.Shards, r.Groups(), "", "leads", "CPU cores",
		"resident MiB", "goroutines", "KiB/s", "writes/s", "disk KiB/s")
	for _, n := range r.Nodes {
		fmt.Printf("%-12s %8d %10.4f %12.1f %12d %10.1f %10.0f %10.1f\n", n.Name, n.Leads, n.CPU, float64(n.ResidentBytes)/(1<<20),
			n.Goroutines, n.WrittenBytes/1024, n.Writes, n.StoredBytes/1024)
	}
	fmt.Printf("  machine %.0f %% busy, %d new terms", 100*r.Busy, r.Terms)
	if !r.Borne() {
		fmt.Print(": it does not bear so many groups, which are left out below")
	}
	fmt.Printf("\n  placed after %v; killed and started: ready after %v, complete after %v; all of them: complete after %v\n", short(r.Placed),
		short(r.OneReady), short(r.OneComplete), short(r.AllComplete))
}

// measureRoles does it with many shards, and with one and few subscriptions: its rate is what one shard bears.
func measureRoles(ctx context.Context, opt scaling.IdleOptions, clients, subscriptions int) (all []*scaling.RolesReport, err error) {
	for _, c := range []struct{ shards, subscriptions int }{{manyShards, subscriptions}, {1, clients}} {
		r, err := scaling.MeasureRoles(ctx, scaling.RolesOptions{Bin: opt.Bin, Shards: c.shards, Clients: clients,
			Subscriptions: max(clients, c.subscriptions), Window: opt.Window})
		if err != nil {
			return nil, fmt.Errorf("requests, %d shards: %w", c.shards, err)
		}
		printRoles(r)
		all = append(all, r)
	}
	return all, nil
}

// roleNames are in the order of a request's way.
var roleNames = []string{"gateway", "query", "live", "storage"}

func printRoles(r *scaling.RolesReport) {
	fmt.Printf("\n%-40s %10s", fmt.Sprintf("CPU µs a request, shards: %d", r.Shards), "a second")
	for _, role := range roleNames {
		fmt.Printf(" %10s", role)
	}
	for _, c := range r.Requests {
		fmt.Printf("\n%-40s %10.0f", c.What, c.PerSecond)
		for _, role := range roleNames {
			fmt.Printf(" %10.1f", c.Micros[role])
		}
	}
	fmt.Printf("\n%-40s %10s", fmt.Sprintf("memory of one of %d subscriptions, KiB", r.Subscriptions), "")
	for _, role := range roleNames {
		fmt.Printf(" %10.1f", r.SubscriptionBytes[role]/1024)
	}
	fmt.Println()
}

func printCosts(costs []scaling.GroupCost) {
	fmt.Printf("\n%-36s %12s %14s %14s %12s\n", "cost of idle groups, all nodes", "unit", "without groups", "one group", "off by")
	for _, c := range costs {
		fmt.Printf("%-36s %12s %14.3f %14.4f %12.3f\n", c.What, c.Unit, c.Base, c.PerUnit, c.Residual)
	}
}

func short(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }

func writeJSON(path string, v any) error {
	raw, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(raw, '\n'), 0o644)
}
