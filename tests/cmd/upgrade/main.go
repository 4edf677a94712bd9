// Command upgrade replaces the nodes of a cluster by those of another version, one after the other under load,
// back again, and forth in the other order, and checks the history, the replicas and what clients saw.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kalamdb/kalamdb-go/tests/clusterproc"
	"github.com/kalamdb/kalamdb-go/tests/robustness"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o := options{}
	flag.StringVar(&o.from, "from", "", "folder of the old version's binaries")
	flag.StringVar(&o.to, "to", "bin", "folder of the new version's binaries")
	flag.BoolVar(&o.back, "back", true, "go back to the old version in between, and forth again in the other order")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano())&0xffffffffff, "seed of the load")
	flag.StringVar(&o.keep, "keep", "", "folder for data, logs and histories; empty makes one that is removed when all went well")
	flag.Parse()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "upgrade: FAILED:", err)
		os.Exit(1)
	}
}

type options struct {
	from, to, keep string
	back           bool
	seed           uint64
}

// cheapPasswords keep gateways from spending seconds on the clients that come after a restart: v0.3.0-alpha.1 runs
// bcrypt for every one of them, and has answers then that come too late.
var cheapPasswords = []string{"KALAMDB_QUERY_PASSWORD_COST=4"}

// documented is the order in which an operator upgrades: who is asked before who asks.
var documented = []string{"storage", "query", "live", "gateway"}

// reverse is the order that also has to work: who asks first.
var reverse = []string{"gateway", "live", "query", "storage"}

func run(ctx context.Context, o options) (err error) {
	from, err := versionOf(ctx, o.from)
	if err != nil {
		return err
	}
	to, err := versionOf(ctx, o.to)
	if err != nil {
		return err
	}
	if from == to {
		return fmt.Errorf("the old and the new binaries both say that they are %s", to)
	}
	if o.keep == "" {
		if o.keep, err = os.MkdirTemp("", "kalamdb-upgrade-"); err != nil {
			return err
		}
		defer func() {
			if err == nil {
				err = os.RemoveAll(o.keep)
			}
		}()
	}
	fmt.Printf("upgrade: from %s to %s, seed %d, logs in %s\n", from, to, o.seed, o.keep)
	bins := &binaries{standard: o.from, of: map[string]string{}}
	cluster, err := clusterproc.Start(ctx, clusterproc.Options{BinOf: bins.get, Dir: o.keep, Env: cheapPasswords})
	if err != nil {
		return err
	}
	stopped := false
	defer func() {
		if !stopped {
			cluster.Kill()
		}
	}()
	u := &robustness.Upgrade{Cluster: &robustness.Cluster{Cluster: cluster}, Switch: bins.set,
		Log: func(format string, args ...any) { fmt.Printf("  "+format+"\n", args...) }}
	passes := []robustness.Pass{{Name: "upgrade", Roles: documented, Bin: o.to, Version: to}}
	if o.back {
		passes = append(passes, robustness.Pass{Name: "rollback", Roles: reverse, Bin: o.from, Version: from},
			robustness.Pass{Name: "upgrade, gateways first", Roles: reverse, Bin: o.to, Version: to})
	}
	if err := walk(ctx, u, passes, o); err != nil {
		return err
	}
	stopped = true
	if err := cluster.Stop(); err != nil {
		return fmt.Errorf("stop the cluster: %w", err)
	}
	fmt.Printf("upgrade: passed: %d passes\n", len(passes))
	return nil
}

func walk(ctx context.Context, u *robustness.Upgrade, passes []robustness.Pass, o options) error {
	for i, pass := range passes {
		report, err := u.Run(ctx, pass, robustness.Options{Seed: o.seed + uint64(i), Dir: o.keep})
		if report != nil && report.Report != nil {
			fmt.Printf("  %s: %s\n", pass.Name, report)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", pass.Name, err)
		}
	}
	return nil
}

// binaries says which folder a node's program comes from.
type binaries struct {
	standard string

	mu sync.Mutex
	of map[string]string
}

func (b *binaries) get(node string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if bin, ok := b.of[node]; ok {
		return bin
	}
	return b.standard
}

func (b *binaries) set(node, bin string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.of[node] = bin
}

// versionOf asks the binaries of a folder, which must all be of one version.
func versionOf(ctx context.Context, folder string) (string, error) {
	if folder == "" {
		return "", errors.New("-from is missing: the folder of the old version's binaries")
	}
	version := ""
	for _, role := range documented {
		out, err := exec.CommandContext(ctx, filepath.Join(folder, "kalamdb-"+role), "--version").Output()
		if err != nil {
			return "", fmt.Errorf("ask kalamdb-%s in %s for its version: %w", role, folder, err)
		}
		words := strings.Fields(string(out)) // name, version, (how it was built)
		if len(words) < 2 {
			return "", fmt.Errorf("kalamdb-%s in %s tells no version", role, folder)
		}
		if version == "" {
			version = words[1]
		} else if version != words[1] {
			return "", fmt.Errorf("the binaries in %s are of the versions %s and %s", folder, version, words[1])
		}
	}
	return version, nil
}
