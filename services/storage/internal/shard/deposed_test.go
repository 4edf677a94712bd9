package shard

import (
	"context"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/raftgroup"
)

// A leader that was cut off and does not know it yet has no answer from what it has stored: that a key is taken may have
// changed elsewhere.
func TestADeposedLeaderAnswersNothing(t *testing.T) {
	faults := rpcnet.NewFaults(rpcnet.NewLocal())
	settings := raftgroup.Settings{HeartbeatTimeout: 5 * time.Second} // so long it believes to lead
	var nodes []*node
	for i, id := range []string{"n1", "n2", "n3"} {
		n := openNode(t, nodeOptions{net: faults.As(id), id: id, joining: i > 0, settings: settings, number: uint16(i + 1)})
		nodes = append(nodes, n)
		defer n.stop()
	}
	defer faults.Heal()
	for _, id := range []string{"n2", "n3"} {
		if err := nodes[0].addVoter(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	seq := nodes[0].mustWrite("ann", insert(message(1, "one", nil))).GetResults()[0].GetSeqs()[0]
	until(t, "all replicas to have it", func() bool {
		return nodes[1].shard.Applied() == nodes[0].shard.Applied() && nodes[2].shard.Applied() == nodes[0].shard.Applied()
	})
	for _, other := range []string{"n2", "n3"} {
		faults.Cut("n1", other)
		faults.Cut(other, "n1")
	}
	if err := nodes[1].group.Campaign(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-nodes[1].leads
	nodes[1].mustWrite("ann", remove(seq, message(1, "one", nil)))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	skips := insert(message(1, "again", nil))
	skips.OnConflict = storagev1.OnConflict_ON_CONFLICT_DO_NOTHING
	for _, w := range []*storagev1.TableWrite{skips, insert(message(1, "again", nil)), update(7, message(1, "other", nil))} {
		switch resp, err := nodes[0].shard.Write(ctx, request("ann", w)); {
		case err == nil:
			t.Errorf("answered %v", resp)
		case dberr.Is(err, dberr.PrimaryKeyViolation), dberr.Is(err, dberr.Conflict):
			t.Errorf("refused by a row that is no more: %v", err)
		}
	}
}
