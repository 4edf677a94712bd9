package stream_test

import (
	"testing"

	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

func TestAnErasedUsersRowsAndAnswersGo(t *testing.T) {
	n := newNode(t, 0)
	const insert = storagev1.Operation_OPERATION_INSERT
	first, err := n.once(1, "ann", insert, 7)
	if err != nil {
		t.Fatal(err)
	}
	bobs, err := n.once(1, "bob", insert, 7)
	if err != nil {
		t.Fatal(err)
	}
	if rows := n.store.RowsOf("ann"); len(rows) != 1 || rows[plain] != 1 {
		t.Errorf("ann has %v", rows)
	}
	n.store.EraseUser("ann")
	if rows := n.store.RowsOf("ann"); len(rows) != 0 {
		t.Errorf("ann still has %v", rows)
	}
	if again, err := n.once(1, "ann", insert, 7); err != nil || again.GetSeqs()[0] == first.GetSeqs()[0] {
		t.Errorf("what was answered to ann is still known: %v, %v", again, err)
	}
	if again, err := n.once(1, "bob", insert, 7); err != nil || again.GetSeqs()[0] != bobs.GetSeqs()[0] {
		t.Errorf("what was answered to bob is not known any more: %v, %v", again, err)
	}
	if rows := n.store.RowsOf("bob"); rows[plain] != 1 {
		t.Errorf("bob has %v", rows)
	}
}
