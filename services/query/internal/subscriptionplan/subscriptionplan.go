// Package subscriptionplan binds the SQL of a subscription: one table, a filter that the live role can
// evaluate on every change, and the columns to deliver.
package subscriptionplan

import (
	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/partition"
	"github.com/kalamdb/kalamdb-go/internal/predicate"
	exprv1 "github.com/kalamdb/kalamdb-go/proto/expr/v1"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/access"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
	"github.com/kalamdb/kalamdb-go/services/query/internal/systemtable"
)

// Planner plans subscriptions.
type Planner struct {
	Catalog *catalogview.View
	// Limits bound the text.
	Limits sqlfront.Limits
}

// Plan parses and binds the text of a subscription: a SELECT, or SUBSCRIBE TO.
func (p *Planner) Plan(id catalog.Identity, namespace, text string) (*queryv1.PlanSubscriptionResponse, error) {
	statements, err := sqlfront.Parse(text, p.Limits)
	if err != nil {
		return nil, err
	}
	if len(statements) != 1 {
		return nil, dberr.New(dberr.InvalidSQL, "a subscription is one statement, and the text holds %d", len(statements))
	}
	switch s := statements[0].(type) {
	case *sqlfront.Select:
		plan, err := p.Bind(id, namespace, s, s.Text())
		return &queryv1.PlanSubscriptionResponse{Plan: plan}, err
	case *sqlfront.Subscribe:
		plan, err := p.Bind(id, namespace, s.Select, s.Text())
		return &queryv1.PlanSubscriptionResponse{Plan: plan, LastRows: s.Options.LastRows, BatchSize: s.Options.BatchSize,
			FromSeq: s.Options.FromSeq}, err
	}
	return nil, dberr.New(dberr.InvalidSQL, "a subscription is a SELECT or SUBSCRIBE TO, not %s", statements[0].Command())
}

// Bind checks a query against the rules of spec 4.1 and the caller's rights. text is shown by
// system.live.
func (p *Planner) Bind(id catalog.Identity, namespace string, s *sqlfront.Select, text string) (*queryv1.SubscriptionPlan, error) {
	if err := access.Can(id.Role, access.Subscribe); err != nil {
		return nil, err
	}
	stmt := s.Tree.Stmt.GetSelectStmt()
	if err := checkForm(stmt); err != nil {
		return nil, err
	}
	ref := stmt.GetFromClause()[0].GetRangeVar()
	if ref.GetSchemaname() != "" {
		namespace = ref.GetSchemaname()
	}
	if systemtable.IsSystem(namespace) {
		return nil, dberr.New(dberr.Unsupported, "subscriptions to system tables (%s.%s) are not supported yet", namespace, ref.GetRelname())
	}
	state := p.Catalog.State()
	t, ok := state.Table(namespace, ref.GetRelname())
	if !ok {
		return nil, dberr.New(dberr.TableNotFound, "relation \"%s.%s\" does not exist", namespace, ref.GetRelname())
	}
	if err := access.Read(id, t); err != nil {
		return nil, err
	}
	plan := &queryv1.SubscriptionPlan{Identity: catalog.IdentityToProto(id), TableId: t.ID,
		SchemaVersion: t.SchemaVersion, Sql: text, Namespace: t.Namespace, Table: t.Name, CatalogVersion: state.Version}
	var err error
	if plan.ColumnIds, err = projection(t, stmt.GetTargetList(), alias(ref)); err != nil {
		return nil, err
	}
	if plan.Filter, err = filter(t, s, alias(ref)); err != nil {
		return nil, err
	}
	place, err := place(state, id, t, plan.GetFilter())
	plan.Shard, plan.UserId = place.Shard, place.Owner
	return plan, err
}

// place is the partition that is subscribed to: positions are of one shard, so there is only one.
func place(state *catalogview.State, id catalog.Identity, t *catalog.Table, filter *exprv1.Expr) (partition.Place, error) {
	if !t.Partitioned() {
		return partition.Home(state.Shards, t, id.UserID), nil
	}
	chosen, all, err := partition.Matching(t, filter)
	if err != nil {
		return partition.Place{}, err
	}
	if all || len(chosen) != 1 {
		name := t.PartitionColumn().Name
		return partition.Place{}, dberr.New(dberr.Unsupported, "a subscription follows one partition of a partitioned table: "+
			"its WHERE must say which by \"%s = value\", AND-ed with the rest", name)
	}
	return partition.At(state.Shards, t, chosen[0]), nil
}

// filter compiles WHERE once here, so that what the live role cannot evaluate is refused at once
// instead of never matching.
func filter(t *catalog.Table, s *sqlfront.Select, alias string) (*exprv1.Expr, error) {
	where := s.Tree.Stmt.GetSelectStmt().GetWhereClause()
	if where == nil {
		return nil, nil
	}
	e, err := sqlfront.ToPredicate(where, sqlfront.Scope{Table: t, Alias: alias, Tree: s.Tree})
	if err == nil {
		_, err = predicate.CompileFilter(e, t)
	}
	if dberr.Is(err, dberr.Unsupported) {
		return nil, dberr.New(dberr.Unsupported, "the condition of a subscription cannot hold this: %w", err)
	}
	return e, err
}
