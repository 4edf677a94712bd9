package robustness

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/kalamdb/kalamdb-go/tests/clusterproc"
)

const (
	// clockJumpMax is how far a clock jumps, forwards or backwards.
	clockJumpMax = 2 * time.Minute
	// slowSync is the longest that a slow disk stalls at a time.
	slowSync = 300 * time.Millisecond
)

// clockJump turns one storage node's clock, and later back.
func (c *Cluster) clockJump(ctx context.Context, random *rand.Rand) error {
	n := c.pick("storage", random)
	if err := n.SetClock(time.Duration(random.Int64N(int64(2*clockJumpMax))) - clockJumpMax); err != nil {
		return err
	}
	pause(ctx, time.Duration(1000+random.IntN(5000))*time.Millisecond)
	return n.SetClock(0)
}

// diskFaults break the disks of storage nodes.
func (c *Cluster) diskFaults() []Fault {
	return []Fault{
		{Name: "slow-disk", Weight: 2, Do: c.slowDisk},
		{Name: "stall-disk", Weight: 1, Do: c.stallDisk},
		{Name: "full-disk", Weight: 1, Do: c.fullDisk},
	}
}

// pickDisk picks a storage node that has a disk of its own.
func (c *Cluster) pickDisk(random *rand.Rand) *clusterproc.Node {
	for {
		if n := c.pick("storage", random); c.Disks[n.Name] != nil {
			return n
		}
	}
}

// slowDisk makes every sync take long, for some seconds: the disk stands still again and again.
func (c *Cluster) slowDisk(ctx context.Context, random *rand.Rand) error {
	d := c.Disks[c.pickDisk(random).Name]
	whole := context.WithoutCancel(ctx)
	for until := time.Now().Add(time.Duration(1+random.IntN(5)) * time.Second); time.Now().Before(until) && ctx.Err() == nil; {
		if err := d.Freeze(whole); err != nil {
			return err
		}
		pause(ctx, time.Duration(random.Int64N(int64(slowSync))))
		if err := d.Thaw(whole); err != nil {
			return err
		}
		pause(ctx, 10*time.Millisecond)
	}
	return nil
}

// stallDisk stops a disk for some seconds.
func (c *Cluster) stallDisk(ctx context.Context, random *rand.Rand) error {
	d := c.Disks[c.pickDisk(random).Name]
	whole := context.WithoutCancel(ctx)
	if err := d.Freeze(whole); err != nil {
		return err
	}
	pause(ctx, time.Duration(1000+random.IntN(4000))*time.Millisecond)
	return d.Thaw(whole)
}

// fullDisk takes the room of a disk, for some seconds. The node ends when it cannot write, and is started again.
func (c *Cluster) fullDisk(ctx context.Context, random *rand.Rand) error {
	n := c.pickDisk(random)
	d := c.Disks[n.Name]
	if err := d.Fill(); err != nil {
		return errors.Join(err, d.Free())
	}
	pause(ctx, time.Duration(1000+random.IntN(3000))*time.Millisecond)
	if err := d.Free(); err != nil {
		return err
	}
	whole := context.WithoutCancel(ctx)
	if err := n.Restart(whole); err == nil || n.Running() {
		return err
	}
	return n.Restart(whole) // it was about to end
}
