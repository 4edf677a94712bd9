// Command robustness puts random load on a server or a cluster while breaking it, and checks that the
// history is linearizable and that subscriptions saw every change once and in order.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/kalamdb/kalamdb-go/tests/clusterproc"
	"github.com/kalamdb/kalamdb-go/tests/disks"
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
	flag.StringVar(&o.network, "network", "kdbr", "name of the network of target netns; two at the same time need two")
	flag.IntVar(&o.number, "number", 77, "its addresses, 10.77.<number>")
	flag.Parse()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "robustness: FAILED:", err)
		os.Exit(1)
	}
}

type options struct {
	target, binaries, keep, faults string
	network                        string
	number, runs                   int
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
	var sum totals
	for i := range o.runs {
		seed := o.seed + uint64(i)
		report, err := robustness.Run(ctx, target, robustness.Options{Seed: seed, Duration: o.duration, Dir: o.keep, Faults: o.faults})
		if report != nil {
			fmt.Printf("  run %d/%d seed %d: %s\n", i+1, o.runs, seed, report)
			sum.add(report)
		}
		if err != nil {
			return fmt.Errorf("seed %d: %w", seed, err)
		}
	}
	fmt.Printf("robustness: passed: %d runs, %s\n", o.runs, &sum)
	return nil
}

// storageNodes of a cluster under test, and diskMegabytes of each of their disks.
const (
	storageNodes  = 3
	diskMegabytes = 2048
)

// smallStores make what takes a large cluster hours happen in seconds: memtables are flushed, logs truncated, and who
// was away needs a snapshot.
var smallStores = []string{"KALAMDB_STORAGE_MEMTABLE_BYTES=131072", "KALAMDB_STORAGE_LOG_MEMTABLE_BYTES=131072",
	"KALAMDB_STORAGE_SNAPSHOT_INTERVAL=5s", "KALAMDB_STORAGE_SNAPSHOT_THRESHOLD=256", "KALAMDB_STORAGE_TRAILING_LOGS=128"}

// startCluster starts three storage nodes and two of every other role.
func startCluster(ctx context.Context, o options) (_ robustness.Target, stop func() error, err error) {
	opt := clusterproc.Options{Bin: o.binaries, Dir: o.keep, Storage: storageNodes, Env: smallStores}
	target := &robustness.Cluster{OnNetwork: o.target == "netns"}
	whole := context.WithoutCancel(ctx)
	if faulty := filepath.Join(o.binaries, "faults"); exists(filepath.Join(faulty, "kalamdb-storage")) {
		target.Clocks = true
		opt.BinOf = func(node string) string {
			if strings.HasPrefix(node, "storage-") {
				return faulty
			}
			return o.binaries
		}
	}
	release := func() error {
		var errs []error
		for _, d := range target.Disks {
			errs = append(errs, d.Close(whole))
		}
		if opt.Network != nil {
			opt.Network.Close(whole)
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, release())
		}
	}()
	if target.OnNetwork {
		if opt.Network, err = hosts.New(ctx, o.network, o.number); err != nil {
			return nil, nil, err
		}
		if target.Disks, err = makeDisks(ctx, o.keep); err != nil {
			return nil, nil, err
		}
		opt.DataDir = func(node string) string {
			if d := target.Disks[node]; d != nil {
				return filepath.Join(d.Path, "data")
			}
			return filepath.Join(o.keep, node, "data")
		}
	}
	if target.Cluster, err = clusterproc.Start(ctx, opt); err != nil {
		return nil, nil, err
	}
	return target, func() error { return errors.Join(target.Stop(), release()) }, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// makeDisks makes one for each storage node the cluster starts with.
func makeDisks(ctx context.Context, dir string) (map[string]*disks.Disk, error) {
	out := map[string]*disks.Disk{}
	for i := range storageNodes {
		name := fmt.Sprintf("storage-%d", i+1)
		d, err := disks.New(ctx, filepath.Join(dir, name+".disk"), filepath.Join(dir, name+"-disk"), diskMegabytes)
		if err != nil {
			return out, err
		}
		out[name] = d
	}
	return out, nil
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
