package group

import (
	"context"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
	"github.com/kalamdb/kalamdb-go/services/live/internal/feed"
	"github.com/kalamdb/kalamdb-go/services/live/internal/match"
	"github.com/kalamdb/kalamdb-go/services/live/internal/snapshot"
	"github.com/kalamdb/kalamdb-go/services/live/internal/subscription"
)

// mode is where a subscription stands.
type mode uint8

const (
	// opening: storage has not started its watch.
	opening mode = iota
	// loading: the snapshot is being sent; changes wait in a buffer.
	loading
	// catchingUp: it reads the change log from its position.
	catchingUp
	// joining: it has everything up to its position, and the partition's watch is not there yet.
	joining
	// live: a member of its group.
	live
	ended
)

// String is the status that system.live shows.
func (m mode) String() string {
	return [...]string{"opening", "loading", "catching_up", "active", "active", "ended"}[m]
}

// Subscription is one subscription. What only its beginning needs is in start, so that an idle one stays small: 5 to
// 11 KiB with a partition, a watch and a connection's part of its own (docs/scaling.md).
type Subscription struct {
	id         uint64
	stream     *Stream
	partition  *Partition
	shape      *match.Shape
	userID     string
	actor      string
	role       catalog.Role
	connection string
	clientID   string
	sql        string
	options    string
	created    time.Time

	// The fields below belong to Partition.mu.

	mode mode
	// position: everything up to it was put into the outbox, while catching up, joining, and when it
	// went live; then the partition's position counts.
	position     uint64
	start        *start // nil when live
	group        *group // set when live
	slot         int    // in its group
	groupChanges uint64 // the group's count when it joined
	changes      uint64 // delivered before that
	updated      time.Time

	next, prev *Subscription // of the same user; belong to Hub.mu
}

// start is what a subscription needs until it is live.
type start struct {
	identity *catalog.Identity
	version  uint64 // of the catalog, when it was planned
	snapshot bool
	resume   bool
	after    uint64 // resume: deliver what changed after it
	lastRows *uint64
	rows     int // per batch
	push     bool
	deadline time.Time
	nowUS    int64

	ctx    context.Context //nolint:containedctx // ends the page that is being read
	cancel context.CancelFunc

	reset      bool
	announced  bool
	registered uint64 // the buffer holds every change after it
	pages      subscription.Pages
	buffer     *subscription.Buffer
	pageRows   int
	ready      []snapshot.Batch
	held       int     // bytes of ready taken from budget
	budget     *budget // set when held is
	more       bool    // rows follow after those ready
	lastRead   uint64  // highest _seq of the pages
	sent       uint64  // highest _seq of the batches sent
	batch      uint32
	running    bool // a goroutine reads or sends
	asked      bool // the client wants the batch after the one being sent

	log *feed.Watch // while catching up, unless it waits for room
}

// caller is on whose behalf storage is asked.
func (st *start) caller() feed.Caller {
	return feed.Caller{Identity: catalog.IdentityToProto(*st.identity), CatalogVersion: st.version}
}

// release gives back what the start holds.
func (st *start) release() {
	st.cancel()
	if st.buffer != nil {
		st.buffer.Discard()
	}
	if st.log != nil {
		st.log.Close()
		st.log = nil
	}
	st.ready = nil
	st.unhold()
}

// unhold gives back the memory of the batches that were waiting.
func (st *start) unhold() {
	if st.held > 0 {
		st.budget.Release(st.held)
		st.held = 0
	}
}

// resumeAt is where the client can go on; zero means that it must begin anew.
func (s *Subscription) resumeAt() uint64 {
	switch s.mode {
	case opening:
		if s.start.resume {
			return s.start.after
		}
		return 0
	case loading:
		// The rows come by ascending _seq, so everything up to the last one was sent.
		return s.start.sent
	case live:
		return max(s.position, s.partition.reached())
	}
	return s.position
}

// End ends the subscription, and reports whether it was there to be ended.
func (s *Subscription) End(code dberr.Code, message string) bool {
	p := s.partition
	p.mu.Lock()
	defer p.unlock()
	if s.mode == ended {
		return false
	}
	p.end(s, code, message)
	return true
}

// drop removes the subscription without a word: its client, or its stream, has gone.
func (s *Subscription) drop() {
	p := s.partition
	p.mu.Lock()
	defer p.unlock()
	p.remove(s)
}

// link puts s on its user's list. Hub.mu is held.
func (s *Subscription) link(users map[string]*Subscription) {
	if head := users[s.userID]; head != nil {
		s.next, head.prev = head, s
	}
	users[s.userID] = s
}

func (s *Subscription) unlink(users map[string]*Subscription) {
	switch {
	case s.prev != nil:
		s.prev.next = s.next
	case s.next != nil:
		users[s.userID] = s.next
	default:
		delete(users, s.userID)
	}
	if s.next != nil {
		s.next.prev = s.prev
	}
	s.next, s.prev = nil, nil
}

// liveID is the name that KILL LIVE QUERY takes.
func (s *Subscription) liveID() string { return s.userID + "-" + s.connection + "-" + s.clientID }

func (s *Subscription) describe() *livev1.LiveQuery {
	t := s.shape.Table()
	q := &livev1.LiveQuery{LiveId: s.liveID(), ConnectionId: s.connection, SubscriptionId: s.clientID,
		Namespace: t.Namespace, Table: t.Name, UserId: s.userID, Query: s.sql, OptionsJson: s.options,
		CreatedAtUs: s.created.UnixMicro()}
	p := s.partition
	p.mu.Lock()
	defer p.mu.Unlock()
	q.Status, q.Changes, q.Position = s.mode.String(), s.changes, s.resumeOf()
	updated := s.updated
	if g := s.group; g != nil {
		q.Changes += g.changes - s.groupChanges
		if g.updated.After(s.created) {
			updated = g.updated
		}
	}
	if !updated.IsZero() {
		q.LastUpdateUs = updated.UnixMicro()
	}
	return q
}

func (s *Subscription) resumeOf() uint64 {
	if s.mode == ended {
		return s.position
	}
	return s.resumeAt()
}
