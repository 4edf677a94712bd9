package robustness

import (
	"context"
	"errors"
	"fmt"
)

// replicasWanted of every group.
const replicasWanted = 3

// Verify lets the replicas of every group compare what they hold, until all have answered or some differ.
func (c *Cluster) Verify(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, wholeTimeout)
	defer cancel()
	last := errors.New("it was not asked")
	for ctx.Err() == nil {
		var rows [][]any
		if rows, last = c.askWithin(ctx, "CLUSTER VERIFY"); last == nil {
			// A replica that only follows late has no sum yet; one that has another sum is the end.
			var differ bool
			if differ, last = compared(rows); last == nil || differ {
				return last
			}
		}
		pause(ctx, reopenPause)
	}
	return fmt.Errorf("compare the replicas: %w", last)
}

// compared reads CLUSTER VERIFY: group_id, index, node_id, server_id, sum, rows, agrees, error.
func compared(rows [][]any) (differ bool, err error) {
	replicas, sums := map[any]int{}, map[any]any{}
	for _, row := range rows {
		group, sum, agrees, failure := row[0], row[4], row[6], row[7]
		if failure != nil || sum == nil {
			err = errors.Join(err, fmt.Errorf("node %v of group %v did not answer: %v", row[2], group, failure))
			continue
		}
		replicas[group]++
		if first, ok := sums[group]; ok && first != sum {
			return true, fmt.Errorf("the replicas of group %v hold different content: %v", group, rows)
		}
		if agrees != true { // a member that was just taken out did not answer
			err = errors.Join(err, fmt.Errorf("group %v does not agree yet", group))
		}
		sums[group] = sum
	}
	for group, n := range replicas {
		if n < replicasWanted {
			err = errors.Join(err, fmt.Errorf("%d replicas of group %v were compared", n, group))
		}
	}
	if len(rows) == 0 {
		err = errors.New("no replica was compared")
	}
	return false, err
}
