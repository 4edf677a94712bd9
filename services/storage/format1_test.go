package storage

import (
	"os"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// testdata/format1 was left by a node from before nodes had identities: one table, app.messages, with three rows of
// ann and one of bob. It opens, keeps its rows, and its catalog gets this node and where replicas are.
func TestADirectoryFromBeforeIdentitiesIsOpened(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/format1")); err != nil {
		t.Fatal(err)
	}
	for _, turn := range []string{"the first start", "the next"} {
		r := start(t, Config{Dir: dir})
		var messages *catalog.Table
		for id := range uint32(1000) {
			if table, ok := r.node.catalog.Table(id); ok && table.Name == "messages" {
				messages = table
			}
		}
		if messages == nil {
			t.Fatalf("%s: the table is gone", turn)
		}
		r.wantRows(messages, "ann", 3)
		r.wantRows(messages, "bob", 1)
		server := r.node.ServerID()
		n, ok := r.node.catalog.NodeByServer(server)
		if !ok || n.GetStatus() != catalogv1.NodeStatus_NODE_STATUS_ACTIVE {
			t.Errorf("%s: server %q is node %v", turn, server, n)
		}
		placements := r.node.catalog.Placements()
		if len(placements) != 3 { // the catalog and two shards
			t.Errorf("%s: %d placements", turn, len(placements))
		}
		for _, p := range placements {
			if len(p.GetReplicas()) != 1 || p.GetReplicas()[0].GetServerId() != server {
				t.Errorf("%s: group %d is at %v", turn, p.GetGroup(), p.GetReplicas())
			}
		}
		r.stop()
	}
}
