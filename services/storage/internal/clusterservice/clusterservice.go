// Package clusterservice serves cluster.v1.ClusterService: it finds the part of the node that each call is for.
package clusterservice

import (
	"context"
	"log/slog"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/raftgroup"
)

// Meeting answers Hello, also before there is a cluster.
type Meeting interface {
	Answer(req *clusterv1.HelloRequest) *clusterv1.HelloResponse
}

// Directory knows the cluster's nodes. Where this node does not lead group 0 it answers NotLeader.
type Directory interface {
	Register(ctx context.Context, req *clusterv1.RegisterRequest) (*clusterv1.RegisterResponse, error)
	Heartbeat(ctx context.Context, req *clusterv1.HeartbeatRequest) (*clusterv1.HeartbeatResponse, error)
	Status(ctx context.Context, req *clusterv1.StatusRequest) (*clusterv1.StatusResponse, error)
	Drain(ctx context.Context, req *clusterv1.DrainRequest) (*clusterv1.DrainResponse, error)
	Remove(ctx context.Context, req *clusterv1.RemoveRequest) (*clusterv1.RemoveResponse, error)
}

// Controller places replicas.
type Controller interface {
	// Rebalance runs a round now and says what it found to do.
	Rebalance(ctx context.Context) []string
	// Activities say what it is doing or cannot do.
	Activities() []string
}

// Sum is the state of a replica at an entry.
type Sum struct {
	Hash string
	Rows uint64
}

// Group is one replica of a group on this node, group 0 included.
type Group interface {
	// Raft is the group itself.
	Raft() *raftgroup.Group
	// Verify appends an entry at which every replica computes its sum.
	Verify(ctx context.Context) (index uint64, err error)
	// Checksum is the sum at such an entry.
	Checksum(ctx context.Context, index uint64) (Sum, error)
}

// Groups finds the groups of this node and the ways to others.
type Groups interface {
	// Find returns a group; NotLeader, naming who may lead it, when this node has none of it.
	Find(number uint32) (Group, error)
	// Placements are where all replicas are.
	Placements() []*catalogv1.Placement
	// Leader is a connection to the leader of a group, wherever it is.
	Leader(number uint32) grpc.ClientConnInterface
	// Server is a connection to one server.
	Server(id string) (grpc.ClientConnInterface, error)
}

// Config of the service.
type Config struct {
	Meeting    Meeting
	Directory  Directory
	Controller Controller
	Groups     Groups
	Logger     *slog.Logger
}

// Service serves the calls. It implements the generated interface.
type Service struct {
	clusterv1.UnimplementedClusterServiceServer
	cfg Config
}

// New makes the service.
func New(cfg Config) *Service { return &Service{cfg: cfg} }

// Hello says who this node is.
func (s *Service) Hello(_ context.Context, req *clusterv1.HelloRequest) (*clusterv1.HelloResponse, error) {
	return s.cfg.Meeting.Answer(req), nil
}

// Register enters a node into the catalog.
func (s *Service) Register(ctx context.Context, req *clusterv1.RegisterRequest) (*clusterv1.RegisterResponse, error) {
	return s.cfg.Directory.Register(ctx, req)
}

// Heartbeat takes a node's report.
func (s *Service) Heartbeat(ctx context.Context, req *clusterv1.HeartbeatRequest) (*clusterv1.HeartbeatResponse, error) {
	return s.cfg.Directory.Heartbeat(ctx, req)
}

// Status is all that the leader of group 0 knows.
func (s *Service) Status(ctx context.Context, req *clusterv1.StatusRequest) (*clusterv1.StatusResponse, error) {
	resp, err := s.cfg.Directory.Status(ctx, req)
	if err != nil {
		return nil, err
	}
	resp.Activities = append(resp.Activities, s.cfg.Controller.Activities()...)
	return resp, nil
}

// Drain empties a node, or stops doing so.
func (s *Service) Drain(ctx context.Context, req *clusterv1.DrainRequest) (*clusterv1.DrainResponse, error) {
	return s.cfg.Directory.Drain(ctx, req)
}

// Remove takes a node out of the catalog.
func (s *Service) Remove(ctx context.Context, req *clusterv1.RemoveRequest) (*clusterv1.RemoveResponse, error) {
	return s.cfg.Directory.Remove(ctx, req)
}

// Rebalance makes the placement controller run now.
func (s *Service) Rebalance(ctx context.Context, _ *clusterv1.RebalanceRequest) (*clusterv1.RebalanceResponse, error) {
	zero, err := s.cfg.Groups.Find(0)
	if err != nil {
		return nil, err
	}
	if err := zero.Raft().ReadBarrier(ctx); err != nil {
		return nil, err
	}
	return &clusterv1.RebalanceResponse{Activities: s.cfg.Controller.Rebalance(ctx)}, nil
}

// ChangeMember changes the configuration of a group this node leads.
func (s *Service) ChangeMember(ctx context.Context, req *clusterv1.ChangeMemberRequest) (*clusterv1.ChangeMemberResponse, error) {
	g, err := s.cfg.Groups.Find(req.GetGroup())
	if err != nil {
		return nil, err
	}
	change, ok := map[clusterv1.MemberChange]func(context.Context, string) error{
		clusterv1.MemberChange_MEMBER_CHANGE_ADD_LEARNER: g.Raft().AddLearner,
		clusterv1.MemberChange_MEMBER_CHANGE_PROMOTE:     g.Raft().Promote,
		clusterv1.MemberChange_MEMBER_CHANGE_DEMOTE:      g.Raft().Demote,
		clusterv1.MemberChange_MEMBER_CHANGE_REMOVE:      g.Raft().Remove,
		clusterv1.MemberChange_MEMBER_CHANGE_TRANSFER:    g.Raft().Transfer,
	}[req.GetChange()]
	if !ok {
		return nil, dberr.New(dberr.InvalidArgument, "a change of members of unknown kind %d", req.GetChange())
	}
	if err := change(ctx, req.GetServerId()); err != nil {
		return nil, err
	}
	s.cfg.Logger.InfoContext(ctx, "members of a group changed", "group", req.GetGroup(), "server", req.GetServerId(), "change", req.GetChange().String())
	m, err := g.Raft().Members()
	if err != nil {
		return nil, err
	}
	return &clusterv1.ChangeMemberResponse{Voters: m.Voters, Learners: m.Learners}, nil
}

// ReadIndex confirms leadership and returns up to where a replica must have applied.
func (s *Service) ReadIndex(ctx context.Context, req *clusterv1.ReadIndexRequest) (*clusterv1.ReadIndexResponse, error) {
	g, err := s.cfg.Groups.Find(req.GetGroup())
	if err != nil {
		return nil, err
	}
	index, err := g.Raft().ReadIndex(ctx)
	if err != nil {
		return nil, err
	}
	return &clusterv1.ReadIndexResponse{Index: index}, nil
}

// Act does what an operator asks of this node's replica.
func (s *Service) Act(ctx context.Context, req *clusterv1.ActRequest) (*clusterv1.ActResponse, error) {
	g, err := s.cfg.Groups.Find(req.GetGroup())
	if err != nil {
		return nil, err
	}
	resp := &clusterv1.ActResponse{}
	switch req.GetAction() {
	case clusterv1.Action_ACTION_SNAPSHOT:
		err = g.Raft().Snapshot(ctx)
		resp.Index = g.Raft().Stats().SnapshotAt
	case clusterv1.Action_ACTION_STEP_DOWN:
		err = g.Raft().StepDown(ctx)
	case clusterv1.Action_ACTION_CAMPAIGN:
		err = g.Raft().Campaign(ctx)
	case clusterv1.Action_ACTION_VERIFY:
		resp.Index, err = g.Verify(ctx)
	default:
		err = dberr.New(dberr.InvalidArgument, "an action of unknown kind %d", req.GetAction())
	}
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// Checksum returns the sum of this node's replica.
func (s *Service) Checksum(ctx context.Context, req *clusterv1.ChecksumRequest) (*clusterv1.ChecksumResponse, error) {
	g, err := s.cfg.Groups.Find(req.GetGroup())
	if err != nil {
		return nil, err
	}
	sum, err := g.Checksum(ctx, req.GetIndex())
	if err != nil {
		return nil, err
	}
	return &clusterv1.ChecksumResponse{Sum: sum.Hash, Rows: sum.Rows}, nil
}
