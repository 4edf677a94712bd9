package statement

import (
	"context"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/query/internal/access"
	"github.com/kalamdb/kalamdb-go/services/query/internal/account"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
	"github.com/kalamdb/kalamdb-go/services/query/internal/systemtable"
)

// checkAll checks every statement before the first one runs (spec 3.3). A table that does not exist
// yet may be created by an earlier statement, so its rights are checked when it is used; execution
// checks everything again.
func (e *Executor) checkAll(ctx context.Context, c call) error {
	statements := c.parsed.statements
	if err := checkTransactions(statements); err != nil {
		return err
	}
	for i, s := range statements {
		if err := e.check(ctx, c, s); err != nil {
			return numbered(err, i, len(statements))
		}
		if use, ok := s.(*sqlfront.UseNamespace); ok {
			c.namespace = use.Namespace
		}
	}
	return nil
}

// check denies what the caller may not do. A kind of statement that it does not know is denied.
func (e *Executor) check(ctx context.Context, c call, s sqlfront.Statement) error {
	switch s := s.(type) {
	case *sqlfront.CreateNamespace, *sqlfront.DropNamespace:
		return access.Can(c.id.Role, access.ManageNamespaces)
	case *sqlfront.CreateTable:
		if s.Kind != 0 {
			return access.Create(c.id.Role, s.Kind)
		}
		return access.Can(c.id.Role, access.CreateUserTable)
	case *sqlfront.AlterTable:
		return e.checkAlter(c, s.Table)
	case *sqlfront.DropTable:
		return access.Can(c.id.Role, access.DropTable)
	case *sqlfront.CreateUser, *sqlfront.DropUser, *sqlfront.RestoreUser, *sqlfront.EraseUser:
		return access.Can(c.id.Role, access.ManageUsers)
	case *sqlfront.AlterUser:
		if s.User == c.id.UserID {
			return access.Can(c.id.Role, access.UseOwnRows)
		}
		return access.Can(c.id.Role, access.ManageUsers)
	case *sqlfront.UseNamespace, *sqlfront.ShowNamespaces, *sqlfront.ShowTables, *sqlfront.ShowStorages,
		*sqlfront.Describe, *sqlfront.ShowStats:
		return access.Can(c.id.Role, access.ShowCatalog)
	case *sqlfront.ShowUsers:
		return access.Can(c.id.Role, access.ShowUsers)
	case *sqlfront.KillLiveQuery:
		return access.Can(c.id.Role, access.KillLiveQuery)
	case *sqlfront.Flush, *sqlfront.Compact:
		return access.Can(c.id.Role, access.FlushTables)
	case *sqlfront.CreateStorage, *sqlfront.AlterStorage, *sqlfront.DropStorage, *sqlfront.CheckStorage:
		return access.Can(c.id.Role, access.ManageStorages)
	case *sqlfront.KillJob:
		return access.Can(c.id.Role, access.KillJob)
	case *sqlfront.ShowJobs, *sqlfront.ShowManifest, *sqlfront.ShowReceipt:
		return access.Can(c.id.Role, access.ReadSystemTables)
	case *sqlfront.Backup, *sqlfront.Restore, *sqlfront.RestoreUserRows, *sqlfront.ShowBackup, *sqlfront.ShowBackups:
		return access.Can(c.id.Role, access.ManageBackups)
	case *sqlfront.Cluster:
		return access.Can(c.id.Role, access.ManageCluster)
	case *sqlfront.Explain:
		if err := access.Can(c.id.Role, access.Explain); err != nil {
			return err
		}
		return e.check(ctx, c, s.Inner)
	case *sqlfront.ExecuteAs:
		inner, err := e.as(ctx, c, s)
		if err != nil {
			return err
		}
		return e.check(ctx, inner, s.Inner)
	case *sqlfront.Begin, *sqlfront.Commit, *sqlfront.Rollback, *sqlfront.Export:
		return access.Can(c.id.Role, access.UseOwnRows)
	case *sqlfront.Later:
		// Refused as not supported, whoever asks; in a batch before anything has run.
		return unsupported(s)
	}
	return e.checkTables(c, s)
}

// checkTables checks the statements that read or write rows.
func (e *Executor) checkTables(c call, s sqlfront.Statement) error {
	switch s := s.(type) {
	case *sqlfront.Select:
		return e.checkReads(c, s)
	case *sqlfront.Subscribe:
		if err := access.Can(c.id.Role, access.Subscribe); err != nil {
			return err
		}
		return e.checkReads(c, s.Select)
	case *sqlfront.Insert:
		if s.Select != nil {
			if err := e.checkReads(c, s.Select); err != nil {
				return err
			}
		}
		return e.checkWrite(c, s.Table)
	case *sqlfront.Update:
		return e.checkWrite(c, s.Table)
	case *sqlfront.Delete:
		return e.checkWrite(c, s.Table)
	}
	return access.Can(c.id.Role, 0)
}

func (e *Executor) checkWrite(c call, name sqlfront.Name) error {
	namespace := qualify(c, name)
	if systemtable.IsSystem(namespace) {
		return dberr.New(dberr.PermissionDenied, "permission denied: %s.%s is a system table and cannot be written", namespace, name.Name)
	}
	t, ok := e.Catalog.State().Table(namespace, name.Name)
	if !ok {
		return access.Can(c.id.Role, access.UseOwnRows)
	}
	return access.Write(c.id, t)
}

func (e *Executor) checkAlter(c call, name sqlfront.Name) error {
	if t, ok := e.Catalog.State().Table(qualify(c, name), name.Name); ok {
		return access.Alter(c.id, t)
	}
	return access.Can(c.id.Role, access.AlterTable)
}

func (e *Executor) checkReads(c call, s *sqlfront.Select) error {
	if err := access.Can(c.id.Role, access.UseOwnRows); err != nil {
		return err
	}
	if s.Tree.SpansUsers() {
		if err := access.Can(c.id.Role, access.AcrossUsers); err != nil {
			return err
		}
	}
	for _, name := range s.Tree.Reads() {
		if err := e.checkRead(c, name); err != nil {
			return err
		}
	}
	return nil
}

func (e *Executor) checkRead(c call, name sqlfront.Name) error {
	namespace := qualify(c, name)
	if systemtable.IsSystem(namespace) {
		if t, ok := e.Listings.Tables.Lookup(namespace, name.Name); ok {
			return systemtable.CanRead(c.id, t)
		}
		return access.Can(c.id.Role, access.ReadSystemTables)
	}
	if t, ok := e.Catalog.State().Table(namespace, name.Name); ok {
		return access.Read(c.id, t)
	}
	return nil // planning says that it does not exist
}

// as gives the call that the inner statement of EXECUTE AS USER runs with. What it may be is limited:
// the right to act on somebody's rows is a right to rows.
func (e *Executor) as(ctx context.Context, c call, s *sqlfront.ExecuteAs) (call, error) {
	switch s.Inner.(type) {
	case *sqlfront.Select, *sqlfront.Insert, *sqlfront.Update, *sqlfront.Delete, *sqlfront.Subscribe, *sqlfront.Export:
	default:
		return call{}, dberr.New(dberr.InvalidOperation, "EXECUTE AS USER takes SELECT, INSERT, UPDATE, DELETE, SUBSCRIBE or EXPORT USER DATA, not %s", s.Inner.Command())
	}
	role, err := account.TargetRole(ctx, e.Catalog, s.User)
	if err != nil {
		return call{}, err
	}
	if c.id, err = access.As(c.id, s.User, role); err != nil {
		return call{}, err
	}
	return c, nil
}

func unsupported(s sqlfront.Statement) error {
	return dberr.New(dberr.Unsupported, "%s is not supported yet", s.Command())
}

func qualify(c call, name sqlfront.Name) string {
	if name.Namespace != "" {
		return name.Namespace
	}
	return c.namespace
}

func fold(name string) string { return strings.ToLower(name) }
