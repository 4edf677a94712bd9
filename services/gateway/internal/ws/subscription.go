package ws

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/liveclient"
)

// subscription is one subscription of a socket. It is the sink of what the live role sends for it.
type subscription struct {
	s    *socket
	wire wire
	id   string
	user string // whose count it is part of

	// What frames need to know about the request.
	table, shard uint32
	from         uint64 // resumed from here; zero when not
	textSeq      bool   // the client wants positions as text
	acked        bool   // belongs to the writing goroutine
	pendingAck   *livev1.Subscribed

	stopped atomic.Bool // the client wants no more: what is still queued is not sent

	live     *liveclient.Subscription // guarded by s.mu; nil until Subscribe has returned
	wantNext bool                     // guarded by s.mu: ask for the next batch once live is set
}

// wish is a subscription as a client asked for it, in terms of both wires.
type wish struct {
	id, sql     string
	optionsJSON string
	encoding    livev1.Encoding
	snapshot    bool
	lastRows    *uint64
	batchSize   *uint64
	from        *uint64
	domain      string // where from belongs, when the client said
	textSeq     bool
	// strict refuses last_rows above the batch size, as the N wire does.
	strict bool
	// perSocket is the wire's limit.
	perSocket int
}

// subscribe opens a subscription. Errors have codes for the wire to show.
func (s *socket) subscribe(wr wire, w wish) error {
	s.mu.Lock()
	identity := s.session.Identity
	open := len(s.subs)
	s.mu.Unlock()
	if over(open+1, w.perSocket) {
		return dberr.New(dberr.LimitExceeded, "at most %d subscriptions per connection are allowed", w.perSocket)
	}
	if err := s.h.use(identity.UserID, 1, 0); err != nil {
		return err
	}
	err := s.planAndOpen(wr, w, identity)
	if err != nil {
		s.h.release(identity.UserID, 1, 0)
	}
	return err
}

func (s *socket) planAndOpen(wr wire, w wish, identity catalog.Identity) error {
	ctx, cancel := context.WithTimeout(s.h.running(), planTimeout)
	defer cancel()
	planned, err := s.h.deps.Planner.PlanSubscription(ctx, &queryv1.PlanSubscriptionRequest{
		Identity: catalog.IdentityToProto(identity), Sql: w.sql})
	if err != nil {
		return err
	}
	w.adopt(planned)
	req, err := w.request(planned.GetPlan())
	if err != nil {
		return err
	}
	sub := &subscription{s: s, wire: wr, id: w.id, user: identity.UserID, textSeq: w.textSeq, from: req.GetFromSeq(),
		table: planned.GetPlan().GetTableId(), shard: planned.GetPlan().GetShard()}
	if w.domain != "" && w.domain != sub.versionDomain() {
		return dberr.New(dberr.PositionGone,
			"version_domain %q is not this table's: the position belongs to another table; subscribe without it", w.domain)
	}
	req.ConnectionId, req.ClientSubscriptionId, req.OptionsJson = s.connectionID(), w.id, w.optionsJSON
	return s.open(ctx, sub, req)
}

// open makes the subscription known before the live role can answer.
func (s *socket) open(ctx context.Context, sub *subscription, req *livev1.Subscribe) error {
	s.mu.Lock()
	if s.closing || s.gone {
		s.mu.Unlock()
		return dberr.New(dberr.Canceled, "the connection is closing")
	}
	s.subs = append(s.subs, sub)
	s.mu.Unlock()
	s.h.metrics.subscriptions.Inc()
	live, err := s.h.deps.Live.Subscribe(ctx, req, sub)
	if err != nil {
		if s.forget(sub) {
			s.h.metrics.subscriptions.Dec()
			return err
		}
		return nil // it was ended meanwhile, and that took care of everything
	}
	s.mu.Lock()
	sub.live = live
	next, kept := sub.wantNext, slices.Contains(s.subs, sub)
	s.mu.Unlock()
	switch {
	case !kept:
		live.Close() // ended, or the session did, before there was anything to close
	case next:
		_ = live.NextBatch() // fails only when the subscription has ended, which End reports
	}
	return nil
}

// adopt takes options written in the SQL, where the message has none.
func (w *wish) adopt(p *queryv1.PlanSubscriptionResponse) {
	if p.LastRows == nil && p.BatchSize == nil && p.FromSeq == nil {
		return
	}
	w.snapshot = true
	if w.lastRows == nil {
		w.lastRows = p.LastRows
	}
	if w.batchSize == nil {
		w.batchSize = p.BatchSize
	}
	if w.from == nil {
		w.from = p.FromSeq
	}
}

// request applies the rules of spec 4.1: from beats last_rows, which beats everything.
func (w *wish) request(plan *queryv1.SubscriptionPlan) (*livev1.Subscribe, error) {
	size := uint64(batchRowsMax)
	if w.batchSize != nil && *w.batchSize > 0 {
		size = min(*w.batchSize, batchRowsMax)
	}
	req := &livev1.Subscribe{Plan: plan, Encoding: w.encoding, Snapshot: w.snapshot, BatchSize: uint32(size)}
	switch {
	case w.from != nil:
		req.Snapshot, req.FromSeq = false, w.from
	case w.lastRows == nil:
	case w.strict && *w.lastRows > size:
		return nil, dberr.New(dberr.Unsupported, "last_rows (%d) may not exceed the batch size (%d)", *w.lastRows, size)
	default:
		req.Snapshot, req.LastRows = *w.lastRows > 0, w.lastRows
	}
	return req, nil
}

// find returns the open subscription with that id, or nil.
func (s *socket) find(id string) *subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sub := range s.subs {
		if sub.id == id {
			return sub
		}
	}
	return nil
}

// forget takes a subscription out of the list; false means it was out. Whoever took it out counts it out.
func (s *socket) forget(sub *subscription) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.subs, sub)
	if i < 0 {
		return false
	}
	if s.subs = slices.Delete(s.subs, i, i+1); len(s.subs) == 0 {
		s.subs = nil
	}
	return true
}

// Deliver implements liveclient.Sink.
func (sub *subscription) Deliver(ev event) bool {
	if ev.GetProgress() != nil {
		return true // neither wire has a frame for it
	}
	size := itemBytes
	if c := ev.GetChanged(); c != nil {
		size += len(c.GetRows()) + len(c.GetOldRows())
	} else {
		size += len(ev.GetInitialRows().GetRows()) + len(ev.GetSubscribed().GetSchemaIpc())
	}
	return sub.s.enqueue(item{sub: sub, ev: ev, size: size}, false)
}

// End implements liveclient.Sink.
func (sub *subscription) End(err error) {
	if !sub.s.forget(sub) {
		return
	}
	sub.countOut()
	sub.s.h.metrics.ended.WithLabelValues(string(dberr.CodeOf(err))).Inc()
	if dberr.Is(err, dberr.Internal) {
		sub.s.h.cfg.Logger.Error("the live role ended a subscription", "subscription", sub.id, "error", err)
	}
	sub.s.enqueue(item{sub: sub, err: err, size: itemBytes}, true)
}

func (sub *subscription) countOut() {
	sub.s.h.release(sub.user, 1, 0)
	sub.s.h.metrics.subscriptions.Dec()
}

// stop ends a subscription that is out of the socket's list.
func (sub *subscription) stop() {
	sub.stopped.Store(true)
	sub.s.mu.Lock()
	live := sub.live
	sub.s.mu.Unlock()
	if live != nil {
		live.Close()
	}
	sub.countOut()
}

// abandon ends a subscription from the server's side, wherever it is.
func (sub *subscription) abandon() {
	if sub.s.forget(sub) {
		sub.stop()
	}
	sub.stopped.Store(true)
}

// nextBatch asks the live role for more initial rows.
func (sub *subscription) nextBatch() error {
	sub.s.mu.Lock()
	live := sub.live
	sub.wantNext = live == nil
	sub.s.mu.Unlock()
	if live == nil {
		return nil // open asks as soon as it can
	}
	return live.NextBatch()
}

// versionDomain names what a position belongs to: a recreated table has another id, and another
// cluster another name.
func (sub *subscription) versionDomain() string {
	return fmt.Sprintf("%s/%d/%d", sub.s.h.cfg.ClusterID, sub.shard, sub.table)
}

// positionOf is where to resume after err, in text; empty when there is no such place.
func positionOf(err error) string {
	p := dberr.FieldOf(err, dberr.FieldPosition)
	if _, bad := strconv.ParseUint(p, 10, 64); bad != nil {
		return ""
	}
	return p
}
