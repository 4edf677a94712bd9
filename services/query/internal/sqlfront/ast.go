package sqlfront

import (
	"sync/atomic"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
)

// Statement is one parsed statement. The concrete types below are all there are.
type Statement interface {
	// Text is the statement as the user wrote it, without the separating semicolon.
	Text() string
	// Offset is where Text starts in the request, in bytes.
	Offset() int
	// Command names the kind of statement, e.g. "CREATE TABLE".
	Command() string
}

// Source is embedded in every statement and says where it stands in the request.
type Source struct {
	text   string
	offset int
}

// Text is the statement as the user wrote it, without the separating semicolon.
func (s Source) Text() string { return s.text }

// Offset is where Text starts in the request, in bytes.
func (s Source) Offset() int { return s.offset }

// Node is a node of PostgreSQL's parse tree: an expression or a whole statement.
type Node = pg.Node

// Name is a possibly qualified name, folded to lower case.
type Name struct {
	// Namespace is empty when the name was not qualified.
	Namespace string
	Name      string
}

// String is the name as SQL shows it.
func (n Name) String() string {
	if n.Namespace == "" {
		return n.Name
	}
	return n.Namespace + "." + n.Name
}

// Tree is a statement in PostgreSQL's terms. Expressions of one statement refer to its Tree for
// positions.
type Tree struct {
	// Stmt is the statement's node: a SelectStmt, InsertStmt, UpdateStmt, DeleteStmt.
	Stmt *Node

	// parsed is the text PostgreSQL's parser saw; a location in it plus shift is an offset into the
	// request.
	parsed  string
	request string
	shift   int

	// reads remembers Reads: statements are cached, and walking a tree takes longer than the rest of a
	// small SELECT's checks.
	reads atomic.Pointer[[]Name]
}

// CreateNamespace is CREATE NAMESPACE [IF NOT EXISTS] name.
type CreateNamespace struct {
	Source
	Namespace   string
	IfNotExists bool
}

// DropNamespace is DROP NAMESPACE [IF EXISTS] name [CASCADE].
type DropNamespace struct {
	Source
	Namespace string
	IfExists  bool
	Cascade   bool
}

// UseNamespace is USE name, USE NAMESPACE name, SET NAMESPACE name.
type UseNamespace struct {
	Source
	Namespace string
}

// ShowNamespaces is SHOW NAMESPACES.
type ShowNamespaces struct{ Source }

// CreateTable is CREATE [USER|SHARED|STREAM] TABLE in both grammars (spec 1.3 and 1.4).
type CreateTable struct {
	Source
	Table       Name
	IfNotExists bool
	// Kind is 0 when the statement names none: SHARED, unless the caller's role decides otherwise.
	Kind catalog.TableKind
	// Columns have no ids yet. Keys are the columns with PrimaryKey, in this order; there may be none.
	Columns []catalog.Column
	Options catalog.TableOptions
	// Access is 0 when the statement does not say; see SeedGrammar.
	Access catalog.AccessLevel
	// SeedGrammar is set when the statement has no WITH clause: a SHARED table is then open to every
	// authenticated user by default, and private otherwise (spec 5.5).
	SeedGrammar bool
	// PartitionBy is the column of PARTITION BY HASH, and Partitions their number; empty and 0 without the clause.
	PartitionBy string
	Partitions  uint32
}

// DropTable is DROP [USER|SHARED|STREAM] TABLE [IF EXISTS] name.
type DropTable struct {
	Source
	Table    Name
	IfExists bool
	// Kind is 0 when the statement names none; else the table must be of this kind.
	Kind catalog.TableKind
}

// AuthType is how a user proves who they are.
type AuthType uint8

// The ways of spec 1.12.
const (
	AuthPassword AuthType = iota + 1
	AuthOAuth
	AuthInternal
)

func (a AuthType) String() string {
	return [...]string{"", "password", "oauth", "internal"}[a]
}

// CreateUser is CREATE USER in both grammars (spec 1.12).
type CreateUser struct {
	Source
	User        string
	IfNotExists bool
	Auth        AuthType
	// Password belongs to AuthPassword.
	Password string
	// AuthData is JSON {"provider","subject"}; it belongs to AuthOAuth and may be empty.
	AuthData string
	// Role is RoleUser when the statement names none.
	Role        catalog.Role
	Email       string
	Metadata    string
	AllowRemote bool
	// StorageMode and StorageID are empty when not given.
	StorageMode, StorageID string
}

// AlterUser is ALTER USER name SET …; fields that are nil stay as they are.
type AlterUser struct {
	Source
	User                   string
	Password               *string
	Role                   *catalog.Role
	Email                  *string
	Metadata               *string
	StorageMode, StorageID *string
}

// DropUser is DROP USER [IF EXISTS] name.
type DropUser struct {
	Source
	User     string
	IfExists bool
}

// RestoreUser is UPDATE system.users SET deleted_at = NULL WHERE user_id|username = 'name'.
type RestoreUser struct {
	Source
	User string
}

// ShowTables is SHOW TABLES [IN [NAMESPACE] name].
type ShowTables struct {
	Source
	// In is empty when the statement names no namespace.
	In string
}

// ShowUsers is SHOW USERS.
type ShowUsers struct{ Source }

// ShowStorages is SHOW STORAGES.
type ShowStorages struct{ Source }

// Describe is DESCRIBE|DESC [TABLE] name [HISTORY].
type Describe struct {
	Source
	Table   Name
	History bool
}

// ShowStats is SHOW STATS FOR TABLE name.
type ShowStats struct {
	Source
	Table Name
}

// ExecuteAs is EXECUTE AS [USER] name, around one statement.
type ExecuteAs struct {
	Source
	User  string
	Inner Statement
}

// SubscribeOptions are the OPTIONS of SUBSCRIBE TO; nil means not given.
type SubscribeOptions struct {
	LastRows  *uint64
	BatchSize *uint64
	FromSeq   *uint64
}

// Subscribe is SUBSCRIBE TO, in both forms; the table form is given as the SELECT it stands for.
type Subscribe struct {
	Source
	Select  *Select
	Options SubscribeOptions
}

// KillLiveQuery is KILL LIVE QUERY 'id'.
type KillLiveQuery struct {
	Source
	ID string
}

// Explain is EXPLAIN [ANALYZE] statement.
type Explain struct {
	Source
	Analyze bool
	Inner   Statement
}

// Select is a SELECT, VALUES or WITH … SELECT.
type Select struct {
	Source
	Tree *Tree
}

// Insert is INSERT INTO.
type Insert struct {
	Source
	Table Name
	// Columns is nil when the statement lists none.
	Columns []string
	// Rows are the rows of VALUES; a value may be DEFAULT (see IsDefault). Nil when Select is set.
	// Without VALUES and SELECT (DEFAULT VALUES) there is one row without values.
	Rows [][]*Node
	// Select is the query of INSERT … SELECT.
	Select *Select
	// DoNothing is ON CONFLICT DO NOTHING; ConflictColumns are its target, if it names one.
	DoNothing       bool
	ConflictColumns []string
	// Returning is nil without RETURNING.
	Returning []*Node
	Tree      *Tree
}

// Assignment is one column = value of UPDATE … SET.
type Assignment struct {
	Column string
	// Value may be DEFAULT (see IsDefault).
	Value *Node
}

// Update is UPDATE … SET … WHERE.
type Update struct {
	Source
	Table Name
	// Alias is empty without one.
	Alias     string
	Sets      []Assignment
	Where     *Node
	Returning []*Node
	Tree      *Tree
}

// Delete is DELETE FROM … WHERE.
type Delete struct {
	Source
	Table     Name
	Alias     string
	Where     *Node
	Returning []*Node
	Tree      *Tree
}

// Begin is BEGIN or START TRANSACTION.
type Begin struct{ Source }

// Commit is COMMIT or END.
type Commit struct{ Source }

// Rollback is ROLLBACK or ABORT.
type Rollback struct{ Source }

// Later is a statement that this version recognizes and does not execute.
type Later struct {
	Source
	// Feature names it, e.g. "CREATE VIEW".
	Feature string
}

// Command names the statement.
func (*CreateNamespace) Command() string { return "CREATE NAMESPACE" }

// Command names the statement.
func (*DropNamespace) Command() string { return "DROP NAMESPACE" }

// Command names the statement.
func (*UseNamespace) Command() string { return "USE" }

// Command names the statement.
func (*ShowNamespaces) Command() string { return "SHOW NAMESPACES" }

// Command names the statement.
func (*CreateTable) Command() string { return "CREATE TABLE" }

// Command names the statement.
func (*DropTable) Command() string { return "DROP TABLE" }

// Command names the statement.
func (*CreateUser) Command() string { return "CREATE USER" }

// Command names the statement.
func (*AlterUser) Command() string { return "ALTER USER" }

// Command names the statement.
func (*DropUser) Command() string { return "DROP USER" }

// Command names the statement.
func (*RestoreUser) Command() string { return "RESTORE USER" }

// Command names the statement.
func (*ShowTables) Command() string { return "SHOW TABLES" }

// Command names the statement.
func (*ShowUsers) Command() string { return "SHOW USERS" }

// Command names the statement.
func (*ShowStorages) Command() string { return "SHOW STORAGES" }

// Command names the statement.
func (*Describe) Command() string { return "DESCRIBE" }

// Command names the statement.
func (*ShowStats) Command() string { return "SHOW STATS" }

// Command names the inner statement: the outer form changes only who runs it.
func (s *ExecuteAs) Command() string { return s.Inner.Command() }

// Command names the statement.
func (*Subscribe) Command() string { return "SUBSCRIBE" }

// Command names the statement.
func (*KillLiveQuery) Command() string { return "KILL LIVE QUERY" }

// Command names the statement.
func (*Explain) Command() string { return "EXPLAIN" }

// Command names the statement.
func (*Select) Command() string { return "SELECT" }

// Command names the statement.
func (*Insert) Command() string { return "INSERT" }

// Command names the statement.
func (*Update) Command() string { return "UPDATE" }

// Command names the statement.
func (*Delete) Command() string { return "DELETE" }

// Command names the statement.
func (*Begin) Command() string { return "BEGIN" }

// Command names the statement.
func (*Commit) Command() string { return "COMMIT" }

// Command names the statement.
func (*Rollback) Command() string { return "ROLLBACK" }

// Command names the statement.
func (s *Later) Command() string { return s.Feature }
