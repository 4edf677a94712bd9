package engine

import (
	"context"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Describe returns the schema of a statement's result without running it.
func (e *Engine) Describe(ctx context.Context, s Statement) (*arrow.Schema, error) {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.StatementTimeout)
	defer cancel()
	c, err := e.connection(ctx)
	if err != nil {
		return nil, err
	}
	c.run = &run{ctx: ctx, tables: s.Tables}
	stop := c.watch(ctx)
	p, err := c.prepare(s)
	var schema *arrow.Schema
	var unresolved bool
	if err == nil {
		schema, unresolved = p.schema, p.unresolved
		if p.key == "" {
			p.destroy()
		}
	}
	stop()
	c.run = nil
	e.finished(c, err)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, ended(ctx, "the statement was stopped")
	case err != nil:
		return nil, err
	case unresolved:
		return nil, dberr.New(dberr.Unsupported, "the type of a result column depends on a parameter; give the parameter a type, as in CAST($1 AS TEXT)")
	}
	return schema, nil
}
