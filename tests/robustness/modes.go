package robustness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/shardmap"
)

// Failures is a cluster on hosts and disks of its own, for Failover.
type Failures struct {
	*Cluster
	// Shards of the cluster.
	Shards uint32
}

// leaderTimeout bounds finding a leader.
const leaderTimeout = 30 * time.Second

// Modes are the ways a node is broken.
func (*Failures) Modes() []string {
	return []string{"crash", "pause", "blackhole", "blackhole-in", "blackhole-out", "disk-stall", diskFull}
}

// Ended reports whether a storage node's process is not running.
func (f *Failures) Ended(name string) bool { return !f.Node(name).Running() }

// LeaderOf names the storage node that leads a user's shard, as the nodes' metrics say.
func (f *Failures) LeaderOf(ctx context.Context, user string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, leaderTimeout)
	defer cancel()
	line := fmt.Sprintf("kalamdb_storage_raft_leader{group=\"%d\"} 1\n", shardmap.Even(f.Shards).User(user))
	for ctx.Err() == nil {
		for _, n := range f.Role("storage") {
			text, err := metricsOf(ctx, n.OpsAddr())
			if err == nil && strings.Contains(text, line) {
				return n.Name, nil
			}
		}
		pause(ctx, reopenPause)
	}
	return "", fmt.Errorf("no storage node leads the shard of %s", user)
}

func metricsOf(ctx context.Context, addr string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return string(raw), err
}

// Break breaks a storage node.
func (f *Failures) Break(ctx context.Context, mode, name string) error {
	n, disk := f.Node(name), f.Disks[name]
	if n == nil || disk == nil {
		return fmt.Errorf("there is no storage node %q", name)
	}
	switch mode {
	case "crash":
		n.Kill()
		return nil
	case "pause":
		return n.Pause()
	case "blackhole":
		return n.Host.Down(ctx)
	case "disk-stall":
		return disk.Freeze(ctx)
	case diskFull:
		return disk.Fill()
	}
	var errs []error
	for _, other := range f.Nodes() {
		switch {
		case other == n:
		case mode == "blackhole-out":
			errs = append(errs, n.Host.Cut(ctx, other.Host))
		case mode == "blackhole-in":
			errs = append(errs, other.Host.Cut(ctx, n.Host))
		default:
			return fmt.Errorf("no mode is called %q", mode)
		}
	}
	return errors.Join(errs...)
}
