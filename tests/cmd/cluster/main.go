// Command cluster runs a cluster on this machine: three storage nodes and two of every other role, with
// certificates between them. Ctrl-C stops it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/kalamdb/kalamdb-go/tests/clusterproc"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	opt := clusterproc.Options{}
	flag.StringVar(&opt.Bin, "bin", "bin", "folder of the binaries")
	flag.StringVar(&opt.Dir, "dir", "", "folder for data, certificates and logs; empty makes one that is removed at the end")
	flag.IntVar(&opt.Storage, "storage", 3, "storage nodes")
	flag.IntVar(&opt.Query, "query", 2, "query nodes")
	flag.IntVar(&opt.Live, "live", 2, "live nodes")
	flag.IntVar(&opt.Gateway, "gateway", 2, "gateways")
	flag.Parse()
	if err := run(ctx, opt); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, opt clusterproc.Options) error {
	if opt.Dir == "" {
		dir, err := os.MkdirTemp("", "kalamdb-cluster-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		opt.Dir = dir
	}
	fmt.Printf("starting %d storage, %d query, %d live, %d gateway processes; logs below %s\n", opt.Storage, opt.Query, opt.Live,
		opt.Gateway, opt.Dir)
	c, err := clusterproc.Start(ctx, opt)
	if err != nil {
		return err
	}
	for _, n := range c.Nodes() {
		line := fmt.Sprintf("  %-10s pid %-7d operations http://%s", n.Name, n.PID(), n.OpsAddr())
		if n.Role == "gateway" {
			line += fmt.Sprintf("   clients http://%s, gRPC %s", n.HTTPAddr(), n.GRPCAddr)
		}
		fmt.Println(line)
	}
	fmt.Printf("the user is root, the password %s. Ctrl-C stops everything.\n", clusterproc.RootPassword)
	<-ctx.Done()
	return c.Stop()
}
