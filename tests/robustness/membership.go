package robustness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/kalamdb/kalamdb-go/tests/clusterproc"
)

// joinAndLeave lets a further storage node join, waits until it holds replicas, drains it, waits until it holds none,
// stops it and takes it out of the cluster. A run that ends meanwhile waits for it.
func (c *Cluster) joinAndLeave(ctx context.Context, random *rand.Rand) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wholeTimeout)
	defer cancel()
	n, err := c.join(ctx, 2) // one of them the catalog, which every storage node has
	if err != nil {
		return err
	}
	pause(ctx, time.Duration(random.IntN(3000))*time.Millisecond)
	return c.leave(ctx, n)
}

// join starts a further storage node and returns when it holds a number of replicas.
func (c *Cluster) join(ctx context.Context, replicas int64) (*clusterproc.Node, error) {
	n, err := c.AddStorage(ctx)
	if err != nil {
		return nil, fmt.Errorf("a storage node joins: %w", err)
	}
	return n, c.until(ctx, fmt.Sprintf("%s holds %d replicas", n.Name, replicas), func() (bool, error) {
		held, err := c.replicasOf(ctx, n)
		return held >= replicas, err
	})
}

// leave drains a storage node, stops it and takes it out of the cluster.
func (c *Cluster) leave(ctx context.Context, n *clusterproc.Node) error {
	if err := c.insist(ctx, fmt.Sprintf("CLUSTER DRAIN %d", n.Number())); err != nil {
		return err
	}
	if err := c.until(ctx, n.Name+" is drained", func() (bool, error) {
		rows, err := c.ask(ctx, fmt.Sprintf("SELECT status FROM system.nodes WHERE node_id = %d", n.Number()))
		return err == nil && len(rows) == 1 && rows[0][0] == "left", err
	}); err != nil {
		return err
	}
	if err := n.Stop(); err != nil {
		return fmt.Errorf("stop %s: %w", n.Name, err)
	}
	if err := c.insist(ctx, fmt.Sprintf("CLUSTER REMOVE %d", n.Number())); err != nil {
		return err
	}
	c.TakeOut(n)
	return nil
}

// wipe kills a storage node, deletes its disk, starts it and returns when its replicas are complete again.
func (c *Cluster) wipe(ctx context.Context, n *clusterproc.Node) error {
	n.Kill()
	if err := n.Wipe(); err != nil {
		return err
	}
	if err := n.Restart(ctx); err != nil {
		return err
	}
	return c.waitWhole(ctx)
}

// insist runs an operator's statement until the cluster can do it.
func (c *Cluster) insist(ctx context.Context, sql string) error {
	var last error
	err := c.until(ctx, sql, func() (bool, error) {
		last = c.run(ctx, sql)
		return last == nil, nil
	})
	return errors.Join(err, last)
}

func (c *Cluster) run(ctx context.Context, sql string) error {
	_, err := c.ask(ctx, sql)
	return err
}

// until waits for something the cluster does by itself; errors while asking count as not yet.
func (c *Cluster) until(ctx context.Context, what string, holds func() (bool, error)) error {
	var last error
	for ctx.Err() == nil {
		var ok bool
		if ok, last = holds(); ok && last == nil {
			return nil
		}
		pause(ctx, reopenPause)
	}
	return fmt.Errorf("never: %s: %w", what, errors.Join(ctx.Err(), last))
}

// replicasOf counts the groups that a node is a member of, as their leaders say.
func (c *Cluster) replicasOf(ctx context.Context, n *clusterproc.Node) (int64, error) {
	rows, err := c.ask(ctx, fmt.Sprintf("SELECT COUNT(*) FROM system.cluster_groups WHERE node_id = %d", n.Number()))
	if err != nil || len(rows) != 1 {
		return 0, fmt.Errorf("count the replicas of %s: %w", n.Name, err)
	}
	held, _ := rows[0][0].(int64)
	return held, nil
}
