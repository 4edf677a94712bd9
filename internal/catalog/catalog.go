// Package catalog is the vocabulary of SQL objects that all roles share: types, columns, tables,
// namespaces, users and roles. The storage role owns the truth (the catalog group); other roles hold
// a copy that follows it (see View).
package catalog

import (
	"strings"
)

// TypeKind is a column type without parameters. The values equal catalog.v1.TypeKind.
type TypeKind uint8

// The types of spec 1.6.
const (
	Boolean   TypeKind = 1
	SmallInt  TypeKind = 2
	Int       TypeKind = 3
	BigInt    TypeKind = 4
	Float     TypeKind = 5
	Double    TypeKind = 6
	Decimal   TypeKind = 7
	Text      TypeKind = 8
	Bytes     TypeKind = 9
	JSON      TypeKind = 10
	Timestamp TypeKind = 11
	DateTime  TypeKind = 12
	Date      TypeKind = 13
	Time      TypeKind = 14
	UUID      TypeKind = 15
	Embedding TypeKind = 16
	File      TypeKind = 17
)

// Type is a column's type.
type Type struct {
	Kind TypeKind
	// Precision and Scale belong to Decimal, Dimension to Embedding.
	Precision, Scale uint8
	Dimension        uint16
}

// TableKind tells who shares a table's rows and where they live.
type TableKind uint8

// The kinds; the values equal catalog.v1.TableKind.
const (
	UserTable   TableKind = 1
	SharedTable TableKind = 2
	StreamTable TableKind = 3
)

func (k TableKind) String() string {
	switch k {
	case UserTable:
		return "user"
	case SharedTable:
		return "shared"
	case StreamTable:
		return "stream"
	}
	return "unknown"
}

// PerUser reports whether every user has a partition of their own.
func (k TableKind) PerUser() bool { return k == UserTable || k == StreamTable }

// AccessLevel says who may read and write a SHARED table; the values equal catalog.v1.AccessLevel.
type AccessLevel uint8

// The levels of spec 6.2, and Open: what the seed grammar promises, everybody reads and writes.
const (
	AccessPublic     AccessLevel = 1
	AccessPrivate    AccessLevel = 2
	AccessRestricted AccessLevel = 3
	AccessDBA        AccessLevel = 4
	AccessOpen       AccessLevel = 5
)

var accessNames = map[AccessLevel]string{AccessPublic: "public", AccessPrivate: "private",
	AccessRestricted: "restricted", AccessDBA: "dba", AccessOpen: "open"}

func (l AccessLevel) String() string { return accessNames[l] }

// Role is what a user may do; the values equal catalog.v1.Role. Higher includes lower.
type Role uint8

// The roles of spec 5.5.
const (
	RoleAnonymous Role = 1
	RoleUser      Role = 2
	RoleService   Role = 3
	RoleDBA       Role = 4
	RoleSystem    Role = 5
)

var roleNames = map[Role]string{RoleAnonymous: "anonymous", RoleUser: "user", RoleService: "service",
	RoleDBA: "dba", RoleSystem: "system"}

func (r Role) String() string { return roleNames[r] }

// ParseRole reads a role's name or alias (spec 1.12), in any case.
func ParseRole(name string) (Role, bool) {
	switch strings.ToLower(name) {
	case "user", "viewer", "readonly":
		return RoleUser, true
	case "service", "developer", "analyst":
		return RoleService, true
	case "dba", "admin":
		return RoleDBA, true
	case "system":
		return RoleSystem, true
	}
	return 0, false
}

// Admin reports whether the role administers the server (dba, system).
func (r Role) Admin() bool { return r == RoleDBA || r == RoleSystem }

// Identity is who a statement acts for. The gateway makes it from a verified credential; EXECUTE AS
// USER replaces UserID and Role and keeps the account that asked in ActorUserID.
type Identity struct {
	UserID      string
	Role        Role
	ActorUserID string
}

// DefaultKind is the form of a column's DEFAULT; the values equal catalog.v1.DefaultKind.
type DefaultKind uint8

// The defaults of spec 1.8. NoDefault means NULL.
const (
	NoDefault          DefaultKind = 0
	DefaultLiteral     DefaultKind = 1
	DefaultNow         DefaultKind = 2
	DefaultSnowflakeID DefaultKind = 3
	DefaultUUIDV7      DefaultKind = 4
	DefaultULID        DefaultKind = 5
	DefaultCurrentUser DefaultKind = 6
)

// Default is what the shard leader fills in for a column that an INSERT leaves out.
type Default struct {
	Kind DefaultKind
	// Literal is a value of the column's type, encoded by internal/datum.
	Literal []byte
}

// Column is one column of a table.
type Column struct {
	// ID is permanent and never reused within the table.
	ID         uint32
	Name       string
	Type       Type
	NotNull    bool
	PrimaryKey bool
	Unique     bool
	// Hidden marks the key of a table declared without PRIMARY KEY.
	Hidden  bool
	Default Default
	// Missing is what stored rows from before the column read, encoded by internal/datum; empty means NULL.
	Missing []byte
}

// Ids of the system columns. They lie above every user column's id.
const (
	SeqColumnID     uint32 = 0xFFFFFF01 // _seq BIGINT
	DeletedColumnID uint32 = 0xFFFFFF02 // _deleted BOOLEAN
	UpdatedColumnID uint32 = 0xFFFFFF03 // _updated TIMESTAMP, derived from _seq
	UserIDColumnID  uint32 = 0xFFFFFF04 // _user_id TEXT, owner of the partition; queries across users only
)

// UserColumnID is another name of UserIDColumnID.
const UserColumnID = UserIDColumnID

// Names of the system columns. VersionColumn is another name for _seq (spec 0.3).
const (
	SeqColumn     = "_seq"
	DeletedColumn = "_deleted"
	UpdatedColumn = "_updated"
	VersionColumn = "_version"
	UserIDColumn  = "_user_id"
	// HiddenKeyColumn is the key of tables declared without one.
	HiddenKeyColumn = "_row_id"
)

// SystemColumns are the columns every USER and SHARED table has besides its own, in the order
// SELECT * shows them.
var SystemColumns = []Column{
	{ID: SeqColumnID, Name: SeqColumn, Type: Type{Kind: BigInt}, NotNull: true},
	{ID: DeletedColumnID, Name: DeletedColumn, Type: Type{Kind: Boolean}, NotNull: true},
	{ID: UpdatedColumnID, Name: UpdatedColumn, Type: Type{Kind: Timestamp}, NotNull: true},
}

// TableOptions are the settings of spec 1.3 and 1.4.
type TableOptions struct {
	StorageID             string
	UseUserStorage        bool
	FlushRows             uint64
	FlushIntervalSeconds  uint64
	TTLSeconds            uint64
	Ephemeral             bool
	MaxBufferRows         uint64
	DeletedRetentionHours uint64
	Compression           string
	OwnerID               string
}

// Table is one version of a table's definition. It is immutable once built; New fills the indexes.
type Table struct {
	ID            uint32
	Namespace     string
	Name          string
	Kind          TableKind
	Columns       []Column
	SchemaVersion uint32
	Owner         string
	CreatedAtUS   int64
	UpdatedAtUS   int64
	Access        AccessLevel
	Options       TableOptions
	NextColumnID  uint32
	// PartitionColumnID is the column whose value chooses a row's partition, and Partitions their number: a
	// partitioned SHARED table. Both are zero in others. See internal/partition.
	PartitionColumnID uint32
	Partitions        uint32

	key    []int // positions of the key columns in Columns
	byName map[string]int
	byID   map[uint32]int
}

// Index builds the lookups; every constructor of a Table calls it once before sharing the value.
func (t *Table) Index() *Table {
	t.key, t.byName, t.byID = nil, make(map[string]int, len(t.Columns)), make(map[uint32]int, len(t.Columns))
	for i := range t.Columns {
		c := &t.Columns[i]
		t.byName[c.Name] = i
		t.byID[c.ID] = i
		if c.PrimaryKey {
			t.key = append(t.key, i)
		}
	}
	return t
}

// QualifiedName is namespace.name.
func (t *Table) QualifiedName() string { return t.Namespace + "." + t.Name }

// Partitioned reports whether the table's rows are spread by a column's value.
func (t *Table) Partitioned() bool { return t.Partitions > 0 }

// PartitionColumn is the column that chooses a row's partition, nil when the table is not partitioned.
func (t *Table) PartitionColumn() *Column {
	i, ok := t.byID[t.PartitionColumnID]
	if !ok {
		return nil
	}
	return &t.Columns[i]
}

// Owned reports whether keys and requests name the owner of a partition: a user, or a partition's name.
func (t *Table) Owned() bool { return t.Kind.PerUser() || t.Partitioned() }

// Key returns the key columns' positions in Columns: one, or several for a composite key. Never empty.
func (t *Table) Key() []int { return t.key }

// KeyColumn returns the i-th key column.
func (t *Table) KeyColumn(i int) *Column { return &t.Columns[t.key[i]] }

// Column finds a user column by folded name; hidden columns are not found.
func (t *Table) Column(name string) (*Column, bool) {
	i, ok := t.byName[name]
	if !ok || t.Columns[i].Hidden {
		return nil, false
	}
	return &t.Columns[i], true
}

// ColumnByID finds a user column, hidden ones included.
func (t *Table) ColumnByID(id uint32) (*Column, bool) {
	i, ok := t.byID[id]
	if !ok {
		return nil, false
	}
	return &t.Columns[i], true
}

// SystemColumn finds a system column by name (_version included).
func SystemColumn(name string) (*Column, bool) {
	if name == VersionColumn {
		name = SeqColumn
	}
	for i := range SystemColumns {
		if SystemColumns[i].Name == name {
			return &SystemColumns[i], true
		}
	}
	return nil, false
}

// AnyColumn finds a user or system column by id: what a scan ticket may name.
func (t *Table) AnyColumn(id uint32) (*Column, bool) {
	if c, ok := t.ColumnByID(id); ok {
		return c, true
	}
	for i := range SystemColumns {
		if SystemColumns[i].ID == id {
			return &SystemColumns[i], true
		}
	}
	if id == UserIDColumnID {
		return &userIDColumn, true
	}
	return nil, false
}

// userIDColumn is the column that queries across users have besides the table's own and the system columns.
var userIDColumn = Column{ID: UserIDColumnID, Name: UserIDColumn, Type: Type{Kind: Text}, NotNull: true}

// VisibleColumns returns the user columns that SELECT * shows, without system columns.
func (t *Table) VisibleColumns() []Column {
	out := make([]Column, 0, len(t.Columns))
	for _, c := range t.Columns {
		if !c.Hidden {
			out = append(out, c)
		}
	}
	return out
}
