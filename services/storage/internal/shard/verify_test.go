package shard

import (
	"context"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/changelog"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/command"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

func verifyEntry(index uint64, bucket uint32) *raft.Log {
	c := &command.Command{Kind: command.Verify, Term: 3, FirstSeq: index << 22, Bucket: bucket}
	return &raft.Log{Index: index, Term: 3, Type: raft.LogCommand, Data: command.Append(nil, c)}
}

func TestEqualReplicasHaveEqualSums(t *testing.T) {
	net := rpcnet.NewLocal()
	n1 := openNode(t, nodeOptions{net: net, id: "n1"})
	defer n1.stop()
	n2 := openNode(t, nodeOptions{net: net, id: "n2", joining: true, number: 2})
	defer n2.stop()
	if err := n1.addVoter(t.Context(), "n2"); err != nil {
		t.Fatal(err)
	}
	requestsOfEveryKind(t, n1)
	if err := n1.shard.Purge(t.Context(), 77); err != nil {
		t.Fatal(err)
	}
	index, err := n1.shard.Verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n1.mustWrite("ann", insert(message(100, "after", nil)))
	sums := make([]Sum, 2)
	for i, n := range []*node{n1, n2} {
		if sums[i], err = n.shard.Checksum(t.Context(), index); err != nil {
			t.Fatal(err)
		}
	}
	if sums[0] != sums[1] || len(sums[0].Hash) != 64 || sums[0].Index != index {
		t.Errorf("sums %v", sums)
	}
	if want := uint64(len(n1.rows()) - 1 + 2); sums[0].Rows != want { // messages without the last, and two settings
		t.Errorf("%d rows, want %d", sums[0].Rows, want)
	}
	next, err := n1.shard.Verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s, err := n1.shard.Checksum(t.Context(), next); err != nil || s.Hash == sums[0].Hash || s.Rows != sums[0].Rows+1 {
		t.Errorf("after another row: %v, %v", s, err)
	}
	if _, err := n1.shard.Checksum(t.Context(), index-1); !dberr.Is(err, dberr.NotFound) {
		t.Errorf("at an entry that is no check: %v", err)
	}
	if _, err := n2.shard.Verify(t.Context()); !dberr.Is(err, dberr.NotLeader) {
		t.Errorf("at a follower: %v", err)
	}
}

// damaged applies entries, then does damage, then sums up.
func damaged(t *testing.T, bucket uint32, damage func(*node)) Sum {
	t.Helper()
	n := bare(t, vfs.NewMem())
	hour := time.Hour
	n.shard.Apply([]*raft.Log{requestEntry(1, hour, 1), requestEntry(2, 3*hour, 2), requestEntry(3, 3*hour, 3)})
	tag := entryOf(4, 3, 4, "x")
	c, err := command.Decode(tag.Data)
	if err != nil {
		t.Fatal(err)
	}
	c.FirstSeq = uint64((3*hour).Milliseconds())<<22 | 4
	c.Rows[0].UniqueSet = [][]byte{keycodec.UniqueKey(nil, 0, messagesID, 3, "ann", decodeMessage(t, message(1, "x", "tag")).Values[2])}
	tag.Data = command.Append(nil, c)
	drop := &raft.Log{Index: 5, Term: 3, Type: raft.LogCommand, Data: command.Append(nil, &command.Command{Kind: command.Purge, Term: 3, FirstSeq: 5, Table: 77})}
	n.shard.Apply([]*raft.Log{tag, drop})
	damage(n)
	n.shard.Apply([]*raft.Log{verifyEntry(6, bucket)})
	s, err := n.shard.Checksum(t.Context(), 6)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.shard.Close(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	return s
}

// flip changes the last byte of the last value of a span, or adds one to an empty value.
func flip(span keycodec.Span) func(*node) {
	return func(n *node) {
		n.t.Helper()
		it, err := n.hot.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
		if err != nil {
			n.t.Fatal(err)
		}
		if !it.Last() {
			n.t.Fatal("nothing to damage")
		}
		key, value := append([]byte(nil), it.Key()...), append([]byte(nil), it.Value()...)
		if len(value) == 0 {
			value = []byte{0}
		} else {
			value[len(value)-1] ^= 1
		}
		if err := it.Close(); err != nil {
			n.t.Fatal(err)
		}
		if err := n.hot.Set(key, value, pebble.NoSync); err != nil {
			n.t.Fatal(err)
		}
	}
}

func TestAFlippedBitIsFound(t *testing.T) {
	const bucket = 2
	whole := damaged(t, bucket, func(*node) {})
	if again := damaged(t, bucket, func(*node) {}); again != whole {
		t.Fatalf("equal logs: %v and %v", whole, again)
	}
	last := keycodec.PrefixSpan(keycodec.ChangeBucketPrefix(nil, 0, 3))
	for what, span := range map[string]keycodec.Span{
		"row": keycodec.PrefixSpan(keycodec.RowPrefix(0)), "unique index": keycodec.PrefixSpan(keycodec.UniquePrefix(0)),
		"dropped table": keycodec.PrefixSpan(keycodec.DroppedPrefix(0)), "request": keycodec.PrefixSpan(keycodec.RequestPrefix(0)),
		"change": last,
	} {
		if s := damaged(t, bucket, flip(span)); s.Hash == whole.Hash || s.Rows != whole.Rows {
			t.Errorf("a damaged %s: %v, the whole is %v", what, s, whole)
		}
	}
	// What replicas may have pruned, each by its own clock, makes no difference.
	prune := func(n *node) {
		if _, err := changelog.Prune(n.hot, 0, bucket); err != nil {
			t.Fatal(err)
		}
	}
	if s := damaged(t, bucket, prune); s != whole {
		t.Errorf("a replica that pruned: %v, the other %v", s, whole)
	}
	if s := damaged(t, 0, prune); s == damaged(t, 0, func(*node) {}) {
		t.Error("the change log is not in the sum")
	}
}

// Sums are bounded, and one too many is left out, not waited for.
func TestTooManySumsAreLeftOut(t *testing.T) {
	n := bare(t, vfs.NewMem())
	q := &n.shard.sums
	q.running = true // nobody works
	n.shard.Apply([]*raft.Log{entryOf(1, 3, 1, "x")})
	const checks = sumsWaitingMax + 2
	for i := range uint64(checks) {
		n.shard.Apply([]*raft.Log{verifyEntry(2+i, 0)})
	}
	if _, err := n.shard.Checksum(t.Context(), 1+checks); !dberr.Is(err, dberr.NotFound) {
		t.Errorf("the last: %v", err)
	}
	n.shard.sumUp()
	first, err := n.shard.Checksum(t.Context(), 2)
	if err != nil || first.Rows != 1 {
		t.Errorf("%v, %v", first, err)
	}
	for i := range uint64(3 * sumsMax) {
		n.shard.Apply([]*raft.Log{verifyEntry(50+i, 0)})
		if _, err := n.shard.Checksum(t.Context(), 50+i); err != nil {
			t.Fatal(err)
		}
	}
	if len(q.tasks) > sumsMax {
		t.Errorf("%d sums are kept", len(q.tasks))
	}
	if err := n.shard.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestDestroyRemovesOneShardOnly(t *testing.T) {
	fs := vfs.NewCrashableMem()
	n := bare(t, fs)
	n.shard.Apply([]*raft.Log{requestEntry(1, time.Hour, 1), verifyEntry(2, 0)})
	if _, err := n.shard.Checksum(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	if _, err := n.shard.Prune(snowflake.SeqEpoch.Add(2 * time.Hour)); err != nil {
		t.Fatal(err)
	}
	// Shards 1 and 256 have keys beside those of shard 0, in every space.
	others := map[string]bool{}
	for _, shard := range []uint32{1, 256, 1<<32 - 1} {
		for _, span := range keycodec.ShardSpans(shard) {
			for _, k := range [][]byte{span.Start, append(append([]byte(nil), span.Start...), 0xFF, 0xFF)} {
				others[string(k)] = true
			}
		}
		others[string(keycodec.RestoringKey(shard))] = true
	}
	for k := range others {
		if err := n.hot.Set([]byte(k), []byte("v"), pebble.NoSync); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.hot.Set(keycodec.RestoringKey(0), nil, pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	if err := n.shard.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Destroy(n.hot, 0); err != nil {
			t.Fatal(err)
		}
	}
	after := bare(t, fs.CrashClone(vfs.CrashCloneCfg{})) // what is durable
	if after.dump() != "" || after.shard.Applied() != 0 {
		t.Error("something is left of the shard")
	}
	if torn, err := after.shard.Torn(); torn || err != nil {
		t.Errorf("torn %v, %v", torn, err)
	}
	it, err := after.hot.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	left := 0
	for ok := it.First(); ok; ok = it.Next() {
		left++
		if !others[string(it.Key())] {
			t.Errorf("key %x is left", it.Key())
		}
	}
	if left != len(others) {
		t.Errorf("%d of %d keys of other shards are left", left, len(others))
	}
	after.shard.Apply([]*raft.Log{requestEntry(1, time.Hour, 1)}) // the shard may come back
	if len(after.rows()) != 1 {
		t.Error("the shard cannot be used again")
	}
}
