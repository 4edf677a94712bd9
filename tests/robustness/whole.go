package robustness

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// lagMax is how many entries a replica may be behind while it follows under load.
const lagMax = 200

// wholeTimeout bounds how long replicas may take to be complete again.
const wholeTimeout = 2 * time.Minute

// waitWhole returns when every group has all its replicas and they follow.
func (c *Cluster) waitWhole(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, wholeTimeout)
	defer cancel()
	last := errors.New("it was not asked")
	for ctx.Err() == nil {
		if last = c.askWhole(ctx); last == nil {
			return nil
		}
		pause(ctx, 200*time.Millisecond)
	}
	return fmt.Errorf("replicas are not complete: %w", last)
}

// askWhole asks system.cluster_groups: as many replicas of each group as there are storage nodes, up to
// three, and every one knows a leader and has applied what is committed.
func (c *Cluster) askWhole(ctx context.Context) error {
	rows, err := c.ask(ctx, "SELECT group_id, COUNT(*), MIN(CASE WHEN current_leader IS NULL THEN 0 ELSE 1 END), MAX(committed) - MIN(last_applied) FROM system.cluster_groups GROUP BY group_id")
	if err != nil {
		if explained(err) || dberr.Is(err, dberr.TableNotFound) {
			return err
		}
		return fmt.Errorf("ask for the groups: %w", err)
	}
	want := int64(min(3, len(c.Role("storage"))))
	for _, r := range rows {
		if n, _ := r[1].(int64); n < want {
			return fmt.Errorf("group %v has %d of %d replicas", r[0], n, want)
		}
		if known, _ := r[2].(int64); known == 0 {
			return fmt.Errorf("a replica of group %v knows no leader", r[0])
		}
		if lag, ok := r[3].(int64); !ok || lag > lagMax {
			return fmt.Errorf("a replica of group %v is %v entries behind", r[0], r[3])
		}
	}
	if len(rows) == 0 {
		return errors.New("no group is shown")
	}
	return nil
}

// ask runs a statement as root, through any gateway.
func (c *Cluster) ask(ctx context.Context, sql string) ([][]any, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	return c.askWithin(ctx, sql)
}

// askWithin waits as long as ctx allows.
func (c *Cluster) askWithin(ctx context.Context, sql string) ([][]any, error) {
	cl, err := c.clients().Dial("root", c.Root())
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	res, err := cl.Exec(ctx, sql)
	if err != nil {
		return nil, err
	}
	return res.Rows, nil
}

// clients goes round the gateways from one question to the next: one of them may be down.
func (c *Cluster) clients() *Gateways {
	c.once.Do(func() { c.asking = NewGateways(c.Gateways()) })
	return c.asking
}
