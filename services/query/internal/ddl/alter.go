package ddl

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/requestid"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/access"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
	"github.com/kalamdb/kalamdb-go/services/query/internal/systemtable"
)

const (
	// alterAttemptsMax bounds how often an ALTER TABLE is bound again because another one came before it.
	alterAttemptsMax = 12
	// alterWait bounds the wait for the other one. There is none to come when the refusal was remembered.
	alterWait = 200 * time.Millisecond
)

// AlterTable executes ALTER TABLE in the given default namespace. What the change may be is the catalog's to decide, where
// a repeated request finds the answer of the first: here is only decided who may make it.
func (d *DDL) AlterTable(ctx context.Context, id catalog.Identity, namespace string, s *sqlfront.AlterTable) (string, error) {
	if s.Table.Namespace != "" {
		namespace = s.Table.Namespace
	}
	if systemtable.IsSystem(namespace) {
		return "", dberr.New(dberr.InvalidOperation, "%s.%s is a system table and cannot be altered", namespace, s.Table.Name)
	}
	for attempt := 1; ; attempt++ {
		state := d.Catalog.State()
		text, err := d.alterOnce(ctx, id, namespace, s, attempt)
		if !dberr.Is(err, dberr.SchemaChanged) || attempt == alterAttemptsMax {
			return text, err
		}
		wait, cancel := context.WithTimeout(ctx, alterWait)
		_ = d.Catalog.WaitVersion(wait, state.Version+1) // the next attempt finds out
		cancel()
		if ctx.Err() != nil {
			return "", err
		}
	}
}

func (d *DDL) alterOnce(ctx context.Context, id catalog.Identity, namespace string, s *sqlfront.AlterTable, attempt int) (string, error) {
	t, ok := d.Catalog.State().Table(namespace, s.Table.Name)
	if !ok {
		return "", dberr.New(dberr.TableNotFound, "relation \"%s.%s\" does not exist", namespace, s.Table.Name)
	}
	if err := access.Alter(id, t); err != nil {
		return "", err
	}
	if s.Storage != "" {
		if err := access.Can(id.Role, access.ManageStorages); err != nil {
			return "", err
		}
	}
	cmd := &catalogv1.AlterTable{Namespace: t.Namespace, Name: t.Name, TableId: t.ID, SchemaVersion: t.SchemaVersion}
	what, err := change(cmd, t, s)
	if err != nil {
		return "", err
	}
	// Attempts have ids of their own, the same in a repeated request: each is answered as it was.
	own := requestid.From(ctx).Derive(fmt.Appendf(nil, "alter table, attempt %d", attempt))
	resp, err := d.apply(ctx, &catalogv1.Command{RequestId: own[:], Command: &catalogv1.Command_AlterTable{AlterTable: cmd}})
	if err != nil {
		return "", err
	}
	version := resp.GetTable().GetSchemaVersion()
	if !resp.GetChanged() {
		return fmt.Sprintf("Table %s unchanged: %s (version %d - no changes needed)", t.QualifiedName(), what, version), nil
	}
	return fmt.Sprintf("Table %s altered successfully: %s (version %d)", t.QualifiedName(), what, version), nil
}

// change puts what a statement says into a command, and names it.
func change(cmd *catalogv1.AlterTable, t *catalog.Table, s *sqlfront.AlterTable) (what string, err error) {
	switch {
	case s.Add != nil:
		c := *s.Add
		if err := checkColumn(t.Kind, &c); err != nil {
			return "", err
		}
		cmd.Change = &catalogv1.AlterTable_AddColumn{AddColumn: catalog.ColumnToProto(&c)}
		return "ADD COLUMN " + c.Name + " " + c.Type.String(), nil
	case s.Drop != "":
		cmd.Change = &catalogv1.AlterTable_DropColumn{DropColumn: s.Drop}
		return "DROP COLUMN " + s.Drop, nil
	case s.Rename != nil:
		cmd.Change = &catalogv1.AlterTable_RenameColumn{RenameColumn: &catalogv1.RenameColumn{Column: s.Rename.Column, To: s.Rename.To}}
		return "RENAME COLUMN " + s.Rename.Column + " TO " + s.Rename.To, nil
	case s.Modify != nil:
		cmd.Change = &catalogv1.AlterTable_ModifyColumn{ModifyColumn: &catalogv1.ModifyColumn{Column: s.Modify.Column,
			Type: catalog.TypeToProto(s.Modify.Type), NotNull: s.Modify.NotNull}}
		return "MODIFY COLUMN " + s.Modify.Column + " " + s.Modify.Type.String(), nil
	case s.NotNull != nil:
		cmd.Change = &catalogv1.AlterTable_SetNotNull{SetNotNull: &catalogv1.SetNotNull{Column: s.NotNull.Column, NotNull: s.NotNull.NotNull}}
		if s.NotNull.NotNull {
			return "ALTER COLUMN " + s.NotNull.Column + " SET NOT NULL", nil
		}
		return "ALTER COLUMN " + s.NotNull.Column + " DROP NOT NULL", nil
	case s.Default != nil:
		return changeDefault(cmd, t, s.Default)
	}
	if s.Storage != "" {
		cmd.Change = &catalogv1.AlterTable_SetStorage{SetStorage: s.Storage}
		return "SET STORAGE '" + s.Storage + "'", nil
	}
	cmd.Change = &catalogv1.AlterTable_SetAccessLevel{SetAccessLevel: catalogv1.AccessLevel(s.Access)}
	return "SET ACCESS LEVEL " + strings.ToUpper(s.Access.String()), nil
}

// changeDefault reads the value as the column's type. A column that is not there is the catalog's to refuse: it may have
// been there for the first attempt of a repeated request.
func changeDefault(cmd *catalogv1.AlterTable, t *catalog.Table, s *sqlfront.SetDefault) (what string, err error) {
	set := &catalogv1.SetDefault{Column: s.Column}
	cmd.Change = &catalogv1.AlterTable_SetDefault{SetDefault: set}
	if s.Value == nil {
		return "ALTER COLUMN " + s.Column + " DROP DEFAULT", nil
	}
	what = "ALTER COLUMN " + s.Column + " SET DEFAULT " + s.Value.Text
	c, ok := t.Column(s.Column)
	if !ok {
		return what, nil
	}
	now := *c
	if now.Default, err = s.Value.For(c); err != nil {
		return "", err
	}
	if err := checkColumn(t.Kind, &now); err != nil {
		return "", err
	}
	if now.Type != c.Type { // generated ids widen a new column, and would change an old one's type unasked
		return "", dberr.New(dberr.InvalidOperation, "column \"%s\" is %s: a generated id needs BIGINT, use MODIFY COLUMN first", c.Name, c.Type)
	}
	set.Default = catalog.ColumnToProto(&now).GetDefault()
	return what, nil
}
