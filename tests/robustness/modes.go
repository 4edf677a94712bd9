package robustness

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/shardmap"
	"github.com/kalamdb/kalamdb-go/tests/disks"
)

// Failures is a cluster on hosts and disks of its own, for Failover.
type Failures struct {
	*Cluster
	// Disks are the storage nodes', by name.
	Disks map[string]*disks.Disk
	// Shards of the cluster.
	Shards uint32
}

// leaderTimeout bounds finding a leader.
const leaderTimeout = 30 * time.Second

// Modes are the ways a node is broken.
func (*Failures) Modes() []string {
	return []string{"crash", "pause", "blackhole", "blackhole-in", "blackhole-out", "disk-stall", "disk-full"}
}

// LeaderOf names the storage node that leads a user's shard.
func (f *Failures) LeaderOf(ctx context.Context, user string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, leaderTimeout)
	defer cancel()
	group := shardmap.Even(f.Shards).User(user) + 1
	last := errors.New("nobody says that it leads")
	for ctx.Err() == nil {
		node, err := f.askLeader(ctx, group)
		if err == nil && node != "" {
			return node, nil
		}
		if err != nil && !explained(err) && !dberr.Is(err, dberr.NotFound) {
			return "", err
		}
		if err != nil {
			last = err
		}
		pause(ctx, reopenPause)
	}
	return "", fmt.Errorf("find the leader of group %d: %w", group, last)
}

func (f *Failures) askLeader(ctx context.Context, group uint32) (string, error) {
	c, err := NewGateways(f.Gateways()).Dial("root", f.Root())
	if err != nil {
		return "", err
	}
	defer c.Close()
	res, err := c.Exec(ctx, fmt.Sprintf("SELECT node_id FROM system.cluster_groups WHERE CAST(group_id AS TEXT) = '%d' AND lower(state) = 'leader'", group))
	if err != nil || len(res.Rows) != 1 {
		return "", err
	}
	return fmt.Sprintf("storage-%v", res.Rows[0][0]), nil
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
	case "disk-full":
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

// Heal mends disks, network and processes.
func (f *Failures) Heal(ctx context.Context) error {
	var errs []error
	for _, d := range f.Disks {
		errs = append(errs, d.Thaw(ctx), d.Free())
	}
	return errors.Join(append(errs, f.Cluster.Heal(ctx))...)
}
