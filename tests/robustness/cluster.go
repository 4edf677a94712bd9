package robustness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/tests/clusterproc"
	"github.com/kalamdb/kalamdb-go/tests/disks"
)

// Cluster is a cluster of real processes that can be broken.
type Cluster struct {
	*clusterproc.Cluster
	// OnNetwork: every node has a host of its own, whose network can be broken.
	OnNetwork bool
	// Disks are the storage nodes' own, by name; those that have none are missing.
	Disks map[string]*disks.Disk
	// Clocks: storage nodes were built with the tag faults, so their clocks can be turned.
	Clocks bool

	once   sync.Once
	asking *Gateways
}

// Root is root's password.
func (*Cluster) Root() string { return clusterproc.RootPassword }

// Faults are what can be done to the processes and, on hosts of their own, to their network.
func (c *Cluster) Faults() []Fault {
	faults := []Fault{
		{Name: "kill-storage", Weight: 4, Do: c.killOne("storage")},
		{Name: "restart-storage", Weight: 2, Do: c.restartStorage},
		{Name: "pause-storage", Weight: 3, Do: c.pauseOne("storage")},
		{Name: "wipe-storage", Weight: 1, Do: c.wipeStorage},
		{Name: "kill-live", Weight: 2, Do: c.killOne("live")},
		{Name: "pause-live", Weight: 1, Do: c.pauseOne("live")},
		{Name: "kill-query", Weight: 2, Do: c.killOne("query")},
		{Name: "pause-query", Weight: 1, Do: c.pauseOne("query")},
		{Name: "kill-gateway", Weight: 1, Do: c.killOne("gateway")},
		{Name: "step-down", Weight: 2, Do: c.statement("CLUSTER STEPDOWN")},
		{Name: "rebalance", Weight: 1, Do: c.statement("CLUSTER REBALANCE")},
		{Name: "snapshot", Weight: 1, Do: c.statement("CLUSTER SNAPSHOT")},
		{Name: "join-and-leave", Weight: 1, Do: c.joinAndLeave},
	}
	if c.Clocks {
		faults = append(faults, Fault{Name: "clock-jump", Weight: 2, Do: c.clockJump})
	}
	if len(c.Disks) > 0 {
		faults = append(faults, c.diskFaults()...)
	}
	if c.OnNetwork {
		faults = append(faults, c.networkFaults()...)
	}
	return faults
}

func (c *Cluster) pick(role string, random *rand.Rand) *clusterproc.Node {
	all := c.Role(role)
	return all[random.IntN(len(all))]
}

// killOne kills a node of a role and starts it again after a while.
func (c *Cluster) killOne(role string) func(context.Context, *rand.Rand) error {
	return func(ctx context.Context, random *rand.Rand) error {
		n := c.pick(role, random)
		n.Kill()
		pause(ctx, time.Duration(random.IntN(4000))*time.Millisecond)
		return n.Restart(context.WithoutCancel(ctx))
	}
}

// restartStorage is a restart as an operator does it.
func (c *Cluster) restartStorage(ctx context.Context, random *rand.Rand) error {
	n := c.pick("storage", random)
	if err := n.Stop(); err != nil {
		return fmt.Errorf("stop %s: %w", n.Name, err)
	}
	return n.Restart(context.WithoutCancel(ctx))
}

// pauseOne stops a process where it stands: a leader wakes up as a former one.
func (c *Cluster) pauseOne(role string) func(context.Context, *rand.Rand) error {
	return func(ctx context.Context, random *rand.Rand) error {
		n := c.pick(role, random)
		if err := n.Pause(); err != nil {
			return err
		}
		pause(ctx, time.Duration(random.IntN(6000))*time.Millisecond)
		return n.Resume()
	}
}

// wipeStorage deletes a node's disk. The next fault waits until its replicas are complete again: with two
// disks gone nobody could help.
func (c *Cluster) wipeStorage(ctx context.Context, random *rand.Rand) error {
	return c.wipe(context.WithoutCancel(ctx), c.pick("storage", random))
}

// statement runs an operator's statement; that it cannot be done right now is not a fault of the cluster.
func (c *Cluster) statement(sql string) func(context.Context, *rand.Rand) error {
	return func(ctx context.Context, _ *rand.Rand) error {
		if err := c.run(ctx, sql); err != nil && !explained(err) {
			return fmt.Errorf("%s: %w", sql, err)
		}
		return nil
	}
}

// networkFaults break the network of storage nodes.
func (c *Cluster) networkFaults() []Fault {
	hold := func(ctx context.Context, random *rand.Rand) {
		pause(ctx, time.Duration(1000+random.IntN(5000))*time.Millisecond)
	}
	return []Fault{
		{Name: "isolate", Weight: 3, Do: func(ctx context.Context, random *rand.Rand) error {
			n := c.pick("storage", random)
			if err := n.Host.Down(context.WithoutCancel(ctx)); err != nil {
				return err
			}
			hold(ctx, random)
			return n.Host.Up(context.WithoutCancel(ctx))
		}},
		{Name: "partition", Weight: 2, Do: c.cutPairs(hold, true, true)},
		{Name: "one-way-out", Weight: 2, Do: c.cutPairs(hold, true, false)},
		{Name: "one-way-in", Weight: 2, Do: c.cutPairs(hold, false, true)},
		{Name: "slow", Weight: 2, Do: func(ctx context.Context, random *rand.Rand) error {
			n := c.pick("storage", random)
			if err := n.Host.Slow(context.WithoutCancel(ctx), 64+random.IntN(512), 50+random.IntN(400)); err != nil {
				return err
			}
			hold(ctx, random)
			return n.Host.Fast(context.WithoutCancel(ctx))
		}},
		{Name: "lossy", Weight: 2, Do: func(ctx context.Context, random *rand.Rand) error {
			n := c.pick("storage", random)
			if err := n.Host.Lossy(context.WithoutCancel(ctx), 1+random.IntN(25)); err != nil {
				return err
			}
			hold(ctx, random)
			return n.Host.Lossless(context.WithoutCancel(ctx))
		}},
	}
}

// cutPairs cuts one storage node off the other storage nodes, but not off anybody else: out of it, into it,
// or both.
func (c *Cluster) cutPairs(hold func(context.Context, *rand.Rand), out, in bool) func(context.Context, *rand.Rand) error {
	return func(ctx context.Context, random *rand.Rand) error {
		n := c.pick("storage", random)
		whole := context.WithoutCancel(ctx)
		var errs []error
		for _, other := range c.Role("storage") {
			if other == n {
				continue
			}
			if out {
				errs = append(errs, n.Host.Cut(whole, other.Host))
			}
			if in {
				errs = append(errs, other.Host.Cut(whole, n.Host))
			}
		}
		hold(ctx, random)
		for _, other := range c.Role("storage") {
			if other != n {
				errs = append(errs, n.Host.Mend(whole, other.Host), other.Host.Mend(whole, n.Host))
			}
		}
		return errors.Join(errs...)
	}
}

// Heal wakes, mends and restarts everything.
func (c *Cluster) Heal(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	var errs []error
	for _, n := range c.Nodes() {
		errs = append(errs, n.Resume())
	}
	for _, d := range c.Disks {
		errs = append(errs, d.Thaw(ctx), d.Free())
	}
	for _, n := range c.Role("storage") {
		errs = append(errs, n.SetClock(0))
	}
	if c.OnNetwork {
		errs = append(errs, c.Network().Heal(ctx))
	}
	for _, n := range c.Nodes() {
		errs = append(errs, n.Restart(ctx))
	}
	return errors.Join(errs...)
}
