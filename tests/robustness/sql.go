package robustness

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	kalamv1 "github.com/kalamdb/kalamdb-go/proto/kalam/v1"
	"github.com/kalamdb/kalamdb-go/tests/client"
)

// statement is an operation as SQL on the rows of a partition.
func (o *Operation) statement(rows Rows) string {
	switch o.Kind {
	case Insert:
		return rows.insert(o.Keys, o.Values)
	case Swap:
		if len(o.Keys) == 1 { // the fast path of a client that updates one row
			return rows.swap(o.Keys[0], o.Old[0], o.Values[0])
		}
		var cases, held []string
		for i, k := range o.Keys {
			cases = append(cases, fmt.Sprintf("WHEN %d THEN %d", k, o.Values[i]))
			held = append(held, fmt.Sprintf("(id = %d AND v = %d)", k, o.Old[i]))
		}
		return fmt.Sprintf("UPDATE %s SET v = CASE id %s END%s", rows.Table, strings.Join(cases, " "), rows.where(strings.Join(held, " OR ")))
	case Transact:
		return o.transaction(rows)
	case Delete:
		return rows.delete(o.Keys[0], o.Old[0])
	}
	return rows.read()
}

// transaction is a Transact as SQL. Its results are those of takeTransaction.
func (o *Operation) transaction(rows Rows) string {
	parts := []string{"BEGIN", rows.read()}
	for i, old := range o.Old {
		if i == len(o.Old)-1 {
			parts = append(parts, rows.delete(o.Keys[i], old))
		} else {
			parts = append(parts, rows.swap(o.Keys[i], old, o.Values[i]))
		}
	}
	insert := rows.insert(o.Keys[len(o.Keys)-1:], o.Values[len(o.Values)-1:]) + " ON CONFLICT DO NOTHING"
	end := "COMMIT"
	if o.Rollback {
		end = "ROLLBACK"
	}
	return strings.Join(append(parts, insert, rows.read(), end), "; ")
}

// takeTransaction reads the results of a transaction.
func (o *Operation) takeTransaction(results []*kalamv1.StatementResult) (err error) {
	if want := len(o.Old) + 5; len(results) != want {
		return fmt.Errorf("a transaction of %d statements has %d results", want, len(results))
	}
	if o.Got, err = stateIn(results[1]); err != nil {
		return err
	}
	if o.After, err = stateIn(results[len(results)-2]); err != nil || o.Rollback {
		return err
	}
	for i := range len(o.Old) + 1 {
		n := int(results[2+i].GetRowCount())
		o.Affected += n
		if i == len(o.Old)-1 {
			o.Removed = n
		}
	}
	o.Position = results[len(results)-1].GetPosition()
	return nil
}

// run sends the operation once and fills in how it ended. An error is one that no fault explains.
func (o *Operation) run(ctx context.Context, c *client.Client, rows Rows, staleness time.Duration, now func() int64) error {
	results, err := o.send(ctx, c, o.statement(rows), staleness, now)
	if err != nil || o.Outcome != Done {
		return err
	}
	if o.Kind == Transact {
		return o.takeTransaction(results)
	}
	last := results[len(results)-1]
	if o.Kind != Read {
		o.Affected, o.Position = int(last.GetRowCount()), last.GetPosition()
		return nil
	}
	o.Got, err = stateIn(last)
	return err
}

// send sends the operation's SQL once, fills in when and how it ended, and returns the results of one that is Done.
func (o *Operation) send(ctx context.Context, c *client.Client, sql string, staleness time.Duration, now func() int64) ([]*kalamv1.StatementResult, error) {
	req := &kalamv1.ExecuteRequest{Sql: sql}
	switch o.Level {
	case Leader:
		req.Consistency = kalamv1.Consistency_CONSISTENCY_LEADER
	case Stale:
		req.Consistency, req.MaxStalenessMs = kalamv1.Consistency_CONSISTENCY_STALE, uint32(staleness.Milliseconds())
	}
	o.Called = now()
	resp, err := c.RPC.Execute(ctx, req)
	o.Ended = now()
	if err != nil {
		return nil, o.failed(sql, dberr.FromStatus(err))
	}
	o.Outcome = Done
	return resp.GetResults(), nil
}

// failed sorts an error: refused by the data, not known, or not explained by any fault.
func (o *Operation) failed(sql string, err error) error {
	o.Error = err.Error()
	switch {
	case o.Kind == Insert && dberr.Is(err, dberr.PrimaryKeyViolation):
		o.Outcome = Refused
		return nil
	case explained(err) || dberr.Is(err, dberr.Conflict) || o.Kind == Transact && dberr.Is(err, dberr.ResultLost):
		// Conflict and the limits say that nothing was written; taking them as unknown only weakens the check.
		o.Outcome, o.Ended, o.Code = Unknown, math.MaxInt64, dberr.CodeOf(err)
		return nil
	}
	return fmt.Errorf("%s: unexpected error: %w", sql, err)
}
