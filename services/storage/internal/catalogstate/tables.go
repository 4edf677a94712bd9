package catalogstate

import (
	"slices"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/partition"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

const (
	// nameBytesMax is the limit of spec 1.1 for names.
	nameBytesMax = 64
	// columnsMax bounds a table; PostgreSQL's limit, and far above what rows are made for.
	columnsMax = 1600
	// DefaultNamespace exists from the start and stays.
	DefaultNamespace = "default"
)

// reservedNamespaces cannot be created (spec 1.1).
var reservedNamespaces = map[string]bool{"system": true, "sys": true, "root": true, "kalamdb": true, "kalam": true,
	"main": true, "default": true, "sql": true, "admin": true, "internal": true, "information_schema": true,
	"pg_catalog": true, "datafusion": true}

// reservedColumns cannot be declared (spec 1.1).
var reservedColumns = map[string]bool{"_seq": true, "_deleted": true, "_id": true, "_row_id": true, "_rowid": true,
	"_key": true, "_updated": true, "_created": true, "_timestamp": true, "_version": true, "_hash": true}

func validName(name string) bool {
	if name == "" || len(name) > nameBytesMax || name[0] == '_' || name[0] >= '0' && name[0] <= '9' {
		return false
	}
	for _, c := range []byte(name) {
		if !(c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z') {
			return false
		}
	}
	return true
}

func checkName(what, name string) error {
	if validName(name) {
		return nil
	}
	return refuse(dberr.InvalidArgument, "%s name %q is not valid: up to %d letters, digits and underscores, starting with a letter", what, name, nameBytesMax)
}

func (t *transaction) createNamespace(c *catalogv1.CreateNamespace) (*catalogv1.ApplyResponse, error) {
	name := strings.ToLower(c.GetName())
	if t.model.namespaces[name] != nil {
		if c.GetIfNotExists() {
			return unchanged()
		}
		return nil, refuse(dberr.AlreadyExists, "Namespace '%s' already exists", name)
	}
	if reservedNamespaces[name] {
		return nil, refuse(dberr.InvalidArgument, "Namespace name '%s' is reserved", name)
	}
	if err := checkName("Namespace", name); err != nil {
		return nil, err
	}
	return changed(), t.addNamespace(&catalogv1.Namespace{Name: name, CreatedAtUs: t.now, CreatedBy: c.GetCreatedBy()})
}

func (t *transaction) addNamespace(n *catalogv1.Namespace) error {
	t.edit().namespaces[n.GetName()] = n
	t.emit(&catalogv1.WatchResponse{Event: &catalogv1.WatchResponse_NamespaceCreated{NamespaceCreated: n}})
	return putMessage(t.bucket(bucketNamespaces), []byte(n.GetName()), n)
}

func (t *transaction) dropNamespace(c *catalogv1.DropNamespace) (*catalogv1.ApplyResponse, error) {
	name := strings.ToLower(c.GetName())
	if t.model.namespaces[name] == nil {
		if c.GetIfExists() {
			return unchanged()
		}
		return nil, refuse(dberr.NamespaceNotFound, "Namespace '%s' does not exist", name)
	}
	if name == DefaultNamespace {
		return nil, refuse(dberr.InvalidOperation, "Namespace '%s' cannot be dropped", name)
	}
	var tables []*entry
	for _, e := range t.model.tables {
		if e.table.Namespace == name {
			tables = append(tables, e)
		}
	}
	slices.SortFunc(tables, func(a, b *entry) int { return int(a.table.ID) - int(b.table.ID) }) // the same on every replica
	for _, e := range tables {
		if err := t.removeTable(e); err != nil {
			return nil, err
		}
	}
	delete(t.edit().namespaces, name)
	t.emit(&catalogv1.WatchResponse{Event: &catalogv1.WatchResponse_NamespaceDropped{NamespaceDropped: name}})
	return changed(), t.bucket(bucketNamespaces).Delete([]byte(name))
}

func (t *transaction) createTable(c *catalogv1.CreateTable) (*catalogv1.ApplyResponse, error) {
	p := c.GetTable() // decoded from the entry: nobody else has it
	if p == nil {
		return nil, refuse(dberr.InvalidArgument, "CREATE TABLE without a table")
	}
	p.Namespace, p.Name = strings.ToLower(p.GetNamespace()), strings.ToLower(p.GetName())
	if t.model.namespaces[p.GetNamespace()] == nil {
		return nil, refuse(dberr.NamespaceNotFound, "Namespace '%s' does not exist. Create it first with CREATE NAMESPACE %s", p.GetNamespace(), p.GetNamespace())
	}
	if e := t.model.byName[p.GetNamespace()+"."+p.GetName()]; e != nil {
		if c.GetIfNotExists() {
			return &catalogv1.ApplyResponse{Table: e.proto}, nil
		}
		return nil, refuse(dberr.AlreadyExists, "Table %s already exists", e.table.QualifiedName())
	}
	if err := checkTable(p); err != nil {
		return nil, err
	}
	for i, col := range p.GetColumns() {
		col.Id = uint32(i) + 1
	}
	p.NextColumnId = uint32(len(p.GetColumns())) + 1
	if err := checkPartitions(p); err != nil {
		return nil, err
	}
	meta := t.bucket(bucketMeta)
	p.Id = uint32(number(meta, keyNextTable)) + 1 // never reused: rows of a dropped table may still be there
	if err := putNumber(meta, keyNextTable, uint64(p.GetId())); err != nil {
		return nil, err
	}
	p.SchemaVersion = 1
	p.CreatedAtUs, p.UpdatedAtUs = t.now, t.now
	t.edit().putTable(p)
	t.emit(&catalogv1.WatchResponse{Event: &catalogv1.WatchResponse_TableChanged{TableChanged: p}})
	resp := changed()
	resp.Table = p
	return resp, putMessage(t.bucket(bucketTables), idKey(p.GetId()), p)
}

// checkTable checks what every table must have, whoever defined it, and fills in what was left open.
func checkTable(p *catalogv1.Table) error {
	if err := checkName("Table", p.GetName()); err != nil {
		return err
	}
	kind := catalog.TableKind(p.GetKind())
	if kind < catalog.UserTable || kind > catalog.StreamTable {
		return refuse(dberr.InvalidArgument, "Table %s.%s is of no known kind", p.GetNamespace(), p.GetName())
	}
	if p.GetOptions() == nil {
		p.Options = &catalogv1.TableOptions{}
	}
	if stream := kind == catalog.StreamTable; stream != (p.GetOptions().GetTtlSeconds() > 0) {
		return refuse(dberr.InvalidArgument, "a time to live is needed for STREAM tables, and possible only there")
	}
	if kind == catalog.SharedTable && p.GetAccessLevel() == catalogv1.AccessLevel_ACCESS_LEVEL_UNSPECIFIED {
		p.AccessLevel = catalogv1.AccessLevel_ACCESS_LEVEL_PRIVATE
	}
	return checkColumns(p)
}

// checkPartitions runs when the columns have their ids.
func checkPartitions(p *catalogv1.Table) error {
	if err := partition.Check(catalog.TableFromProto(p)); err != nil {
		return refuse(dberr.CodeOf(err), "%s", err.Error())
	}
	return nil
}

func checkColumns(p *catalogv1.Table) error {
	if n := len(p.GetColumns()); n == 0 || n > columnsMax {
		return refuse(dberr.InvalidArgument, "Table %s.%s has %d columns, 1 to %d are possible", p.GetNamespace(), p.GetName(), n, columnsMax)
	}
	seen := map[string]bool{}
	key := false
	for _, c := range p.GetColumns() {
		name := strings.ToLower(c.GetName())
		if hiddenKey := c.GetHidden() && c.GetPrimaryKey() && name == catalog.HiddenKeyColumn; !hiddenKey {
			if reservedColumns[name] {
				return refuse(dberr.InvalidArgument, "Column name '%s' is reserved", name)
			}
			if err := checkName("Column", name); err != nil {
				return err
			}
		}
		if seen[name] {
			return refuse(dberr.InvalidArgument, "Column '%s' is declared twice", name)
		}
		seen[name] = true
		c.Name = name
		k := c.GetType().GetKind()
		if k < catalogv1.TypeKind_TYPE_KIND_BOOLEAN || k > catalogv1.TypeKind_TYPE_KIND_FILE {
			return refuse(dberr.InvalidArgument, "Column '%s' is of no known type", name)
		}
		if c.GetPrimaryKey() && k == catalogv1.TypeKind_TYPE_KIND_EMBEDDING {
			return refuse(dberr.InvalidArgument, "Column '%s' is an EMBEDDING and cannot be a key", name)
		}
		key = key || c.GetPrimaryKey()
	}
	if !key {
		return refuse(dberr.InvalidArgument, "Table %s.%s has no key column", p.GetNamespace(), p.GetName())
	}
	return nil
}

func (t *transaction) dropTable(c *catalogv1.DropTable) (*catalogv1.ApplyResponse, error) {
	name := strings.ToLower(c.GetNamespace() + "." + c.GetName())
	e := t.model.byName[name]
	if e == nil {
		if c.GetIfExists() {
			return unchanged()
		}
		return nil, refuse(dberr.TableNotFound, "Table '%s' does not exist", name)
	}
	resp := changed()
	resp.Table = e.proto
	return resp, t.removeTable(e)
}

// removeTable drops a table and remembers that its rows are to be removed.
func (t *transaction) removeTable(e *entry) error {
	t.edit().removeTable(e)
	t.emit(&catalogv1.WatchResponse{Event: &catalogv1.WatchResponse_TableDropped{TableDropped: e.table.ID}})
	t.wake = true
	if err := t.cancelJobs(e.proto); err != nil {
		return err
	}
	if err := t.bucket(bucketDropped).Put(idKey(e.table.ID), droppedMark); err != nil {
		return err
	}
	if err := t.forgetVersions(e.table.ID); err != nil {
		return err
	}
	return t.bucket(bucketTables).Delete(idKey(e.table.ID))
}

func (t *transaction) tablePurged(c *catalogv1.TablePurged) (*catalogv1.ApplyResponse, error) {
	if t.bucket(bucketDropped).Get(idKey(c.GetTableId())) == nil {
		return unchanged()
	}
	return changed(), t.bucket(bucketDropped).Delete(idKey(c.GetTableId()))
}
