package shard

import (
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// commit runs a transaction that read the messages table at a position.
func (n *node) commit(req *storagev1.WriteRequest, position uint64) (*Pending, error) {
	p, err := n.shard.BeginCommit(n.t.Context(), &storagev1.CommitRequest{Write: req,
		Reads: []*storagev1.TableRead{{TableId: messagesID, Position: position}}})
	if err != nil {
		return nil, err
	}
	_, err = p.Wait(n.t.Context())
	return p, err
}

func TestATransactionIsRefusedWhenWhatItReadChanged(t *testing.T) {
	n := openNode(t, nodeOptions{})
	defer n.stop()
	n.mustWrite("ann", insert(message(1, "one", nil)))
	read := n.shard.Position()
	n.mustWrite("bob", insert(message(1, "bob's", nil))) // another partition
	if _, err := n.commit(request("ann", insert(message(2, "two", nil))), read); err != nil {
		t.Fatalf("nothing that was read has changed: %v", err)
	}
	before := n.dump()
	if _, err := n.commit(request("ann", insert(message(3, "three", nil))), read); !dberr.Is(err, dberr.Conflict) {
		t.Errorf("a row came since: %v", err)
	}
	if _, err := n.commit(request("ann"), read); !dberr.Is(err, dberr.Conflict) {
		t.Errorf("a row came since, and nothing is to be written: %v", err)
	}
	if n.dump() != before {
		t.Error("a refused transaction wrote")
	}
	if _, err := n.commit(request("ann"), n.shard.Position()); err != nil {
		t.Errorf("reading only: %v", err)
	}
}

// A command that has its place in the log and is not applied yet counts as a change.
func TestATransactionSeesCommandsUnderWay(t *testing.T) {
	n := openNode(t, nodeOptions{})
	defer n.stop()
	n.mustWrite("ann", insert(message(1, "one", nil)))
	under := func(user string, tables ...uint32) {
		n.shard.waiting.Lock()
		defer n.shard.waiting.Unlock()
		n.shard.pending[1] = &Pending{user: user, wrote: tables}
	}
	position := n.shard.Position()
	for _, c := range []struct {
		user     string
		table    uint32
		conflict bool
	}{{"ann", messagesID, true}, {"bob", messagesID, false}, {"ann", messagesID + 1000, false}} {
		under(c.user, c.table)
		if _, err := n.commit(request("ann"), position); dberr.Is(err, dberr.Conflict) != c.conflict {
			t.Errorf("beside a write of %s to %d: %v", c.user, c.table, err)
		}
	}
	n.shard.take(1)
}

func TestATransactionIsDoneOnce(t *testing.T) {
	n := openNode(t, nodeOptions{})
	defer n.stop()
	n.mustWrite("ann", insert(message(1, "one", nil)))
	read := n.shard.Position()
	req := numbered(7, request("ann", insert(message(2, "two", nil)), insert(), insert(message(3, "three", nil))))
	first, err := n.commit(req, read)
	if err != nil || first.Remembered() {
		t.Fatalf("%v, remembered %v", err, first.Remembered())
	}
	again, err := n.commit(req, read) // what it read has changed, by itself
	if err != nil || !again.Remembered() {
		t.Fatalf("repeated: %v", err)
	}
	resp, err := again.Wait(t.Context())
	if err != nil || len(resp.GetResults()) != 3 || resp.GetResults()[2].GetRowsAffected() != 1 {
		t.Errorf("repeated: %v, %v", resp, err)
	}
}

// A key that was free when the transaction looked and is taken now is a conflict, not a violation.
func TestATransactionIsNotBlamedForWhatCameLater(t *testing.T) {
	n := openNode(t, nodeOptions{})
	defer n.stop()
	n.mustWrite("ann", insert(message(1, "one", nil)))
	read := n.shard.Position()
	n.mustWrite("ann", insert(message(2, "two", nil)))
	if _, err := n.commit(request("ann", insert(message(2, "mine", nil))), read); !dberr.Is(err, dberr.Conflict) {
		t.Errorf("taken since: %v", err)
	}
	if _, err := n.commit(request("ann", insert(message(2, "mine", nil))), n.shard.Position()); !dberr.Is(err, dberr.PrimaryKeyViolation) {
		t.Errorf("taken before: %v", err)
	}
}

func TestATransactionNamesTheWriteThatFailed(t *testing.T) {
	n := openNode(t, nodeOptions{})
	defer n.stop()
	n.mustWrite("ann", insert(message(1, "one", nil)))
	for _, bad := range [][]byte{message(1, "again", nil), message(5, nil, nil)} {
		_, err := n.commit(request("ann", insert(message(2, "two", nil)), insert(bad)), n.shard.Position())
		if err == nil || dberr.FieldOf(err, dberr.FieldWrite) != "1" {
			t.Errorf("%v, write %q", err, dberr.FieldOf(err, dberr.FieldWrite))
		}
	}
}

func TestReadsThatCannotBe(t *testing.T) {
	n := openNode(t, nodeOptions{})
	defer n.stop()
	begin := func(reads ...*storagev1.TableRead) error {
		_, err := n.shard.BeginCommit(t.Context(), &storagev1.CommitRequest{Write: request("ann"), Reads: reads})
		return err
	}
	if err := begin(&storagev1.TableRead{TableId: 9999, Position: 1}); !dberr.Is(err, dberr.Conflict) {
		t.Errorf("a table that was dropped: %v", err)
	}
	if err := begin(make([]*storagev1.TableRead, tableReadsMax+1)...); !dberr.Is(err, dberr.LimitExceeded) {
		t.Errorf("too many: %v", err)
	}
}
