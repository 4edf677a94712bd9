package stream_test

import (
	"encoding/binary"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

func requestID(n uint64) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 8), n)
}

func (n *node) once(request uint64, user string, op storagev1.Operation, id int64) (*storagev1.TableWriteResult, error) {
	return n.store.WriteOnce(n.t.Context(), requestID(request), n.tables[plain], user, &storagev1.TableWrite{TableId: plain,
		SchemaVersion: 1, Operation: op, Rows: [][]byte{n.row(plain, id, "data")}}, true)
}

func TestARequestIsDoneOnce(t *testing.T) {
	n := newNode(t, 0)
	const insert, remove = storagev1.Operation_OPERATION_INSERT, storagev1.Operation_OPERATION_DELETE
	first, err := n.once(1, "ann", insert, 7)
	if err != nil {
		t.Fatal(err)
	}
	again, err := n.once(1, "ann", insert, 7)
	if err != nil || again.GetSeqs()[0] != first.GetSeqs()[0] || string(again.GetRows()[0]) != string(first.GetRows()[0]) {
		t.Errorf("another attempt: %v, %v; the first: %v", again, err, first)
	}
	if _, err := n.once(1, "bob", insert, 7); err != nil {
		t.Errorf("another user's request with the same id: %v", err)
	}
	if _, err := n.once(2, "ann", insert, 7); !dberr.Is(err, dberr.PrimaryKeyViolation) {
		t.Errorf("another request: %v", err)
	}
	if r, err := n.once(3, "ann", remove, 7); err != nil || r.GetRowsAffected() != 1 {
		t.Errorf("delete: %v, %v", r, err)
	}
	if r, err := n.once(2, "ann", insert, 7); err != nil || r.GetRowsAffected() != 1 {
		t.Errorf("a refused request is tried anew: %v, %v", r, err)
	}
	if r, err := n.once(3, "ann", remove, 7); err != nil || r.GetRowsAffected() != 1 {
		t.Errorf("the delete again: %v, %v", r, err)
	}
	if rows, _, _ := n.store.Rows(n.tables[plain], "ann"); len(rows) != 1 {
		t.Errorf("%d rows", len(rows))
	}
	n.store.Reset()
	n.store.Lead()
	if r, err := n.once(1, "ann", insert, 7); err != nil || r.GetSeqs()[0] == first.GetSeqs()[0] {
		t.Errorf("after leadership was lost: %v, %v", r, err)
	}
	if _, err := n.store.WriteOnce(t.Context(), []byte("short"), n.tables[plain], "ann", &storagev1.TableWrite{}, false); !dberr.Is(err, dberr.InvalidArgument) {
		t.Errorf("a bad id: %v", err)
	}
}

// What is remembered is bounded: the oldest is forgotten.
func TestTheOldestRequestIsForgotten(t *testing.T) {
	n := newNode(t, 0)
	const insert = storagev1.Operation_OPERATION_INSERT
	const requests = 16_384 + 1
	for i := range uint64(requests) {
		if _, err := n.once(i, "ann", insert, int64(i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.once(requests-1, "ann", insert, requests-1); err != nil {
		t.Errorf("the newest: %v", err)
	}
	if _, err := n.once(1, "ann", insert, 1); err != nil {
		t.Errorf("the second: %v", err)
	}
	newest := n.store.Position()
	n.advance(2 * ttl) // the rows are gone: a request that is forgotten is done again
	if r, err := n.once(1, "ann", insert, 1); err != nil || r.GetSeqs()[0] > newest {
		t.Errorf("the second, later: %v, %v", r, err)
	}
	if r, err := n.once(0, "ann", insert, 0); err != nil || r.GetSeqs()[0] <= newest {
		t.Errorf("the first was not forgotten: %v, %v", r, err)
	}
}
