package group

import (
	"context"
	"sync"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/partition"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
	"github.com/kalamdb/kalamdb-go/services/live/internal/feed"
	"github.com/kalamdb/kalamdb-go/services/live/internal/match"
	"github.com/kalamdb/kalamdb-go/services/live/internal/outbox"
)

const (
	// BatchRowsMax is the most rows in a batch, and the default (spec 4.1 rule 3).
	BatchRowsMax = 1000
	// LastRowsMax bounds last_rows: so many rows storage orders without ordering all.
	LastRowsMax = 10_000
	// loadsMax bounds the snapshots read at the same time for one gateway. Each holds a page, and one
	// that waits for room in the outbox keeps its place, so a gateway that does not read stops itself.
	loadsMax = 16
	// beginning is below every _seq, and not zero, which means "from now" to storage.
	beginning = 1
)

// Stream is one gateway's stream.
type Stream struct {
	hub    *Hub
	out    *outbox.Queue
	ctx    context.Context //nolint:containedctx // ends what is read for its subscriptions
	cancel context.CancelFunc
	loads  chan struct{} // places of those that read a snapshot

	mu   sync.Mutex
	subs map[uint64]*Subscription
}

// Open registers a stream. Close it.
func (h *Hub) Open(ctx context.Context) (*Stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	s := &Stream{hub: h, out: outbox.New(h.cfg.Outbox), ctx: ctx, cancel: cancel,
		loads: make(chan struct{}, loadsMax), subs: map[uint64]*Subscription{}}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped.Load() {
		cancel()
		return nil, dberr.New(dberr.Unavailable, "this node is stopping")
	}
	h.streams[s] = struct{}{}
	return s, nil
}

// Out is what waits to be sent.
func (st *Stream) Out() *outbox.Queue { return st.out }

// Close removes the stream's subscriptions.
func (st *Stream) Close() {
	st.out.Abort()
	st.cancel()
	for _, s := range st.subscriptions() {
		s.drop()
	}
	st.hub.mu.Lock()
	delete(st.hub.streams, st)
	st.hub.mu.Unlock()
}

// Reap removes the subscriptions that the outbox has ended as Lagged.
func (st *Stream) Reap() {
	ids := st.out.TakeLagged()
	st.hub.counts.Lagged.Add(uint64(len(ids)))
	for _, id := range ids {
		if s := st.find(id); s != nil {
			s.drop()
		} else {
			st.out.Forget(id) // it ended by itself meanwhile
		}
	}
}

func (st *Stream) subscriptions() []*Subscription {
	st.mu.Lock()
	defer st.mu.Unlock()
	out := make([]*Subscription, 0, len(st.subs))
	for _, s := range st.subs {
		out = append(out, s)
	}
	return out
}

func (st *Stream) find(id uint64) *Subscription {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.subs[id]
}

func (st *Stream) forget(id uint64) {
	st.mu.Lock()
	delete(st.subs, id)
	st.mu.Unlock()
	st.out.Forget(id)
}

// Refuse ends a subscription that never was.
func (st *Stream) Refuse(id uint64, err error) {
	st.out.End(id, dberr.CodeOf(err), err.Error(), 0)
}

// End ends a subscription because of err.
func (st *Stream) End(id uint64, err error) {
	if s := st.find(id); s != nil {
		s.End(dberr.CodeOf(err), err.Error())
	}
}

// Unsubscribe ends a subscription by its client's wish: nothing more is put into the outbox for it.
func (st *Stream) Unsubscribe(id uint64) {
	if s := st.find(id); s != nil {
		s.drop()
	}
}

// Subscribe opens a subscription to a version of its table. What is wrong with it is answered on the
// stream; the error is one of the stream itself.
func (st *Stream) Subscribe(req *livev1.Subscribe, t *catalog.Table) error {
	if st.find(req.GetSubscription()) != nil {
		return dberr.New(dberr.InvalidArgument, "subscription %d is in use on this stream", req.GetSubscription())
	}
	s, err := st.make(req, t)
	if err != nil {
		st.Refuse(req.GetSubscription(), err)
		return nil
	}
	plan := req.GetPlan()
	key := feed.Partition{Shard: plan.GetShard(), Table: plan.GetTableId(), User: plan.GetUserId()}
	if err := st.hub.admit(s, key, s.start.caller()); err != nil {
		st.hub.shapes.Release(s.shape)
		s.start.cancel()
		st.Refuse(s.id, err)
		return nil
	}
	st.mu.Lock()
	st.subs[s.id] = s
	st.mu.Unlock()
	s.partition.open(s)
	return nil
}

func isPartition(t *catalog.Table, name string) bool {
	_, ok := partition.Parse(t, name)
	return ok
}

// make checks a request and builds the subscription.
func (st *Stream) make(req *livev1.Subscribe, t *catalog.Table) (*Subscription, error) {
	plan, hub := req.GetPlan(), st.hub
	identity := catalog.IdentityFromProto(plan.GetIdentity())
	switch {
	case t.Kind.PerUser() && (plan.GetUserId() == "" || plan.GetUserId() != identity.UserID):
		return nil, dberr.New(dberr.PermissionDenied, "the rows of another user of %s cannot be subscribed to", t.QualifiedName())
	case t.Partitioned() && !isPartition(t, plan.GetUserId()):
		return nil, dberr.New(dberr.InvalidArgument, "%s is partitioned, and the subscription names none of its partitions", t.QualifiedName())
	case !t.Owned() && plan.GetUserId() != "":
		return nil, dberr.New(dberr.InvalidArgument, "%s is a shared table and has no partition of a user", t.QualifiedName())
	case req.GetLastRows() > LastRowsMax:
		return nil, dberr.New(dberr.LimitExceeded, "last_rows %d is more than allowed (%d)", req.GetLastRows(), LastRowsMax)
	}
	shape, err := hub.shapes.Get(match.Spec{Table: t, Columns: plan.GetColumnIds(), Filter: plan.GetFilter(),
		Encoding: req.GetEncoding(), UserID: identity.UserID, Role: identity.Role})
	if err != nil {
		return nil, err
	}
	rows := int(req.GetBatchSize())
	if rows == 0 || rows > BatchRowsMax {
		rows = BatchRowsMax
	}
	now := hub.cfg.Now()
	ctx, cancel := context.WithCancel(st.ctx)
	return &Subscription{id: req.GetSubscription(), stream: st, shape: shape, userID: identity.UserID,
		actor: identity.ActorUserID, role: identity.Role, connection: req.GetConnectionId(),
		clientID: req.GetClientSubscriptionId(), sql: plan.GetSql(), options: req.GetOptionsJson(), created: now,
		start: &start{identity: &identity, version: plan.GetCatalogVersion(), resume: req.FromSeq != nil, after: max(req.GetFromSeq(), beginning),
			snapshot: req.GetSnapshot() && (req.LastRows == nil || req.GetLastRows() > 0), lastRows: req.LastRows,
			rows: rows, pageRows: hub.cfg.PageRows, push: req.GetPushBatches(), deadline: now.Add(hub.cfg.OpenTimeout), nowUS: now.UnixMicro(),
			ctx: ctx, cancel: cancel}}, nil
}

// NextBatch sends the next batch of a snapshot. Asking for it while one is under way counts once.
func (st *Stream) NextBatch(id uint64) {
	s := st.find(id)
	if s == nil {
		return
	}
	p := s.partition
	p.mu.Lock()
	defer p.unlock()
	switch {
	case s.mode != loading || s.start.push:
	case s.start.running:
		s.start.asked = true
	default:
		p.startLoad(s)
	}
}
