package catalogstate

import (
	"bytes"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

const (
	// versionsMax bounds the versions of one table, all of which are kept: a program that alters in a loop must not fill
	// the catalog, which every storage node has whole.
	versionsMax = 1000
	// alteredColumnsMax bounds the columns of a table that is altered, as CREATE TABLE does.
	alteredColumnsMax = 1000
)

// alterTable makes one change of a table. What the change may be is decided by the definition alone, so that every replica
// decides the same; nothing here knows the rows.
func (t *transaction) alterTable(c *catalogv1.AlterTable) (*catalogv1.ApplyResponse, error) {
	name := strings.ToLower(c.GetNamespace() + "." + c.GetName())
	e := t.model.byName[name]
	if e == nil {
		return nil, refuse(dberr.TableNotFound, "Table '%s' does not exist", name)
	}
	if id, v := c.GetTableId(), c.GetSchemaVersion(); id != 0 && id != e.table.ID || v != 0 && v != e.table.SchemaVersion {
		return nil, refuse(dberr.SchemaChanged, "Table %s has schema version %d, the statement was bound to %d", name, e.table.SchemaVersion, v)
	}
	if e.table.Kind == catalog.StreamTable {
		return nil, refuse(dberr.InvalidOperation, "%s is a STREAM table, which cannot be altered: drop it and create another", name)
	}
	a := alteration{p: proto.CloneOf(e.proto)} // the old version is in other hands
	if err := a.change(c); err != nil {
		return nil, err
	}
	if err := t.checkStorage(c.GetSetStorage()); err != nil {
		return nil, err
	}
	if proto.Equal(a.p, e.proto) {
		return &catalogv1.ApplyResponse{Table: e.proto}, nil
	}
	if e.table.SchemaVersion >= versionsMax {
		return nil, refuse(dberr.LimitExceeded, "Table %s has %d versions, which is the most (versionsMax): create a new table", name, versionsMax)
	}
	if err := checkPartitions(a.p); err != nil {
		return nil, err
	}
	a.p.SchemaVersion, a.p.UpdatedAtUs = e.table.SchemaVersion+1, t.now
	if err := t.keepVersion(e.proto); err != nil {
		return nil, err
	}
	t.edit().putTable(a.p)
	t.emit(&catalogv1.WatchResponse{Event: &catalogv1.WatchResponse_TableChanged{TableChanged: a.p}})
	resp := changed()
	resp.Table = a.p
	return resp, putMessage(t.bucket(bucketTables), idKey(a.p.GetId()), a.p)
}

// alteration is a table being changed.
type alteration struct{ p *catalogv1.Table }

func (a alteration) change(c *catalogv1.AlterTable) error {
	switch k := c.GetChange().(type) {
	case *catalogv1.AlterTable_AddColumn:
		return a.addColumn(k.AddColumn)
	case *catalogv1.AlterTable_DropColumn:
		return a.dropColumn(k.DropColumn)
	case *catalogv1.AlterTable_RenameColumn:
		return a.renameColumn(k.RenameColumn.GetColumn(), strings.ToLower(k.RenameColumn.GetTo()))
	case *catalogv1.AlterTable_ModifyColumn:
		return a.modifyColumn(k.ModifyColumn)
	case *catalogv1.AlterTable_SetNotNull:
		return a.setNotNull(k.SetNotNull.GetColumn(), k.SetNotNull.GetNotNull())
	case *catalogv1.AlterTable_SetDefault:
		return a.setDefault(k.SetDefault.GetColumn(), k.SetDefault.GetDefault())
	case *catalogv1.AlterTable_SetAccessLevel:
		return a.setAccess(k.SetAccessLevel)
	case *catalogv1.AlterTable_SetStorage:
		a.p.GetOptions().StorageId = k.SetStorage
		return nil
	}
	// Of a newer version, whose meaning this replica cannot know. Formats keep it out of the log.
	return refuse(dberr.Unsupported, "a change of a table that this version does not know")
}

// column finds a column by name. The hidden key has none.
func (a alteration) column(name string) (*catalogv1.Column, error) {
	name = strings.ToLower(name)
	for _, c := range a.p.GetColumns() {
		if c.GetName() == name && !c.GetHidden() {
			return c, nil
		}
	}
	if reservedColumns[name] {
		return nil, refuse(dberr.InvalidOperation, "'%s' is a system column and cannot be altered", name)
	}
	return nil, refuse(dberr.ColumnNotFound, "Table %s.%s has no column '%s'", a.p.GetNamespace(), a.p.GetName(), name)
}

// newName checks a name that a column is to get.
func (a alteration) newName(name string) error {
	if reservedColumns[name] {
		return refuse(dberr.InvalidArgument, "Column name '%s' is reserved", name)
	}
	if err := checkName("Column", name); err != nil {
		return err
	}
	if slices.ContainsFunc(a.p.GetColumns(), func(c *catalogv1.Column) bool { return c.GetName() == name }) {
		return refuse(dberr.InvalidArgument, "Table %s.%s has a column '%s' already", a.p.GetNamespace(), a.p.GetName(), name)
	}
	return nil
}

// addColumn gives a column an id that no column of the table ever had, so that no stored row has a value for it.
func (a alteration) addColumn(in *catalogv1.Column) error {
	name := strings.ToLower(in.GetName())
	if err := a.newName(name); err != nil {
		return err
	}
	if n := len(a.p.GetColumns()); n >= alteredColumnsMax {
		return refuse(dberr.LimitExceeded, "Table %s.%s has %d columns, the limit is %d", a.p.GetNamespace(), a.p.GetName(), n, alteredColumnsMax)
	}
	if in.GetPrimaryKey() || in.GetUnique() || in.GetHidden() {
		return refuse(dberr.Unsupported, "Column '%s': a PRIMARY KEY or UNIQUE column cannot be added, as the rows there are not indexed by it", name)
	}
	if k := in.GetType().GetKind(); k < catalogv1.TypeKind_TYPE_KIND_BOOLEAN || k > catalogv1.TypeKind_TYPE_KIND_FILE {
		return refuse(dberr.InvalidArgument, "Column '%s' is of no known type", name)
	}
	c := &catalogv1.Column{Id: a.p.GetNextColumnId(), Name: name, Type: in.GetType(), NotNull: in.GetNotNull(), Default: in.GetDefault()}
	if c.Default == nil {
		c.Default = &catalogv1.Default{}
	}
	if err := checkDefault(c); err != nil {
		return err
	}
	if c.GetNotNull() {
		if c.GetDefault().GetKind() != catalogv1.DefaultKind_DEFAULT_KIND_LITERAL {
			return refuse(dberr.Unsupported, "Column '%s': a NOT NULL column can be added with a literal as its DEFAULT only, which is what "+
				"the rows there are show; or add it without NOT NULL", name)
		}
		c.Missing = c.GetDefault().GetLiteral()
	}
	a.p.NextColumnId++
	a.p.Columns = append(a.p.Columns, c)
	return nil
}

func (a alteration) dropColumn(name string) error {
	c, err := a.column(name)
	switch {
	case err != nil:
		return err
	case c.GetPrimaryKey():
		return refuse(dberr.InvalidOperation, "Column '%s' is part of the primary key and cannot be dropped", c.GetName())
	case c.GetId() == a.p.GetPartitionColumnId():
		return refuse(dberr.InvalidOperation, "Column '%s' chooses the partition of a row and cannot be dropped", c.GetName())
	case c.GetUnique():
		return refuse(dberr.Unsupported, "Column '%s' is UNIQUE: dropping such a column is not supported", c.GetName())
	case c.GetNotNull() && c.GetDefault().GetKind() == catalogv1.DefaultKind_DEFAULT_KIND_UNSPECIFIED:
		return refuse(dberr.InvalidOperation, "Column '%s' is required (NOT NULL without DEFAULT) and cannot be dropped: use ALTER COLUMN %s DROP NOT NULL first",
			c.GetName(), c.GetName())
	}
	a.p.Columns = slices.DeleteFunc(a.p.GetColumns(), func(o *catalogv1.Column) bool { return o == c })
	if !slices.ContainsFunc(a.p.GetColumns(), func(o *catalogv1.Column) bool { return !o.GetHidden() }) {
		return refuse(dberr.InvalidOperation, "Column '%s' is the only one and cannot be dropped", c.GetName())
	}
	return nil
}

func (a alteration) renameColumn(name, to string) error {
	c, err := a.column(name)
	if err != nil || c.GetName() == to {
		return err
	}
	if err := a.newName(to); err != nil {
		return err
	}
	c.Name = to
	return nil
}

func (a alteration) modifyColumn(m *catalogv1.ModifyColumn) error {
	c, err := a.column(m.GetColumn())
	if err != nil {
		return err
	}
	from, to := catalog.TypeFromProto(c.GetType()), catalog.TypeFromProto(m.GetType())
	if from != to {
		if c.GetPrimaryKey() {
			return refuse(dberr.InvalidOperation, "Column '%s' is part of the primary key: its type cannot be changed", c.GetName())
		}
		if !widens(from, to) {
			return refuse(dberr.InvalidOperation, "Column '%s' is %s and cannot become %s: only SMALLINT to INT to BIGINT, FLOAT to DOUBLE, "+
				"JSON or FILE to TEXT, and DECIMAL to more digits of the same scale are possible", c.GetName(), from, to)
		}
		c.Type = catalog.TypeToProto(to)
	}
	if m.NotNull == nil {
		return nil
	}
	return a.setNotNull(c.GetName(), m.GetNotNull())
}

// widens reports whether every value of one type is one of the other, in the same encoding: then stored rows stay as they are.
func widens(from, to catalog.Type) bool {
	switch from.Kind {
	case catalog.SmallInt:
		return to.Kind == catalog.Int || to.Kind == catalog.BigInt
	case catalog.Int:
		return to.Kind == catalog.BigInt
	case catalog.Float:
		return to.Kind == catalog.Double
	case catalog.JSON, catalog.File:
		return to.Kind == catalog.Text
	case catalog.Decimal:
		return to.Kind == catalog.Decimal && to.Scale == from.Scale && to.Precision > from.Precision
	}
	return false
}

// setNotNull does not make a column NOT NULL: a write that was decided with the former version may be on its way into some
// shard's log with a NULL, so looking at the rows would prove nothing.
func (a alteration) setNotNull(name string, notNull bool) error {
	c, err := a.column(name)
	switch {
	case err != nil || c.GetNotNull() == notNull:
		return err
	case notNull:
		return refuse(dberr.Unsupported, "Column '%s': SET NOT NULL is not supported, as rows may hold NULL: add another column with NOT NULL DEFAULT, "+
			"copy the values by UPDATE and drop this one", c.GetName())
	case c.GetPrimaryKey():
		return refuse(dberr.InvalidOperation, "Column '%s' is part of the primary key and cannot become nullable", c.GetName())
	}
	c.NotNull = false
	return nil
}

// setDefault changes what later INSERTs get, and no row.
func (a alteration) setDefault(name string, d *catalogv1.Default) error {
	c, err := a.column(name)
	if err != nil {
		return err
	}
	if d == nil {
		d = &catalogv1.Default{}
	}
	if c.GetDefault().GetKind() == d.GetKind() && bytes.Equal(c.GetDefault().GetLiteral(), d.GetLiteral()) {
		return nil
	}
	c.Default = d
	return checkDefault(c)
}

// checkDefault checks what would otherwise be found by every INSERT only.
func checkDefault(c *catalogv1.Column) error {
	if k := c.GetDefault().GetKind(); k < 0 || k > catalogv1.DefaultKind_DEFAULT_KIND_CURRENT_USER {
		return refuse(dberr.InvalidArgument, "Column '%s' has a DEFAULT of no known kind", c.GetName())
	}
	if c.GetDefault().GetKind() != catalogv1.DefaultKind_DEFAULT_KIND_LITERAL {
		return nil
	}
	typ := catalog.TypeFromProto(c.GetType())
	d, rest, err := datum.Decode(c.GetDefault().GetLiteral())
	if err != nil || len(rest) > 0 || d.IsNull() || d.Kind() != datum.KindOf(typ) {
		return refuse(dberr.InvalidArgument, "Column '%s' has a DEFAULT that is no %s", c.GetName(), typ)
	}
	return nil
}

func (a alteration) setAccess(level catalogv1.AccessLevel) error {
	if catalog.TableKind(a.p.GetKind()) != catalog.SharedTable {
		return refuse(dberr.InvalidOperation, "ACCESS LEVEL applies to SHARED tables only, and %s.%s has a partition per user", a.p.GetNamespace(), a.p.GetName())
	}
	if level < catalogv1.AccessLevel_ACCESS_LEVEL_PUBLIC || level > catalogv1.AccessLevel_ACCESS_LEVEL_OPEN {
		return refuse(dberr.InvalidArgument, "an access level that is not known")
	}
	a.p.AccessLevel = level
	return nil
}
