package grpcapi

import (
	"encoding/json"

	"github.com/google/uuid"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	kalamv1 "github.com/kalamdb/kalamdb-go/proto/kalam/v1"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/liveclient"
)

// batchRowsMax is the largest batch of initial rows, and the default (spec 4.1).
const batchRowsMax = 1000

// Subscribe implements the contract.
func (s *Server) Subscribe(req *kalamv1.SubscribeRequest, stream kalamv1.KalamService_SubscribeServer) error {
	sess, err := s.statement(stream.Context())
	if err != nil {
		return err
	}
	release, err := s.admitSubscription(sess.Identity.UserID)
	if err != nil {
		return err
	}
	defer release()
	ctx, stop := s.cfg.Auth.Bind(stream.Context(), sess)
	defer stop()
	plan, err := s.query.PlanSubscription(ctx, &queryv1.PlanSubscriptionRequest{Identity: catalog.IdentityToProto(sess.Identity),
		Sql: req.GetSql(), Namespace: req.GetNamespaceId()})
	if err != nil {
		return err
	}
	queue := liveclient.NewQueue()
	sub, err := s.cfg.Live.Subscribe(ctx, subscribeRequest(req, plan), queue)
	if err != nil {
		return err
	}
	defer sub.Close()
	for {
		ev, err := queue.Next(ctx)
		if err != nil {
			return caused(ctx, err)
		}
		if err := deliver(stream, sub, ev); err != nil {
			return err
		}
	}
}

func (s *Server) admitSubscription(user string) (release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.subscriptions[user] >= s.cfg.SubscriptionsPerUser {
		return nil, dberr.New(dberr.LimitExceeded, "at most %d subscriptions may be open per user (rate_limit.max_subscriptions_per_user)",
			s.cfg.SubscriptionsPerUser)
	}
	s.subscriptions[user]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.subscriptions[user]--; s.subscriptions[user] == 0 {
			delete(s.subscriptions, user)
		}
	}, nil
}

// subscribeRequest joins the request's options with those in the SQL text; the request's win.
func subscribeRequest(req *kalamv1.SubscribeRequest, plan *queryv1.PlanSubscriptionResponse) *livev1.Subscribe {
	out := &livev1.Subscribe{Plan: plan.GetPlan(), Encoding: livev1.Encoding_ENCODING_ARROW_IPC, LastRows: plan.LastRows,
		FromSeq: plan.FromSeq, BatchSize: uint32(min(plan.GetBatchSize(), batchRowsMax)), ConnectionId: "grpc-" + uuid.NewString(),
		ClientSubscriptionId: "grpc"}
	if req.LastRows != nil {
		out.LastRows = req.LastRows
	}
	if req.From != nil {
		out.FromSeq = req.From
	}
	if n := req.GetBatchSize(); n > 0 {
		out.BatchSize = min(n, batchRowsMax)
	}
	if out.BatchSize == 0 {
		out.BatchSize = batchRowsMax
	}
	out.Snapshot = !req.GetChangesOnly() && out.FromSeq == nil
	if !out.Snapshot {
		out.LastRows = nil
	}
	out.OptionsJson = optionsJSON(out)
	return out
}

// optionsJSON is what system.live shows.
func optionsJSON(sub *livev1.Subscribe) string {
	text, err := json.Marshal(struct {
		BatchSize uint32  `json:"batch_size"`
		LastRows  *uint64 `json:"last_rows,omitempty"`
		From      *uint64 `json:"from,omitempty"`
	}{sub.BatchSize, sub.LastRows, sub.FromSeq})
	if err != nil {
		return "{}"
	}
	return string(text)
}

// deliver sends one event. The next batch of initial rows is asked for when the client took this one,
// so that a large table never waits in memory.
func deliver(stream kalamv1.KalamService_SubscribeServer, sub *liveclient.Subscription, ev *livev1.ConnectResponse) error {
	out := &kalamv1.SubscribeResponse{}
	switch e := ev.GetEvent().(type) {
	case *livev1.ConnectResponse_Subscribed:
		out.Event = &kalamv1.SubscribeResponse_Ack{Ack: &kalamv1.Ack{Position: e.Subscribed.GetPosition(), Reset_: e.Subscribed.GetReset_()}}
	case *livev1.ConnectResponse_InitialRows:
		out.Event = &kalamv1.SubscribeResponse_InitialRows{InitialRows: &kalamv1.Rows{ArrowIpc: e.InitialRows.GetRows(),
			RowCount: uint64(e.InitialRows.GetRowCount()), HasMore: e.InitialRows.GetHasMore()}}
	case *livev1.ConnectResponse_Changed:
		out.Event = &kalamv1.SubscribeResponse_Change{Change: &kalamv1.Change{Kind: kalamv1.ChangeKind(e.Changed.GetKind()),
			Seq: e.Changed.GetSeq(), ArrowIpc: e.Changed.GetRows(), OldArrowIpc: e.Changed.GetOldRows()}}
	case *livev1.ConnectResponse_Progress:
		out.Event = &kalamv1.SubscribeResponse_Progress{Progress: e.Progress.GetPosition()}
	default:
		return nil // an event of a newer live role
	}
	if err := stream.Send(out); err != nil {
		return err
	}
	if ev.GetInitialRows().GetHasMore() {
		return sub.NextBatch()
	}
	return nil
}
