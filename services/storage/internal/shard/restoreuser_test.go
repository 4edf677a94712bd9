//go:build invariants

package shard

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/faultpoint"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

// ticking is a clock that a test moves.
type ticking struct {
	mu sync.Mutex
	t  time.Time
}

func newTicking() *ticking { return &ticking{t: time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)} }

func (c *ticking) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

// tick returns the present moment, and goes on to the next: what comes now is after it.
func (c *ticking) tick() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	moment := c.t
	c.t = c.t.Add(time.Millisecond)
	return moment
}

// texts are the live rows of a user: "body/tag" by id.
func (n *node) texts(user string) map[string]string {
	n.t.Helper()
	out := map[string]string{}
	for name, v := range n.allRows() {
		if v.Deleted || len(name) <= len(user) || name[:len(user)+1] != user+"/" {
			continue
		}
		row := decodeMessage(n.t, v.Row)
		text := row.Values[1].AsText()
		if !row.Values[2].IsNull() {
			text += "/" + row.Values[2].AsText()
		}
		out[name] = text
	}
	return out
}

// checkIndex compares the UNIQUE entries with the rows.
func (n *node) checkIndex() {
	n.t.Helper()
	want := map[string]bool{}
	for name, v := range n.allRows() {
		if v.Deleted {
			continue
		}
		row := rowcodec.NewRow(tables()[messagesID])
		if err := rowcodec.Decode(v.Row, tables()[messagesID], &row); err != nil {
			n.t.Fatal(err)
		}
		var user string
		for i := range name {
			if name[i] == '/' {
				user = name[:i]
			}
		}
		keys, err := uniqueKeys(0, tables()[messagesID], user, &row, []int{2})
		if err != nil {
			n.t.Fatal(err)
		}
		if keys[0] != nil {
			want[string(keys[0])] = true
		}
	}
	got := map[string]bool{}
	span := keycodec.PrefixSpan(keycodec.UniquePrefix(0))
	it, err := n.hot.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
	if err != nil {
		n.t.Fatal(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		got[string(it.Key())] = true
	}
	if !maps.Equal(got, want) {
		n.t.Errorf("%d UNIQUE entries, %d values in rows", len(got), len(want))
	}
}

func (n *node) restore(user string, moment time.Time, position uint64) (*storagev1.RestoredRows, error) {
	return n.shard.RestoreUser(context.Background(), messagesID, user, moment, position)
}

func (n *node) mustRestore(user string, moment time.Time) *storagev1.RestoredRows {
	n.t.Helper()
	counts, err := n.restore(user, moment, n.shard.Position())
	if err != nil {
		n.t.Fatal(err)
	}
	return counts
}

func (n *node) wantTexts(user string, want map[string]string, when string) {
	n.t.Helper()
	got := n.texts(user)
	for name, text := range want {
		if got[name] != text {
			n.t.Fatalf("%s: row %s is %q, want %q", when, name, got[name], text)
		}
	}
	if len(got) != len(want) {
		n.t.Fatalf("%s: %s has %d rows, want %d", when, user, len(got), len(want))
	}
}

// A thousand random requests, then the way back to random moments, one after the other, each cut off at random and begun again.
func TestRestoredRowsAgreeWithWhatWasThere(t *testing.T) {
	for name, every := range map[string]struct{ flush, merge int }{"hot": {}, "cold": {flush: 5}, "mixed": {flush: 37, merge: 90}} {
		t.Run(name, func(t *testing.T) { restoreAgainstModel(t, every.flush, every.merge) })
	}
}

func restoreAgainstModel(t *testing.T, flushEvery, mergeEvery int) {
	rng := rand.New(rand.NewPCG(7, uint64(flushEvery)))
	clock := newTicking()
	n := openNode(t, nodeOptions{now: clock.now})
	defer n.stop()
	n.mustWrite("bob", insert(message(1, "bob's", "t1"), message(2, "bob's", nil)))
	others := n.texts("bob")
	type past struct {
		moment time.Time
		rows   map[string]string
	}
	history := []past{{clock.tick(), n.texts("ann")}}
	model := modelRows{}
	for step := range 400 {
		o := randomOp(rng, model)
		resp, err := n.write("ann", o.write())
		if affected, code := model.apply(o); affected && err == nil {
			r, live := model[o.id]
			if r.seq = resp.GetPosition(); live {
				model[o.id] = r
			}
		} else if code != "" && !dberr.Is(err, code) {
			t.Fatalf("step %d: %v, want %s", step, err, code)
		}
		history = append(history, past{clock.tick(), n.texts("ann")})
		if flushEvery > 0 && step%flushEvery == 0 {
			n.flush()
		}
		if mergeEvery > 0 && step%mergeEvery == 0 {
			n.merge(true)
		}
	}
	defer faultpoint.Set("restoreuser/written", nil)
	defer faultpoint.Set("restoreuser/batch", nil)
	for range 30 {
		to := history[rng.IntN(len(history))]
		position := n.shard.Position()
		errCut := errors.New("cut off")
		for _, point := range []string{"restoreuser/batch", "restoreuser/written"} {
			faultpoint.Set(point, func() error { return errCut })
			if _, err := n.restore("ann", to.moment, position); err != nil && !errors.Is(err, errCut) {
				t.Fatal(err)
			}
			faultpoint.Set(point, nil)
		}
		counts, err := n.restore("ann", to.moment, position)
		if err != nil || counts.GetNewer() != 0 || counts.GetBlocked() != 0 {
			t.Fatalf("%v, %v", counts, err)
		}
		n.wantTexts("ann", to.rows, to.moment.String())
		n.checkIndex()
		history = append(history, past{clock.tick(), n.texts("ann")})
	}
	n.wantTexts("bob", others, "at the end")
}

// Values of a UNIQUE column were moved on by one, around a circle, and the other way, by more rows than a write has.
func TestUniqueValuesGoBack(t *testing.T) {
	const rows = 2*undoneRows + 500
	tag := func(i int) string { return fmt.Sprintf("tag %05d", i) }
	for name, to := range map[string]func(i int) int{
		"up":     func(i int) int { return i + 1 },
		"down":   func(i int) int { return i - 1 },
		"circle": func(i int) int { return (i + 1) % rows },
		"swap":   func(i int) int { return i ^ 1 },
	} {
		t.Run(name, func(t *testing.T) {
			clock := newTicking()
			n := openNode(t, nodeOptions{now: clock.now})
			defer n.stop()
			var first [][]byte
			for i := range rows {
				first = append(first, message(i, "before", tag(i)))
			}
			inserted := n.mustWrite("ann", insert(first...)).GetResults()[0].GetSeqs()
			want, moment := n.texts("ann"), clock.tick()
			var deleted, again [][]byte
			for i := range rows {
				deleted, again = append(deleted, message(i, nil, nil)), append(again, message(i, "after", tag(to(i))))
			}
			out := remove(0, nil)
			out.Rows, out.ExpectedSeqs = deleted, inserted
			n.mustWrite("ann", out, insert(again...))
			clock.tick()
			if counts := n.mustRestore("ann", moment); counts.GetRestored() != rows || counts.GetBlocked() != 0 {
				t.Errorf("got %v", counts)
			}
			n.wantTexts("ann", want, name)
			n.checkIndex()
		})
	}
}

// What the user writes while a restore is under way is never lost.
func TestRowsWrittenSinceTheRestoreBeganStay(t *testing.T) {
	clock := newTicking()
	n := openNode(t, nodeOptions{now: clock.now})
	defer n.stop()
	seqs := n.mustWrite("ann", insert(message(1, "one", "t1"), message(2, "two", "t2"), message(3, "three", "t3"), message(4, "four", nil),
		message(5, "five", "t5"))).GetResults()[0].GetSeqs()
	moment := clock.tick()
	var now []uint64
	for i, id := range []int{1, 2, 3, 4} {
		now = append(now, n.mustWrite("ann", update(seqs[i], message(id, "changed", nil))).GetPosition())
	}
	n.mustWrite("ann", remove(seqs[4], message(5, nil, nil)))
	position := n.shard.Position()
	clock.tick()
	defer faultpoint.Set("restoreuser/batch", nil)
	faultpoint.Set("restoreuser/batch", func() error { // behind its reads, before its write
		faultpoint.Set("restoreuser/batch", nil)
		n.mustWrite("ann", update(now[0], message(1, "newer", "t5"))) // row 5 cannot come back: its tag is taken
		n.mustWrite("ann", remove(now[1], message(2, nil, nil)))
		n.mustWrite("ann", insert(message(6, "six", nil)))
		return nil
	})
	counts, err := n.restore("ann", moment, position)
	if err != nil || counts.GetRestored() != 2 || counts.GetNewer() != 3 || counts.GetBlocked() != 1 || counts.GetDeleted() != 0 {
		t.Errorf("%v, %v", counts, err)
	}
	want := map[string]string{"ann/1": "newer/t5", "ann/3": "three/t3", "ann/4": "four", "ann/6": "six"}
	n.wantTexts("ann", want, "at the end")
	n.checkIndex()
	if again, err := n.restore("ann", moment, position); err != nil || again.GetRestored() != 2 || again.GetNewer() != 3 {
		t.Errorf("another attempt counts otherwise: %v, %v", again, err)
	}
	n.wantTexts("ann", want, "after another attempt")
}

// Rows have exchanged values, and one of these is taken by a newer row: those that waited for it stay as well.
func TestRowsThatWaitForOneThatCannotComeBackStay(t *testing.T) {
	clock := newTicking()
	n := openNode(t, nodeOptions{now: clock.now})
	defer n.stop()
	seqs := n.mustWrite("ann", insert(message(1, "one", "a"), message(2, "two", "b"), message(3, "three", "c"))).GetResults()[0].GetSeqs()
	moment := clock.tick()
	out := remove(0, nil)
	out.Rows, out.ExpectedSeqs = [][]byte{message(1, nil, nil), message(2, nil, nil), message(3, nil, nil)}, seqs
	resp := n.mustWrite("ann", out, insert(message(1, "x", "b"), message(2, "x", "c"), message(3, "x", "a")))
	position := n.shard.Position()
	clock.tick()
	n.mustWrite("ann", update(resp.GetResults()[1].GetSeqs()[2], message(3, "newer", "a")))
	counts, err := n.restore("ann", moment, position)
	if err != nil || counts.GetNewer() != 1 || counts.GetBlocked() != 2 || counts.GetRestored() != 0 {
		t.Errorf("%v, %v", counts, err)
	}
	n.wantTexts("ann", map[string]string{"ann/1": "x/b", "ann/2": "x/c", "ann/3": "newer/a"}, "at the end")
	n.checkIndex()
}

// A row of a circle was deleted ahead when it turns out that it cannot come back, for its other UNIQUE column: it must not be lost.
func TestARowDeletedAheadIsNotLost(t *testing.T) {
	text := catalog.Type{Kind: catalog.Text}
	pairs := (&catalog.Table{ID: messagesID, Namespace: "app", Name: "pairs", Kind: catalog.UserTable, SchemaVersion: 1, Columns: []catalog.Column{
		{ID: 1, Name: "id", Type: catalog.Type{Kind: catalog.BigInt}, NotNull: true, PrimaryKey: true},
		{ID: 2, Name: "a", Type: text, Unique: true}, {ID: 3, Name: "b", Type: text, Unique: true}}}).Index()
	all := testTables{messagesID: pairs}
	clock := newTicking()
	n := openNode(t, nodeOptions{now: clock.now, tables: all})
	defer n.stop()
	pair := func(id int, a, b string) []byte {
		return all.encode(messagesID, datum.Int(int64(id)), datum.Text(a), datum.Text(b))
	}
	seqs := n.mustWrite("ann", insert(pair(1, "a1", "b1"), pair(2, "a2", "b2"))).GetResults()[0].GetSeqs()
	moment := clock.tick()
	out := remove(0, nil)
	out.Rows, out.ExpectedSeqs = [][]byte{pair(1, "", ""), pair(2, "", "")}, seqs
	n.mustWrite("ann", out, insert(pair(1, "a2", "x"), pair(2, "a1", "b2")))
	position := n.shard.Position()
	clock.tick()
	n.mustWrite("ann", insert(pair(9, "n", "b1")))
	before := n.rows()
	counts, err := n.restore("ann", moment, position)
	if err != nil || counts.GetBlocked() != 2 || counts.GetNewer() != 1 || counts.GetRestored() != 0 {
		t.Errorf("%v, %v", counts, err)
	}
	if after := n.rows(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("got %v, want %v", after, before)
	}
}

func TestPastRowsOfAnotherUser(t *testing.T) {
	for _, where := range []string{"hot", "cold", "both"} {
		clock := newTicking()
		n := openNode(t, nodeOptions{now: clock.now})
		var rows [][]byte
		const many = undoneRows + 200
		for i := range many {
			rows = append(rows, message(i, "row", fmt.Sprint("t", i)))
		}
		seqs := n.mustWrite("ann", insert(rows...)).GetResults()[0].GetSeqs()
		if where == "both" {
			n.flush()
			n.mustWrite("ann", update(seqs[5], message(5, "hot and cold", nil)), remove(seqs[6], message(6, nil, nil)))
		}
		moment := clock.tick()
		want := map[string]string{}
		for name, text := range n.texts("ann") {
			want["bob"+name[3:]] = text
		}
		if where == "cold" {
			n.flush()
		}
		n.mustWrite("ann", update(seqs[0], message(0, "changed", nil)), remove(seqs[1], message(1, nil, nil)), insert(message(many, "new", "t1")))
		if where == "cold" {
			n.flush()
		}
		ann, position := n.texts("ann"), n.shard.Position()
		clock.tick()
		restore := func() (restored uint64, err error) {
			err = n.shard.PastRows(t.Context(), messagesID, "ann", moment, func(rows [][]byte) error {
				counts, err := n.shard.RestoreRows(t.Context(), messagesID, "bob", position, rows)
				restored += counts.GetRestored()
				return err
			})
			return restored, err
		}
		for range 2 { // another attempt finds what the one before has written
			if restored, err := restore(); err != nil || restored != uint64(len(want)) {
				t.Errorf("%d rows restored, %v", restored, err)
			}
			n.wantTexts("bob", want, "restored")
			n.wantTexts("ann", ann, "the user whose rows they are")
		}
		n.checkIndex()
		if _, err := n.shard.CheckEmpty(t.Context(), []*catalog.Table{tables()[messagesID]}, "bob"); !dberr.Is(err, dberr.InvalidOperation) {
			t.Errorf("into rows: %v", err)
		}
		if _, err := n.shard.CheckEmpty(t.Context(), []*catalog.Table{tables()[messagesID]}, "eve"); err != nil {
			t.Error(err)
		}
		n.stop()
	}
}

func TestRestoreIsRefusedWhereTheLogDoesNotReach(t *testing.T) {
	clock := newTicking()
	n := openNode(t, nodeOptions{now: clock.now})
	defer n.stop()
	n.mustWrite("ann", insert(message(1, "one", nil)))
	moment := clock.tick()
	clock.mu.Lock()
	clock.t = clock.t.Add(3 * time.Hour)
	clock.mu.Unlock()
	n.mustWrite("ann", insert(message(2, "two", nil)))
	if _, err := n.shard.CheckRestore(t.Context(), []*catalog.Table{tables()[messagesID]}, "ann", moment, true); err != nil {
		t.Fatal(err)
	}
	if dropped, err := n.shard.Prune(clock.now().Add(-time.Hour)); !dropped || err != nil {
		t.Fatal(dropped, err)
	}
	for _, thorough := range []bool{false, true} {
		_, err := n.shard.CheckRestore(t.Context(), []*catalog.Table{tables()[messagesID]}, "ann", moment, thorough)
		if !dberr.Is(err, dberr.PositionGone) {
			t.Errorf("got %v", err)
		}
		want := "the change log does not reach 2026-05-04 12:00:00.000Z: the oldest moment that a user's rows can be restored to is 2026-05-04 13:59:59.999Z; " +
			"what is older can be restored from a backup alone (RESTORE DATABASE … FROM 'path' AS name)"
		if err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	if _, err := n.restore("ann", moment, n.shard.Position()); !dberr.Is(err, dberr.PositionGone) {
		t.Errorf("got %v", err)
	}
	oldest := time.Date(2026, 5, 4, 13, 59, 59, 999_000_000, time.UTC)
	if counts := n.mustRestore("ann", oldest); counts.GetDeleted() != 1 {
		t.Errorf("to the oldest moment: %v", counts)
	}
	n.wantTexts("ann", map[string]string{"ann/1": "one"}, "at the end")
}
