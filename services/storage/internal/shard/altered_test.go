package shard

import (
	"context"
	"slices"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
)

// A leader whose catalog is behind the one that wrote a row neither replaces nor moves it: it would lose the values of
// columns it does not know.
func TestALeaderWithAnOldCatalogLosesNoColumn(t *testing.T) {
	known := tables()
	n := openNode(t, nodeOptions{tables: known})
	defer n.stop()
	before := known[messagesID]
	after := *before
	after.SchemaVersion, after.NextColumnID = 2, 100
	after.Columns = append(slices.Clone(before.Columns), catalog.Column{ID: 99, Name: "added", Type: catalog.Type{Kind: catalog.Text}})
	known[messagesID] = after.Index()
	put := func(id int) uint64 {
		row := rowcodec.NewRow(&after)
		if err := rowcodec.Decode(message(id, "a", nil), &after, &row); err != nil {
			t.Fatal(err)
		}
		row.Put(len(after.Columns)-1, datum.Text("kept"))
		w := insert(rowcodec.Append(nil, &after, &row))
		w.SchemaVersion = 2
		return n.mustWrite("ann", w).GetResults()[0].GetSeqs()[0]
	}
	seq := put(1)

	refused := func(what string, err error) {
		t.Helper()
		if !dberr.Is(err, dberr.SchemaChanged) {
			t.Errorf("%s: %v", what, err)
		}
	}
	flush := func() error {
		_, err := n.shard.Flush(context.Background(), before, "", holdNothing)
		return err
	}
	known[messagesID] = before
	_, err := n.write("ann", update(seq, message(1, "b", nil)))
	refused("update", err)
	refused("flush", flush())
	known[messagesID] = &after
	if err := flush(); err != nil {
		t.Fatal(err)
	}
	known[messagesID] = before
	_, err = n.write("ann", update(seq, message(1, "b", nil)))
	refused("update of a flushed row", err)
	known[messagesID] = &after
	put(2)
	if err := flush(); err != nil {
		t.Fatal(err)
	}
	_, err = n.shard.Merge(context.Background(), before, "", true, holdNothing)
	refused("merge", err)
}
