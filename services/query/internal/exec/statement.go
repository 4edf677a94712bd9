package exec

import (
	"context"
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/services/query/internal/engine"
	"github.com/kalamdb/kalamdb-go/services/query/internal/plan"
	"github.com/kalamdb/kalamdb-go/services/query/internal/systemtable"
)

// statement hands a plan's tables to the engine.
func (r *Runner) statement(state *catalogview.State, env *plan.Env, b *plan.Bound) engine.Statement {
	s := engine.Statement{SQL: b.SQL, Params: b.Params, Tables: make([]engine.Table, len(b.Scans))}
	for i := range b.Scans {
		s.Tables[i] = r.engineTable(state, env, &b.Scans[i])
	}
	return s
}

func (r *Runner) engineTable(state *catalogview.State, env *plan.Env, s *plan.BoundScan) engine.Table {
	t := engine.Table{Ordered: s.Ordered}
	for _, c := range s.EngineColumns() {
		t.Columns = append(t.Columns, engine.Column{Name: c.Name, Type: c.Type})
	}
	if s.System != nil {
		t.Signature = s.System.Namespace + "." + s.System.Name
		t.Open = func(_ context.Context, columns []int) (engine.Reader, error) {
			rows, err := r.Systems.Read(env.Identity, s.System)
			if err != nil {
				return nil, err
			}
			return &projected{rows: rows, columns: columns}, nil
		}
		return t
	}
	t.Signature = fmt.Sprintf("%d.%d.%t.%t.%t", s.Table.ID, s.Table.SchemaVersion, s.Ordered, s.Keyed(), s.AllUsers)
	t.Open = func(ctx context.Context, columns []int) (engine.Reader, error) {
		if s.Empty {
			return &fixed{}, nil
		}
		ids := make([]uint32, len(columns))
		for i, c := range columns {
			ids[i] = s.EngineColumns()[c].ID
		}
		reqs, err := requests(s, ids, state, env)
		if err != nil {
			return nil, err
		}
		if s.AllUsers {
			return r.audited(ctx, env, s, reqs), nil
		}
		return r.read(ctx, env, s.Table, reqs)
	}
	return t
}

// projected shows some columns of a system table, whose rows are computed whole.
type projected struct {
	rows    *systemtable.Stream
	columns []int
}

func (p *projected) Next(ctx context.Context) (arrow.RecordBatch, error) {
	batch, err := p.rows.Next(ctx)
	if err != nil {
		return nil, err
	}
	defer batch.Release()
	fields := make([]arrow.Field, len(p.columns))
	columns := make([]arrow.Array, len(p.columns))
	for i, c := range p.columns {
		fields[i], columns[i] = batch.Schema().Field(c), batch.Column(c)
	}
	return array.NewRecordBatch(arrow.NewSchema(fields, nil), columns, batch.NumRows()), nil
}

func (p *projected) Release() { p.rows.Release() }
