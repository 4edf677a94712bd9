package outbox

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
)

func changed(seq uint64, ids ...uint64) Item {
	return Item{Changed: &livev1.Changed{Kind: livev1.Kind_KIND_INSERT, Seq: seq, Rows: []byte("[{}]")}, Subscriptions: ids, Resume: seq - 1}
}

// drain takes all that waits, as text.
func drain(t *testing.T, q *Queue) string {
	t.Helper()
	var out []string
	for {
		if n, _ := q.Stats(); n == 0 {
			return strings.Join(out, " ")
		}
		m, ok := q.Take(t.Context())
		if !ok {
			t.Fatal("closed")
		}
		switch {
		case m.GetChanged() != nil:
			out = append(out, fmt.Sprintf("%d%v", m.GetChanged().GetSeq(), m.GetChanged().GetSubscriptions()))
		case m.GetEnded() != nil:
			out = append(out, fmt.Sprintf("%s[%d]@%d", m.GetEnded().GetCode(), m.GetEnded().GetSubscription(), m.GetEnded().GetPosition()))
		}
	}
}

func TestFullQueueEndsThoseWhoWait(t *testing.T) {
	q := New(Limits{Messages: 4, Bytes: 1 << 20})
	q.Push(changed(10, 1))
	q.Push(changed(11, 1, 2))
	if got := drain(t, q); got != "10[1] 11[1 2]" {
		t.Fatal(got)
	}
	q.Push(changed(12, 1))
	q.Push(changed(13, 2))
	q.End(9, dberr.NotFound, "gone", 12)
	q.Push(changed(14, 1))
	q.Push(changed(15, 3))
	q.Push(changed(16, 4)) // does not fit
	q.Push(changed(17, 1, 2, 5))
	if got := drain(t, q); got != "NotFound[9]@12 Lagged[1]@11 Lagged[2]@12 Lagged[3]@14 Lagged[4]@15 17[5]" {
		t.Fatal(got)
	}
	if got := fmt.Sprint(q.TakeLagged()); got != "[1 2 3 4]" {
		t.Fatal(got)
	}
	q.End(1, dberr.Canceled, "again", 0) // it has been told
	q.Forget(1)
	q.Push(changed(18, 1, 2)) // a new subscription may have the number
	if got := drain(t, q); got != "18[1]" {
		t.Fatal(got)
	}
}

func TestBytesAreBounded(t *testing.T) {
	q := New(Limits{Messages: 1 << 20, Bytes: 1000})
	big := changed(1, 1)
	big.Changed.Rows = make([]byte, 5000)
	q.Push(big) // alone it always fits: otherwise it could never be sent
	if n, b := q.Stats(); n != 1 || b < 5000 {
		t.Fatal(n, b)
	}
	q.Push(changed(2, 2))
	if got := drain(t, q); got != "Lagged[1]@0 Lagged[2]@1" {
		t.Fatal(got)
	}
	if n, b := q.Stats(); n != 0 || b != 0 {
		t.Fatal(n, b)
	}
}

func TestCloseSendsWhatWaits(t *testing.T) {
	q := New(Limits{Messages: 10, Bytes: 1000})
	q.Push(changed(1, 1))
	q.End(1, dberr.Unavailable, "stopping", 1)
	q.Close()
	q.Push(changed(2, 1))
	for _, want := range []string{"changed", "ended"} {
		if m, ok := q.Take(t.Context()); !ok || (m.GetChanged() != nil) != (want == "changed") {
			t.Fatalf("%v %v instead of %s", m, ok, want)
		}
	}
	if _, ok := q.Take(t.Context()); ok {
		t.Fatal("more came")
	}
	if err := q.WaitRoom(t.Context()); !dberr.Is(err, dberr.Canceled) {
		t.Fatal(err)
	}
}

func TestRoom(t *testing.T) {
	q := New(Limits{Messages: 4, Bytes: 1 << 20})
	q.Push(changed(1, 1))
	if !q.Room() {
		t.Fatal("no room for the patient in an almost empty queue")
	}
	q.Push(changed(2, 1))
	if q.Room() {
		t.Fatal("the patient may not fill the second half")
	}
	called := make(chan struct{})
	q.OnRoom(func() { close(called) })
	waited := make(chan error)
	go func() { waited <- q.WaitRoom(context.Background()) }()
	select {
	case <-called:
		t.Fatal("called without room")
	default:
	}
	q.Take(t.Context())
	<-called
	if err := <-waited; err != nil {
		t.Fatal(err)
	}
	again := make(chan struct{})
	q.OnRoom(func() { close(again) }) // there is room, and perhaps nobody pushes again
	go q.Take(context.Background())
	<-again
}

func TestTheQueueDoesNotGrowWithItsLife(t *testing.T) {
	q := New(Limits{Messages: 100_000, Bytes: 1 << 30})
	seq := uint64(0)
	for range 50 {
		q.Push(changed(seq+1, 1))
		seq++
	}
	for range 100_000 {
		seq++
		q.Push(changed(seq, 1))
		if m, _ := q.Take(t.Context()); m.GetChanged().GetSeq() != seq-50 {
			t.Fatalf("got %v at %d", m, seq)
		}
	}
	if cap(q.items) > 8192 {
		t.Fatalf("the queue of 50 has place for %d", cap(q.items))
	}
}

// An end that waits keeps its place, and not a position behind changes that were dropped before it.
func TestEndDoesNotSkipWhatIsDropped(t *testing.T) {
	q := New(Limits{Messages: 4, Bytes: 1 << 20})
	q.Push(changed(5, 1))
	q.Push(changed(6, 1))
	q.End(1, dberr.Unavailable, "stopping", 6)
	q.Forget(1)
	q.Push(changed(7, 2))
	q.Push(changed(8, 2))
	q.Push(changed(9, 2)) // does not fit
	if got := drain(t, q); got != "Unavailable[1]@4 Lagged[2]@6" {
		t.Fatal(got)
	}
	if got := fmt.Sprint(q.TakeLagged()); got != "[2]" {
		t.Fatal(got)
	}
	q.Push(changed(10, 1)) // a new subscription may have the number
	if got := drain(t, q); got != "10[1]" {
		t.Fatal(got)
	}
}
