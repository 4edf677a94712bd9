package statement

import (
	"context"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/access"
	"github.com/kalamdb/kalamdb-go/services/query/internal/dml"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
	"github.com/kalamdb/kalamdb-go/services/query/internal/storageddl"
	"github.com/kalamdb/kalamdb-go/services/query/internal/systemtable"
)

// dispatchCurrent executes one statement, once more when it found something missing that another node has made by now.
// What the catalog's leader itself answers is not asked for twice.
func (e *Executor) dispatchCurrent(ctx context.Context, c *call, s sqlfront.Statement) (result *queryv1.StatementResult, err error) {
	switch s.(type) {
	case *sqlfront.CreateNamespace, *sqlfront.DropNamespace, *sqlfront.CreateTable, *sqlfront.DropTable,
		*sqlfront.CreateStorage, *sqlfront.AlterStorage, *sqlfront.DropStorage, *sqlfront.CheckStorage:
		return e.dispatch(ctx, c, s)
	}
	err = e.Catalog.CatchUp(ctx, func() error {
		result, err = e.dispatch(ctx, c, s)
		return err
	})
	return result, err
}

// dispatch executes one statement. Only USE changes c.
func (e *Executor) dispatch(ctx context.Context, c *call, s sqlfront.Statement) (*queryv1.StatementResult, error) {
	switch s := s.(type) {
	case *sqlfront.Select:
		return e.selectRows(ctx, c, s)
	case *sqlfront.Insert:
		return e.insert(ctx, c, s)
	case *sqlfront.Update:
		return e.written(c)(e.Writer.Update(ctx, c.env(e.Now()), s))
	case *sqlfront.Delete:
		return e.written(c)(e.Writer.Delete(ctx, c.env(e.Now()), s))
	case *sqlfront.ExecuteAs:
		inner, err := e.as(ctx, *c, s)
		if err != nil {
			return nil, err
		}
		result, err := e.dispatch(ctx, &inner, s.Inner)
		if err == nil {
			result.AsUser = inner.id.UserID
		}
		return result, err
	case *sqlfront.Subscribe:
		return e.subscribe(ctx, c, s)
	case *sqlfront.UseNamespace:
		return e.use(c, s)
	case *sqlfront.KillLiveQuery:
		return e.kill(ctx, c, s)
	case *sqlfront.Flush:
		return message(e.Jobs.Flush(ctx, c.id, c.namespace, s))
	case *sqlfront.Compact:
		return message(e.Jobs.Compact(ctx, c.id, c.namespace, s))
	case *sqlfront.Backup:
		return message(e.Jobs.Backup(ctx, c.id, s))
	case *sqlfront.Restore:
		return message(e.Jobs.Restore(ctx, c.id, s))
	case *sqlfront.RestoreUserRows:
		return message(e.Jobs.RestoreUser(ctx, c.id, s))
	case *sqlfront.KillJob:
		return message(e.Jobs.Kill(ctx, c.id, s))
	case *sqlfront.Begin:
		return &queryv1.StatementResult{Message: "Transaction begun"}, nil
	case *sqlfront.Commit:
		return e.commit(ctx, c)
	case *sqlfront.Rollback:
		return e.rollback(ctx, c)
	case *sqlfront.Later:
		return nil, unsupported(s)
	}
	return e.dispatchCatalog(ctx, c, s)
}

// dispatchCatalog executes what reads or changes definitions.
func (e *Executor) dispatchCatalog(ctx context.Context, c *call, s sqlfront.Statement) (*queryv1.StatementResult, error) {
	switch s := s.(type) {
	case *sqlfront.CreateNamespace:
		return message(e.DDL.CreateNamespace(ctx, c.id, s))
	case *sqlfront.DropNamespace:
		return message(e.DDL.DropNamespace(ctx, c.id, s))
	case *sqlfront.CreateTable:
		return message(e.DDL.CreateTable(ctx, c.id, c.namespace, s))
	case *sqlfront.AlterTable:
		return message(e.alterTable(ctx, c, s))
	case *sqlfront.DropTable:
		return message(e.DDL.DropTable(ctx, c.id, c.namespace, s))
	case *sqlfront.CreateStorage:
		return message(e.Storages.Create(ctx, c.id, s))
	case *sqlfront.AlterStorage:
		return message(e.Storages.Alter(ctx, c.id, s))
	case *sqlfront.DropStorage:
		return message(e.Storages.Drop(ctx, c.id, s))
	case *sqlfront.CreateUser:
		return message(e.Accounts.Create(ctx, c.id, s))
	case *sqlfront.AlterUser:
		return message(e.Accounts.Alter(ctx, c.id, s))
	case *sqlfront.DropUser:
		return message(e.Accounts.Drop(ctx, c.id, s))
	case *sqlfront.EraseUser:
		return message(e.Accounts.Erase(ctx, c.id, s))
	case *sqlfront.RestoreUser:
		n, err := e.Accounts.Restore(ctx, c.id, s)
		if err != nil {
			return nil, err
		}
		return &queryv1.StatementResult{RowCount: n, Message: dml.Message("Updated", n)}, nil
	}
	rows, err := e.listing(ctx, c, s)
	if err != nil {
		return nil, err
	}
	defer rows.Release()
	return collect(ctx, c, rows)
}

// alterTable also starts the move that SET STORAGE asks for.
func (e *Executor) alterTable(ctx context.Context, c *call, s *sqlfront.AlterTable) (string, error) {
	text, err := e.DDL.AlterTable(ctx, c.id, c.namespace, s)
	if err != nil || s.Storage == "" {
		return text, err
	}
	t, ok := e.Catalog.State().Table(qualify(*c, s.Table), s.Table.Name)
	if !ok {
		return "", dberr.New(dberr.TableNotFound, "%s; the table was dropped meanwhile", text)
	}
	job, err := e.Jobs.Move(ctx, c.id, t)
	return storageddl.Moved(text, job, err)
}

func message(text string, err error) (*queryv1.StatementResult, error) {
	if err != nil {
		return nil, err
	}
	return &queryv1.StatementResult{Message: text}, nil
}

// use makes a namespace the default of the statements that follow in the same request.
func (e *Executor) use(c *call, s *sqlfront.UseNamespace) (*queryv1.StatementResult, error) {
	_, exists := e.Catalog.State().Namespaces[s.Namespace]
	if !exists && !systemtable.IsSystem(s.Namespace) {
		return nil, dberr.New(dberr.NamespaceNotFound, "Namespace '%s' does not exist", s.Namespace)
	}
	c.namespace = s.Namespace
	return &queryv1.StatementResult{Message: "Using namespace '" + s.Namespace + "'"}, nil
}

func (e *Executor) kill(ctx context.Context, c *call, s *sqlfront.KillLiveQuery) (*queryv1.StatementResult, error) {
	if err := access.Can(c.id.Role, access.KillLiveQuery); err != nil {
		return nil, err
	}
	if err := e.Live.KillLiveQuery(ctx, s.ID); err != nil {
		return nil, err
	}
	return &queryv1.StatementResult{Message: "Live query " + s.ID + " killed"}, nil
}

// insert uses the prepared form when the text is this one INSERT.
func (e *Executor) insert(ctx context.Context, c *call, s *sqlfront.Insert) (*queryv1.StatementResult, error) {
	if len(c.parsed.statements) != 1 {
		return e.written(c)(e.Writer.Insert(ctx, c.env(e.Now()), s, nil))
	}
	return e.written(c)(e.Writer.Insert(ctx, c.env(e.Now()), s, &c.parsed.insert))
}

// written turns what a write did into a result.
func (e *Executor) written(c *call) func(*dml.Result, error) (*queryv1.StatementResult, error) {
	return func(r *dml.Result, err error) (*queryv1.StatementResult, error) {
		if err != nil {
			return nil, err
		}
		result := &queryv1.StatementResult{RowCount: r.Rows, Message: dml.Message(r.Verb, r.Rows), Durability: r.Durability,
			Position: r.Position}
		if c.transaction != nil {
			c.transaction.noteResult(r, result)
		}
		if r.Returning == nil {
			return result, nil
		}
		defer r.Returning.Release()
		result.ArrowIpc, err = encodeBatch(r.Returning, c.bytesLeft)
		return result, err
	}
}
