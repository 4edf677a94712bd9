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

// statement is an operation as SQL on a table.
func (o *Operation) statement(table string) string {
	switch o.Kind {
	case Insert:
		rows := make([]string, len(o.Keys))
		for i, k := range o.Keys {
			rows[i] = fmt.Sprintf("(%d, %d)", k, o.Values[i])
		}
		return "INSERT INTO " + table + " (id, v) VALUES " + strings.Join(rows, ", ")
	case Swap:
		var cases, where []string
		for i, k := range o.Keys {
			cases = append(cases, fmt.Sprintf("WHEN %d THEN %d", k, o.Values[i]))
			where = append(where, fmt.Sprintf("(id = %d AND v = %d)", k, o.Old[i]))
		}
		if len(o.Keys) == 1 { // the fast path of a client that updates one row
			return fmt.Sprintf("UPDATE %s SET v = %d WHERE id = %d AND v = %d", table, o.Values[0], o.Keys[0], o.Old[0])
		}
		return fmt.Sprintf("UPDATE %s SET v = CASE id %s END WHERE %s", table, strings.Join(cases, " "), strings.Join(where, " OR "))
	case Transact:
		return o.transaction(table)
	case Delete:
		return fmt.Sprintf("DELETE FROM %s WHERE id = %d AND v = %d", table, o.Keys[0], o.Old[0])
	}
	return "SELECT id, v FROM " + table
}

// transaction is a Transact as SQL. Its results are those of takeTransaction.
func (o *Operation) transaction(table string) string {
	read := "SELECT id, v FROM " + table
	parts := []string{"BEGIN", read}
	for i, old := range o.Old {
		if i == len(o.Old)-1 {
			parts = append(parts, fmt.Sprintf("DELETE FROM %s WHERE id = %d AND v = %d", table, o.Keys[i], old))
		} else {
			parts = append(parts, fmt.Sprintf("UPDATE %s SET v = %d WHERE id = %d AND v = %d", table, o.Values[i], o.Keys[i], old))
		}
	}
	insert := fmt.Sprintf("INSERT INTO %s (id, v) VALUES (%d, %d) ON CONFLICT DO NOTHING", table, o.Keys[len(o.Keys)-1], o.Values[len(o.Values)-1])
	end := "COMMIT"
	if o.Rollback {
		end = "ROLLBACK"
	}
	return strings.Join(append(parts, insert, read, end), "; ")
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

// stateIn is what a SELECT of the partition found.
func stateIn(r *kalamv1.StatementResult) (State, error) {
	_, rows, err := client.DecodeIPC(r.GetArrowIpc())
	if err != nil {
		return State{}, err
	}
	return stateOf(rows)
}

// run sends the operation once and fills in how it ended. An error is one that no fault explains.
func (o *Operation) run(ctx context.Context, c *client.Client, table string, staleness time.Duration, now func() int64) error {
	req := &kalamv1.ExecuteRequest{Sql: o.statement(table)}
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
		return o.failed(dberr.FromStatus(err))
	}
	o.Outcome = Done
	if o.Kind == Transact {
		return o.takeTransaction(resp.GetResults())
	}
	last := resp.GetResults()[len(resp.GetResults())-1]
	if o.Kind != Read {
		o.Affected, o.Position = int(last.GetRowCount()), last.GetPosition()
		return nil
	}
	o.Got, err = stateIn(last)
	return err
}

func stateOf(rows [][]any) (s State, err error) {
	for _, r := range rows {
		id, v := r[0].(int64), r[1].(int64)
		if id < 0 || id >= keysMax || v == 0 {
			return s, fmt.Errorf("a row nobody wrote: id %d, v %d", id, v)
		}
		if s[id] != 0 {
			return s, fmt.Errorf("id %d is twice in one answer", id)
		}
		s[id] = v
	}
	return s, nil
}

// failed sorts an error: refused by the data, not known, or not explained by any fault.
func (o *Operation) failed(err error) error {
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
	return fmt.Errorf("%s: unexpected error: %w", o.statement("t"), err)
}
