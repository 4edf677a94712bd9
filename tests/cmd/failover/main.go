// Command failover breaks the leader of a shard in seven ways, several times each, under steady writes and
// subscriptions, and reports the longest pauses. It needs root: nodes run on hosts and disks of their own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"time"

	"github.com/kalamdb/kalamdb-go/tests/clusterproc"
	"github.com/kalamdb/kalamdb-go/tests/disks"
	"github.com/kalamdb/kalamdb-go/tests/hosts"
	"github.com/kalamdb/kalamdb-go/tests/robustness"
)

const (
	shards        = 8 // the default of a new cluster
	storageNodes  = 3
	diskMegabytes = 2048
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	bin := flag.String("bin", "bin", "folder of the binaries")
	times := flag.Int("times", 9, "failures of each kind")
	keep := flag.String("keep", "", "folder for the nodes' logs, kept; empty makes one, kept if it fails")
	only := flag.String("mode", "", "only this kind")
	flag.Parse()
	if err := run(ctx, *bin, *keep, *times, *only); err != nil {
		fmt.Fprintln(os.Stderr, "failover: FAILED:", err)
		os.Exit(1)
	}
}

// oneMode limits the modes.
type oneMode struct {
	*robustness.Failures
	only string
}

func (o oneMode) Modes() []string {
	if o.only != "" {
		return []string{o.only}
	}
	return o.Failures.Modes()
}

func run(ctx context.Context, bin, keep string, times int, only string) (err error) {
	dir, err := keep, os.MkdirAll(keep, 0o755)
	if keep == "" {
		dir, err = os.MkdirTemp("", "kalamdb-failover-")
	}
	if err != nil {
		return err
	}
	whole := context.WithoutCancel(ctx)
	network, err := hosts.New(ctx, "kdbf", 78)
	if err != nil {
		return err
	}
	defer network.Close(whole)
	own := map[string]*disks.Disk{}
	target := &robustness.Failures{Shards: shards}
	defer func() {
		for _, d := range own {
			err = errors.Join(err, d.Close(whole))
		}
		if err == nil && keep == "" {
			os.RemoveAll(dir)
		} else {
			fmt.Println("logs are kept in", dir)
		}
	}()
	for i := range storageNodes {
		name := fmt.Sprintf("storage-%d", i+1)
		d, err := disks.New(ctx, filepath.Join(dir, name+".disk"), filepath.Join(dir, name+"-data"), diskMegabytes)
		if err != nil {
			return err
		}
		own[name] = d
	}
	c, err := clusterproc.Start(ctx, clusterproc.Options{Bin: bin, Dir: dir, Network: network, Storage: storageNodes,
		DataDir: func(node string) string { return filepath.Join(own[node].Path, "data") }})
	if err != nil {
		return err
	}
	defer c.Kill()
	target.Cluster = &robustness.Cluster{Cluster: c, OnNetwork: true, Disks: own}
	gaps, err := robustness.Failover(ctx, oneMode{target, only}, times, func(mode string, g robustness.Gap) {
		fmt.Printf("  %-14s %s  writes stood still for %v, changes for %v\n", mode, g.Began.UTC().Format("15:04:05.000"), g.Write.Round(time.Millisecond), g.Subscription.Round(time.Millisecond))
		if g.Slow != "" {
			fmt.Println("   ", g.Slow)
		}
	})
	report(oneMode{target, only}.Modes(), gaps)
	if err != nil {
		return err
	}
	return c.Stop()
}

func report(modes []string, gaps map[string][]robustness.Gap) {
	fmt.Printf("\n%-14s %5s %14s %14s %14s %14s\n", "mode", "times", "write median", "write longest", "change median", "change longest")
	for _, m := range modes {
		var w, s []time.Duration
		for _, g := range gaps[m] {
			w, s = append(w, g.Write), append(s, g.Subscription)
		}
		if len(w) == 0 {
			continue
		}
		slices.Sort(w)
		slices.Sort(s)
		fmt.Printf("%-14s %5d %14v %14v %14v %14v\n", m, len(w), w[len(w)/2].Round(time.Millisecond), w[len(w)-1].Round(time.Millisecond),
			s[len(s)/2].Round(time.Millisecond), s[len(s)-1].Round(time.Millisecond))
	}
}
