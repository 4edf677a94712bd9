package robustness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	kalamv1 "github.com/kalamdb/kalamdb-go/proto/kalam/v1"
	"github.com/kalamdb/kalamdb-go/tests/client"
)

// reopenPause keeps a subscriber whose gateway is gone from spinning.
const reopenPause = 50 * time.Millisecond

// subscriber follows one subscription through every failure.
type subscriber struct {
	sub       *Subscription
	partition *Partition
	gateways  *Gateways
	random    *rand.Rand
	// hangUp: it also ends its stream by itself from time to time.
	hangUp bool
	// begun is closed when the first stream is acknowledged.
	begun  chan struct{}
	opened bool

	position uint64        // 0 until the snapshot is behind it
	reached  atomic.Uint64 // position, for who waits for the end
	// target: the position at which it may end, once it is set.
	target func() (uint64, bool)
}

func (s *subscriber) sql() string {
	rows, wanted := s.partition.Rows, ""
	if f := s.sub.Filter; f.Modulus > 1 {
		wanted = fmt.Sprintf("v %% %d = %d", f.Modulus, f.Remainder)
	}
	return "SELECT id, v FROM " + rows.Table + rows.where(wanted)
}

// run follows until the target is reached or ctx ends, which is an error when there is a target.
func (s *subscriber) run(ctx context.Context) error {
	for {
		if err := s.stream(ctx); err != nil {
			return err
		}
		if s.arrived() {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: it stands at %d and was to reach the end: a change was missed or the stream hangs", s.sub.Name, s.position)
		}
		pause(ctx, reopenPause)
	}
}

// arrived reports whether the target is set and reached.
func (s *subscriber) arrived() bool {
	at, set := s.target()
	return set && s.reached.Load() >= at
}

// endWhenArrived ends the stream once the target is reached: the last change may have come before there was
// a target, and nothing comes after it.
func (s *subscriber) endWhenArrived(ctx context.Context, end func()) {
	for ctx.Err() == nil && !s.arrived() {
		pause(ctx, reopenPause)
	}
	end()
}

// stream runs one stream until it breaks or the target is reached.
func (s *subscriber) stream(ctx context.Context) error {
	c, err := s.gateways.Dial(s.partition.User, s.partition.Password)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(ctx)
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		s.endWhenArrived(ctx, cancel)
	}()
	defer func() {
		cancel()
		<-watching
	}()
	if s.hangUp {
		timer := time.AfterFunc(time.Duration(1+s.random.IntN(5000))*time.Millisecond, cancel)
		defer timer.Stop()
	}
	req := &kalamv1.SubscribeRequest{Sql: s.sql(), BatchSize: 3}
	if s.position > 0 {
		from := s.position
		req.From, req.ChangesOnly = &from, true
	}
	events, err := c.RPC.Subscribe(ctx, req)
	if err != nil {
		return s.broken(err)
	}
	for {
		ev, err := events.Recv()
		if err != nil {
			return s.broken(err)
		}
		if err := s.take(ev); err != nil {
			return fmt.Errorf("%s: %w", s.sub.Name, err)
		}
		s.reached.Store(s.position)
	}
}

// broken passes the errors that faults explain.
func (s *subscriber) broken(err error) error {
	if err = dberr.FromStatus(err); explained(err) {
		return nil
	}
	return fmt.Errorf("%s: unexpected error: %w", s.sub.Name, err)
}

func (s *subscriber) take(ev *kalamv1.SubscribeResponse) error {
	switch e := ev.GetEvent().(type) {
	case *kalamv1.SubscribeResponse_Ack:
		s.add(Event{Kind: Opened, Seq: e.Ack.GetPosition(), From: s.position})
		if e.Ack.GetReset_() {
			s.add(Event{Kind: Reset, From: s.position})
		}
		if !s.opened {
			s.opened = true
			close(s.begun)
		}
	case *kalamv1.SubscribeResponse_InitialRows:
		rows, err := decode(e.InitialRows.GetArrowIpc())
		for _, r := range rows {
			s.add(Event{Kind: Row, Key: r.key, Value: r.value})
		}
		return err
	case *kalamv1.SubscribeResponse_Change:
		return s.change(e.Change)
	case *kalamv1.SubscribeResponse_Progress:
		s.add(Event{Kind: Bookmark, Seq: e.Progress})
		s.position = max(s.position, e.Progress)
	}
	return nil
}

func (s *subscriber) add(e Event) { s.sub.Events = append(s.sub.Events, e) }

func (s *subscriber) change(c *kalamv1.Change) error {
	e := Event{Seq: c.GetSeq()}
	now, err := decode(c.GetArrowIpc())
	if err != nil {
		return err
	}
	old, err := decode(c.GetOldArrowIpc())
	if err != nil {
		return err
	}
	switch c.GetKind() {
	case kalamv1.ChangeKind_CHANGE_KIND_INSERT:
		e.Kind = Inserted
	case kalamv1.ChangeKind_CHANGE_KIND_UPDATE:
		e.Kind = Updated
	case kalamv1.ChangeKind_CHANGE_KIND_DELETE:
		e.Kind = Deleted
	default:
		return fmt.Errorf("a change of kind %d", c.GetKind())
	}
	if wantNew, wantOld := e.Kind != Deleted, e.Kind != Inserted; (len(now) == 1) != wantNew || (len(old) == 1) != wantOld {
		return fmt.Errorf("a change of kind %d with %d new and %d old rows", e.Kind, len(now), len(old))
	}
	if len(old) == 1 {
		e.Key, e.OldValue = old[0].key, old[0].value
	}
	if len(now) == 1 {
		e.Key, e.Value = now[0].key, now[0].value
	}
	s.add(e)
	s.position = e.Seq
	return nil
}

type keyValue struct {
	key   int
	value int64
}

// decode reads rows with the columns id, v and _seq.
func decode(ipc []byte) ([]keyValue, error) {
	if len(ipc) == 0 {
		return nil, nil
	}
	columns, rows, err := client.DecodeIPC(ipc)
	if err != nil {
		return nil, err
	}
	if len(columns) < 2 || columns[0] != "id" || columns[1] != "v" {
		return nil, fmt.Errorf("a change has the columns %v", columns)
	}
	out := make([]keyValue, len(rows))
	for i, r := range rows {
		id, v := r[0].(int64), r[1].(int64)
		if id < 0 || id >= keysMax {
			return nil, fmt.Errorf("a change of id %d, which nobody wrote", id)
		}
		out[i] = keyValue{int(id), v}
	}
	return out, nil
}
