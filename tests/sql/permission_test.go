package sqltest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	"github.com/kalamdb/kalamdb-go/tests/cluster"
)

// TestPermissions is spec 5.5 over whole requests: every role, every statement, every level of a SHARED
// table. A line holds what user, service, dba and system may do: + yes, - no.
func TestPermissions(t *testing.T) {
	c := cluster.Start(t)
	run(t, c, root, `CREATE NAMESPACE app;
		CREATE TABLE app.public (id TEXT PRIMARY KEY, v INT) WITH (TYPE = 'SHARED', ACCESS_LEVEL = 'PUBLIC');
		CREATE TABLE app.private (id TEXT PRIMARY KEY, v INT) WITH (TYPE = 'SHARED', ACCESS_LEVEL = 'PRIVATE');
		CREATE TABLE app.restricted (id TEXT PRIMARY KEY, v INT) WITH (TYPE = 'SHARED', ACCESS_LEVEL = 'RESTRICTED');
		CREATE TABLE app.dba (id TEXT PRIMARY KEY, v INT) WITH (TYPE = 'SHARED', ACCESS_LEVEL = 'DBA');
		CREATE SHARED TABLE app.open (id TEXT PRIMARY KEY, v INT);
		CREATE USER TABLE app.own (id TEXT PRIMARY KEY, v INT);
		CREATE STREAM TABLE app.ticks (id TEXT PRIMARY KEY, v INT) TTL 3600`)
	roles := []catalog.Role{catalog.RoleUser, catalog.RoleService, catalog.RoleDBA, catalog.RoleSystem}
	for _, tc := range []struct{ want, sql string }{
		{"++++", "SELECT * FROM own"}, {"++++", "INSERT INTO own VALUES ('%s', 1)"}, {"++++", "UPDATE own SET v = v + 1 WHERE id = 'x'"},
		{"++++", "DELETE FROM own WHERE id = '%s'"}, {"++++", "SUBSCRIBE TO own"}, {"++++", "DESCRIBE own"}, {"++++", "SHOW STATS FOR TABLE own"},
		{"++++", "INSERT INTO ticks VALUES ('%s', 1)"}, {"++++", "SELECT * FROM ticks"},
		{"++++", "SELECT * FROM public"}, {"-+++", "INSERT INTO public VALUES ('%s', 1)"}, {"-+++", "UPDATE public SET v = 2 WHERE id = 'x'"},
		{"-+++", "DELETE FROM public WHERE id = 'x'"}, {"++++", "SUBSCRIBE TO public"}, {"-+++", "INSERT INTO public SELECT '%s1', 1"},
		{"-+++", "SELECT * FROM private"}, {"-+++", "INSERT INTO private VALUES ('%s', 1)"}, {"-+++", "SUBSCRIBE TO private"},
		{"-+++", "SELECT * FROM own JOIN private ON own.id = private.id"}, {"-+++", "INSERT INTO own SELECT id || '2', v FROM private"},
		{"-+++", "UPDATE own SET v = (SELECT max(v) FROM private) WHERE id = 'x'"}, {"-+++", "WITH p AS (SELECT * FROM private) SELECT * FROM p"},
		{"-+++", "SELECT (SELECT count(*) FROM private)"}, {"-+++", "SELECT * FROM restricted"}, {"-+++", "DESCRIBE restricted"},
		{"--++", "SELECT * FROM dba"}, {"--++", "INSERT INTO dba VALUES ('%s', 1)"}, {"--++", "SUBSCRIBE TO dba"},
		{"++++", "SELECT * FROM open"}, {"++++", "INSERT INTO open VALUES ('%s', 1)"},
		{"++++", "CREATE USER TABLE u%[1]s (id INT PRIMARY KEY)"}, {"-+++", "CREATE SHARED TABLE s%[1]s (id INT PRIMARY KEY)"},
		{"++++", "CREATE STREAM TABLE t%[1]s (id INT PRIMARY KEY) TTL 5"}, {"--++", "DROP TABLE IF EXISTS nosuch"},
		{"--++", "CREATE NAMESPACE ns%[1]s"}, {"--++", "DROP NAMESPACE IF EXISTS nosuch"},
		{"--++", "CREATE USER 'new%[1]s' WITH PASSWORD 'Secret123!'"}, {"---+", "CREATE USER 'sys%[1]s' WITH PASSWORD 'Secret123!' ROLE system"},
		{"--++", "DROP USER IF EXISTS 'nobody'"}, {"--++", "SHOW USERS"}, {"++++", "SHOW TABLES"}, {"++++", "SHOW NAMESPACES"},
		{"--++", "SELECT * FROM system.users"}, {"--++", "SELECT * FROM system.tables"}, {"++++", "SELECT * FROM information_schema.tables"},
		{"--++", "SHOW BACKUPS"}, {"--++", "BACKUP DATABASE IF EXISTS nosuch TO 'x'"}, {"--++", "SHOW BACKUPS FOR DATABASE app"},
		{"--++", "EXPLAIN SELECT 1"}, {"-+++", "EXECUTE AS USER 'stranger' (SELECT * FROM own)"},
		{"----", "EXECUTE AS USER 'stranger' (SELECT * FROM public)"}, {"----", "DELETE FROM system.users WHERE user_id = 'x'"},
	} {
		var got strings.Builder
		for i, role := range roles {
			sql := tc.sql
			if strings.Contains(sql, "%") {
				sql = fmt.Sprintf(sql, string(rune('a'+i)))
			}
			_, err := c.Query().Execute(t.Context(), &queryv1.ExecuteRequest{Sql: sql, Namespace: "app",
				Identity: catalog.IdentityToProto(catalog.Identity{UserID: "the_" + role.String(), Role: role})})
			switch {
			case err == nil:
				got.WriteByte('+')
			case dberr.Is(err, dberr.PermissionDenied):
				got.WriteByte('-')
			default:
				t.Errorf("%s as %s: %v", sql, role, err)
			}
		}
		if got.String() != tc.want {
			t.Errorf("%s: got %s, want %s", tc.sql, got.String(), tc.want)
		}
	}
	for _, role := range []catalog.Role{0, catalog.RoleAnonymous, 9} {
		for _, sql := range []string{"SELECT 1", "SELECT * FROM own", "SELECT * FROM open", "INSERT INTO open VALUES ('z', 1)", "SHOW TABLES", "SUBSCRIBE TO open"} {
			_, err := c.Query().Execute(t.Context(), &queryv1.ExecuteRequest{Sql: sql, Namespace: "app",
				Identity: catalog.IdentityToProto(catalog.Identity{UserID: "x", Role: role})})
			if !dberr.Is(err, dberr.PermissionDenied) {
				t.Errorf("%s as role %d: %v", sql, role, err)
			}
		}
	}
}
