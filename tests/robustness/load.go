package robustness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	kalamv1 "github.com/kalamdb/kalamdb-go/proto/kalam/v1"
	"github.com/kalamdb/kalamdb-go/tests/client"
)

const (
	// statementTimeout is how long a client waits for an answer: longer than a failover.
	statementTimeout = 5 * time.Second
	// stalenessAsked is what stale reads ask for.
	stalenessAsked = 500 * time.Millisecond
	// pauseMax spreads a client's operations: a partition's history stays small enough to check.
	pauseMax = 60 * time.Millisecond
)

// Partition is one user's table, or a shared one or a lane of it, with its clients.
type Partition struct {
	Name string
	Rows Rows
	// User and Password of its clients; several may use a shared table.
	User, Password string

	Recorder      Recorder
	Subscriptions []*Subscription
	End           State

	values atomic.Int64 // the last value written
}

// Gateways hands out connections to gateways, another one after each failure.
type Gateways struct {
	addrs []string
	next  atomic.Uint64
	// watch, when set, wraps what clients call.
	watch func(kalamv1.KalamServiceClient) kalamv1.KalamServiceClient
}

// NewGateways makes a list of gRPC addresses.
func NewGateways(addrs []string) *Gateways { return &Gateways{addrs: addrs} }

// Dial connects to the next one.
func (g *Gateways) Dial(user, password string) (*client.Client, error) {
	c, err := client.Dial(g.addrs[g.next.Add(1)%uint64(len(g.addrs))], user, password)
	if err == nil && g.watch != nil {
		c.RPC = g.watch(c.RPC)
	}
	return c, err
}

// worker is one client that sends one operation at a time.
type worker struct {
	id        int
	partition *Partition
	lanes     []*Partition // all those of the partition's table, when it has lanes
	gateways  *Gateways
	random    *rand.Rand
	now       func() int64
	plain     bool // no transactions

	client *client.Client
	seen   State // what it last read: where its conditional writes come from
}

// run works until ctx ends. An operation under way is finished: its outcome counts.
func (w *worker) run(ctx context.Context) error {
	defer func() {
		if w.client != nil {
			w.client.Close()
		}
	}()
	for ctx.Err() == nil {
		if w.client == nil {
			c, err := w.gateways.Dial(w.partition.User, w.partition.Password)
			if err != nil {
				return err
			}
			w.client = c
		}
		if err := w.one(ctx); err != nil {
			return fmt.Errorf("%s: %w", w.partition.Name, err)
		}
		pause(ctx, time.Duration(w.random.Int64N(int64(pauseMax))))
	}
	return nil
}

func (w *worker) one(ctx context.Context) error {
	o := w.choose()
	o.Client = w.id
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), statementTimeout)
	defer cancel()
	if o.Kind == Read && len(w.lanes) > 0 && w.random.IntN(2) == 0 {
		return w.readLanes(call, o)
	}
	if err := o.run(call, w.client, w.partition.Rows, stalenessAsked, w.now); err != nil {
		return err
	}
	w.partition.Recorder.Add(o)
	if o.Kind == Read && o.Outcome == Done {
		w.seen = o.Got
	}
	w.leave(o.Outcome)
	return nil
}

// leave leaves a gateway that is perhaps gone.
func (w *worker) leave(outcome Outcome) {
	if outcome == Unknown {
		w.client.Close()
		w.client = nil
	}
}

// readLanes reads all lanes in one statement, which gathers them from several partitions. They are not one moment; but
// of each it finds what a read of that lane alone, called and ended then, could have found.
func (w *worker) readLanes(ctx context.Context, o Operation) error {
	results, err := o.send(ctx, w.client, "SELECT lane, id, v FROM "+w.partition.Rows.Table, stalenessAsked, w.now)
	if err != nil {
		return err
	}
	states := map[int64]State{}
	if o.Outcome == Done {
		if states, err = statesIn(results[len(results)-1]); err != nil {
			return err
		}
	}
	for _, p := range w.lanes {
		lane := o
		lane.Got = states[*p.Rows.Lane]
		p.Recorder.Add(lane)
		if p == w.partition && o.Outcome == Done {
			w.seen = lane.Got
		}
		delete(states, *p.Rows.Lane)
	}
	if len(states) > 0 {
		return fmt.Errorf("rows of lanes nobody wrote to: %v", states)
	}
	w.leave(o.Outcome)
	return nil
}

func (w *worker) choose() Operation {
	switch n := w.random.IntN(100); {
	case n < 26:
		return w.insert()
	case n < 52:
		return w.swap()
	case n < 60:
		return w.delete()
	case n < 72 && !w.plain:
		return w.transact()
	case n < 82:
		return Operation{Kind: Read, Level: Stale}
	case n < 86:
		return Operation{Kind: Read, Level: Leader}
	}
	return Operation{Kind: Read}
}

func (w *worker) insert() Operation {
	o := Operation{Kind: Insert, Keys: w.random.Perm(keysMax)[:1+w.random.IntN(3)]}
	o.Values = w.fresh(len(o.Keys))
	return o
}

func (w *worker) swap() Operation {
	o := Operation{Kind: Swap}
	for _, k := range w.random.Perm(keysMax) {
		if w.seen[k] != 0 && len(o.Keys) < 1+w.random.IntN(2) {
			o.Keys, o.Old = append(o.Keys, k), append(o.Old, w.seen[k])
		}
	}
	if len(o.Keys) == 0 {
		return Operation{Kind: Read}
	}
	o.Values = w.fresh(len(o.Keys))
	return o
}

func (w *worker) delete() Operation {
	for _, k := range w.random.Perm(keysMax) {
		if w.seen[k] != 0 {
			return Operation{Kind: Delete, Keys: []int{k}, Old: []int64{w.seen[k]}}
		}
	}
	return Operation{Kind: Read}
}

// transact changes up to two rows that were there, and inserts one.
func (w *worker) transact() Operation {
	o := Operation{Kind: Transact, Rollback: w.random.IntN(8) == 0}
	order := w.random.Perm(keysMax)
	for _, k := range order[1:] {
		if w.seen[k] != 0 && len(o.Old) < 2 {
			o.Keys, o.Old = append(o.Keys, k), append(o.Old, w.seen[k])
		}
	}
	o.Keys = append(o.Keys, order[0])
	o.Values = w.fresh(max(len(o.Old), 1))
	return o
}

// fresh returns values that nobody ever wrote.
func (w *worker) fresh(n int) []int64 {
	out := make([]int64, n)
	for i := range out {
		out[i] = w.partition.values.Add(1)
	}
	return out
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// runAll runs functions until all have ended, and returns their first error.
func runAll(fs ...func() error) error {
	var (
		wg    sync.WaitGroup
		once  sync.Once
		first error
	)
	for _, f := range fs {
		wg.Go(func() {
			if err := f(); err != nil {
				once.Do(func() { first = err })
			}
		})
	}
	wg.Wait()
	return first
}
