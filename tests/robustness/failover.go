package robustness

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	kalamv1 "github.com/kalamdb/kalamdb-go/proto/kalam/v1"
	"github.com/kalamdb/kalamdb-go/tests/client"
)

// FailoverTarget is a cluster whose storage nodes can be broken one at a time, in several ways.
type FailoverTarget interface {
	Target
	// Modes are the ways, in the order of the report.
	Modes() []string
	// LeaderOf names the storage node that leads a user's shard.
	LeaderOf(ctx context.Context, user string) (string, error)
	// Break breaks a storage node. Heal mends it. With the mode diskFull the node breaks at its next write that needs
	// room.
	Break(ctx context.Context, mode, node string) error
	// Ended reports whether a storage node's process is not running.
	Ended(node string) bool
}

// diskFull is the mode that only writes which need room can feel.
const diskFull = "disk-full"

const (
	failoverUsers = 8
	// writePause is the time between an acknowledgement and the next write: what a gap is measured with.
	writePause = 5 * time.Millisecond
	// steadyFor is how long writes flow before each failure, and after each repair.
	steadyFor = 2 * time.Second
	// gapTold is how long a user must stand still to be named in the report.
	gapTold = 1500 * time.Millisecond
	// brokenFor is how long a node stays broken.
	brokenFor = 5 * time.Second
	// bulkRow is the size of a row that takes room, in bytes; bulkRows of them are more than any memtable and what its
	// log has reserved.
	bulkRow  = 256 << 10
	bulkRows = 4096
)

// Gap is what one failure cost: the longest times, over all users, without an acknowledged write and
// without a change received.
type Gap struct {
	Write, Subscription time.Duration
	// Began is when the node was broken; Slow names it and the users that stood still for longer than gapTold, and when.
	Began time.Time
	Slow  string
}

// Failover breaks the leader of some user's shard in every mode, times each, and returns the gaps by
// mode.
func Failover(ctx context.Context, target FailoverTarget, times int, progress func(mode string, g Gap)) (map[string][]Gap, error) {
	f := &failover{target: target, gateways: NewGateways(target.Gateways())}
	if err := f.setUp(ctx); err != nil {
		return nil, fmt.Errorf("set up: %w", err)
	}
	run, stop := context.WithCancel(ctx)
	var fs []func() error
	for _, u := range f.users {
		fs = append(fs, func() error { return u.write(run) }, func() error { return u.follow(run) })
	}
	ended := make(chan error, 1)
	go func() { ended <- runAll(fs...) }()
	gaps := map[string][]Gap{}
	err := f.all(ctx, times, func(mode string, g Gap) {
		gaps[mode] = append(gaps[mode], g)
		progress(mode, g)
	})
	stop()
	return gaps, errors.Join(err, <-ended)
}

type failover struct {
	target   FailoverTarget
	gateways *Gateways
	users    []*steadyUser
	bulk     int // rows written to take room
}

func (f *failover) setUp(ctx context.Context) error {
	r := &run{target: f.target, gateways: f.gateways}
	statements := []string{"CREATE NAMESPACE IF NOT EXISTS failover",
		"CREATE USER TABLE IF NOT EXISTS failover.ticks (id BIGINT PRIMARY KEY, v BIGINT NOT NULL)",
		"CREATE USER TABLE IF NOT EXISTS failover.bulk (id BIGINT PRIMARY KEY, body TEXT NOT NULL)"}
	for i := range failoverUsers {
		u := &steadyUser{name: fmt.Sprintf("failover_u%d", i), gateways: f.gateways}
		f.users = append(f.users, u)
		statements = append(statements, "CREATE USER '"+u.name+"' WITH PASSWORD '"+password+"'")
	}
	ctx, cancel := context.WithTimeout(ctx, setUpTimeout)
	defer cancel()
	for _, sql := range statements {
		if err := r.root(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

func (f *failover) all(ctx context.Context, times int, done func(string, Gap)) error {
	for _, mode := range f.target.Modes() {
		for n := range times {
			g, err := f.one(ctx, mode, f.users[n%len(f.users)].name)
			if err != nil {
				return fmt.Errorf("%s, time %d: %w", mode, n+1, err)
			}
			done(mode, g)
		}
	}
	return nil
}

// one breaks one leader and measures.
func (f *failover) one(ctx context.Context, mode, user string) (Gap, error) {
	if err := f.steady(ctx); err != nil {
		return Gap{}, err
	}
	node, err := f.target.LeaderOf(ctx, user)
	if err != nil {
		return Gap{}, err
	}
	began := time.Now()
	if err := f.target.Break(ctx, mode, node); err != nil {
		return Gap{}, err
	}
	if mode == diskFull {
		if err := f.takeRoom(ctx, user, node); err != nil {
			return Gap{}, err
		}
	}
	pause(ctx, brokenFor)
	if err := f.target.Heal(ctx); err != nil {
		return Gap{}, err
	}
	if err := f.steady(ctx); err != nil {
		return Gap{}, fmt.Errorf("after healing: %w", err)
	}
	return f.gap(node, began), nil
}

// takeRoom writes to a user's shard until the node whose disk is full could not. A full disk alone changes nothing for
// long: the log was given room before, and uses it again.
func (f *failover) takeRoom(ctx context.Context, user, node string) error {
	c := &statements{user: user, gateways: f.gateways}
	defer c.hangUp()
	body := strings.Repeat("x", bulkRow)
	for range bulkRows {
		if f.target.Ended(node) {
			return nil
		}
		f.bulk++
		if _, err := c.do(ctx, "", fmt.Sprintf("INSERT INTO failover.bulk (id, body) VALUES (%d, '%s')", f.bulk, body)); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s still runs after %d MiB were written on its full disk", node, bulkRows*bulkRow>>20)
}

// gap sums up one failure.
func (f *failover) gap(node string, began time.Time) Gap {
	g := Gap{Began: began}
	var slow []string
	told := func(u *steadyUser, what string, at gap) {
		if at.length > gapTold {
			slow = append(slow, fmt.Sprintf("%s's %s from %v to %v", u.name, what, at.from.Sub(began).Round(time.Millisecond),
				at.from.Add(at.length).Sub(began).Round(time.Millisecond)))
		}
	}
	for _, u := range f.users {
		w, s := u.gaps(began.Add(-writePause))
		g.Write, g.Subscription = max(g.Write, w.length), max(g.Subscription, s.length)
		told(u, "writes", w)
		told(u, "changes", s)
	}
	if len(slow) > 0 {
		g.Slow = node + ": " + strings.Join(slow, ", ")
	}
	return g
}

// steady waits until every user's writes and changes have flowed for a while.
func (f *failover) steady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	for {
		since := time.Now()
		pause(ctx, steadyFor)
		calm := true
		for _, u := range f.users {
			w, s := u.gaps(since)
			calm = calm && w.length < steadyFor/2 && s.length < steadyFor/2
		}
		if calm {
			return nil
		}
		if ctx.Err() != nil {
			return errors.New("writes or changes do not flow again: " + f.stuck())
		}
	}
}

func (f *failover) stuck() string {
	var b strings.Builder
	for _, u := range f.users {
		w, s := u.gaps(time.Now().Add(-steadyFor))
		fmt.Fprintf(&b, "%s: no write for %v, no change for %v; ", u.name, w.length, s.length)
	}
	return b.String()
}

// steadyUser writes one row after the other and follows its own table.
type steadyUser struct {
	name     string
	gateways *Gateways

	mu       sync.Mutex
	acks     []time.Time
	changes  []time.Time
	acked    int64 // the last id acknowledged
	followed int64 // the last id in a change
	position uint64
}

func (u *steadyUser) write(ctx context.Context) error {
	c := &statements{user: u.name, gateways: u.gateways}
	defer c.hangUp()
	for id := int64(1); ctx.Err() == nil; {
		done, err := c.do(ctx, fmt.Sprintf("%s-%d", u.name, id), fmt.Sprintf("INSERT INTO failover.ticks (id, v) VALUES (%d, %d)", id, id))
		if err != nil {
			return err
		}
		if done {
			u.ack(id)
			id++
			pause(ctx, writePause)
		}
	}
	return nil
}

// statements runs a user's statements, one after the other, at any gateway.
type statements struct {
	user     string
	gateways *Gateways
	client   *client.Client // nil: none that works
}

// do runs an INSERT and reports whether its rows are there, by this attempt or an earlier one. An error is one that
// no fault explains.
func (s *statements) do(ctx context.Context, idempotencyKey, sql string) (done bool, err error) {
	if s.client == nil {
		if s.client, err = s.gateways.Dial(s.user, password); err != nil {
			return false, err
		}
	}
	call, cancel := context.WithTimeout(ctx, 2*statementTimeout)
	defer cancel()
	_, err = s.client.RPC.Execute(call, &kalamv1.ExecuteRequest{IdempotencyKey: idempotencyKey, Sql: sql})
	switch err = dberr.FromStatus(err); {
	case err == nil || dberr.Is(err, dberr.PrimaryKeyViolation):
		return true, nil
	case explained(err) || ctx.Err() != nil:
		s.hangUp()
		pause(ctx, reopenPause)
		return false, nil
	}
	return false, fmt.Errorf("%s: %w", s.user, err)
}

func (s *statements) hangUp() {
	if s.client != nil {
		s.client.Close()
		s.client = nil
	}
}

func (u *steadyUser) ack(id int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.acks, u.acked = append(u.acks, time.Now()), id
}

// follow checks on the way that ids come without a gap and without repetition.
func (u *steadyUser) follow(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := u.stream(ctx); err != nil && !explained(err) && ctx.Err() == nil {
			return fmt.Errorf("%s: %w", u.name, err)
		}
		pause(ctx, reopenPause)
	}
	return nil
}

func (u *steadyUser) stream(ctx context.Context) error {
	c, err := u.gateways.Dial(u.name, password)
	if err != nil {
		return err
	}
	defer c.Close()
	req := &kalamv1.SubscribeRequest{Sql: "SELECT id, v FROM failover.ticks", ChangesOnly: true}
	if u.position > 0 {
		req.From = &u.position
	}
	events, err := c.RPC.Subscribe(ctx, req)
	for err == nil {
		var ev *kalamv1.SubscribeResponse
		if ev, err = events.Recv(); err == nil {
			err = u.take(ev)
		}
	}
	return dberr.FromStatus(err)
}

func (u *steadyUser) take(ev *kalamv1.SubscribeResponse) error {
	if p := ev.GetProgress(); p > 0 {
		u.position = max(u.position, p)
	}
	change := ev.GetChange()
	if change == nil {
		return nil
	}
	rows, err := decodeTicks(change.GetArrowIpc())
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.followed != 0 && rows != u.followed+1 {
		return fmt.Errorf("change of id %d after that of %d: missed or repeated", rows, u.followed)
	}
	u.followed, u.position = rows, change.GetSeq()
	u.changes = append(u.changes, time.Now())
	return nil
}

func decodeTicks(ipc []byte) (int64, error) {
	_, rows, err := client.DecodeIPC(ipc)
	if err != nil {
		return 0, err
	}
	if len(rows) != 1 {
		return 0, fmt.Errorf("a change with %d rows", len(rows))
	}
	return rows[0][0].(int64), nil
}

// gaps are the longest times without an acknowledgement and without a change since a time, until now.
func (u *steadyUser) gaps(since time.Time) (write, subscription gap) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return longestSince(u.acks, since), longestSince(u.changes, since)
}

// gap is a time without something.
type gap struct {
	from   time.Time
	length time.Duration
}

func longestSince(at []time.Time, since time.Time) gap {
	first, _ := slices.BinarySearchFunc(at, since, time.Time.Compare)
	longest, last := gap{from: since}, since
	for _, t := range append(slices.Clone(at[first:]), time.Now()) {
		if d := t.Sub(last); d > longest.length {
			longest = gap{last, d}
		}
		last = t
	}
	return longest
}

// explained are the errors that faults explain.
func explained(err error) bool {
	switch dberr.CodeOf(err) {
	case dberr.Unavailable, dberr.Canceled, dberr.Timeout, dberr.NotLeader, dberr.Lagged, dberr.RateLimited, dberr.LimitExceeded:
		return true
	}
	return false
}
