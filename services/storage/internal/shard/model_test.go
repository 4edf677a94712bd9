package shard

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// modelRow is a row as the model knows it.
type modelRow struct {
	body, tag string // tag "" is NULL
	seq       uint64 // 0 while written by the request being tried
}

type modelRows map[int]modelRow

func (m modelRows) clone() modelRows {
	c := modelRows{}
	for k, v := range m {
		c[k] = v
	}
	return c
}

func (m modelRows) tagTaken(tag string, except int) bool {
	for id, r := range m {
		if tag != "" && r.tag == tag && id != except {
			return true
		}
	}
	return false
}

// op is one row of a random request.
type op struct {
	kind      storagev1.Operation
	id        int
	body, tag string
	expected  uint64
	skip      bool
}

// apply does one row the plain way. Values of an UPDATE must be free even if another row of the request
// gives them up later, as in the real thing.
func (m modelRows) apply(o op) (affected bool, code dberr.Code) {
	old, live := m[o.id]
	switch o.kind {
	case storagev1.Operation_OPERATION_INSERT:
		if live {
			return false, unlessSkipped(o, dberr.PrimaryKeyViolation)
		}
		if m.tagTaken(o.tag, o.id) {
			return false, unlessSkipped(o, dberr.UniqueViolation)
		}
		m[o.id] = modelRow{body: o.body, tag: o.tag}
	case storagev1.Operation_OPERATION_UPDATE:
		if !live || old.seq != o.expected {
			return false, dberr.Conflict
		}
		if m.tagTaken(o.tag, o.id) {
			return false, unlessSkipped(o, dberr.UniqueViolation)
		}
		m[o.id] = modelRow{body: o.body, tag: o.tag}
	default:
		if !live || old.seq != o.expected {
			return false, dberr.Conflict
		}
		delete(m, o.id)
	}
	return true, ""
}

func unlessSkipped(o op, code dberr.Code) dberr.Code {
	if o.skip {
		return ""
	}
	return code
}

func randomOp(rng *rand.Rand, m modelRows) op {
	o := op{id: rng.IntN(8), body: fmt.Sprint("b", rng.IntN(100)), skip: rng.IntN(4) == 0,
		kind: storagev1.Operation(1 + rng.IntN(3))}
	if rng.IntN(2) == 0 {
		o.tag = fmt.Sprint("t", rng.IntN(4))
	}
	o.expected = m[o.id].seq
	if rng.IntN(6) == 0 {
		o.expected++
	}
	return o
}

func (o op) write() *storagev1.TableWrite {
	var tag any
	if o.tag != "" {
		tag = o.tag
	}
	w := insert(message(o.id, o.body, tag))
	w.Operation = o.kind
	if o.kind != storagev1.Operation_OPERATION_INSERT {
		w.ExpectedSeqs = []uint64{o.expected}
	}
	if o.skip {
		w.OnConflict = storagev1.OnConflict_ON_CONFLICT_DO_NOTHING
	}
	return w
}

// TestDecidingAgreesWithAModel tries random requests of one to four rows on a shard and on a map: with hot rows only, with rows
// that are always cold, with rows that are both, and with segments that are always merged.
func TestDecidingAgreesWithAModel(t *testing.T) {
	for name, every := range map[string]struct{ flush, merge int }{"hot": {}, "cold": {flush: 1}, "mixed": {flush: 17, merge: 40}, "merged": {flush: 2, merge: 2}} {
		t.Run(name, func(t *testing.T) { decideAgainstModel(t, every.flush, every.merge) })
	}
}

func decideAgainstModel(t *testing.T, flushEvery, mergeEvery int) {
	n := openNode(t, nodeOptions{})
	defer n.stop()
	rng := rand.New(rand.NewPCG(11, 13))
	model := modelRows{}
	outcomes := map[dberr.Code]int{}
	steps := 3000
	if flushEvery > 0 && flushEvery < 10 {
		steps = 1000 // segments cost time
	}
	for step := range steps {
		if flushEvery > 0 && step%flushEvery == 0 {
			n.flush()
		}
		if mergeEvery > 0 && step%mergeEvery == 0 {
			n.merge(rng.IntN(2) == 0)
		}
		next := model.clone()
		var writes []*storagev1.TableWrite
		var touched []int // ids of rows affected, in order
		var want dberr.Code
		for range 1 + rng.IntN(4) {
			o := randomOp(rng, next)
			writes = append(writes, o.write())
			affected, code := next.apply(o)
			if code != "" {
				want = code
				break
			}
			if affected {
				touched = append(touched, o.id)
			}
		}
		resp, err := n.write("ann", writes...)
		if got := dberr.CodeOf(err); got != want {
			t.Fatalf("step %d: got %q (%v), the model says %q", step, got, err, want)
		}
		outcomes[want]++
		if want != "" {
			continue
		}
		var seqs []uint64
		for _, r := range resp.GetResults() {
			seqs = append(seqs, r.GetSeqs()...)
		}
		if len(seqs) != len(touched) {
			t.Fatalf("step %d: %d rows affected, the model says %d", step, len(seqs), len(touched))
		}
		for i, id := range touched {
			if r, ok := next[id]; ok {
				r.seq = seqs[i]
				next[id] = r
			}
		}
		model = next
		compare(t, n, model, step)
	}
	for _, code := range []dberr.Code{"", dberr.PrimaryKeyViolation, dberr.UniqueViolation, dberr.Conflict} {
		if outcomes[code] < steps/60 {
			t.Errorf("only %d requests ended with %q: %v", outcomes[code], code, outcomes)
		}
	}
}

func compare(t *testing.T, n *node, model modelRows, step int) {
	t.Helper()
	live := 0
	for key, v := range n.allRows() {
		if v.Deleted {
			continue
		}
		live++
		row := decodeMessage(t, v.Row)
		want, ok := model[int(row.Values[0].AsInt())]
		if !ok || want.seq != v.Seq || want.body != row.Values[1].AsText() || want.tag != row.Values[2].AsText() {
			t.Fatalf("step %d: %s is %v at %d, the model says %+v", step, key, row.Values, v.Seq, want)
		}
	}
	if live != len(model) {
		t.Fatalf("step %d: %d rows, the model has %d", step, live, len(model))
	}
}
