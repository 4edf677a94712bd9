package sqltest

import (
	"strings"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	"github.com/kalamdb/kalamdb-go/tests/cluster"
)

// refusal runs a statement that fails, as somebody.
func refusal(t *testing.T, c *cluster.Cluster, user string, role catalogv1.Role, sql string) error {
	t.Helper()
	resp, err := c.Query().Execute(t.Context(), &queryv1.ExecuteRequest{Sql: sql, Identity: &catalogv1.Identity{UserId: user, Role: role}})
	if err == nil {
		t.Errorf("%s: answered %v", sql, resp)
	}
	return err
}

func TestEraseUser(t *testing.T) {
	c := cluster.Start(t)
	asRoot(t, c, "CREATE NAMESPACE app; CREATE USER TABLE app.notes (id INT PRIMARY KEY, mail TEXT UNIQUE); CREATE USER 'eve' WITH PASSWORD 'a long password 1' EMAIL 'eve@example.com'; CREATE USER 'ann' WITH PASSWORD 'a long password 1' ROLE dba")
	asRoot(t, c, "EXECUTE AS USER 'eve' (INSERT INTO app.notes VALUES (1, 'a'), (2, 'b')); EXECUTE AS USER 'ann' (INSERT INTO app.notes VALUES (1, 'a'))")
	const dba, user = catalogv1.Role_ROLE_DBA, catalogv1.Role_ROLE_USER
	for sql, code := range map[string]dberr.Code{"ERASE USER 'ann'": dberr.InvalidOperation, "ERASE USER 'root'": dberr.UserNotFound,
		"ERASE USER 'nobody'": dberr.UserNotFound, "SHOW RECEIPT 'ER-000000000000'": dberr.NotFound} {
		if err := refusal(t, c, "ann", dba, sql); !dberr.Is(err, code) {
			t.Errorf("%s: %v, want %s", sql, err, code)
		}
	}
	for _, sql := range []string{"ERASE USER 'ann'", "SHOW RECEIPT 'ER-000000000000'", "SELECT * FROM system.erasures"} {
		if err := refusal(t, c, "eve", user, sql); !dberr.Is(err, dberr.PermissionDenied) {
			t.Errorf("%s as a user: %v", sql, err)
		}
	}
	if got := asRoot(t, c, "ERASE USER 'nobody' IF EXISTS"); got != "User 'nobody' does not exist (skipped)\n" {
		t.Error(got)
	}
	answer := asRoot(t, c, "ERASE USER 'eve'")
	if !strings.HasPrefix(answer, "Erasure started for user 'eve'. Job ID: ER-") {
		t.Fatal(answer)
	}
	job := strings.TrimSpace(answer[strings.Index(answer, "ER-"):])
	if status := endOf(t, c, job); status != "completed" {
		t.Fatalf("the job is %s: %s", status, asRoot(t, c, "SHOW JOBS"))
	}
	got := asRoot(t, c, "SELECT status, user_id, asked_by, finished_at IS NOT NULL AS ended, json_extract(tables, '$[0].hot_rows') AS rows, json_array_length(nodes) AS nodes, backups FROM system.erasures")
	if _, line, _ := strings.Cut(strings.TrimSpace(got), "\n"); line != "finished | eve | root | true | 2 | 1 | []" {
		t.Errorf("the receipt is %s", got)
	}
	if receipt := asRoot(t, c, "SHOW RECEIPT '"+job+"'"); !strings.Contains(receipt, "SHARED") || !strings.Contains(receipt, job) {
		t.Errorf("the receipt is %s", receipt)
	}
	if err := refusal(t, c, "root", catalogv1.Role_ROLE_SYSTEM, "KILL JOB '"+job+"'"); !dberr.Is(err, dberr.InvalidOperation) {
		t.Error(err)
	}
	asRoot(t, c, "CREATE USER 'eve' WITH PASSWORD 'a long password 2'")
	for who, want := range map[string]string{"eve": "0", "ann": "1"} {
		if got := asRoot(t, c, "EXECUTE AS USER '"+who+"' (SELECT count(*) AS n FROM app.notes)"); got != "n:BIGINT\n"+want+"\n" {
			t.Errorf("%s has %s rows", who, got)
		}
	}
	asRoot(t, c, "EXECUTE AS USER 'eve' (INSERT INTO app.notes VALUES (1, 'a'))") // nothing is left of the UNIQUE value either
}
