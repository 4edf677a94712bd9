package scaling

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kalamdb/kalamdb-go/tests/clusterproc"
)

const (
	// placeTimeout bounds the placing of all replicas of a new cluster, restartTimeout a restart.
	placeTimeout   = 30 * time.Minute
	restartTimeout = 5 * time.Minute
	// noNodes runs none of a role; zero would mean the default number.
	noNodes = -1
)

// IdleOptions say what to measure.
type IdleOptions struct {
	// Bin is the folder of the binaries.
	Bin string
	// Nodes are the storage processes; each has a replica of every group.
	Nodes int
	// Window is how long they are watched.
	Window time.Duration
}

// IdleNode is one storage process over the window.
type IdleNode struct {
	Name string
	// Leads is how many of its replicas lead.
	Leads         int
	CPU           float64 // cores
	ResidentBytes int64
	Goroutines    int
	// WrittenBytes and Writes are of write calls, to sockets and files; StoredBytes reached a disk. All a second.
	WrittenBytes, Writes, StoredBytes float64
}

// IdleReport is an idle cluster with one number of shards.
type IdleReport struct {
	Shards int
	Nodes  []IdleNode
	// Placed is from the start of the processes to the last group's third voter.
	Placed time.Duration
	// Busy is the share of the machine's cores that anybody used in the window, and Terms how many terms began in it.
	Busy  float64
	Terms int
	// Window is how long it was.
	Window time.Duration
	// OneReady and OneComplete are from the start of a process after its SIGKILL until it says that it is ready and
	// until its replicas have all there is; AllComplete is the same of all processes together.
	OneReady, OneComplete, AllComplete time.Duration
}

// busyMax is how busy the machine may be for its figures to be the groups' and not the machine's.
const busyMax = 0.9

// leaderPause is the placement controller's between two handovers that spread leaders; each begins a term.
const leaderPause = 5 * time.Second

// Borne reports whether the machine bore the groups: it had time left, and no leader was missed by its followers.
func (r *IdleReport) Borne() bool {
	return r.Busy <= busyMax && r.Terms <= 1+int(r.Window/leaderPause)
}

// Groups are the shards and the catalog.
func (r *IdleReport) Groups() int { return r.Shards + 1 }

// Total sums something up over the nodes.
func (r *IdleReport) Total(of func(IdleNode) float64) (sum float64) {
	for _, n := range r.Nodes {
		sum += of(n)
	}
	return sum
}

// MeasureIdle starts a cluster of storage processes only, waits until its replicas are in place and watches them.
func MeasureIdle(ctx context.Context, opt IdleOptions, shards int) (*IdleReport, error) {
	dir, err := os.MkdirTemp("", "kalamdb-idle-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	began := time.Now()
	c, err := clusterproc.Start(ctx, clusterproc.Options{Bin: opt.Bin, Dir: dir, Storage: opt.Nodes, Query: noNodes, Live: noNodes, Gateway: noNodes,
		Env: []string{fmt.Sprintf("KALAMDB_STORAGE_SHARDS=%d", shards)}})
	if err != nil {
		return nil, err
	}
	defer c.Kill()
	r := &IdleReport{Shards: shards}
	if err := within(ctx, placeTimeout, func(ctx context.Context) error {
		return until(ctx, c.Nodes(), func(all []metrics) error { return complete(all, shards, true) })
	}); err != nil {
		return nil, fmt.Errorf("the replicas are not in place: %w", err)
	}
	r.Placed = time.Since(began)
	if err := r.watch(ctx, c.Nodes(), opt.Window); err != nil {
		return nil, err
	}
	return r, within(ctx, restartTimeout, func(ctx context.Context) error { return r.restart(ctx, c) })
}

func within(ctx context.Context, d time.Duration, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return do(ctx)
}

// reading is all counters at one time.
type reading struct {
	machine machine
	usages  []usage
	metrics []metrics
}

func read(ctx context.Context, nodes []*clusterproc.Node) (r reading, err error) {
	for _, n := range nodes {
		u, err := usageOf(n.PID())
		if err != nil {
			return r, err
		}
		r.usages = append(r.usages, u)
	}
	if r.machine, err = machineNow(); err != nil {
		return r, err
	}
	r.metrics, err = everyMetrics(ctx, nodes)
	return r, err
}

// watch takes the difference between two readings.
func (r *IdleReport) watch(ctx context.Context, nodes []*clusterproc.Node, window time.Duration) error {
	before, err := read(ctx, nodes)
	if err != nil {
		return err
	}
	if err := pass(ctx, window); err != nil {
		return err
	}
	after, err := read(ctx, nodes)
	if err != nil {
		return err
	}
	r.Busy = after.machine.busySince(before.machine)
	r.Window, r.Terms = window, int(terms(after.metrics, r.Shards)-terms(before.metrics, r.Shards))
	for i, n := range nodes {
		r.Nodes = append(r.Nodes, idleNode(n.Name, before.usages[i], after.usages[i], after.metrics[i], r.Shards))
	}
	return nil
}

func idleNode(name string, from, to usage, m metrics, shards int) IdleNode {
	seconds := to.at.Sub(from.at).Seconds()
	n := IdleNode{Name: name, CPU: (to.cpu - from.cpu).Seconds() / seconds, ResidentBytes: to.resident, Goroutines: int(m["go_goroutines"]),
		WrittenBytes: float64(to.written-from.written) / seconds, Writes: float64(to.calls-from.calls) / seconds,
		StoredBytes: float64(to.stored-from.stored) / seconds}
	for _, g := range groupNames(shards) {
		leads, _ := m.of("raft_leader", g)
		n.Leads += int(leads)
	}
	return n
}

// restart kills the last node, then all, and measures their way back.
func (r *IdleReport) restart(ctx context.Context, c *clusterproc.Cluster) error {
	nodes := c.Nodes()
	last := nodes[len(nodes)-1]
	whole := func(all []metrics) error { return complete(all, r.Shards, false) }
	last.Kill()
	began := time.Now()
	if err := last.Restart(ctx); err != nil {
		return err
	}
	r.OneReady = time.Since(began)
	if err := until(ctx, nodes, whole); err != nil {
		return fmt.Errorf("%s is not back: %w", last.Name, err)
	}
	r.OneComplete = time.Since(began)
	c.Kill()
	began = time.Now()
	g, gctx := errgroup.WithContext(ctx)
	for _, n := range nodes {
		g.Go(func() error { return n.Restart(gctx) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := until(ctx, nodes, whole); err != nil {
		return fmt.Errorf("the cluster is not back: %w", err)
	}
	r.AllComplete = time.Since(began)
	return nil
}

// GroupCost is what all nodes together spend on something, as a line over the number of groups.
type GroupCost struct {
	What, Unit string
	Fit
}

// GroupCosts compares clusters that differ in their number of shards. Those whose groups the machine did not bear are
// left out: they used what there was, not what they needed.
func GroupCosts(all []*IdleReport) (costs []GroupCost, err error) {
	var groups []float64
	var reports []*IdleReport
	for _, r := range all {
		if r.Borne() {
			reports, groups = append(reports, r), append(groups, float64(r.Groups()))
		}
	}
	if len(reports) < 2 {
		return nil, fmt.Errorf("the cost of a group is a difference, and the machine bore %d of %d clusters", len(reports), len(all))
	}
	for _, c := range []struct {
		what, unit string
		of         func(*IdleReport) float64
	}{
		{"CPU", "cores", func(r *IdleReport) float64 { return r.Total(func(n IdleNode) float64 { return n.CPU }) }},
		{"resident memory", "KiB", func(r *IdleReport) float64 {
			return r.Total(func(n IdleNode) float64 { return float64(n.ResidentBytes) / 1024 })
		}},
		{"goroutines", "", func(r *IdleReport) float64 { return r.Total(func(n IdleNode) float64 { return float64(n.Goroutines) }) }},
		{"bytes of write calls", "KiB/s", func(r *IdleReport) float64 { return r.Total(func(n IdleNode) float64 { return n.WrittenBytes / 1024 }) }},
		{"write calls", "/s", func(r *IdleReport) float64 { return r.Total(func(n IdleNode) float64 { return n.Writes }) }},
		{"one node's start, ready", "ms", func(r *IdleReport) float64 { return r.OneReady.Seconds() * 1e3 }},
		{"one node's start, complete", "ms", func(r *IdleReport) float64 { return r.OneComplete.Seconds() * 1e3 }},
		{"all nodes' start, complete", "ms", func(r *IdleReport) float64 { return r.AllComplete.Seconds() * 1e3 }},
	} {
		var y []float64
		for _, r := range reports {
			y = append(y, c.of(r))
		}
		fit, err := FitLine(groups, y)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.what, err)
		}
		costs = append(costs, GroupCost{What: c.what, Unit: c.unit, Fit: fit})
	}
	return costs, nil
}
