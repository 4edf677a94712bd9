// Command reshape changes which storage nodes a loaded cluster consists of: a fourth joins, one is drained and leaves,
// one loses its disk. No client may see an error, the history is checked, and the replicas have to agree.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/kalamdb/kalamdb-go/tests/clusterproc"
	"github.com/kalamdb/kalamdb-go/tests/robustness"
)

const (
	shards       = 8 // the default of a new cluster
	storageNodes = 3
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	bin := flag.String("bin", "bin", "folder of the binaries")
	runs := flag.Int("runs", 1, "times, each with a new cluster")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano())&0xffffffffff, "seed of the first load; each further one's is one higher")
	fill := flag.Int("fill", 0, "MiB of rows to write before, so that replicas have something to copy")
	keep := flag.String("keep", "", "folder for data, logs and histories; empty makes one that is removed when all went well")
	flag.Parse()
	for i := range *runs {
		if err := run(ctx, *bin, *keep, *fill, *seed+uint64(i)); err != nil {
			fmt.Fprintln(os.Stderr, "reshape: FAILED:", err)
			os.Exit(1)
		}
	}
}

func run(ctx context.Context, bin, keep string, fill int, seed uint64) (err error) {
	dir, err := os.MkdirTemp(keep, "kalamdb-reshape-")
	if err != nil {
		return err
	}
	fmt.Printf("reshape: seed %d, logs in %s\n", seed, dir)
	cluster, err := clusterproc.Start(ctx, clusterproc.Options{Bin: bin, Dir: dir, Storage: storageNodes})
	if err != nil {
		return err
	}
	defer cluster.Kill()
	r := &robustness.Reshape{Cluster: &robustness.Cluster{Cluster: cluster}, Shards: shards, Fill: fill,
		Log: func(format string, args ...any) { fmt.Printf("  "+format+"\n", args...) }}
	report, err := r.Run(ctx, robustness.Options{Seed: seed, Dir: dir})
	if report != nil {
		fmt.Printf("  %s\n", report)
	}
	if err != nil {
		return err
	}
	if err := cluster.Stop(); err != nil {
		return fmt.Errorf("stop the cluster: %w", err)
	}
	fmt.Println("reshape: passed: no client saw an error, and the replicas agree")
	if keep == "" {
		return os.RemoveAll(dir)
	}
	return nil
}
