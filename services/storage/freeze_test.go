package storage

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/changelog"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

// blockedFor is for how long a write is seen not to end: far less than shard.FreezeMax.
const blockedFor = 100 * time.Millisecond

// A shard that is frozen acknowledges nothing before its view, though another shard of the cut goes on already: what is written there
// can be the cause of nothing in the view.
func TestAFrozenShardAcknowledgesNothingBeforeItsView(t *testing.T) {
	r := start(t, Config{Dir: t.TempDir(), Shards: 2, MasterKey: masterText("a")})
	messages := r.createTable("messages", catalog.UserTable)
	first, second := "", ""
	for _, u := range users {
		if r.insertion(messages, u).GetShard() == 0 {
			first = u
		} else {
			second = u
		}
	}
	r.insert(messages, first, 1)
	r.insert(messages, second, 1)
	for shard := range uint32(2) {
		if _, err := r.storage.FreezeShard(t.Context(), &storagev1.FreezeShardRequest{Shard: shard, CutId: "cut"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.storage.ViewShard(t.Context(), &storagev1.ViewShardRequest{Shard: 0, CutId: "cut"}); err != nil {
		t.Fatal(err)
	}
	r.insert(messages, first, 2) // has thawed
	acked := make(chan *storagev1.WriteResponse, 1)
	go func() {
		resp, err := r.storage.Write(t.Context(), r.insertion(messages, second, 2))
		if err != nil {
			t.Errorf("a write waits and does not fail: %v", err)
		}
		acked <- resp
	}()
	select {
	case <-acked:
		t.Fatal("a frozen shard has acknowledged a write")
	case <-time.After(blockedFor):
	}
	view, err := r.storage.ViewShard(t.Context(), &storagev1.ViewShardRequest{Shard: 1, CutId: "cut"})
	if err != nil {
		t.Fatal(err)
	}
	if resp := <-acked; resp.GetPosition() <= view.GetPosition() {
		t.Errorf("the view at %d has the write at %d", view.GetPosition(), resp.GetPosition())
	}
	for _, cut := range []string{"cut", "another", ""} { // once, and for whoever froze it
		if _, err := r.storage.ViewShard(t.Context(), &storagev1.ViewShardRequest{Shard: 1, CutId: cut}); !dberr.Is(err, dberr.Unavailable) {
			t.Errorf("a view of a shard that %q has not frozen: %v", cut, err)
		}
	}
}

func TestAFrozenShardThawsByItself(t *testing.T) {
	r := start(t, Config{Dir: t.TempDir(), Shards: 1})
	messages := r.createTable("messages", catalog.UserTable)
	if _, err := r.storage.FreezeShard(t.Context(), &storagev1.FreezeShardRequest{CutId: "cut"}); err != nil {
		t.Fatal(err)
	}
	r.insert(messages, "ann", 1) // waits until the freeze is over
	if _, err := r.storage.ViewShard(t.Context(), &storagev1.ViewShardRequest{CutId: "cut"}); !dberr.Is(err, dberr.Unavailable) {
		t.Errorf("a view after the freeze: %v", err)
	}
	if _, err := r.storage.FreezeShard(t.Context(), &storagev1.FreezeShardRequest{CutId: "next"}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.storage.ThawShard(t.Context(), &storagev1.ThawShardRequest{CutId: "next"}); err != nil {
		t.Fatal(err)
	}
	r.insert(messages, "ann", 2)
}

// Rows come back with the _seq they had, from clocks that were ahead, too: what is written then is above.
func TestEverySeqIsAboveTheImportedOnes(t *testing.T) {
	dir := t.TempDir()
	r := start(t, Config{Dir: dir, Shards: 2})
	messages := r.createTable("messages", catalog.UserTable)
	ahead := r.insert(messages, "ann", 1).GetPosition() + 1<<40
	of := r.insertion(messages, "ann")
	row := &storagev1.ImportRow{Key: keycodec.AppendKeyValues(nil, []datum.Datum{datum.Int(7)}),
		Version: keycodec.AppendVersion(nil, &keycodec.Version{Seq: ahead, SchemaVersion: 1, Row: encodeRow(messages, 7, "restored")})}
	req := &storagev1.ImportRequest{Shard: of.GetShard(), Table: catalog.TableToProto(messages), Owner: "ann", Rows: []*storagev1.ImportRow{row}}
	for range 2 { // again changes nothing
		if _, err := r.storage.Import(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	if now := r.insert(messages, "ann", 2).GetPosition(); now <= ahead {
		t.Errorf("_seq %d, %d was imported", now, ahead)
	}
	r.stop()
	r = start(t, Config{Dir: dir, Shards: 2})
	if now := r.insert(messages, "ann", 3).GetPosition(); now <= ahead {
		t.Errorf("_seq %d after a restart, %d was imported", now, ahead)
	}
	r.wantRows(messages, "ann", 4)
	changes, _, err := changelog.Read(r.node.hot, of.GetShard(), messages.ID, "ann", 0, changelog.Limits{})
	if len(changes) != 3 || err != nil {
		t.Errorf("%d changes, %v: nobody wrote what was imported", len(changes), err)
	}
	elsewhere := proto.CloneOf(req)
	elsewhere.Shard = 1 - req.GetShard()
	if _, err := r.storage.Import(t.Context(), elsewhere); !dberr.Is(err, dberr.InvalidArgument) {
		t.Errorf("into a shard that has not the user: %v", err)
	}
}

// What a view names stays while it is held, though the partition has other segments by now.
func TestTheFilesOfAViewStay(t *testing.T) {
	r := start(t, Config{Dir: t.TempDir(), Shards: 1})
	messages := r.createTable("messages", catalog.UserTable)
	for id := range 2 {
		r.insert(messages, "ann", id)
		r.flush(messages)
	}
	before := segmentsOf(t, r.node)
	if _, err := r.storage.FreezeShard(t.Context(), &storagev1.FreezeShardRequest{CutId: "cut"}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.storage.ViewShard(t.Context(), &storagev1.ViewShardRequest{CutId: "cut"}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.storage.Compact(t.Context(), &storagev1.CompactRequest{TableId: messages.ID}); err != nil {
		t.Fatal(err)
	}
	if after := segmentsOf(t, r.node); len(before) != 2 || len(after) != 1 {
		t.Fatalf("%d segments, then %d", len(before), len(after))
	}
	has := func() (n int) {
		if _, err := r.node.sweepSegments(0); err != nil {
			t.Fatal(err)
		}
		for _, e := range before {
			if r.node.segments.Files.Has(e.Segment) {
				n++
			}
		}
		return n
	}
	if n := has(); n != 2 {
		t.Errorf("%d files are left while the view is held", n)
	}
	if _, err := r.storage.ThawShard(t.Context(), &storagev1.ThawShardRequest{CutId: "cut"}); err != nil {
		t.Fatal(err)
	}
	if n := has(); n != 0 {
		t.Errorf("%d files are left without the view", n)
	}
}
