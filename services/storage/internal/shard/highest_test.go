package shard

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

// frozen is a clock that stands still, so that the next generated key is the last one and one.
func frozen() time.Time { return time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC) }

// generated inserts a row whose key the leader makes, and returns the key.
func (n *node) generated(user string) (int64, error) {
	resp, err := n.write(user, insert(message(nil, "generated", nil)))
	if err != nil {
		return 0, err
	}
	return decodeMessage(n.t, resp.GetResults()[0].GetRows()[0]).Values[0].AsInt(), nil
}

func (n *node) mustGenerate(user string) int64 {
	n.t.Helper()
	key, err := n.generated(user)
	if err != nil {
		n.t.Fatal(err)
	}
	return key
}

// asks reports whether the store must be asked about a key.
func (n *node) asks(user string, key int64) bool {
	above, _ := n.shard.highest.isAbove(keyPartition{messagesID, user}, key)
	return !above
}

func TestGeneratedKeysAreKnownToBeNew(t *testing.T) {
	n := openNode(t, nodeOptions{now: frozen})
	defer n.stop()
	n.mustWrite("ann", insert(message(5, "explicit", nil)))
	n.mustGenerate("ann")
	last := n.mustGenerate("ann")
	if n.asks("ann", last+1) || !n.asks("ann", last) || !n.asks("bob", last+1) {
		t.Errorf("after %d: asks for the next %v, for itself %v, for another user's %v",
			last, n.asks("ann", last+1), n.asks("ann", last), n.asks("bob", last+1))
	}
}

// People may insert any key, also one that will be generated.
func TestAnExplicitKeyThatIsGeneratedLater(t *testing.T) {
	fs := vfs.NewMem()
	n := openNode(t, nodeOptions{fs: fs, now: frozen})
	n.mustGenerate("ann")
	last := n.mustGenerate("ann")
	taken := func(k int64) []byte { return message(datum.Int(k), "explicit", nil) }
	seq := n.mustWrite("ann", insert(taken(last+1), taken(last+3))).GetPosition()
	if _, err := n.generated("ann"); !dberr.Is(err, dberr.PrimaryKeyViolation) {
		t.Errorf("key %d is taken: %v", last+1, err)
	}
	if k := n.mustGenerate("ann"); k != last+2 {
		t.Errorf("generated %d, want %d", k, last+2)
	}
	if _, err := n.generated("ann"); !dberr.Is(err, dberr.PrimaryKeyViolation) {
		t.Errorf("key %d is taken: %v", last+3, err)
	}
	n.mustWrite("ann", remove(seq, message(datum.Int(last+3), nil, nil)))
	// The key is on its way when the same one is generated.
	p, err := n.shard.Begin(t.Context(), request("ann", insert(taken(last+4))))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.generated("ann"); !dberr.Is(err, dberr.PrimaryKeyViolation) {
		t.Errorf("key %d is on its way: %v", last+4, err)
	}
	if _, err := p.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	n.stop()
	// A process whose clock was set back generates the same keys again.
	n = openNode(t, nodeOptions{fs: fs, now: frozen})
	defer n.stop()
	for range 2 { // last-1 and last are rows, last+1 as well
		if k, err := n.generated("ann"); !dberr.Is(err, dberr.PrimaryKeyViolation) {
			t.Errorf("key %d a second time: %v", k, err)
		}
	}
	n.mustWrite("bob", insert(message(datum.Int(math.MaxInt64), "the last there is", nil)))
	n.mustGenerate("bob")
	n.mustGenerate("bob")
}

// Many write generated and explicit keys in the same range at once; a check in the decider (build tag invariants)
// looks up every key that is said to be new, and the state must hold every key once.
func TestGeneratedAndExplicitKeysAtOnce(t *testing.T) {
	n := openNode(t, nodeOptions{now: frozen})
	defer n.stop()
	start := n.mustGenerate("u0")
	var mu sync.Mutex
	acked := map[string]uint64{}
	var work sync.WaitGroup
	for w := range 8 {
		rng := rand.New(rand.NewPCG(6, uint64(w)))
		work.Go(func() {
			for range 200 {
				user := fmt.Sprint("u", rng.IntN(3))
				row := message(nil, "generated", nil)
				if rng.IntN(2) == 0 {
					row = message(datum.Int(start+rng.Int64N(1500)), "explicit", nil)
				}
				resp, err := n.shard.Write(context.WithoutCancel(t.Context()), request(user, insert(row)))
				if dberr.Is(err, dberr.PrimaryKeyViolation) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				key := fmt.Sprintf("%s/%d", user, decodeMessage(t, resp.GetResults()[0].GetRows()[0]).Values[0].AsInt())
				mu.Lock()
				if acked[key] != 0 {
					t.Errorf("%s was inserted twice", key)
				}
				acked[key] = resp.GetPosition()
				mu.Unlock()
			}
		})
	}
	work.Wait()
	rows := n.rows()
	for key, seq := range acked {
		if rows[key].Seq != seq {
			t.Errorf("%s has _seq %d, was acknowledged with %d", key, rows[key].Seq, seq)
		}
	}
}

func TestHighestKeysAreBoundedAndForgotten(t *testing.T) {
	h, err := newHighest()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 * highestMax {
		h.isAbove(keyPartition{1, fmt.Sprint(i)}, 0)
	}
	if h.tops.Len() != highestMax {
		t.Errorf("%d partitions", h.tops.Len())
	}
	h.forget()
	if h.tops.Len() != 0 {
		t.Error("not forgotten")
	}
	for _, k := range []int64{math.MinInt64, -1, 0, 1 << 60, math.MaxInt64} {
		if got := intKey(keycodec.AppendRowKey(nil, 7, 8, "ann", []datum.Datum{datum.Int(k)})); got != k {
			t.Errorf("%d is read as %d", k, got)
		}
	}
	if got := intKey(keycodec.AppendRowKey(nil, 7, 8, "ann", []datum.Datum{datum.Text("text of some length")})); got != math.MaxInt64 {
		t.Errorf("a text is read as %d", got)
	}
}

// Rows that are applied while the store is being asked count as well.
func TestRowsAppliedWhileTheHighestKeyIsRead(t *testing.T) {
	h, err := newHighest()
	if err != nil {
		t.Fatal(err)
	}
	p := keyPartition{messagesID, "ann"}
	key := func(k int64) []byte {
		return keycodec.AppendRowKey(nil, 0, p.table, p.user, []datum.Datum{datum.Int(k)})
	}
	h.isAbove(p, 1)
	_, unknown := h.isAbove(p, 1)
	h.raise([]published{{table: p.table, user: p.user, key: key(9)}, {table: p.table, user: "bob", key: key(20)}})
	h.learn(unknown, 5)
	for k, want := range map[int64]bool{5: false, 7: false, 9: false, 10: true} {
		if above, _ := h.isAbove(p, k); above != want {
			t.Errorf("%d is above: %v", k, above)
		}
	}
}

// A new leader whose clock is an hour behind, or ahead, counts on.
func TestSeqAheadOfTheClock(t *testing.T) {
	fs := vfs.NewMem()
	n := openNode(t, nodeOptions{fs: fs, now: func() time.Time { return frozen().Add(time.Hour) }})
	position := n.mustWrite("ann", insert(message(1, "from the future", nil))).GetPosition()
	if n.shard.SeqAhead() != 0 {
		t.Errorf("ahead by %v with a good clock", n.shard.SeqAhead())
	}
	n.stop()
	n = openNode(t, nodeOptions{fs: fs, now: frozen, number: 2})
	defer n.stop()
	var last *storagev1.WriteResponse
	for i := range 100 {
		last = n.mustWrite("ann", insert(message(2+i, "from now", nil)))
	}
	if last.GetPosition() <= position || snowflake.Millis(last.GetPosition())-snowflake.Millis(position) > 2 {
		t.Errorf("_seq went from %d to %d", position, last.GetPosition())
	}
	if ahead := n.shard.SeqAhead(); ahead < time.Hour || ahead > time.Hour+2*time.Millisecond {
		t.Errorf("ahead by %v", ahead)
	}
}
