// Package grpcapi serves kalam.v1, the public gRPC API. Rows pass through as the bytes the query and
// live roles made: nothing is decoded on the way.
package grpcapi

import (
	"context"
	"log/slog"
	"sync"

	"github.com/apache/arrow-go/v18/arrow/flight"
	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	kalamv1 "github.com/kalamdb/kalamdb-go/proto/kalam/v1"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/auth"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/edge"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/limit"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/liveclient"
)

// Config holds what the API stands on.
type Config struct {
	Auth *auth.Service
	// Query is the connection to the query role.
	Query grpc.ClientConnInterface
	Live  *liveclient.Client
	// PerUser limits statements.
	PerUser *limit.Rate
	// SubscriptionsPerUser bounds one user's open Subscribe calls on this gateway; zero means 10.
	SubscriptionsPerUser int
	Logger               *slog.Logger
}

const subscriptionsPerUserDefault = 10

// Server implements kalam.v1.KalamService.
type Server struct {
	kalamv1.UnimplementedKalamServiceServer
	cfg    Config
	query  queryv1.QueryServiceClient
	flight flight.FlightServiceClient

	// receivers are goroutines that read from clients; each ends when its call does.
	receivers sync.WaitGroup

	mu            sync.Mutex
	subscriptions map[string]int // open Subscribe calls by user
}

// New makes the server.
func New(cfg Config) *Server {
	if cfg.SubscriptionsPerUser == 0 {
		cfg.SubscriptionsPerUser = subscriptionsPerUserDefault
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Server{cfg: cfg, query: queryv1.NewQueryServiceClient(cfg.Query), flight: flight.NewFlightServiceClient(cfg.Query),
		subscriptions: map[string]int{}}
}

// Wait returns when no goroutine of a call is left; call it after the calls have ended.
func (s *Server) Wait() { s.receivers.Wait() }

// Execute implements the contract.
func (s *Server) Execute(ctx context.Context, req *kalamv1.ExecuteRequest) (*kalamv1.ExecuteResponse, error) {
	sess, err := s.statement(ctx)
	if err != nil {
		return nil, err
	}
	id, err := edge.StatementID(sess.Identity.UserID, req.GetIdempotencyKey())
	if err != nil {
		return nil, err
	}
	level := storagev1.Consistency(req.GetConsistency()) // the numbers are the same
	if err := edge.CheckConsistency(level, req.GetMaxStalenessMs()); err != nil {
		return nil, err
	}
	resp, err := s.query.Execute(ctx, &queryv1.ExecuteRequest{Identity: catalog.IdentityToProto(sess.Identity), Sql: req.GetSql(),
		Params: paramsOf(req.GetParams()), Namespace: req.GetNamespaceId(), RequestId: id, Consistency: level,
		MaxStalenessMs: req.GetMaxStalenessMs(), Repetition: req.GetIdempotencyKey() != ""})
	if err != nil {
		return nil, err
	}
	if e := resp.GetError(); e != nil {
		return nil, dberr.FromMessage(e)
	}
	out := &kalamv1.ExecuteResponse{Results: make([]*kalamv1.StatementResult, len(resp.GetResults()))}
	for i, r := range resp.GetResults() {
		out.Results[i] = &kalamv1.StatementResult{ArrowIpc: r.GetArrowIpc(), RowCount: r.GetRowCount(), Message: r.GetMessage(),
			AsUser: r.GetAsUser(), Truncated: r.GetTruncated(), Durability: kalamv1.Durability(r.GetDurability()),
			Position: r.GetPosition()}
	}
	return out, nil
}

// statement finds the session of a call that runs a statement, and counts it.
func (s *Server) statement(ctx context.Context) (auth.Session, error) {
	sess, err := auth.FromContext(ctx)
	if err != nil {
		return auth.Session{}, err
	}
	return sess, s.cfg.PerUser.Take(sess.Identity.UserID)
}

// Query implements the contract.
func (s *Server) Query(req *kalamv1.QueryRequest, stream kalamv1.KalamService_QueryServer) error {
	sess, err := s.statement(stream.Context())
	if err != nil {
		return err
	}
	level := storagev1.Consistency(req.GetConsistency())
	if err := edge.CheckConsistency(level, req.GetMaxStalenessMs()); err != nil {
		return err
	}
	ctx, stop := s.cfg.Auth.Bind(stream.Context(), sess)
	defer stop()
	ticket := &queryv1.StatementTicket{Identity: catalog.IdentityToProto(sess.Identity), Sql: req.GetSql(),
		Params: paramsOf(req.GetParams()), Namespace: req.GetNamespaceId(), Consistency: level, MaxStalenessMs: req.GetMaxStalenessMs()}
	rows, err := OpenQuery(ctx, s.flight, ticket)
	if err != nil {
		return caused(ctx, err)
	}
	return caused(ctx, relayIPC(rows, stream))
}

// caused prefers the reason a context ended for over "canceled".
func caused(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func paramsOf(values []*kalamv1.Value) []*queryv1.Param {
	if len(values) == 0 {
		return nil
	}
	params := make([]*queryv1.Param, len(values))
	for i, v := range values {
		params[i] = paramOf(v)
	}
	return params
}

func paramOf(v *kalamv1.Value) *queryv1.Param {
	switch k := v.GetKind().(type) {
	case *kalamv1.Value_Boolean:
		return &queryv1.Param{Value: &queryv1.Param_Boolean{Boolean: k.Boolean}}
	case *kalamv1.Value_Integer:
		return &queryv1.Param{Value: &queryv1.Param_Integer{Integer: k.Integer}}
	case *kalamv1.Value_Float:
		return &queryv1.Param{Value: &queryv1.Param_Float{Float: k.Float}}
	case *kalamv1.Value_Text:
		return &queryv1.Param{Value: &queryv1.Param_Text{Text: k.Text}}
	case *kalamv1.Value_Binary:
		return &queryv1.Param{Value: &queryv1.Param_Binary{Binary: k.Binary}}
	}
	return &queryv1.Param{Value: &queryv1.Param_Null{Null: true}} // NULL, or no kind, which means NULL
}
