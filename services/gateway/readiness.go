package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
)

const (
	// probeTimeout bounds asking the other roles whether they are there.
	probeTimeout = time.Second
	// probeEvery is how long an answer counts: balancers ask often.
	probeEvery = time.Second
)

// readiness says whether clients should be sent here.
type readiness struct {
	g *Gateway

	mu    sync.Mutex
	asked time.Time
	last  error
}

var errNotServing = dberr.New(dberr.Unavailable, "the gateway is starting or stopping")

// Ready returns nil when clients should be sent here: the gateway serves, the catalog's leader answers and
// has nothing that is not known here, and a query node and a live node can be reached.
func (g *Gateway) Ready(ctx context.Context) error {
	if !g.ready.Load() {
		return errNotServing
	}
	return g.readiness.check(ctx)
}

// check asks, unless it has just been asked.
func (r *readiness) check(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.g.cfg.Now()
	if !r.asked.IsZero() && now.Sub(r.asked) < probeEvery {
		return r.last
	}
	r.last = r.g.probe(ctx)
	if ctx.Err() == nil {
		r.asked = now
	}
	return r.last
}

// probe asks the three roles at the same time.
func (g *Gateway) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var errs [3]error
	var asking sync.WaitGroup
	for i, ask := range []func(context.Context) error{g.probeCatalog, g.probeQuery, g.live.Reach} {
		asking.Go(func() { errs[i] = ask(ctx) })
	}
	asking.Wait()
	for i, what := range []string{"the catalog's leader", "a query node", "a live node"} {
		if errs[i] != nil {
			return dberr.New(dberr.Unavailable, "%s cannot be reached: %w", what, errs[i])
		}
	}
	return nil
}

// probeCatalog reads of the catalog's leader. That no user has the empty name is not the question.
func (g *Gateway) probeCatalog(ctx context.Context) error {
	_, err := g.router.View().Client().GetUser(ctx, &catalogv1.GetUserRequest{})
	return unreachable(err)
}

// probeQuery lets a query node refuse an empty statement.
func (g *Gateway) probeQuery(ctx context.Context) error {
	_, err := queryv1.NewQueryServiceClient(g.query).Describe(ctx, &queryv1.DescribeRequest{Statement: &queryv1.StatementTicket{}})
	return unreachable(err)
}

// unreachable keeps the errors that say that nobody answered.
func unreachable(err error) error {
	switch dberr.CodeOf(err) {
	case dberr.Unavailable, dberr.Timeout, dberr.Canceled, dberr.NotLeader:
		return err
	}
	return nil
}
