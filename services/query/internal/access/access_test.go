package access

import (
	"strings"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// roles are all roles, with two that do not exist: zero and one above the highest.
var roles = []catalog.Role{0, catalog.RoleAnonymous, catalog.RoleUser, catalog.RoleService, catalog.RoleDBA,
	catalog.RoleSystem, catalog.RoleSystem + 1}

// check compares an answer for each role with a string of + and -, in the order of roles.
func check(t *testing.T, what, want string, ask func(catalog.Role) error) {
	t.Helper()
	var got strings.Builder
	for _, r := range roles {
		switch err := ask(r); {
		case err == nil:
			got.WriteByte('+')
		case dberr.Is(err, dberr.PermissionDenied):
			got.WriteByte('-')
		default:
			t.Errorf("%s as %s: %v is not PermissionDenied", what, r, err)
		}
	}
	if got.String() != want {
		t.Errorf("%s: got %s, want %s", what, got.String(), want)
	}
}

func TestActions(t *testing.T) {
	want := map[Action]string{
		0: "-------", UseOwnRows: "--++++-", ReadPublic: "--++++-", ReadPrivate: "---+++-", ReadDBA: "----++-",
		ReadOpen: "--++++-", WritePublic: "---+++-", WritePrivate: "---+++-", WriteDBA: "----++-",
		WriteOpen: "--++++-", CreateUserTable: "--++++-", CreateSharedTable: "---+++-",
		CreateStreamTable: "--++++-", AlterTable: "--++++-", AlterAnyTable: "----++-", DropTable: "----++-", ManageNamespaces: "----++-", ManageUsers: "----++-",
		GrantSystem: "-----+-", KillLiveQuery: "----++-", ReadSystemTables: "----++-", Explain: "----++-",
		ShowCatalog: "--++++-", ShowUsers: "----++-", ReadInformationSchema: "--++++-", Subscribe: "--++++-",
		ExecuteAs: "--++++-", AcrossUsers: "---+++-", ManageCluster: "----++-",
		FlushTables: "---+++-", KillJob: "----++-", ManageStorages: "----++-", ManageBackups: "----++-", ManageBackups + 1: "-------",
	}
	for a, w := range want {
		check(t, matrix[a].name, w, func(r catalog.Role) error { return Can(r, a) })
	}
	for a := range matrix {
		if _, ok := want[a]; !ok {
			t.Errorf("action %d (%s) has no expectation", a, matrix[a].name)
		}
	}
}

func TestAlter(t *testing.T) {
	for _, tc := range []struct {
		kind      catalog.TableKind
		owner     string
		namespace string
		want      string
	}{
		{catalog.UserTable, "somebody", "app", "----++-"}, {catalog.UserTable, "me", "app", "--++++-"},
		{catalog.SharedTable, "me", "app", "---+++-"}, {catalog.UserTable, "somebody", "me", "---+++-"},
	} {
		table := &catalog.Table{Namespace: tc.namespace, Name: "t", Kind: tc.kind, Owner: tc.owner}
		check(t, "alter a "+tc.kind.String()+" table of "+tc.owner+" in "+tc.namespace, tc.want, func(r catalog.Role) error {
			return Alter(catalog.Identity{UserID: "me", Role: r}, table)
		})
	}
}

func TestTables(t *testing.T) {
	for _, tc := range []struct {
		kind        catalog.TableKind
		level       catalog.AccessLevel
		read, write string
	}{
		{catalog.UserTable, 0, "--++++-", "--++++-"},
		{catalog.StreamTable, 0, "--++++-", "--++++-"},
		{catalog.UserTable, catalog.AccessDBA, "--++++-", "--++++-"}, // levels belong to SHARED tables
		{catalog.SharedTable, catalog.AccessPublic, "--++++-", "---+++-"},
		{catalog.SharedTable, catalog.AccessPrivate, "---+++-", "---+++-"},
		{catalog.SharedTable, catalog.AccessRestricted, "---+++-", "---+++-"},
		{catalog.SharedTable, catalog.AccessDBA, "----++-", "----++-"},
		{catalog.SharedTable, catalog.AccessOpen, "--++++-", "--++++-"},
		{catalog.SharedTable, 0, "-------", "-------"},
		{catalog.SharedTable, 77, "-------", "-------"},
	} {
		table := &catalog.Table{Namespace: "app", Name: "t", Kind: tc.kind, Access: tc.level}
		what := tc.kind.String() + " " + tc.level.String()
		check(t, "read "+what, tc.read, func(r catalog.Role) error { return Read(catalog.Identity{UserID: "u", Role: r}, table) })
		check(t, "write "+what, tc.write, func(r catalog.Role) error { return Write(catalog.Identity{UserID: "u", Role: r}, table) })
	}
}

func TestCreate(t *testing.T) {
	for kind, want := range map[catalog.TableKind]string{catalog.UserTable: "--++++-", catalog.SharedTable: "---+++-",
		catalog.StreamTable: "--++++-", 0: "-------", 9: "-------"} {
		check(t, "create "+kind.String(), want, func(r catalog.Role) error { return Create(r, kind) })
	}
}

func TestExecuteAs(t *testing.T) {
	for target, want := range map[catalog.Role]string{catalog.RoleUser: "---+++-", catalog.RoleService: "---+++-",
		catalog.RoleDBA: "----++-", catalog.RoleSystem: "-----+-", catalog.RoleAnonymous: "-------"} {
		check(t, "as "+target.String(), want, func(r catalog.Role) error {
			got, err := As(catalog.Identity{UserID: "root", Role: r}, "bob", target)
			if err == nil && got != (catalog.Identity{UserID: "bob", Role: catalog.RoleUser, ActorUserID: "root"}) {
				t.Errorf("as %s gives %+v", target, got)
			}
			return err
		})
	}
	check(t, "as self", "--++++-", func(r catalog.Role) error {
		_, err := As(catalog.Identity{UserID: "bob", Role: r}, "bob", r)
		return err
	})
}

func TestExecuteAsReachesNoSharedTable(t *testing.T) {
	id, err := As(catalog.Identity{UserID: "root", Role: catalog.RoleSystem}, "bob", catalog.RoleUser)
	if err != nil {
		t.Fatal(err)
	}
	for level := range readLevel {
		table := &catalog.Table{Namespace: "app", Name: "s", Kind: catalog.SharedTable, Access: level}
		if Read(id, table) == nil || Write(id, table) == nil {
			t.Errorf("level %s was reached", level)
		}
	}
}
