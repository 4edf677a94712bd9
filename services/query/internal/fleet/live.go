package fleet

import (
	"context"
	"maps"
	"strconv"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
)

// LiveQuery is a subscription and the node that holds it.
type LiveQuery struct {
	*livev1.LiveQuery
	NodeID uint32
}

// LiveQueries lists the subscriptions of all live nodes.
func (n *Nodes) LiveQueries(ctx context.Context) ([]LiveQuery, error) {
	answers, members, err := ask(ctx, n, func(ctx context.Context, c grpc.ClientConnInterface) (*livev1.ListResponse, error) {
		return livev1.NewLiveServiceClient(c).List(ctx, &livev1.ListRequest{})
	})
	if err != nil {
		return nil, err
	}
	var out []LiveQuery
	for i, a := range answers {
		for _, q := range a.GetQueries() {
			out = append(out, LiveQuery{q, members[i].id})
		}
	}
	return out, nil
}

// KillLiveQuery ends a subscription, on whichever node it is.
func (n *Nodes) KillLiveQuery(ctx context.Context, id string) error {
	found, _, err := ask(ctx, n, func(ctx context.Context, c grpc.ClientConnInterface) (bool, error) {
		_, err := livev1.NewLiveServiceClient(c).Kill(ctx, &livev1.KillRequest{LiveId: id})
		if dberr.Is(err, dberr.NotFound) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return err
	}
	for _, f := range found {
		if f {
			return nil
		}
	}
	return dberr.New(dberr.NotFound, "there is no live query %s", id)
}

// LiveStats adds up the live nodes' figures.
func (n *Nodes) LiveStats(ctx context.Context) (map[string]string, error) {
	answers, _, err := ask(ctx, n, func(ctx context.Context, c grpc.ClientConnInterface) (map[string]string, error) {
		resp, err := livev1.NewLiveServiceClient(c).NodeStats(ctx, &livev1.NodeStatsRequest{})
		return resp.GetMetrics(), err
	})
	return sum(answers), err
}

// sum adds up figures by name; one that is not a whole number is taken from the last node.
func sum(all []map[string]string) map[string]string {
	out := map[string]string{}
	for _, m := range all {
		if len(all) == 1 {
			return maps.Clone(m)
		}
		for name, text := range m {
			now, err := strconv.ParseUint(text, 10, 64)
			before, err2 := strconv.ParseUint(out[name], 10, 64)
			if err == nil && err2 == nil {
				text = strconv.FormatUint(before+now, 10)
			}
			out[name] = text
		}
	}
	return out
}
