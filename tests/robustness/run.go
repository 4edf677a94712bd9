package robustness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/tests/client"
)

const (
	usersPerRun         = 2
	lanesPerRun         = 2
	workersPerPartition = 4
	password            = "robust-Password-1"
	// settleTimeout is how long a healed cluster may take until everything has arrived everywhere.
	settleTimeout = 60 * time.Second
	// setUpTimeout bounds making the tables, also on a cluster that is still electing.
	setUpTimeout = 60 * time.Second
)

// Options of one run.
type Options struct {
	Seed     uint64
	Duration time.Duration
	// Dir is where the history goes when a check fails.
	Dir string
	// Faults are the names of those to use, comma separated; -name leaves one out. Empty means all.
	Faults string
	// NoTransactions is for clusters whose nodes do not all know them.
	NoTransactions bool
}

// Report is what a run did.
type Report struct {
	Operations, Unknown, Events, Resumes int
	// UnknownBy counts operations of unknown outcome by the code of their error.
	UnknownBy map[dberr.Code]int
	Faults    []string
	// LongestGap is the longest time without an acknowledged write in any partition.
	LongestGap time.Duration
}

func (r *Report) String() string {
	return fmt.Sprintf("%d operations (%d unknown: %v), %d events, %d resumes, longest write gap %v, faults: %s", r.Operations, r.Unknown, r.UnknownBy,
		r.Events, r.Resumes, r.LongestGap.Round(time.Millisecond), strings.Join(r.Faults, " "))
}

// Run puts load on a cluster while breaking it, lets it heal and checks the history. Tables are new in each
// run, so runs may follow each other on one cluster.
func Run(ctx context.Context, target Target, opt Options) (*Report, error) {
	r := newRun(target, opt, "rb")
	if err := r.setUp(ctx); err != nil {
		return nil, fmt.Errorf("set up: %w", err)
	}
	if err := r.work(ctx); err != nil {
		return r.report(), errors.Join(err, r.keep())
	}
	err := r.check()
	if v, ok := target.(verifier); ok {
		err = errors.Join(err, v.Verify(ctx))
	}
	if err != nil {
		return r.report(), errors.Join(err, r.keep())
	}
	return r.report(), nil
}

// verifier is a target with replicas to compare.
type verifier interface {
	Verify(ctx context.Context) error
}

type run struct {
	target     Target
	opt        Options
	gateways   *Gateways
	began      time.Time
	namespace  string
	partitions []*Partition
	// partitioned: the version says how a shared table is partitioned. Then there is one with lanes.
	partitioned bool
	lanes       []*Partition

	mu     sync.Mutex
	faults []string
}

func (r *run) now() int64 { return int64(time.Since(r.began)) }

// newRun prepares a run whose namespace begins with a prefix.
func newRun(target Target, opt Options, prefix string) *run {
	return &run{target: target, opt: opt, gateways: NewGateways(target.Gateways()), began: time.Now(),
		namespace: fmt.Sprintf("%s%x", prefix, opt.Seed), partitioned: true}
}

func (r *run) note(fault string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, fmt.Sprintf("%s@%.1fs", fault, time.Since(r.began).Seconds()))
}

func (r *run) setUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, setUpTimeout)
	defer cancel()
	for _, sql := range r.tables() {
		if err := r.root(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

// tables makes the partitions and returns the statements that make them in the cluster.
func (r *run) tables() []string {
	mine, ours, wide := r.namespace+".mine", r.namespace+".ours", r.namespace+".wide"
	spread, flushByRows, flushByTime := "", "", ""
	if r.partitioned {
		spread, flushByRows, flushByTime = " PARTITION BY HASH (id) PARTITIONS 1", rowsPolicy, timePolicy
	}
	statements := []string{"CREATE NAMESPACE IF NOT EXISTS " + r.namespace,
		"CREATE USER TABLE IF NOT EXISTS " + mine + " (id BIGINT PRIMARY KEY, v BIGINT NOT NULL)" + flushByRows,
		"CREATE SHARED TABLE IF NOT EXISTS " + ours + " (id BIGINT PRIMARY KEY, v BIGINT NOT NULL)" + spread + flushByTime}
	for i := range usersPerRun {
		user := fmt.Sprintf("%s_u%d", r.namespace, i)
		statements = append(statements, "CREATE USER '"+user+"' WITH PASSWORD '"+password+"'")
		r.partitions = append(r.partitions, &Partition{Name: user, Rows: Rows{Table: mine}, User: user, Password: password})
	}
	user := r.partitions[0].User
	r.partitions = append(r.partitions, &Partition{Name: "shared", Rows: Rows{Table: ours}, User: user, Password: password})
	if !r.partitioned {
		return statements
	}
	for i := range int64(lanesPerRun) {
		r.lanes = append(r.lanes, &Partition{Name: fmt.Sprintf("lane %d", i), Rows: Rows{Table: wide, Lane: &i}, User: user, Password: password})
	}
	r.partitions = append(r.partitions, r.lanes...)
	return append(statements, "CREATE SHARED TABLE IF NOT EXISTS "+wide+
		" (lane BIGINT, id BIGINT, v BIGINT NOT NULL, PRIMARY KEY (lane, id)) PARTITION BY HASH (lane) PARTITIONS 8"+flushByRows)
}

// Rows move to segments all the time, so that most of what a run reads is in several places.
const (
	rowsPolicy = " FLUSH ROW_THRESHOLD 25"
	timePolicy = " FLUSH INTERVAL 1s"
)

// root runs a statement as root, again while the cluster is not ready.
func (r *run) root(ctx context.Context, sql string) error {
	for {
		c, err := r.gateways.Dial("root", r.target.Root())
		if err != nil {
			return err
		}
		_, err = c.Exec(ctx, sql)
		c.Close()
		if err == nil || dberr.Is(err, dberr.AlreadyExists) || !dberr.Is(err, dberr.Unavailable) && !dberr.Is(err, dberr.NotLeader) && !dberr.Is(err, dberr.Timeout) || ctx.Err() != nil {
			if dberr.Is(err, dberr.AlreadyExists) {
				err = nil
			}
			return err
		}
		pause(ctx, reopenPause)
	}
}

// work runs load, subscribers and faults; then heals and waits until the subscribers have everything.
func (r *run) work(ctx context.Context) error {
	follow, stopFollowing := context.WithTimeout(ctx, r.opt.Duration+settleTimeout)
	defer stopFollowing()
	targets := &ends{at: map[*Partition]uint64{}}
	var followers []func() error
	var begun []chan struct{}
	random := rand.New(rand.NewPCG(r.opt.Seed, 1))
	for _, p := range r.partitions {
		for _, s := range r.subscribers(p, targets, random.Uint64()) {
			followers = append(followers, func() error { return s.run(follow) })
			if s.sub.Whole {
				begun = append(begun, s.begun)
			}
		}
	}
	following := make(chan error, 1)
	go func() { following <- runAll(followers...) }()
	if err := waitBegun(follow, begun); err != nil {
		stopFollowing()
		return errors.Join(err, <-following)
	}
	load, stopLoad := context.WithTimeout(ctx, r.opt.Duration)
	defer stopLoad()
	err := r.load(load, random)
	err = errors.Join(err, r.target.Heal(ctx))
	if err == nil {
		err = r.finish(follow, targets)
	}
	if err != nil {
		stopFollowing()
		<-following
		return err
	}
	return <-following
}

// waitBegun waits until subscriptions are acknowledged: they see everything from the first write.
func waitBegun(ctx context.Context, begun []chan struct{}) error {
	for _, b := range begun {
		select {
		case <-b:
		case <-ctx.Done():
			return fmt.Errorf("the first subscriptions were not acknowledged in time")
		}
	}
	return nil
}

func (r *run) load(ctx context.Context, random *rand.Rand) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var fs []func() error
	for _, p := range r.partitions {
		for range workersPerPartition {
			w := &worker{id: len(fs), partition: p, gateways: r.gateways, now: r.now, plain: r.opt.NoTransactions,
				random: rand.New(rand.NewPCG(r.opt.Seed, 100+uint64(len(fs))))}
			if p.Rows.Lane != nil {
				w.lanes = r.lanes
			}
			fs = append(fs, func() error {
				err := w.run(ctx)
				if err != nil {
					cancel()
				}
				return err
			})
		}
	}
	fs = append(fs, func() error {
		err := breakThings(ctx, chosen(r.target.Faults(), r.opt.Faults), random, r.note)
		if err != nil {
			cancel()
		}
		return err
	})
	return runAll(fs...)
}

// ends are the positions subscribers must reach.
type ends struct {
	mu sync.Mutex
	at map[*Partition]uint64
}

func (e *ends) of(p *Partition) func() (uint64, bool) {
	return func() (uint64, bool) {
		e.mu.Lock()
		defer e.mu.Unlock()
		at, ok := e.at[p]
		return at, ok
	}
}

// subscribers of one partition: one that sees everything, one that hangs up, two with filters.
func (r *run) subscribers(p *Partition, targets *ends, seed uint64) (all []*subscriber) {
	for i, kind := range []struct {
		filter Filter
		hangUp bool
	}{{}, {hangUp: true}, {filter: Filter{2, 0}, hangUp: true}, {filter: Filter{3, 1}}} {
		sub := &Subscription{Name: fmt.Sprintf("%s, subscription %d", p.Name, i), Filter: kind.filter, Whole: i == 0}
		p.Subscriptions = append(p.Subscriptions, sub)
		all = append(all, &subscriber{sub: sub, partition: p, gateways: r.gateways, hangUp: kind.hangUp, begun: make(chan struct{}),
			random: rand.New(rand.NewPCG(seed, uint64(i))), target: targets.of(p)})
	}
	return all
}

// finish writes one more row, which all subscriptions want or pass, reads the end and says where it is.
func (r *run) finish(ctx context.Context, targets *ends) error {
	for _, p := range r.partitions {
		end, at, err := r.settle(ctx, p)
		if err != nil {
			return fmt.Errorf("%s after healing: %w", p.Name, err)
		}
		p.End = end
		targets.mu.Lock()
		targets.at[p] = at
		targets.mu.Unlock()
	}
	return nil
}

// settle makes a last write through the healed cluster and returns the content and the write's position.
func (r *run) settle(ctx context.Context, p *Partition) (State, uint64, error) {
	c, err := r.gateways.Dial(p.User, p.Password)
	if err != nil {
		return State{}, 0, err
	}
	defer func() { c.Close() }()
	for {
		o := Operation{Client: 1 << 20, Kind: Read}
		if err := o.run(ctx, c, p.Rows, 0, r.now); err != nil {
			return State{}, 0, err
		}
		if o.Outcome == Done {
			p.Recorder.Add(o)
			if last, done, err := r.lastWrite(ctx, c, p, o.Got); done || err != nil {
				return last.end, last.position, err
			}
		}
		if ctx.Err() != nil {
			return State{}, 0, fmt.Errorf("no write succeeded: %s", o.Error)
		}
		pause(ctx, reopenPause)
		c.Close()
		if c, err = r.gateways.Dial(p.User, p.Password); err != nil {
			return State{}, 0, err
		}
	}
}

type lastWrite struct {
	end      State
	position uint64
}

func (r *run) lastWrite(ctx context.Context, c *client.Client, p *Partition, s State) (lastWrite, bool, error) {
	// A multiple of six passes every filter or is kept away by a known one; a new value in any case.
	v := (p.values.Add(12)/6 + 1) * 6
	p.values.Store(v)
	o := Operation{Client: 1 << 20, Kind: Insert, Keys: []int{0}, Values: []int64{v}}
	if s[0] != 0 {
		o.Kind, o.Old = Swap, []int64{s[0]}
	}
	if err := o.run(ctx, c, p.Rows, 0, r.now); err != nil {
		return lastWrite{}, false, err
	}
	p.Recorder.Add(o)
	if o.Outcome != Done || o.Affected != 1 {
		return lastWrite{}, false, nil
	}
	s[0] = v
	return lastWrite{end: s, position: o.Position}, true, nil
}

func (r *run) check() error {
	var errs []error
	for _, p := range r.partitions {
		if err := Check(p.Subscriptions, p.Recorder.Operations(), p.End, stalenessAsked); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (r *run) report() *Report {
	r.mu.Lock()
	out := &Report{Faults: append([]string(nil), r.faults...), UnknownBy: map[dberr.Code]int{}}
	r.mu.Unlock()
	for _, p := range r.partitions {
		ops := p.Recorder.Operations()
		out.Operations += len(ops)
		for i := range ops {
			if ops[i].Outcome == Unknown {
				out.Unknown++
				out.UnknownBy[ops[i].Code]++
			}
		}
		out.LongestGap = max(out.LongestGap, longestGap(ops))
		for _, s := range p.Subscriptions {
			out.Events += len(s.Events)
			for _, e := range s.Events {
				if e.Kind == Opened && e.From > 0 {
					out.Resumes++
				}
			}
		}
	}
	return out
}

// keep writes the history to a file, for whoever looks for the cause.
func (r *run) keep() error {
	if r.opt.Dir == "" {
		return nil
	}
	path := filepath.Join(r.opt.Dir, fmt.Sprintf("history-%x.json", r.opt.Seed))
	type partition struct {
		Name          string
		Operations    []Operation
		Subscriptions []*Subscription
		End           State
	}
	var all []partition
	for _, p := range r.partitions {
		all = append(all, partition{p.Name, p.Recorder.Operations(), p.Subscriptions, p.End})
	}
	raw, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, raw, 0o600)
}
