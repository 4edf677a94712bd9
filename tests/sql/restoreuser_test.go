package sqltest

import (
	"strings"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	"github.com/kalamdb/kalamdb-go/tests/cluster"
)

// lastLine is what a query of one row and one column says.
func lastLine(rows string) string {
	_, line, _ := strings.Cut(strings.TrimSpace(rows), "\n")
	return line
}

// TestRestoreUser goes back to a moment between two statements, which _updated tells.
func TestRestoreUser(t *testing.T) {
	c := cluster.Start(t)
	asRoot(t, c, `CREATE NAMESPACE app; CREATE NAMESPACE other; CREATE USER TABLE app.notes (id INT PRIMARY KEY, mail TEXT UNIQUE); CREATE USER TABLE other.logs (line TEXT);
		CREATE USER TABLE app.scratch (id INT PRIMARY KEY, n INT); INSERT INTO app.scratch VALUES (1, 0);
		CREATE USER 'eve' WITH PASSWORD 'a long password 1'; CREATE USER 'bob' WITH PASSWORD 'a long password 1'; CREATE USER 'dan' WITH PASSWORD 'a long password 1' ROLE dba`)
	asEve := func(sql string) string { return asRoot(t, c, "EXECUTE AS USER 'eve' ("+sql+")") }
	asEve("INSERT INTO app.notes VALUES (1, 'a'), (2, 'b'), (3, 'c')")
	asEve("INSERT INTO other.logs VALUES ('one'), ('two')")
	moment := lastLine(asEve("SELECT max(_updated) FROM other.logs"))
	for n := 0; ; n++ { // until it is another millisecond
		got := asRoot(t, c, "UPDATE app.scratch SET n = n + 1 WHERE id = 1; SELECT _updated <= '"+moment+"' AS same FROM app.scratch")
		if strings.HasSuffix(strings.TrimSpace(got), "false") {
			break
		}
		if n > 10000 {
			t.Fatalf("%s: %s", moment, got)
		}
	}
	notes, logs := asEve("SELECT id, mail FROM app.notes ORDER BY id"), asEve("SELECT line FROM other.logs ORDER BY line")
	asEve("UPDATE app.notes SET mail = NULL WHERE id = 1")
	asEve("UPDATE app.notes SET mail = 'a' WHERE id = 2")
	asEve("UPDATE app.notes SET mail = 'b' WHERE id = 1")
	asRoot(t, c, "STORAGE FLUSH TABLE app.notes")
	asEve("DELETE FROM app.notes WHERE id = 3")
	asEve("INSERT INTO app.notes VALUES (4, 'c')")
	asEve("DELETE FROM other.logs WHERE line = 'one'")
	asRoot(t, c, "ALTER TABLE other.logs ADD COLUMN level TEXT DEFAULT 'info'")

	restore := func(rest string) string {
		t.Helper()
		answer := asRoot(t, c, "RESTORE USER 'eve' "+rest+"AS OF TIMESTAMP '"+moment+"'")
		if !strings.HasPrefix(answer, "Restore started for user 'eve' as of ") {
			t.Fatal(answer)
		}
		job := strings.TrimSpace(answer[strings.Index(answer, "RU-"):])
		status := endOf(t, c, job)
		if shown := asRoot(t, c, "SHOW JOBS"); !strings.Contains(shown, job) || !strings.Contains(shown, "restore_user") {
			t.Errorf("SHOW JOBS is %s", shown)
		}
		return status + ": " + lastLine(asRoot(t, c, "SELECT message FROM system.jobs WHERE job_id = '"+job+"'"))
	}
	wantNow := func(user, when string) {
		t.Helper()
		for sql, want := range map[string]string{"SELECT id, mail FROM app.notes ORDER BY id": notes, "SELECT line FROM other.logs ORDER BY line": logs,
			"SELECT count(*) AS n FROM other.logs WHERE level IS NOT NULL": "\n0\n"} {
			if got := asRoot(t, c, "EXECUTE AS USER '"+user+"' ("+sql+")"); !strings.HasSuffix(got, want) {
				t.Errorf("%s: %s of %s is %s, want %s", when, sql, user, got, want)
			}
		}
	}
	if got := restore("TO USER bob "); !strings.Contains(got, "restored to user 'bob': 3 tables, 5 rows restored, 0 deleted, 0 unchanged") {
		t.Error(got)
	}
	wantNow("bob", "restored to another user")
	if got := restore("IN NAMESPACE app "); !strings.Contains(got, ": 2 tables, 3 rows restored, 1 deleted, 0 unchanged") || !strings.HasPrefix(got, "completed") {
		t.Error(got)
	}
	if got := restore(""); !strings.Contains(got, ": 3 tables, 1 rows restored, 0 deleted, 4 unchanged") {
		t.Error(got)
	}
	wantNow("eve", "restored")
	refusedRestores(t, c, moment)
	wantNow("eve", "after what was refused")
}

func refusedRestores(t *testing.T, c *cluster.Cluster, moment string) {
	t.Helper()
	asRoot(t, c, "CREATE USER 'gone' WITH PASSWORD 'a long password 1'; DROP USER 'gone'")
	at := "AS OF TIMESTAMP '" + moment + "'"
	for sql, want := range map[string]string{
		"RESTORE USER 'nobody' " + at:                           "UserNotFound: User 'nobody' does not exist",
		"RESTORE USER 'gone' " + at:                             "UserNotFound: User 'gone' does not exist",
		"RESTORE USER 'eve' TO USER 'nobody' " + at:             "UserNotFound: User 'nobody' does not exist",
		"RESTORE USER 'eve' TO USER 'bob' " + at:                "InvalidOperation: user 'bob' has rows in ",
		"RESTORE USER 'eve' TO USER 'eve' " + at:                "InvalidSql: line 1, column 28: TO USER names another user",
		"RESTORE USER 'eve' IN NAMESPACE nosuch " + at:          "NamespaceNotFound: Namespace 'nosuch' does not exist",
		"RESTORE USER 'eve' IN NAMESPACE system " + at:          "InvalidOperation: namespace 'system' has system tables only",
		"RESTORE USER 'eve' AS OF TIMESTAMP '2999-01-01'":       "InvalidArgument: 2999-01-01 00:00:00.000 is in the future",
		"RESTORE USER 'eve' AS OF TIMESTAMP 'last week'":        "InvalidSql: line 1, column 36: invalid TIMESTAMP",
		"BEGIN; RESTORE USER 'eve' " + at + "; COMMIT":          "",
		"EXECUTE AS USER 'eve' (RESTORE USER 'eve' " + at + ")": "",
	} {
		err := refusal(t, c, "dan", catalogv1.Role_ROLE_DBA, sql)
		if got := string(dberr.CodeOf(err)) + ": " + err.Error(); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s, want %s", sql, got, want)
		}
	}
	for _, role := range []catalogv1.Role{catalogv1.Role_ROLE_USER, catalogv1.Role_ROLE_SERVICE} {
		if err := refusal(t, c, "eve", role, "RESTORE USER 'eve' "+at); !dberr.Is(err, dberr.PermissionDenied) {
			t.Errorf("as %s: %v", role, err)
		}
	}
}
