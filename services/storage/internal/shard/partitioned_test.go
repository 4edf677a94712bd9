package shard

import (
	"context"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/partition"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

const roomsID = 3

// withRooms adds a table of four partitions.
func withRooms() testTables {
	t := tables()
	t[roomsID] = (&catalog.Table{ID: roomsID, Namespace: "app", Name: "rooms", Kind: catalog.SharedTable, SchemaVersion: 1,
		PartitionColumnID: 1, Partitions: 4, Columns: []catalog.Column{
			{ID: 1, Name: "room", Type: catalog.Type{Kind: catalog.Text}, NotNull: true, PrimaryKey: true},
			{ID: 2, Name: "id", Type: catalog.Type{Kind: catalog.BigInt}, NotNull: true, PrimaryKey: true}}}).Index()
	return t
}

func TestPartitionsOfASharedTable(t *testing.T) {
	all := withRooms()
	n := openNode(t, nodeOptions{tables: all})
	defer n.stop()
	write := func(owner string, rooms ...string) error {
		w := &storagev1.TableWrite{TableId: roomsID, SchemaVersion: 1, Operation: storagev1.Operation_OPERATION_INSERT}
		for _, room := range rooms {
			w.Rows = append(w.Rows, all.encode(roomsID, datum.Text(room), datum.Int(1)))
		}
		req := request("ann", w)
		req.UserId = owner
		_, err := n.shard.Write(context.Background(), req)
		return err
	}
	of := func(room string) string {
		p, err := partition.Of(all[roomsID], datum.Text(room))
		if err != nil {
			t.Fatal(err)
		}
		return partition.Name(p)
	}
	var other string // a room of another partition than blue's
	for _, room := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		if of(room) != of("blue") {
			other = room
		}
	}
	if err := write(of("blue"), "blue"); err != nil {
		t.Fatal(err)
	}
	if err := write(of(other), other); err != nil {
		t.Fatal(err)
	}
	if err := write(of("blue"), "blue"); !dberr.Is(err, dberr.PrimaryKeyViolation) {
		t.Errorf("a key twice: %v", err)
	}
	before := n.shard.Position()
	for what, err := range map[string]error{
		"a row of another partition": write(of("blue"), other),
		"no partition":               write("", "blue"),
		"a user":                     write("ann", "blue"),
		"a partition too many":       write(partition.Name(4), "blue"),
	} {
		if !dberr.Is(err, dberr.InvalidArgument) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n.shard.Position() != before {
		t.Error("a refused write left something")
	}
	again := request("bob", &storagev1.TableWrite{TableId: roomsID, SchemaVersion: 1, Operation: storagev1.Operation_OPERATION_INSERT,
		Rows: [][]byte{all.encode(roomsID, datum.Text("blue"), datum.Int(2))}})
	again.UserId, again.RequestId, again.ReturnRows = of("blue"), []byte("0123456789abcdef"), true
	for range 2 { // the second answers from memory
		resp, err := n.shard.Write(context.Background(), again)
		if err != nil || resp.GetResults()[0].GetRowsAffected() != 1 || len(resp.GetResults()[0].GetRows()) != 1 {
			t.Fatalf("%v, %v", resp, err)
		}
	}
}
