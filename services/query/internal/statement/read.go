package statement

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/access"
	"github.com/kalamdb/kalamdb-go/services/query/internal/plan"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
	"github.com/kalamdb/kalamdb-go/services/query/internal/systemtable"
	"github.com/kalamdb/kalamdb-go/services/query/internal/transaction"
)

func (c *call) env(now time.Time) plan.Env {
	return plan.Env{Identity: c.id, Namespace: c.namespace, Params: c.params, NowUS: now.UnixMicro(),
		Consistency: c.consistency, MaxStalenessMS: c.maxStalenessMS, Transaction: c.staged()}
}

// staged is the transaction that the statement belongs to; nil when it stands alone.
func (c *call) staged() *transaction.Transaction {
	if c.transaction == nil {
		return nil
	}
	return c.transaction.Transaction
}

func (e *Executor) selectRows(ctx context.Context, c *call, s *sqlfront.Select) (*queryv1.StatementResult, error) {
	rows, err := e.Runner.Select(ctx, c.env(e.Now()), s)
	if err != nil {
		return nil, err
	}
	defer rows.Release()
	if c.transaction != nil {
		c.transaction.selects = true
	}
	return collect(ctx, c, rows)
}

var explainColumns = []catalog.Column{{ID: 1, Name: "plan", Type: catalog.Type{Kind: catalog.Text}}}

// explain shows the plan of a SELECT.
func (e *Executor) explain(ctx context.Context, c *call, s *sqlfront.Explain) (*systemtable.Stream, error) {
	if err := access.Can(c.id.Role, access.Explain); err != nil {
		return nil, err
	}
	query, ok := s.Inner.(*sqlfront.Select)
	if !ok {
		return nil, dberr.New(dberr.Unsupported, "EXPLAIN of %s is not supported; it explains SELECT", s.Inner.Command())
	}
	if s.Analyze {
		return nil, dberr.New(dberr.Unsupported, "EXPLAIN ANALYZE is not supported; use EXPLAIN")
	}
	lines, err := e.Runner.Explain(ctx, c.env(e.Now()), query)
	if err != nil {
		return nil, err
	}
	rows := make([][]datum.Datum, len(lines))
	for i, line := range lines {
		rows[i] = []datum.Datum{datum.Text(line)}
	}
	return systemtable.OneShot(explainColumns, rows)
}

// subscriptionOptions are the OPTIONS as clients see them.
type subscriptionOptions struct {
	LastRows  *uint64 `json:"last_rows,omitempty"`
	BatchSize *uint64 `json:"batch_size,omitempty"`
	From      *uint64 `json:"from,omitempty"`
}

// subscribe answers SUBSCRIBE TO over a request: it checks the subscription and describes the one to
// open by WebSocket (spec 1.17).
func (e *Executor) subscribe(_ context.Context, c *call, s *sqlfront.Subscribe) (*queryv1.StatementResult, error) {
	if _, err := e.Subscriptions.Bind(c.id, c.namespace, s.Select, s.Text()); err != nil {
		return nil, err
	}
	var id [4]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, dberr.New(dberr.Internal, "make a subscription id: %w", err)
	}
	described, err := json.Marshal(struct {
		ID      string              `json:"id"`
		SQL     string              `json:"sql"`
		Options subscriptionOptions `json:"options"`
	}{"sub-" + hex.EncodeToString(id[:]), s.Select.Text(), subscriptionOptions{s.Options.LastRows, s.Options.BatchSize, s.Options.FromSeq}})
	if err != nil {
		return nil, dberr.New(dberr.Internal, "describe a subscription: %w", err)
	}
	return &queryv1.StatementResult{SubscriptionJson: string(described),
		Message: "WebSocket connection required for live query subscription"}, nil
}
