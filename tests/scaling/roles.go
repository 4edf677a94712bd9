package scaling

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	kalamv1 "github.com/kalamdb/kalamdb-go/proto/kalam/v1"
	"github.com/kalamdb/kalamdb-go/tests/client"
	"github.com/kalamdb/kalamdb-go/tests/clusterproc"
)

const (
	// rolesRows is how many rows each user has; a read takes the newest of them.
	rolesRows = 50
	// rolesPassword is of accounts that live as long as the measurement.
	rolesPassword = "scale-Password-1"
	// openAtOnce bounds the accounts and subscriptions that are made side by side.
	openAtOnce = 16
)

const (
	rolesInsert = "INSERT INTO scale.messages (body) VALUES ($1)"
	rolesSelect = "SELECT id, body, at FROM scale.messages ORDER BY id DESC LIMIT 50"
)

// RolesOptions say what to measure.
type RolesOptions struct {
	// Bin is the folder of the binaries.
	Bin string
	// Shards is how many there are: with one, the rate of writes is what one shard bears.
	Shards int
	// Clients work at a time, each as a user of its own.
	Clients int
	// Subscriptions are opened, each by a user of its own on a connection of its own; at least Clients.
	Subscriptions int
	// Window is how long each kind of request is measured.
	Window time.Duration
}

// RequestCost is what one kind of request takes.
type RequestCost struct {
	What string
	// PerSecond is how many were done, which on one machine the clients and all roles bound together.
	PerSecond float64
	// Micros is CPU time of one, by role, over all nodes of the role, without what these use when idle.
	Micros map[string]float64
}

// RolesReport is what requests and subscriptions cost each role of a cluster of three storage nodes.
type RolesReport struct {
	Shards        int
	Requests      []RequestCost
	Subscriptions int
	// SubscriptionBytes is resident memory of one, by role.
	SubscriptionBytes map[string]float64
}

// roles is the measurement under way.
type roles struct {
	opt     RolesOptions
	cluster *clusterproc.Cluster
	root    *client.Client
	clients []*client.Client
	idle    map[string]float64 // cores
	out     RolesReport
}

// MeasureRoles runs a cluster of three storage nodes and one node of each other role, and measures them one kind of
// request after another.
func MeasureRoles(ctx context.Context, opt RolesOptions) (*RolesReport, error) {
	dir, err := os.MkdirTemp("", "kalamdb-roles-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	c, err := clusterproc.Start(ctx, clusterproc.Options{Bin: opt.Bin, Dir: dir, Storage: 3, Query: 1, Live: 1, Gateway: 1,
		// With the default cost a thousand accounts are minutes of hashing.
		Env: []string{"KALAMDB_QUERY_PASSWORD_COST=4", fmt.Sprintf("KALAMDB_STORAGE_SHARDS=%d", opt.Shards)}})
	if err != nil {
		return nil, err
	}
	defer c.Kill()
	r := &roles{opt: opt, cluster: c, idle: map[string]float64{}, out: RolesReport{Shards: opt.Shards, Subscriptions: opt.Subscriptions, SubscriptionBytes: map[string]float64{}}}
	defer func() {
		for _, c := range r.clients {
			c.Close()
		}
	}()
	if r.root, err = client.Dial(c.Gateways()[0], "root", clusterproc.RootPassword); err != nil {
		return nil, err
	}
	defer r.root.Close()
	for _, step := range []func(context.Context) error{r.prepare, r.requests, r.subscriptions} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return &r.out, nil
}

// prepare makes accounts, connections and rows, and measures the cluster while nothing happens.
func (r *roles) prepare(ctx context.Context) error {
	err := within(ctx, placeTimeout, func(ctx context.Context) error {
		return until(ctx, r.cluster.Role("storage"), func(all []metrics) error { return complete(all, r.opt.Shards, true) })
	})
	if err != nil {
		return err
	}
	if err := createTables(ctx, r.root); err != nil {
		return err
	}
	r.clients = make([]*client.Client, r.opt.Subscriptions)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(openAtOnce)
	for i := range r.clients {
		g.Go(func() error { return r.connect(gctx, i) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	insert := rolesInsert + strings.Repeat(", ($1)", rolesRows-1)
	for _, c := range r.clients[:r.opt.Clients] {
		if _, err := c.Exec(ctx, insert, strings.Repeat("x", 100)); err != nil {
			return err
		}
	}
	before, err := r.usage()
	if err != nil {
		return err
	}
	if err := pass(ctx, r.opt.Window); err != nil {
		return err
	}
	after, err := r.usage()
	if err != nil {
		return err
	}
	for role, u := range after {
		r.idle[role] = (u.cpu - before[role].cpu).Seconds() / u.at.Sub(before[role].at).Seconds()
	}
	return nil
}

// connect makes a user's account and connection, and lets the gateway check the password once.
func (r *roles) connect(ctx context.Context, i int) error {
	user := userID(i)
	if _, err := r.root.Exec(ctx, "CREATE USER '"+user+"' WITH PASSWORD '"+rolesPassword+"'"); err != nil {
		return fmt.Errorf("account of %s: %w", user, err)
	}
	c, err := client.Dial(r.cluster.Gateways()[0], user, rolesPassword)
	if err != nil {
		return err
	}
	r.clients[i] = c
	_, err = c.Exec(ctx, "SELECT 1")
	return err
}

// usage sums up the processes of each role.
func (r *roles) usage() (map[string]usage, error) {
	sums := map[string]usage{}
	for _, n := range r.cluster.Nodes() {
		u, err := usageOf(n.PID())
		if err != nil {
			return nil, err
		}
		sum := sums[n.Role]
		sums[n.Role] = usage{at: u.at, cpu: sum.cpu + u.cpu, resident: sum.resident + u.resident}
	}
	return sums, nil
}

func (r *roles) requests(ctx context.Context) error {
	body := strings.Repeat("x", 100)
	err := r.drive(ctx, "write one row of 100 bytes", func(ctx context.Context, c *client.Client) error {
		_, err := c.Exec(ctx, rolesInsert, body)
		return err
	})
	if err != nil {
		return err
	}
	return r.drive(ctx, "read the newest 50 rows", func(ctx context.Context, c *client.Client) error {
		res, err := c.Exec(ctx, rolesSelect)
		if err == nil && len(res.Rows) != rolesRows {
			return fmt.Errorf("%d rows", len(res.Rows))
		}
		return err
	})
}

// drive lets all clients repeat a request for the window and divides what the roles used by how many were done.
func (r *roles) drive(ctx context.Context, what string, do func(context.Context, *client.Client) error) error {
	before, err := r.usage()
	if err != nil {
		return err
	}
	began := time.Now()
	var done atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	for _, c := range r.clients[:r.opt.Clients] {
		g.Go(func() error {
			for time.Since(began) < r.opt.Window {
				if err := do(gctx, c); err != nil {
					return fmt.Errorf("%s: %w", what, err)
				}
				done.Add(1)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	seconds := time.Since(began).Seconds()
	after, err := r.usage()
	if err != nil {
		return err
	}
	cost := RequestCost{What: what, PerSecond: float64(done.Load()) / seconds, Micros: map[string]float64{}}
	for role, u := range after {
		used := (u.cpu - before[role].cpu).Seconds() - r.idle[role]*seconds
		cost.Micros[role] = max(0, used) / float64(done.Load()) * 1e6
	}
	r.out.Requests = append(r.out.Requests, cost)
	return nil
}

// subscriptions opens them all, and then writes rows that some of them hear of.
func (r *roles) subscriptions(ctx context.Context) error {
	before, err := r.usage()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var heard atomic.Int64
	// Readers end with the streams, which end with ctx; one that ends before ends the wait for what it should hear.
	readers, reading := errgroup.WithContext(ctx)
	g := errgroup.Group{}
	g.SetLimit(openAtOnce)
	for _, c := range r.clients {
		g.Go(func() error {
			stream, err := subscribe(ctx, c)
			if err != nil {
				return err
			}
			readers.Go(func() error { return count(ctx, stream, &heard) })
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	after, err := r.usage()
	if err != nil {
		return err
	}
	for role, u := range after {
		r.out.SubscriptionBytes[role] = float64(u.resident-before[role].resident) / float64(r.opt.Subscriptions)
	}
	var sent atomic.Int64
	err = r.drive(ctx, "write it, and its user hears of it", func(ctx context.Context, c *client.Client) error {
		sent.Add(1)
		_, err := c.Exec(ctx, rolesInsert, strings.Repeat("x", 100))
		return err
	})
	for err == nil && heard.Load() < sent.Load() {
		err = pass(reading, askEvery)
	}
	cancel()
	return errors.Join(err, readers.Wait())
}

// subscribe returns when the newest of the user's rows has come: what all rows take would hide what a subscription does.
func subscribe(ctx context.Context, c *client.Client) (kalamv1.KalamService_SubscribeClient, error) {
	stream, err := c.RPC.Subscribe(ctx, &kalamv1.SubscribeRequest{Sql: "SELECT * FROM scale.messages", LastRows: proto.Uint64(1)})
	if err != nil {
		return nil, err
	}
	for {
		ev, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		if rows := ev.GetInitialRows(); rows != nil && !rows.GetHasMore() {
			return stream, nil
		}
	}
}

// count counts changes until the subscription ends; to be ended by ctx is no error.
func count(ctx context.Context, stream kalamv1.KalamService_SubscribeClient, heard *atomic.Int64) error {
	for {
		ev, err := stream.Recv()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case ev.GetChange() != nil:
			heard.Add(1)
		}
	}
}

// pass lets time pass that is itself measured.
func pass(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
