package main

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	kalamv1 "github.com/kalamdb/kalamdb-go/proto/kalam/v1"
	"github.com/kalamdb/kalamdb-go/tests/client"
)

// row is what the table holds under an id.
type row struct {
	batch int64
	body  string
}

// actor is one user with one writer and one subscriber. The writer sends one statement at a time, so
// after a crash the table has two legal states: with and without the statement in flight.
type actor struct {
	user   string
	client *client.Client
	random *rand.Rand

	nextID, nextBatch int64
	acked             map[int64]row
	pending           func(map[int64]row) // the statement in flight, nil when there is none
	acks              int

	// The subscriber's own picture, built from changes alone.
	seen            map[int64]row
	position        uint64
	joined          bool // position is behind the initial rows: resuming there repeats none of them
	events, resumes int
}

// lost reports the errors a dying server is expected to cause.
func lost(err error) bool {
	return dberr.Is(err, dberr.Unavailable) || dberr.Is(err, dberr.Canceled)
}

func (a *actor) write(ctx context.Context) error {
	for {
		sql, effect := a.next()
		a.pending = effect
		if _, err := a.client.Exec(ctx, sql); err != nil {
			if lost(err) {
				return nil // pending stays: the server may or may not have it
			}
			return fmt.Errorf("%s: %w", sql, err)
		}
		effect(a.acked)
		a.pending = nil
		a.acks++
	}
}

// next makes a statement that touches several rows, and what it does to the table.
func (a *actor) next() (string, func(map[int64]row)) {
	a.nextBatch++
	batch := a.nextBatch
	switch n := a.random.IntN(10); {
	case n < 6 || len(a.acked) < 20:
		count := 1 + a.random.Int64N(20)
		first := a.nextID
		a.nextID += count
		var values []string
		for id := first; id < first+count; id++ {
			values = append(values, fmt.Sprintf("(%d, %d, 'b%d')", id, batch, batch))
		}
		return "INSERT INTO crash.events VALUES " + strings.Join(values, ", "), func(m map[int64]row) {
			for id := first; id < first+count; id++ {
				m[id] = row{batch, fmt.Sprintf("b%d", batch)}
			}
		}
	case n < 8:
		lo, hi := a.someRange()
		return fmt.Sprintf("UPDATE crash.events SET batch = %d, body = body || '+' WHERE id BETWEEN %d AND %d", batch, lo, hi),
			func(m map[int64]row) {
				for id, r := range m {
					if id >= lo && id <= hi {
						m[id] = row{batch, r.body + "+"}
					}
				}
			}
	default:
		lo, hi := a.someRange()
		return fmt.Sprintf("DELETE FROM crash.events WHERE id BETWEEN %d AND %d", lo, hi), func(m map[int64]row) {
			maps.DeleteFunc(m, func(id int64, _ row) bool { return id >= lo && id <= hi })
		}
	}
}

func (a *actor) someRange() (lo, hi int64) {
	lo = a.random.Int64N(a.nextID)
	return lo, lo + a.random.Int64N(8)
}

// check compares the table with the two legal states, then lets the subscriber catch up and compares
// its picture.
func (a *actor) check(ctx context.Context) error {
	got, err := a.table(ctx)
	if err != nil {
		return err
	}
	if !maps.Equal(got, a.acked) {
		if a.pending == nil {
			return fmt.Errorf("%w: %s", errDiffers, difference(got, a.acked))
		}
		with := maps.Clone(a.acked)
		a.pending(with)
		if !maps.Equal(got, with) {
			return fmt.Errorf("%w: %s", errDiffers, difference(got, with))
		}
		a.acked = with
	}
	a.pending = nil
	if err := a.subscribe(ctx, true); err != nil {
		return err
	}
	if !maps.Equal(a.seen, a.acked) {
		return fmt.Errorf("the subscriber's picture differs from the table: %s", difference(a.seen, a.acked))
	}
	return nil
}

func (a *actor) table(ctx context.Context) (map[int64]row, error) {
	stream, err := a.client.RPC.Query(ctx, &kalamv1.QueryRequest{Sql: "SELECT id, batch, body FROM crash.events"})
	if err != nil {
		return nil, dberr.FromStatus(err)
	}
	ipc, err := client.Drain(stream)
	if err != nil {
		return nil, fmt.Errorf("read the table: %w", err)
	}
	_, rows, err := client.DecodeIPC(ipc)
	if err != nil {
		return nil, err
	}
	got := map[int64]row{}
	for _, r := range rows {
		id := r[0].(int64)
		if _, twice := got[id]; twice {
			return nil, fmt.Errorf("id %d is in the table twice", id)
		}
		got[id] = row{r[1].(int64), r[2].(string)}
	}
	return got, nil
}

func difference(got, want map[int64]row) string {
	var b strings.Builder
	shown := 0
	for id, w := range want {
		if g, ok := got[id]; (!ok || g != w) && shown < 5 {
			fmt.Fprintf(&b, "id %d: got %v (present %v), want %v; ", id, g, ok, w)
			shown++
		}
	}
	for id, g := range got {
		if _, ok := want[id]; !ok && shown < 10 {
			fmt.Fprintf(&b, "id %d: got %v, want none; ", id, g)
			shown++
		}
	}
	return b.String()
}
