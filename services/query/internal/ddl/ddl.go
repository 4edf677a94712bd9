// Package ddl executes CREATE and DROP of namespaces and tables, and ALTER TABLE.
package ddl

import (
	"context"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/access"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
)

// DDL executes definitions. Each returns the message of spec 1.2 and 1.3, and only once this role's
// copy of the catalog shows the change, so that the next statement sees it.
type DDL struct {
	Catalog *catalogview.View
	Now     func() time.Time
}

// CreateNamespace executes CREATE NAMESPACE.
func (d *DDL) CreateNamespace(ctx context.Context, id catalog.Identity, s *sqlfront.CreateNamespace) (string, error) {
	if err := access.Can(id.Role, access.ManageNamespaces); err != nil {
		return "", err
	}
	resp, err := d.apply(ctx, &catalogv1.Command{Command: &catalogv1.Command_CreateNamespace{
		CreateNamespace: &catalogv1.CreateNamespace{Name: s.Namespace, IfNotExists: s.IfNotExists, CreatedBy: id.UserID}}})
	if err != nil {
		return "", err
	}
	if !resp.GetChanged() {
		return "Namespace '" + s.Namespace + "' already exists", nil
	}
	return "Namespace '" + s.Namespace + "' created successfully", nil
}

// DropNamespace executes DROP NAMESPACE; it drops the tables inside, with or without CASCADE.
func (d *DDL) DropNamespace(ctx context.Context, id catalog.Identity, s *sqlfront.DropNamespace) (string, error) {
	if err := access.Can(id.Role, access.ManageNamespaces); err != nil {
		return "", err
	}
	resp, err := d.apply(ctx, &catalogv1.Command{Command: &catalogv1.Command_DropNamespace{
		DropNamespace: &catalogv1.DropNamespace{Name: s.Namespace, IfExists: s.IfExists}}})
	if err != nil {
		return "", err
	}
	if !resp.GetChanged() {
		return "Namespace '" + s.Namespace + "' does not exist", nil
	}
	return "Namespace '" + s.Namespace + "' dropped successfully", nil
}

// CreateTable executes CREATE TABLE in the given default namespace.
func (d *DDL) CreateTable(ctx context.Context, id catalog.Identity, namespace string, s *sqlfront.CreateTable) (string, error) {
	if s.Table.Namespace != "" {
		namespace = s.Table.Namespace
	}
	t, err := define(id, namespace, s)
	if err != nil {
		return "", err
	}
	if err := access.Create(id.Role, t.Kind); err != nil {
		return "", err
	}
	resp, err := d.apply(ctx, &catalogv1.Command{Command: &catalogv1.Command_CreateTable{
		CreateTable: &catalogv1.CreateTable{Table: catalog.TableToProto(t), IfNotExists: s.IfNotExists}}})
	if err != nil {
		return "", err
	}
	if !resp.GetChanged() {
		return "Table " + t.QualifiedName() + " already exists (IF NOT EXISTS)", nil
	}
	return kindTitle[t.Kind] + " table " + t.QualifiedName() + " created successfully", nil
}

var kindTitle = map[catalog.TableKind]string{catalog.UserTable: "User", catalog.SharedTable: "Shared", catalog.StreamTable: "Stream"}

// DropTable executes DROP TABLE in the given default namespace.
func (d *DDL) DropTable(ctx context.Context, id catalog.Identity, namespace string, s *sqlfront.DropTable) (string, error) {
	if err := access.Can(id.Role, access.DropTable); err != nil {
		return "", err
	}
	if s.Table.Namespace != "" {
		namespace = s.Table.Namespace
	}
	name := namespace + "." + s.Table.Name
	if t, ok := d.Catalog.State().Table(namespace, s.Table.Name); ok && s.Kind != 0 && s.Kind != t.Kind {
		return "", dberr.New(dberr.InvalidOperation, "%s is a %s table, not a %s table", name, t.Kind, s.Kind)
	}
	resp, err := d.apply(ctx, &catalogv1.Command{Command: &catalogv1.Command_DropTable{
		DropTable: &catalogv1.DropTable{Namespace: namespace, Name: s.Table.Name, IfExists: s.IfExists}}})
	if err != nil {
		return "", err
	}
	if !resp.GetChanged() {
		return "Table " + name + " does not exist", nil
	}
	return "Table " + name + " dropped successfully", nil
}

func (d *DDL) apply(ctx context.Context, c *catalogv1.Command) (*catalogv1.ApplyResponse, error) {
	c.TimeUs = d.Now().UnixMicro()
	resp, err := d.Catalog.Apply(ctx, c)
	if err != nil {
		return nil, err
	}
	return resp, d.Catalog.WaitVersion(ctx, resp.GetVersion())
}
