package scan_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch/rowbatchtest"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	exprv1 "github.com/kalamdb/kalamdb-go/proto/expr/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/scan"
)

// Partitions of 50 users, every third of whom may not be read: each owner is looked up once, whatever the number of
// rows, and hidden rows are passed over in one step.
func TestEveryOwnerIsLookedUpOnce(t *testing.T) {
	for name, flush := range flushing {
		t.Run(name, func(t *testing.T) { lookUpOwners(t, flush) })
	}
}

func lookUpOwners(t *testing.T, flush func(step int) bool) {
	n := newNode(t)
	table := n.tables[1]
	visible := 0
	for u := range 50 {
		user := fmt.Sprintf("u%02d", u)
		n.roles[user] = catalog.RoleUser
		if u%3 == 0 {
			n.roles[user] = catalog.RoleDBA
		} else {
			visible += 20
		}
		for i := range 20 {
			n.write(t, table, user, parseRow(t, table, fmt.Sprint("id=", i, " room=a")), false)
		}
		if flush(u) {
			n.flush(t)
		}
	}
	server, err := scan.NewServer(n, scan.Config{Cold: n.cold, Allocator: rowbatchtest.Allocator(t)})
	if err != nil {
		t.Fatal(err)
	}
	for _, descending := range []bool{false, true} {
		n.lookups = 0
		req := ask(1)
		req.AllUsers, req.UserId, req.ColumnIds = true, "", []uint32{catalog.UserIDColumnID, 1}
		req.Identity = &catalogv1.Identity{UserId: "bot", Role: catalogv1.Role_ROLE_SERVICE}
		req.Order = []*exprv1.OrderBy{{ColumnId: catalog.UserIDColumnID, Descending: descending}, {ColumnId: 1, Descending: descending}}
		var out sink
		if err := server.Scan(t.Context(), req, &out); err != nil {
			t.Fatal(err)
		}
		if rows := strings.Count(show(t, &out), "_user_id="); rows != visible || n.lookups != 50 {
			t.Errorf("descending=%v: %d rows of %d, %d owners looked up", descending, rows, visible, n.lookups)
		}
	}
}

func TestAScanAsksForWhatItsRequestSays(t *testing.T) {
	n := filled(t, 3, 1)
	server, err := scan.NewServer(n, scan.Config{Cold: n.cold, Allocator: rowbatchtest.Allocator(t), WaitVersion: n.WaitVersion})
	if err != nil {
		t.Fatal(err)
	}
	req := ask(1)
	req.Consistency, req.MaxStalenessMs, req.CatalogVersion = storagev1.Consistency_CONSISTENCY_STALE, 1500, 42
	if err := server.Scan(t.Context(), req, &sink{}); err != nil {
		t.Fatal(err)
	}
	want := asked{storagev1.Consistency_CONSISTENCY_STALE, 1500 * time.Millisecond}
	if len(n.asked) != 1 || n.asked[0] != want || n.waited != 42 {
		t.Errorf("asked for %v, waited for catalog %d", n.asked, n.waited)
	}
	req.TableId = 99
	if err := server.Scan(t.Context(), req, &sink{}); !dberr.Is(err, dberr.TableNotFound) {
		t.Errorf("got %v", err)
	}
}
