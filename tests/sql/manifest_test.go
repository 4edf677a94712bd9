package sqltest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kalamdb/kalamdb-go/services/storage"
	"github.com/kalamdb/kalamdb-go/tests/cluster"
)

// More partitions than one answer of a shard holds are all listed, each once.
func TestManifestsOfManyUsers(t *testing.T) {
	const users = 600
	c := cluster.Start(t, cluster.Storage(func(cfg *storage.Config) { cfg.Shards = 2 }))
	asRoot(t, c, "CREATE NAMESPACE app; CREATE USER TABLE app.notes (id INT PRIMARY KEY)")
	var inserts strings.Builder
	for n := range users {
		fmt.Fprintf(&inserts, "EXECUTE AS USER 'user%03d' (INSERT INTO app.notes VALUES (%d));", n, n)
	}
	asRoot(t, c, inserts.String())
	for _, id := range jobID.FindAllString(asRoot(t, c, "STORAGE FLUSH TABLE app.notes"), -1) {
		if status := endOf(t, c, id); status != "completed" {
			t.Fatalf("the flush is %s", status)
		}
	}
	got := asRoot(t, c, "SELECT count(*) AS n, count(DISTINCT scope) AS users FROM system.manifest WHERE manifest_json->>'user_id' = scope")
	if want := fmt.Sprintf("n:BIGINT | users:BIGINT\n%d | %d\n", users, users); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
