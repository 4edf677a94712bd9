package statement

import (
	"context"
	"strconv"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/requestid"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/dml"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
	"github.com/kalamdb/kalamdb-go/services/query/internal/transaction"
)

// A transaction lives within one request (spec 1.11): nothing of it outlives the request, and no lock is held while
// somebody thinks. See package transaction for how it is kept together.

// checkTransactions refuses a request whose transactions are not whole, or hold what a transaction cannot, before anything
// runs.
func checkTransactions(statements []sqlfront.Statement) error {
	open := -1
	for i, s := range statements {
		var err error
		switch s.(type) {
		case *sqlfront.Begin:
			if open >= 0 {
				err = dberr.New(dberr.InvalidOperation, "BEGIN: statement %d has begun a transaction, which is not ended yet", open+1)
			}
			open = i
		case *sqlfront.Commit, *sqlfront.Rollback:
			if open < 0 {
				err = dberr.New(dberr.InvalidOperation, "%s: there is no transaction; BEGIN stands in the same request", s.Command())
			}
			open = -1
		default:
			if open >= 0 && !transactional(s) {
				err = dberr.New(dberr.InvalidOperation, "%s cannot be part of a transaction, which takes SELECT, INSERT, UPDATE, DELETE and USE", s.Command())
			}
		}
		if err != nil {
			return numbered(err, i, len(statements))
		}
	}
	if open >= 0 {
		return numbered(dberr.New(dberr.InvalidOperation, "the transaction is still open at the end of the request, and was not begun: "+
			"COMMIT or ROLLBACK stands in the same request"), open, len(statements))
	}
	return nil
}

func transactional(s sqlfront.Statement) bool {
	switch s := s.(type) {
	case *sqlfront.Select, *sqlfront.Insert, *sqlfront.Update, *sqlfront.Delete, *sqlfront.UseNamespace:
		return true
	case *sqlfront.ExecuteAs:
		return transactional(s.Inner)
	}
	return false
}

// openTransaction is a transaction being run.
type openTransaction struct {
	*transaction.Transaction
	// written are the statements whose results the commit completes, in the order they were staged.
	written []writtenResult
	// statement is the number of the one being run.
	statement int
	// selects and returns say that the client is shown rows that were read, or written.
	selects, returns bool
}

// writtenResult is a result that lacks what only the commit knows: _seq and position.
type writtenResult struct {
	statement int
	result    *queryv1.StatementResult
	committed func(*storagev1.WriteResponse) (*dml.Result, error)
}

// transact runs the statements from BEGIN to the COMMIT or ROLLBACK that ends it, again from the first when something
// they read has changed. failed is the position of the statement that err belongs to.
func (e *Executor) transact(ctx context.Context, c *call, id requestid.ID, begin int) (results []*queryv1.StatementResult, failed int, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, e.Limits.TransactionTimeout, dberr.New(dberr.Timeout,
		"the transaction ran longer than allowed (limit transaction_timeout, %s)", e.Limits.TransactionTimeout))
	defer cancel()
	err = dml.Retry(ctx, func() error {
		attempt, left := *c, *c.bytesLeft
		attempt.bytesLeft = &left
		attempt.transaction = &openTransaction{Transaction: transaction.New(e.Now())}
		results, failed, err = e.attempt(ctx, &attempt, id, begin)
		if err == nil {
			c.namespace, *c.bytesLeft = attempt.namespace, left
		}
		return err
	})
	return results, failed, timeoutError(ctx, err)
}

// attempt runs a transaction once.
func (e *Executor) attempt(ctx context.Context, c *call, id requestid.ID, begin int) ([]*queryv1.StatementResult, int, error) {
	var results []*queryv1.StatementResult
	for i := begin; ; i++ {
		s := c.parsed.statements[i]
		c.transaction.statement = i
		result, err := e.run(requestid.With(ctx, id.Part(uint64(i))), c, s)
		if err != nil {
			return nil, c.transaction.blame(err, i), err
		}
		results = append(results, result)
		switch s.(type) {
		case *sqlfront.Commit, *sqlfront.Rollback:
			return results, i, nil
		}
	}
}

// blame is the statement that an error of a COMMIT belongs to: storage says which of the writes it refused.
func (t *openTransaction) blame(err error, at int) int {
	n, convErr := strconv.Atoi(dberr.FieldOf(err, dberr.FieldWrite))
	if convErr != nil || n < 0 || n >= len(t.written) {
		return at
	}
	return t.written[n].statement
}

// noteResult remembers a result that the commit completes.
func (t *openTransaction) noteResult(r *dml.Result, result *queryv1.StatementResult) {
	if r.Committed != nil {
		t.written = append(t.written, writtenResult{t.statement, result, r.Committed})
		t.returns = t.returns || r.Returning != nil
	}
}

// commit ends a transaction with effect.
func (e *Executor) commit(ctx context.Context, c *call) (*queryv1.StatementResult, error) {
	t := c.transaction
	resp, remembered, err := e.Writer.Commit(ctx, t.Transaction, t.returns)
	if err != nil {
		return nil, err
	}
	if remembered && t.selects {
		return nil, dberr.New(dberr.ResultLost, "an earlier attempt of this request committed the transaction, and the rows it read were lost "+
			"on their way: do not repeat it, read again")
	}
	for _, w := range t.written {
		if err := e.complete(c, w, resp); err != nil {
			return nil, dberr.New(dberr.ResultLost, "the transaction is committed, but a result cannot be shown: do not repeat it, read again: %w", err)
		}
	}
	return &queryv1.StatementResult{Message: "Transaction committed", Durability: resp.GetDurability(), Position: resp.GetPosition()}, nil
}

// complete puts the commit's answer into a statement's result. The rows are those it holds already with the _seq they
// have got, so they take no more of the request's budget.
func (e *Executor) complete(c *call, w writtenResult, resp *storagev1.WriteResponse) error {
	r, err := w.committed(resp)
	if err != nil {
		return err
	}
	again := *c
	again.transaction = nil
	left := e.Limits.ResultBytesMax
	again.bytesLeft = &left
	result, err := e.written(&again)(r, nil)
	if err != nil {
		return err
	}
	w.result.RowCount, w.result.Message, w.result.ArrowIpc = result.RowCount, result.Message, result.ArrowIpc
	w.result.Durability, w.result.Position = result.Durability, result.Position
	return nil
}

// rollback ends a transaction without effect. What its statements showed must have been so all the same.
func (e *Executor) rollback(ctx context.Context, c *call) (*queryv1.StatementResult, error) {
	if err := e.Writer.Confirm(ctx, c.transaction.Transaction); err != nil {
		return nil, err
	}
	return &queryv1.StatementResult{Message: "Transaction rolled back"}, nil
}
