package shard

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/changelog"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

func TestInsertFillsDefaultsAndReturnsTheRow(t *testing.T) {
	n := openNode(t, nodeOptions{})
	defer n.stop()
	resp := n.mustWrite("ann", insert(message(nil, "hello", nil)))
	r := resp.GetResults()[0]
	if r.GetRowsAffected() != 1 || len(r.GetSeqs()) != 1 || resp.GetPosition() != r.GetSeqs()[0] {
		t.Fatalf("got %v", resp)
	}
	if resp.GetDurability() != storagev1.Durability_DURABILITY_QUORUM {
		t.Errorf("durability %v", resp.GetDurability())
	}
	row := decodeMessage(t, r.GetRows()[0])
	if row.Values[0].AsInt() == 0 || row.Values[1].AsText() != "hello" || !row.Values[2].IsNull() {
		t.Fatalf("stored %v", row.Values)
	}
	stored := n.rows()[fmt.Sprintf("ann/%d", row.Values[0].AsInt())]
	if stored.Seq != resp.GetPosition() || stored.Deleted || string(stored.Row) != string(r.GetRows()[0]) {
		t.Fatalf("state %+v", stored)
	}
	if n.shard.Position() != resp.GetPosition() {
		t.Errorf("position %d, want %d", n.shard.Position(), resp.GetPosition())
	}
}

func TestAnUpdateADeleteAndTheKeyAgain(t *testing.T) {
	n := openNode(t, nodeOptions{})
	defer n.stop()
	first := n.mustWrite("ann", insert(message(1, "a", "x"))).GetPosition()
	second := n.mustWrite("ann", update(first, message(1, "b", "y"))).GetPosition()
	n.mustWrite("ann", insert(message(2, "the old tag is free", "x")))
	third := n.mustWrite("ann", remove(second, message(1, nil, nil))).GetPosition()
	tomb := n.rows()["ann/1"]
	if !tomb.Deleted || tomb.Seq != third || decodeMessage(t, tomb.Row).Values[1].AsText() != "b" {
		t.Fatalf("tombstone %+v", tomb)
	}
	n.mustWrite("ann", insert(message(1, "again", "y")))
	changes, more, err := changelog.Read(n.hot, 0, messagesID, "ann", 0, changelog.Limits{})
	if err != nil || more || len(changes) != 5 {
		t.Fatalf("%d changes, %v", len(changes), err)
	}
	last := uint64(0)
	for _, c := range changes {
		if c.GetSeq() <= last {
			t.Errorf("_seq %d after %d", c.GetSeq(), last)
		}
		last = c.GetSeq()
	}
	if up := changes[1]; up.GetKind() != storagev1.ChangeKind_CHANGE_KIND_UPDATE || up.GetOldSeq() != first ||
		decodeMessage(t, up.GetOldRow()).Values[1].AsText() != "a" {
		t.Errorf("update %v", up)
	}
	if del := changes[3]; del.GetKind() != storagev1.ChangeKind_CHANGE_KIND_DELETE || len(del.GetRow()) != 0 || del.GetOldSeq() != second {
		t.Errorf("delete %v", del)
	}
}

func TestRefusals(t *testing.T) {
	n := openNode(t, nodeOptions{})
	defer n.stop()
	seq := n.mustWrite("ann", insert(message(1, "a", "x"))).GetPosition()
	before := n.shard.Position()
	other := request("ann", insert(message(5, "a", nil)))
	other.UserId = "bob"
	oldSchema := insert(message(5, "a", nil))
	oldSchema.SchemaVersion = 7
	table := tables()[messagesID]
	big := rowcodec.NewRow(table)
	big.Put(0, datum.Int(9))
	big.Put(1, datum.Text("x"))
	big.Put(3, datum.Int(40_000))
	unknown := insert()
	unknown.TableId = 99
	for _, c := range []struct {
		what string
		req  *storagev1.WriteRequest
		code dberr.Code
		text string
	}{
		{"key", request("ann", insert(message(1, "b", nil))), dberr.PrimaryKeyViolation, "Primary key violation"},
		{"key twice", request("ann", insert(message(5, "b", nil), message(5, "c", nil))), dberr.PrimaryKeyViolation, "same statement"},
		{"not null", request("ann", insert(message(5, "b", nil), message(6, nil, nil))), dberr.NotNullViolation,
			"NOT NULL constraint violation: column 'body' cannot be NULL (row 2)"},
		{"null key", request("ann", insert(message(datum.Null, "b", nil))), dberr.NotNullViolation, "column 'id'"},
		{"unique", request("ann", insert(message(5, "b", "x"))), dberr.UniqueViolation, "tag"},
		{"unique twice", request("ann", insert(message(5, "b", "y"), message(6, "b", "y"))), dberr.UniqueViolation, "row 2"},
		{"stale", request("ann", update(seq-1, message(1, "b", nil))), dberr.Conflict, "row 1"},
		{"gone", request("ann", remove(seq, message(2, nil, nil))), dberr.Conflict, "row 1"},
		{"another user", other, dberr.PermissionDenied, "another user"},
		{"schema", request("ann", oldSchema), dberr.SchemaChanged, "version"},
		{"range", request("ann", insert(rowcodec.Append(nil, table, &big))), dberr.ValueOutOfRange, "SMALLINT"},
		{"table", request("ann", unknown), dberr.TableNotFound, "99"},
		{"half good", request("ann", insert(message(7, "b", nil)), update(1, message(1, "b", nil))), dberr.Conflict, ""},
		{"malformed", request("ann", insert([]byte{1, 2, 3})), dberr.Corrupt, ""},
	} {
		_, err := n.shard.Write(context.Background(), c.req)
		if !dberr.Is(err, c.code) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v (%s)", c.what, err, dberr.CodeOf(err))
		}
	}
	if n.shard.Position() != before || len(n.rows()) != 1 {
		t.Errorf("a refused write left something: %d rows", len(n.rows()))
	}
}

func TestDoNothingOnConflict(t *testing.T) {
	n := openNode(t, nodeOptions{})
	defer n.stop()
	n.mustWrite("ann", insert(message(1, "a", "x")))
	w := insert(message(1, "b", nil), message(2, "c", nil), message(2, "d", nil), message(3, "e", "x"))
	w.OnConflict = storagev1.OnConflict_ON_CONFLICT_DO_NOTHING
	r := n.mustWrite("ann", w).GetResults()[0]
	if r.GetRowsAffected() != 1 || len(r.GetRows()) != 1 || decodeMessage(t, r.GetRows()[0]).Values[1].AsText() != "c" {
		t.Fatalf("got %v", r)
	}
	w.Rows = w.Rows[:1]
	before := n.shard.Position()
	if resp := n.mustWrite("ann", w); resp.GetResults()[0].GetRowsAffected() != 0 || resp.GetPosition() != before {
		t.Fatalf("nothing to do: %v", resp)
	}
}

func TestOneRequestMayTouchARowTwice(t *testing.T) {
	n := openNode(t, nodeOptions{})
	defer n.stop()
	resp := n.mustWrite("ann", insert(message(1, "a", "x")), update(0, message(1, "b", "y")), insert(message(2, "c", "x")),
		remove(0, message(1, nil, nil)))
	seqs := []uint64{}
	for _, r := range resp.GetResults() {
		seqs = append(seqs, r.GetSeqs()...)
	}
	changes, _, err := changelog.Read(n.hot, 0, messagesID, "ann", 0, changelog.Limits{})
	if err != nil || len(changes) != 4 {
		t.Fatalf("%d changes, %v", len(changes), err)
	}
	for i, c := range changes {
		if c.GetSeq() != seqs[i] {
			t.Errorf("change %d has _seq %d, the answer said %d", i, c.GetSeq(), seqs[i])
		}
	}
	if changes[1].GetOldSeq() != seqs[0] || changes[3].GetOldSeq() != seqs[1] {
		t.Errorf("old _seqs %d, %d", changes[1].GetOldSeq(), changes[3].GetOldSeq())
	}
	if v := n.rows()["ann/1"]; !v.Deleted {
		t.Errorf("row 1: %+v", v)
	}
}

func TestOfManyInsertsOfOneKeyOneWins(t *testing.T) {
	n := openNode(t, nodeOptions{})
	defer n.stop()
	const writers, keys = 16, 20
	var won atomic.Int64
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for k := range keys {
				_, err := n.write("ann", insert(message(k, "x", fmt.Sprint("tag", k))))
				if err == nil {
					won.Add(1)
				} else if !dberr.Is(err, dberr.PrimaryKeyViolation) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if won.Load() != keys || len(n.rows()) != keys {
		t.Fatalf("%d inserts won, %d rows, want %d", won.Load(), len(n.rows()), keys)
	}
}

// TestCountersLoseNothing increments rows by reading and writing with the expected _seq.
func TestCountersLoseNothing(t *testing.T) {
	n := openNode(t, nodeOptions{})
	defer n.stop()
	n.mustWrite("ann", insert(message(1, "0", nil)))
	const writers, each = 8, 10
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for done := 0; done < each; {
				v := n.rows()["ann/1"]
				var count int
				if _, err := fmt.Sscan(decodeMessage(t, v.Row).Values[1].AsText(), &count); err != nil {
					t.Error(err)
					return
				}
				_, err := n.write("ann", update(v.Seq, message(1, fmt.Sprint(count+1), nil)))
				switch {
				case err == nil:
					done++
				case !dberr.Is(err, dberr.Conflict):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if got := decodeMessage(t, n.rows()["ann/1"].Row).Values[1].AsText(); got != fmt.Sprint(writers*each) {
		t.Fatalf("counted to %s, want %d", got, writers*each)
	}
}

func TestPurgeRemovesATableForGood(t *testing.T) {
	n := openNode(t, nodeOptions{})
	defer n.stop()
	n.mustWrite("ann", insert(message(1, "a", "x")))
	n.mustWrite("bob", insert(message(1, "a", "x")))
	if err := n.shard.Purge(context.Background(), messagesID); err != nil {
		t.Fatal(err)
	}
	if len(n.rows()) != 0 {
		t.Errorf("%d rows left", len(n.rows()))
	}
	if _, err := n.write("ann", insert(message(2, "late", nil))); !dberr.Is(err, dberr.TableNotFound) {
		t.Errorf("a late write: %v", err)
	}
	if _, closer, err := n.hot.Get(keycodec.DroppedKey(0, messagesID)); err != nil {
		t.Error(err)
	} else {
		_ = closer.Close()
	}
}

func TestLimits(t *testing.T) {
	n := openNode(t, nodeOptions{})
	defer n.stop()
	rows := make([][]byte, writeRowsMax+1)
	for i := range rows {
		rows[i] = message(i, "x", nil)
	}
	if _, err := n.write("ann", insert(rows...)); !dberr.Is(err, dberr.LimitExceeded) || !strings.Contains(err.Error(), "writeRowsMax") {
		t.Errorf("rows: %v", err)
	}
	large := strings.Repeat("x", commandBytesMax/2)
	if _, err := n.write("ann", insert(message(1, large, nil), message(2, large, nil))); !dberr.Is(err, dberr.LimitExceeded) {
		t.Errorf("bytes: %v", err)
	}
	if _, err := n.write("ann", insert(message(1, "x", strings.Repeat("x", keyBytesMax)))); !dberr.Is(err, dberr.LimitExceeded) {
		t.Errorf("key: %v", err)
	}
	r := n.mustWrite("ann", insert(rows[:20_000]...)).GetResults()[0]
	if r.GetRowsAffected() != 20_000 || len(n.rows()) != 20_000 {
		t.Errorf("%d rows", len(n.rows()))
	}
}
