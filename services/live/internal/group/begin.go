package group

import (
	"context"
	"slices"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
	"github.com/kalamdb/kalamdb-go/services/live/internal/outbox"
	"github.com/kalamdb/kalamdb-go/services/live/internal/snapshot"
	"github.com/kalamdb/kalamdb-go/services/live/internal/subscription"
)

// open takes a new subscription in.
func (p *Partition) open(s *Subscription) {
	p.mu.Lock()
	defer p.unlock()
	if s.mode == ended { // the stream, or the node, ended meanwhile
		return
	}
	p.pending = append(p.pending, s)
	p.hub.begins(s)
	switch {
	case p.dead != "":
		p.end(s, p.dead, p.deadText)
	case s.stream.ctx.Err() != nil || p.hub.stopped.Load():
		p.end(s, dberr.Unavailable, "this node is stopping")
	case s.start.resume:
		p.readLog(s, s.start.after)
	case p.started:
		p.begin(s)
	}
}

// begin starts delivery once the partition's watch delivers.
func (p *Partition) begin(s *Subscription) {
	st := s.start
	if !st.snapshot {
		s.position = p.reached()
		p.announce(s, s.position)
		p.goLive(s)
		return
	}
	p.hub.settled(s)
	s.mode = loading
	st.registered = p.reached()
	st.buffer = subscription.NewBuffer(p.hub.cfg.Buffer, &p.hub.budget)
	p.startLoad(s)
}

// announce sends Subscribed. Every change after position will follow.
func (p *Partition) announce(s *Subscription, position uint64) {
	st := s.start
	st.announced = true
	resume := position
	if st.snapshot {
		resume = 0
	}
	s.stream.out.Push(outbox.Item{Subscriptions: []uint64{s.id}, Resume: resume, Message: &livev1.ConnectResponse{
		Event: &livev1.ConnectResponse_Subscribed{Subscribed: &livev1.Subscribed{Subscription: s.id, Position: position,
			Reset_: st.reset, SchemaIpc: s.shape.SchemaIPC(), SnapshotFollows: st.snapshot}}}})
}

// startLoad sends one batch of the snapshot, or with push all, in a goroutine of its own.
func (p *Partition) startLoad(s *Subscription) {
	st := s.start
	st.running = true
	p.hub.spawn(func() { p.load(s, st) })
}

// load reads and sends until the snapshot ends or its client has to ask.
func (p *Partition) load(s *Subscription, st *start) {
	select {
	case s.stream.loads <- struct{}{}:
		defer func() { <-s.stream.loads }()
	case <-st.ctx.Done():
		return
	}
	for {
		if !p.fetch(s, st) || s.stream.out.WaitRoom(st.ctx) != nil {
			return
		}
		p.mu.Lock()
		again := s.mode == loading && (len(st.ready) == 0 || p.sendBatch(s))
		p.unlock()
		if !again {
			return
		}
	}
}

// fetch makes sure that a batch is ready, or that the next attempt asks for less. It reports false when
// the subscription has ended.
func (p *Partition) fetch(s *Subscription, st *start) bool {
	p.mu.Lock()
	if s.mode != loading || len(st.ready) > 0 {
		defer p.mu.Unlock()
		return s.mode == loading
	}
	req := p.request(s)
	p.mu.Unlock()

	ctx, cancel := context.WithTimeout(st.ctx, p.hub.cfg.PageTimeout)
	defer cancel()
	page, err := p.hub.read(ctx, req)

	p.mu.Lock()
	defer p.unlock()
	if s.mode != loading {
		return false
	}
	switch {
	case err == nil:
		p.addPage(s, page)
	case dberr.Is(err, dberr.LimitExceeded) && !req.Newest && req.Rows > 1:
		st.pageRows = max(req.Rows/pageShrink, 1) // the rows are large: storage cannot order so many
	default:
		p.end(s, dberr.CodeOf(dberr.FromStatus(err)), "read the initial rows: "+err.Error())
		return false
	}
	return true
}

const (
	// rereadMin and rereadMax are the pauses before a page is read again, doubling: an election takes about a
	// second.
	rereadMin = 20 * time.Millisecond
	rereadMax = 500 * time.Millisecond
)

// read reads a page; when its shard has no leader, or loses it meanwhile, again, until ctx ends. What was
// read of the page then counts for nothing, so the attempt that succeeds is exact by itself.
func (h *Hub) read(ctx context.Context, req snapshot.Request) (*snapshot.Page, error) {
	for wait := rereadMin; ; wait = min(2*wait, rereadMax) {
		page, err := h.pages.Read(ctx, req)
		if code := dberr.CodeOf(err); err == nil || (code != dberr.Unavailable && code != dberr.NotLeader) {
			return page, err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, dberr.New(dberr.Unavailable, "no page within live.page_timeout: %w", err)
		}
	}
}

// pageShrink divides the rows of a page that storage could not order in its memory.
const pageShrink = 4

func (p *Partition) request(s *Subscription) snapshot.Request {
	st := s.start
	caller := st.caller()
	req := snapshot.Request{Shape: s.shape, Identity: caller.Identity, CatalogVersion: caller.CatalogVersion, Shard: p.key.Shard, User: p.key.User,
		After: st.lastRead, UpTo: st.pages.Position(), Rows: st.pageRows, BatchRows: st.rows, NowUS: st.nowUS}
	if st.lastRows != nil && !st.announced {
		req.Rows, req.Newest = int(*st.lastRows), true
	}
	return req
}

func (p *Partition) addPage(s *Subscription, page *snapshot.Page) {
	st := s.start
	if !st.announced {
		first := uint64(0)
		if st.lastRows != nil {
			first = page.FirstSeq
		}
		st.pages.Begin(page.Position, first)
		if page.Position < st.registered {
			st.buffer.GiveUp() // it begins after the snapshot: the change log has what is between
		}
		p.announce(s, page.Position)
	}
	batches, more := p.hold(st, page)
	st.ready = append(st.ready, batches...)
	st.more = more
	covered := st.pages.Position()
	if more {
		covered = batches[len(batches)-1].LastSeq
		st.lastRead = covered
	}
	st.pages.Add(covered, page.Position)
}

// hold takes what of a page may wait for its client: the first batch, and the others while there is room
// in the budget of all buffers. The rest is read again when it is asked for.
func (p *Partition) hold(st *start, page *snapshot.Page) (batches []snapshot.Batch, more bool) {
	bytes := 0
	for _, b := range page.Batches[1:] {
		bytes += len(b.Rows)
	}
	if bytes > 0 && !p.hub.budget.Reserve(bytes) {
		return page.Batches[:1:1], true
	}
	st.held, st.budget = bytes, &p.hub.budget
	return page.Batches, page.More
}

// sendBatch sends one batch. It reports whether the next one may be sent at once.
func (p *Partition) sendBatch(s *Subscription) bool {
	st := s.start
	b := st.ready[0]
	st.ready = slices.Delete(st.ready, 0, 1)
	if len(st.ready) == 0 {
		st.unhold()
	}
	more := st.more || len(st.ready) > 0
	before := st.sent
	st.sent = max(st.sent, b.LastSeq)
	s.stream.out.Push(outbox.Item{Subscriptions: []uint64{s.id}, Resume: before, Message: &livev1.ConnectResponse{
		Event: &livev1.ConnectResponse_InitialRows{InitialRows: &livev1.InitialRows{Subscription: s.id,
			BatchNum: st.batch, HasMore: more, Rows: b.Rows, RowCount: uint32(b.Count), LastSeq: st.sent}}}})
	st.batch++
	if !more {
		p.finishSnapshot(s)
		return false
	}
	if st.push || st.asked {
		st.asked = false
		return true
	}
	st.running = false
	return false
}

// finishSnapshot goes on with the changes after it: those in the buffer, or, if it was given up, those
// in the change log.
func (p *Partition) finishSnapshot(s *Subscription) {
	st := s.start
	s.position = st.pages.Position()
	if st.buffer.Lost() {
		p.hub.counts.Reread.Add(1)
		s.mode = catchingUp
		p.hub.begins(s)
		p.readLog(s, s.position)
		return
	}
	s.mode = joining
	for _, ch := range st.buffer.Changes() {
		if ch.GetSeq() <= s.position {
			continue
		}
		if p.deliver(s, ch); s.mode == ended {
			return
		}
	}
	st.buffer.Discard()
	p.settle(s)
}
