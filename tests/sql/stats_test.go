package sqltest

import (
	"strings"
	"testing"

	"github.com/kalamdb/kalamdb-go/tests/cluster"
)

// SHOW STATS counts what the caller sees, where it is.
func TestStats(t *testing.T) {
	c := cluster.Start(t)
	run(t, c, root, "CREATE NAMESPACE app; CREATE USER TABLE app.notes (id INT PRIMARY KEY); CREATE SHARED TABLE app.rooms (id INT PRIMARY KEY) PARTITION BY HASH (id) PARTITIONS 8")
	run(t, c, alice, "INSERT INTO notes VALUES (1), (2), (3)")
	run(t, c, root, "INSERT INTO app.notes VALUES (1); INSERT INTO app.rooms VALUES (1), (2), (3), (4), (5), (6), (7), (8)")
	show := func(table string) string {
		t.Helper()
		row := strings.Split(strings.Split(resultText(t, run(t, c, alice, "SHOW STATS FOR TABLE app."+table)), "\n")[1], " | ")
		flushed := "flushed"
		if row[11] == "∅" {
			flushed = "never"
		}
		// logical rows, segments, hot, cold, total
		return strings.Join([]string{row[3], row[4], row[7], row[8], row[9], flushed}, " ")
	}
	expect := func(table, want string) {
		t.Helper()
		if got := show(table); got != want {
			t.Errorf("%s: %s, want %s", table, got, want)
		}
	}
	expect("notes", "3 0 3 0 3 never")
	if n := c.Flush(t); n != 12 {
		t.Errorf("%d rows flushed", n)
	}
	expect("notes", "3 1 0 3 3 flushed")
	run(t, c, alice, "DELETE FROM notes WHERE id = 1; INSERT INTO notes VALUES (9)")
	expect("notes", "3 1 1 2 3 flushed")
	run(t, c, alice, "INSERT INTO rooms VALUES (9)")
	if got := show("rooms"); !strings.HasPrefix(got, "9 ") || !strings.HasSuffix(got, " 1 8 9 flushed") {
		t.Errorf("rooms: %s", got)
	}
}
