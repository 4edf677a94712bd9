package main

import (
	"context"
	"fmt"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	kalamv1 "github.com/kalamdb/kalamdb-go/proto/kalam/v1"
	"github.com/kalamdb/kalamdb-go/tests/client"
)

// subscribe follows the table from the last position, until the server is gone, or, with untilCurrent,
// until everything there was when it began has arrived.
func (a *actor) subscribe(ctx context.Context, untilCurrent bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req := &kalamv1.SubscribeRequest{Sql: "SELECT id, batch, body FROM crash.events"}
	if !a.joined { // the initial rows were cut off, or never asked for: begin with nothing
		clear(a.seen)
		a.position = 0
	} else {
		req.From, req.ChangesOnly = &a.position, true
		a.resumes++
	}
	stream, err := a.client.RPC.Subscribe(ctx, req)
	if err != nil {
		return a.ended(err, untilCurrent)
	}
	for {
		if untilCurrent && len(a.seen) == len(a.acked) && a.sameAsTable() {
			return nil
		}
		ev, err := stream.Recv()
		if err != nil {
			return a.ended(err, untilCurrent)
		}
		current, err := a.handle(ev)
		if err != nil {
			return err
		}
		if untilCurrent && current {
			return nil
		}
	}
}

func (a *actor) ended(err error, untilCurrent bool) error {
	err = dberr.FromStatus(err)
	if !untilCurrent && lost(err) {
		return nil
	}
	return fmt.Errorf("subscription: %w", err)
}

func (a *actor) sameAsTable() bool {
	for id, r := range a.acked {
		if a.seen[id] != r {
			return false
		}
	}
	return true
}

// handle applies one event to the picture; current says that the server has nothing more to send.
func (a *actor) handle(ev *kalamv1.SubscribeResponse) (current bool, err error) {
	switch e := ev.GetEvent().(type) {
	case *kalamv1.SubscribeResponse_Ack:
		if e.Ack.GetReset_() {
			return false, fmt.Errorf("the position %d was refused", a.position)
		}
		if a.position == 0 {
			a.position = e.Ack.GetPosition()
		}
	case *kalamv1.SubscribeResponse_InitialRows:
		_, rows, err := client.DecodeIPC(e.InitialRows.GetArrowIpc())
		if err != nil {
			return false, err
		}
		for _, r := range rows {
			if err := a.insert(r); err != nil {
				return false, err
			}
		}
	case *kalamv1.SubscribeResponse_Change:
		return false, a.change(e.Change)
	case *kalamv1.SubscribeResponse_Progress:
		a.position, a.joined = max(a.position, e.Progress), true
		return true, nil
	}
	return false, nil
}

func (a *actor) insert(r []any) error {
	id := r[0].(int64)
	if _, twice := a.seen[id]; twice {
		return fmt.Errorf("id %d was inserted twice: a change was repeated", id)
	}
	a.seen[id] = row{r[1].(int64), r[2].(string)}
	return nil
}

func (a *actor) change(c *kalamv1.Change) error {
	if c.GetSeq() <= a.position {
		return fmt.Errorf("change %d came after position %d: repeated or out of order", c.GetSeq(), a.position)
	}
	a.position, a.joined = c.GetSeq(), true
	a.events++
	ipc := c.GetArrowIpc()
	if c.GetKind() == kalamv1.ChangeKind_CHANGE_KIND_DELETE {
		ipc = c.GetOldArrowIpc()
	}
	_, rows, err := client.DecodeIPC(ipc)
	if err != nil {
		return err
	}
	id := rows[0][0].(int64)
	if c.GetKind() == kalamv1.ChangeKind_CHANGE_KIND_INSERT {
		return a.insert(rows[0])
	}
	if _, known := a.seen[id]; !known {
		return fmt.Errorf("id %d was changed and never inserted: a change was missed", id)
	}
	if c.GetKind() == kalamv1.ChangeKind_CHANGE_KIND_DELETE {
		delete(a.seen, id)
		return nil
	}
	a.seen[id] = row{rows[0][1].(int64), rows[0][2].(string)}
	return nil
}
