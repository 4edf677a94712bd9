// Command robustness puts random load on a server or a cluster while breaking it, and checks that the
// history is linearizable and that subscriptions saw every change once and in order.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/kalamdb/kalamdb-go/tests/clusterproc"
	"github.com/kalamdb/kalamdb-go/tests/hosts"
	"github.com/kalamdb/kalamdb-go/tests/robustness"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	o := options{}
	flag.StringVar(&o.target, "target", "single", "what to break: single (one process), cluster (processes on loopback), netns (processes on hosts of their own; needs root)")
	flag.StringVar(&o.binaries, "bin", "bin", "folder of the binaries")
	flag.IntVar(&o.runs, "runs", 3, "runs")
	flag.DurationVar(&o.duration, "duration", 30*time.Second, "load of one run")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano())&0xffffffffff, "seed of the first run; each further run's is one higher")
	flag.StringVar(&o.keep, "keep", "", "folder for logs and histories of failed runs; empty makes one")
	flag.StringVar(&o.faults, "faults", "", "comma separated names of the faults to use, -name to leave one out; empty means all")
	flag.Parse()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "robustness: FAILED:", err)
		os.Exit(1)
	}
}

type options struct {
	target, binaries, keep, faults string
	runs                           int
	duration                       time.Duration
	seed                           uint64
}

func run(ctx context.Context, o options) (err error) {
	if o.keep == "" {
		if o.keep, err = os.MkdirTemp("", "kalamdb-robustness-"); err != nil {
			return err
		}
	}
	fmt.Printf("robustness: %s, %d runs of %v, seed %d, logs in %s\n", o.target, o.runs, o.duration, o.seed, o.keep)
	target, stop, err := start(ctx, o)
	if err != nil {
		return err
	}
	defer func() {
		if stopErr := stop(); err == nil {
			err = stopErr
		}
	}()
	for i := range o.runs {
		seed := o.seed + uint64(i)
		report, err := robustness.Run(ctx, target, robustness.Options{Seed: seed, Duration: o.duration, Dir: o.keep, Faults: o.faults})
		if report != nil {
			fmt.Printf("  run %d/%d seed %d: %s\n", i+1, o.runs, seed, report)
		}
		if err != nil {
			return fmt.Errorf("seed %d: %w", seed, err)
		}
	}
	fmt.Printf("robustness: passed: %d runs\n", o.runs)
	return nil
}

// startCluster starts three storage nodes and two of every other role.
func startCluster(ctx context.Context, o options) (robustness.Target, func() error, error) {
	opt := clusterproc.Options{Bin: o.binaries, Dir: o.keep}
	if o.target == "netns" {
		network, err := hosts.New(ctx, "kdbr", 77)
		if err != nil {
			return nil, nil, err
		}
		opt.Network = network
	}
	c, err := clusterproc.Start(ctx, opt)
	if err != nil {
		return nil, nil, err
	}
	stop := func() error {
		err := c.Stop()
		if opt.Network != nil {
			opt.Network.Close(context.WithoutCancel(ctx))
		}
		return err
	}
	return &robustness.Cluster{Cluster: c, OnNetwork: opt.Network != nil}, stop, nil
}

func start(ctx context.Context, o options) (robustness.Target, func() error, error) {
	switch o.target {
	case "single":
		s, err := robustness.StartSingle(ctx, o.binaries+"/kalamdb", o.keep)
		if err != nil {
			return nil, nil, err
		}
		return s, s.Stop, nil
	case "cluster", "netns":
		return startCluster(ctx, o)
	}
	return nil, nil, fmt.Errorf("no target is called %q", o.target)
}
