package robustness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/kalamdb/kalamdb-go/tests/clusterproc"
)

// replaceTimeout bounds one node's restart, on a machine that is busy with the whole cluster.
const replaceTimeout = 3 * time.Minute

// mixedFor is how long clients use each mixture of versions before the next node is replaced.
const mixedFor = 2 * time.Second

// Upgrade replaces the programs of a cluster's nodes while clients use it.
type Upgrade struct {
	*Cluster
	// Switch says which folder a node's program comes from when it starts the next time.
	Switch func(node, bin string)
	// Log is told about every step.
	Log func(format string, args ...any)

	mixed int // tables made while versions were mixed
}

// Pass is one walk over all nodes.
type Pass struct {
	Name string
	// Roles in the order in which their nodes are replaced.
	Roles []string
	// Bin is the folder of the programs to start, Version what they register as.
	Bin, Version string
}

// UpgradeReport is what a pass did.
type UpgradeReport struct {
	*Report
	// Replaced nodes, and the tables that were made and used in between.
	Replaced, Tables int
	// Late is how often such a table was not yet known to the query node that was asked.
	Late   int
	Errors *Errors
}

func (r *UpgradeReport) String() string {
	return fmt.Sprintf("%d nodes replaced, %d tables made between (%d times not known yet); %d operations (%d unknown), %d events, %d resumes, longest write gap %v; errors: %s",
		r.Replaced, r.Tables, r.Late, r.Operations, r.Unknown, r.Events, r.Resumes, r.LongestGap.Round(time.Millisecond), r.Errors)
}

// undisturbed is a cluster on which load brings no faults with it.
type undisturbed struct{ *Cluster }

func (undisturbed) Faults() []Fault { return nil }

// Run replaces every node, one after the other, under load, and checks the history and the errors that
// clients saw.
func (u *Upgrade) Run(ctx context.Context, pass Pass, opt Options) (*UpgradeReport, error) {
	seen := &Errors{}
	opt.NoTransactions = true // v0.3.0-alpha.1 has none
	r := newRun(undisturbed{u.Cluster}, opt, "up")
	r.gateways.watch, r.partitioned = seen.watch, false
	out := &UpgradeReport{Errors: seen}
	if err := r.setUp(ctx); err != nil {
		return nil, fmt.Errorf("set up: %w", err)
	}
	err := r.during(ctx, func(ctx context.Context) error { return u.replaceAll(ctx, pass, r, out) })
	out.Report = r.report()
	if err == nil {
		err = errors.Join(r.check(), seen.Check(), u.Verify(ctx))
	}
	if err != nil {
		err = errors.Join(err, r.keep())
	}
	return out, err
}

// during puts load and subscriptions on the cluster until what has returned, and then follows them to the end.
func (r *run) during(ctx context.Context, what func(context.Context) error) error {
	load, stopLoad := context.WithCancel(ctx)
	defer stopLoad()
	follow, stopFollowing := context.WithCancel(ctx)
	defer stopFollowing()
	targets := &ends{at: map[*Partition]uint64{}}
	random := rand.New(rand.NewPCG(r.opt.Seed, 1))
	var followers []func() error
	var begun []chan struct{}
	var whole []*subscriber
	for _, p := range r.partitions {
		for _, s := range r.subscribers(p, targets, random.Uint64()) {
			followers = append(followers, func() error { return s.run(follow) })
			if s.sub.Whole {
				begun, whole = append(begun, s.begun), append(whole, s)
			}
		}
	}
	following := make(chan error, 1)
	go func() { following <- runAll(followers...) }()
	began, cancel := context.WithTimeout(follow, settleTimeout)
	defer cancel()
	err := waitBegun(began, begun)
	if err == nil {
		err = runAll(
			func() error { defer stopLoad(); return r.load(load, random) },
			func() error {
				defer stopLoad()
				if err := waitResumable(load, whole); err != nil {
					return err
				}
				return what(load)
			})
	}
	timer := time.AfterFunc(settleTimeout, stopFollowing)
	defer timer.Stop()
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

// waitResumable waits until subscriptions have a position: one that is cut off before has to begin again, and would
// then not have seen everything from the first write.
func waitResumable(ctx context.Context, all []*subscriber) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	for _, s := range all {
		for s.reached.Load() == 0 {
			if ctx.Err() != nil {
				return fmt.Errorf("%s: nothing arrived in time", s.sub.Name)
			}
			pause(ctx, reopenPause)
		}
	}
	return nil
}

// replaceAll replaces the nodes of all roles, in order.
func (u *Upgrade) replaceAll(ctx context.Context, pass Pass, r *run, out *UpgradeReport) error {
	for _, role := range pass.Roles {
		for i, n := range u.Role(role) {
			began := time.Now()
			if err := u.replace(ctx, n, pass.Bin); err != nil {
				return err
			}
			if err := u.waitVersion(ctx, r, role, pass.Version, i+1); err != nil {
				return err
			}
			out.Replaced++
			if err := u.useMixed(ctx, r, out); err != nil {
				return fmt.Errorf("after %s was replaced: %w", n.Name, err)
			}
			out.Tables++
			if err := u.Verify(ctx); err != nil {
				return fmt.Errorf("after %s was replaced: %w", n.Name, err)
			}
			pause(ctx, mixedFor)
			u.Log("%s: %s runs %s, after %.1f s; errors so far: %s", pass.Name, n.Name, pass.Version, time.Since(began).Seconds(), out.Errors)
		}
	}
	return nil
}

// replace stops a node as an operator does, starts the other program and waits until nothing is missing any more.
func (u *Upgrade) replace(ctx context.Context, n *clusterproc.Node, bin string) error {
	ctx, cancel := context.WithTimeout(ctx, replaceTimeout)
	defer cancel()
	if err := n.Stop(); err != nil {
		return fmt.Errorf("stop %s: %w (its log: %s)", n.Name, err, n.LogFile())
	}
	u.Switch(n.Name, bin)
	if err := n.Restart(ctx); err != nil {
		return err
	}
	return u.waitWhole(ctx)
}
