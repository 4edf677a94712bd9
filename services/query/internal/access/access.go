// Package access decides who may do what. Every statement asks here before it runs; what no rule
// allows is denied.
package access

import (
	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Action is something a statement does that needs a right.
type Action uint8

// The actions. Those on SHARED tables are split by the table's access level.
const (
	UseOwnRows Action = iota + 1 // read and write one's own rows of USER and STREAM tables
	ReadPublic
	ReadPrivate // PRIVATE and RESTRICTED behave the same
	ReadDBA
	ReadOpen
	WritePublic
	WritePrivate
	WriteDBA
	WriteOpen
	CreateUserTable
	CreateSharedTable
	CreateStreamTable
	AlterTable // which tables: see Alter
	AlterAnyTable
	DropTable
	ManageNamespaces
	ManageUsers
	GrantSystem
	KillLiveQuery
	ReadSystemTables
	Explain
	ShowCatalog // SHOW NAMESPACES, TABLES, STATS; DESCRIBE; USE
	ShowUsers
	ReadInformationSchema
	Subscribe
	ExecuteAs
	AcrossUsers
	ManageCluster
	FlushTables
	KillJob
	ManageStorages
	ManageBackups
)

// matrix is spec 5.5 for the statements that exist. A role may do what is marked in its column.
//
// It departs from the original in three places: Open is the level of shared tables made in the seed's
// grammar, which every authenticated user reads and writes; a service may create tables of every
// kind; and information_schema shows names and types, not rows, so everybody who may SHOW may read it.
var matrix = map[Action]struct {
	name    string
	allowed [5]bool
}{
	//                      what the error calls it                       anonymous user service dba system
	UseOwnRows:            {"read or write rows", row(no, yes, yes, yes, yes)},
	ReadPublic:            {"read a PUBLIC shared table", row(no, yes, yes, yes, yes)},
	ReadPrivate:           {"read a PRIVATE or RESTRICTED shared table", row(no, no, yes, yes, yes)},
	ReadDBA:               {"read a shared table of level DBA", row(no, no, no, yes, yes)},
	ReadOpen:              {"read a shared table", row(no, yes, yes, yes, yes)},
	WritePublic:           {"write a PUBLIC shared table", row(no, no, yes, yes, yes)},
	WritePrivate:          {"write a PRIVATE or RESTRICTED shared table", row(no, no, yes, yes, yes)},
	WriteDBA:              {"write a shared table of level DBA", row(no, no, no, yes, yes)},
	WriteOpen:             {"write a shared table", row(no, yes, yes, yes, yes)},
	CreateUserTable:       {"create USER tables", row(no, yes, yes, yes, yes)},
	CreateSharedTable:     {"create SHARED tables", row(no, no, yes, yes, yes)},
	CreateStreamTable:     {"create STREAM tables", row(no, yes, yes, yes, yes)},
	AlterTable:            {"alter tables", row(no, yes, yes, yes, yes)},
	AlterAnyTable:         {"alter a table of others", row(no, no, no, yes, yes)},
	DropTable:             {"drop tables", row(no, no, no, yes, yes)},
	ManageNamespaces:      {"create or drop namespaces", row(no, no, no, yes, yes)},
	ManageUsers:           {"create, alter or drop users", row(no, no, no, yes, yes)},
	GrantSystem:           {"grant the role system or change a system user", row(no, no, no, no, yes)},
	KillLiveQuery:         {"kill live queries", row(no, no, no, yes, yes)},
	ReadSystemTables:      {"read system tables", row(no, no, no, yes, yes)},
	Explain:               {"EXPLAIN", row(no, no, no, yes, yes)},
	ShowCatalog:           {"list namespaces and tables", row(no, yes, yes, yes, yes)},
	ShowUsers:             {"list users", row(no, no, no, yes, yes)},
	ReadInformationSchema: {"read information_schema", row(no, yes, yes, yes, yes)},
	Subscribe:             {"subscribe", row(no, yes, yes, yes, yes)},
	ExecuteAs:             {"EXECUTE AS USER", row(no, yes, yes, yes, yes)},  // the target decides, see As
	AcrossUsers:           {"read across users", row(no, no, yes, yes, yes)}, // the owners decide, see As
	ManageCluster:         {"manage the cluster", row(no, no, no, yes, yes)},
	FlushTables:           {"flush or compact tables", row(no, no, yes, yes, yes)},
	KillJob:               {"kill jobs", row(no, no, no, yes, yes)},
	ManageStorages:        {"create, alter, drop or check storages", row(no, no, no, yes, yes)},
	ManageBackups:         {"back up, restore or list backups", row(no, no, no, yes, yes)},
}

const (
	yes = true
	no  = false
)

// row is one line of the matrix, in order of rank.
func row(anonymous, user, service, dba, system bool) [5]bool {
	return [5]bool{anonymous, user, service, dba, system}
}

// Can returns nil when the role has the right, else PermissionDenied.
func Can(role catalog.Role, a Action) error {
	rule, known := matrix[a]
	i := int(role) - int(catalog.RoleAnonymous)
	if known && i >= 0 && i < len(rule.allowed) && rule.allowed[i] {
		return nil
	}
	return dberr.New(dberr.PermissionDenied, "permission denied: role %s may not %s", nameOf(role), rule.name)
}

func nameOf(role catalog.Role) string {
	if s := role.String(); s != "" {
		return s
	}
	return "unknown"
}

var readLevel = map[catalog.AccessLevel]Action{catalog.AccessPublic: ReadPublic, catalog.AccessPrivate: ReadPrivate,
	catalog.AccessRestricted: ReadPrivate, catalog.AccessDBA: ReadDBA, catalog.AccessOpen: ReadOpen}

var writeLevel = map[catalog.AccessLevel]Action{catalog.AccessPublic: WritePublic, catalog.AccessPrivate: WritePrivate,
	catalog.AccessRestricted: WritePrivate, catalog.AccessDBA: WriteDBA, catalog.AccessOpen: WriteOpen}

// Read decides whether the caller may read the rows of t that are its to see: its own partition, or a
// shared table.
func Read(id catalog.Identity, t *catalog.Table) error { return rows(id, t, readLevel) }

// Write is Read for INSERT, UPDATE and DELETE.
func Write(id catalog.Identity, t *catalog.Table) error { return rows(id, t, writeLevel) }

// ReadAcrossUsers decides whether the caller may read the rows of every user it may act for. Whose these are
// is decided beside the rows, by the rule of As.
func ReadAcrossUsers(id catalog.Identity, t *catalog.Table) error {
	err := Can(id.Role, AcrossUsers)
	if err == nil {
		return nil
	}
	return dberr.New(dberr.PermissionDenied, "%s (all_users(%s) is for the roles service, dba and system)", err.Error(), t.QualifiedName())
}

func rows(id catalog.Identity, t *catalog.Table, levels map[catalog.AccessLevel]Action) error {
	if t.Kind.PerUser() {
		return named(Can(id.Role, UseOwnRows), t)
	}
	if id.ActorUserID != "" {
		return dberr.New(dberr.PermissionDenied, "EXECUTE AS USER is not allowed on SHARED tables (%s)", t.QualifiedName())
	}
	// A level this version does not know has no action, and no action is denied.
	return named(Can(id.Role, levels[t.Access]), t)
}

func named(err error, t *catalog.Table) error {
	if err == nil {
		return nil
	}
	return dberr.New(dberr.PermissionDenied, "%s (%s)", err.Error(), t.QualifiedName())
}

// Describe decides who may see a table's definition: whoever may read its rows, and administrators.
func Describe(id catalog.Identity, t *catalog.Table) error { return Read(id, t) }

// Create decides who may create a table of a kind.
func Create(role catalog.Role, kind catalog.TableKind) error {
	switch kind {
	case catalog.UserTable:
		return Can(role, CreateUserTable)
	case catalog.SharedTable:
		return Can(role, CreateSharedTable)
	case catalog.StreamTable:
		return Can(role, CreateStreamTable)
	}
	return Can(role, 0)
}

// Alter decides who may alter a table. Its definition is everybody's who uses its name, so using it is not enough: only who
// created it, a service in the namespace of its own name, and administrators.
func Alter(id catalog.Identity, t *catalog.Table) error {
	if err := Can(id.Role, AlterTable); err != nil {
		return err
	}
	own := t.Owner == id.UserID || id.Role == catalog.RoleService && t.Namespace == id.UserID
	if own && Create(id.Role, t.Kind) == nil {
		return nil
	}
	return named(Can(id.Role, AlterAnyTable), t)
}

// asTargets is spec 1.13: whom a role may act as. Self is always allowed.
var asTargets = map[catalog.Role][]catalog.Role{
	catalog.RoleService: {catalog.RoleService, catalog.RoleUser},
	catalog.RoleDBA:     {catalog.RoleDBA, catalog.RoleService, catalog.RoleUser},
	catalog.RoleSystem:  {catalog.RoleSystem, catalog.RoleDBA, catalog.RoleService, catalog.RoleUser},
}

// As decides EXECUTE AS USER and returns the identity the inner statement runs with: the target's id,
// role user. target is the role of the target's account; pass RoleUser when there is none, whose rows
// may be written before it exists.
func As(id catalog.Identity, targetUser string, target catalog.Role) (catalog.Identity, error) {
	if err := Can(id.Role, ExecuteAs); err != nil {
		return catalog.Identity{}, err
	}
	allowed := targetUser == id.UserID
	for _, r := range asTargets[id.Role] {
		allowed = allowed || r == target
	}
	if !allowed {
		return catalog.Identity{}, dberr.New(dberr.PermissionDenied,
			"permission denied: role %s may not EXECUTE AS USER '%s'", nameOf(id.Role), targetUser)
	}
	actor := id.ActorUserID
	if actor == "" {
		actor = id.UserID
	}
	return catalog.Identity{UserID: targetUser, Role: catalog.RoleUser, ActorUserID: actor}, nil
}
