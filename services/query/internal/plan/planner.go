package plan

import (
	"errors"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
	"github.com/kalamdb/kalamdb-go/services/query/internal/systemtable"
)

// Systems finds system tables.
type Systems interface {
	Lookup(namespace, name string) (*systemtable.Table, bool)
}

// Planner plans SELECTs. It is safe for concurrent use.
type Planner struct {
	systems Systems
	cache   *cache
}

// NewPlanner makes a planner.
func NewPlanner(systems Systems) (*Planner, error) {
	c, err := newCache()
	if err != nil {
		return nil, err
	}
	return &Planner{systems: systems, cache: c}, nil
}

// Plan plans a SELECT, or finds the plan made before for the same text, namespace, kinds of parameters
// and tables. It looks at no rights: whoever runs a plan asks for them, each time.
func (pl *Planner) Plan(state *catalogview.State, env *Env, sel *sqlfront.Select) (*Plan, error) {
	key := cacheKey(env, sel)
	if p := pl.cache.get(key, state); p != nil {
		return p, nil
	}
	begin := func() *planning {
		return &planning{state: state, systems: pl.systems, namespace: env.Namespace, tree: sel.Tree, params: env.Params, staged: env.staged()}
	}
	made, err := begin().plan(sel)
	if err == nil && made.Kind == FastScan && made.Scans[0].Table.Partitioned() {
		if made.Spread, err = begin().engine(sel.Tree.Stmt.GetSelectStmt()); err == nil {
			made.Spread.locate = made.locate
		}
	}
	if err != nil {
		return nil, err
	}
	pl.cache.put(key, made)
	return made, nil
}

func (p *planning) plan(sel *sqlfront.Select) (*Plan, error) {
	q := sel.Tree.Stmt.GetSelectStmt()
	if q == nil {
		return nil, dberr.New(dberr.Internal, "plan: not a SELECT")
	}
	if n := sqlfront.Params(q); n > len(p.params) {
		return nil, dberr.New(dberr.InvalidArgument, "the statement has parameter $%d, but %d were given", n, len(p.params))
	}
	fast, err := p.fast(q)
	if fast == nil && err == nil {
		fast, err = p.engine(q)
	}
	if err != nil {
		return nil, err
	}
	fast.locate = p.tree.Locate
	return fast, nil
}

// engine plans what the storage role cannot do alone.
func (p *planning) engine(q *pg.SelectStmt) (*Plan, error) {
	q, ok := proto.Clone(q).(*pg.SelectStmt) // the parsed statement is shared
	if !ok {
		return nil, dberr.New(dberr.Internal, "plan: copy a SELECT")
	}
	if err := p.query(q, nil, true); err != nil {
		return nil, err
	}
	quoteKeywords(q)
	sql, err := write(q)
	if err != nil {
		return nil, err
	}
	return &Plan{Kind: Engine, Scans: p.scans, SQL: sql, Output: p.output, params: p.used, refs: p.refs}, nil
}

// asError keeps an error of ours and wraps any other.
func asError(err error) *dberr.Error {
	var e *dberr.Error
	if errors.As(err, &e) {
		return e
	}
	return dberr.New(dberr.Internal, "%w", err)
}
