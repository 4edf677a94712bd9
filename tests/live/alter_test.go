package livetest

import (
	"strings"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
	"github.com/kalamdb/kalamdb-go/services/live"
)

// TestASubscriptionMeetsAlterTable: it ends at a position from which, with the new version, nothing is missed, nothing
// comes twice, and changes from before are as the table shows them.
func TestASubscriptionMeetsAlterTable(t *testing.T) {
	n := start(t, live.Config{})
	n.user("ann")
	p := &followed{n: n, table: n.table("messages", catalog.UserTable), user: "ann"}
	for round := range 5 {
		old := p.subscribe(onlyChanges)
		old.subscribed()
		before := p.insert(int64(2*round), "a", "x")
		old.changed(before)
		name := "stars" + strings.Repeat("x", round)
		resp, err := n.catalog.Apply(t.Context(), &catalogv1.ApplyRequest{Command: &catalogv1.Command{Command: &catalogv1.Command_AlterTable{
			AlterTable: &catalogv1.AlterTable{Namespace: "default", Name: "messages", Change: &catalogv1.AlterTable_AddColumn{AddColumn: &catalogv1.Column{
				Name: name, Type: &catalogv1.Type{Kind: catalogv1.TypeKind_TYPE_KIND_INT}, NotNull: true,
				Default: &catalogv1.Default{Kind: catalogv1.DefaultKind_DEFAULT_KIND_LITERAL, Literal: datum.Append(nil, datum.Int(3))}}}}}}})
		if err != nil {
			t.Fatal(err)
		}
		p.table = catalog.TableFromProto(resp.GetTable())
		after := p.insert(int64(2*round+1), "a", "y") // the live role may hear of it first
		m := old.next()
		if m.GetEnded().GetCode() != string(dberr.SchemaChanged) || m.GetEnded().GetPosition() < before || m.GetEnded().GetPosition() >= after {
			t.Fatalf("round %d: %v; wrote %d before and %d after", round, m, before, after)
		}
		old.cancel()
		newest := func(seq uint64) func(*livev1.Subscribe) {
			return func(s *livev1.Subscribe) {
				s.FromSeq = &seq
				s.Plan.ColumnIds = []uint32{1, p.table.NextColumnID - 1}
			}
		}
		resumed := p.subscribe(newest(m.GetEnded().GetPosition()))
		resumed.subscribed()
		resumed.changed(after)
		resumed.cancel()
		earlier := p.subscribe(newest(before - 1))
		earlier.subscribed()
		if ch := earlier.changed(before); !strings.Contains(string(ch.GetRows()), `"`+name+`":3`) {
			t.Errorf("round %d: a row from before the column: %s", round, ch.GetRows())
		}
		earlier.changed(after)
		earlier.cancel()
	}
}
