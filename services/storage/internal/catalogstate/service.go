package catalogstate

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

const (
	// commandBytesMax bounds one catalog command: the largest is a table of columnsMax columns.
	commandBytesMax = 1 << 20
	// usersPageMax and usersPageDefault bound ListUsers.
	usersPageMax     = 1000
	usersPageDefault = 100
	// jobsPageMax and jobsPageDefault bound ListJobs: a job may have nine texts of JobTextMax.
	jobsPageMax     = 200
	jobsPageDefault = 100
	// erasuresPageMax bounds ListErasures: a receipt has about 20 KB.
	erasuresPageMax = 50
)

// Group is what the service needs of the catalog's Raft group.
type Group interface {
	Term() uint64
	Propose(command []byte) raft.ApplyFuture
	ReadBarrier(ctx context.Context) error
	NotLeader() error
}

// Service serves catalog.v1.CatalogService. It implements the generated interface.
type Service struct {
	catalogv1.UnimplementedCatalogServiceServer
	state  *State
	group  Group
	now    func() time.Time
	failed <-chan struct{}
	// Storages prepares commands about storages on the leader; nil means that there are none. Set it before anything is served.
	Storages StorageAdmin
}

// StorageAdmin knows the storages themselves.
type StorageAdmin interface {
	// Prepare returns a command as it is to be logged: what is about storages is tried, and its credentials are sealed.
	Prepare(ctx context.Context, cmd *catalogv1.Command) (*catalogv1.Command, error)
	Check(ctx context.Context, req *catalogv1.CheckStorageRequest) (*catalogv1.CheckStorageResponse, error)
}

// CheckStorage tries a storage.
func (s *Service) CheckStorage(ctx context.Context, req *catalogv1.CheckStorageRequest) (*catalogv1.CheckStorageResponse, error) {
	if err := s.group.ReadBarrier(ctx); err != nil {
		return nil, err
	}
	if s.Storages == nil {
		return nil, dberr.New(dberr.Unsupported, "this node has no storages")
	}
	return s.Storages.Check(ctx, req)
}

// NewService makes the service. failed is closed when this node must not go on.
func NewService(state *State, group Group, now func() time.Time, failed <-chan struct{}) *Service {
	return &Service{state: state, group: group, now: now, failed: failed}
}

// Apply commits one command.
func (s *Service) Apply(ctx context.Context, req *catalogv1.ApplyRequest) (*catalogv1.ApplyResponse, error) {
	if s.group.Term() == 0 {
		return nil, s.group.NotLeader()
	}
	cmd := req.GetCommand()
	if cmd.GetTimeUs() == 0 { // messages are shared with the caller: never change them
		cmd = proto.CloneOf(cmd)
		if cmd == nil {
			return nil, dberr.New(dberr.InvalidArgument, "a request without a command")
		}
		cmd.TimeUs = s.now().UnixMicro()
	}
	if cmd.GetCommand() == nil {
		return nil, dberr.New(dberr.InvalidArgument, "a command of no known kind")
	}
	if s.Storages != nil {
		var err error
		if cmd, err = s.Storages.Prepare(ctx, cmd); err != nil {
			return nil, err
		}
	}
	r, _, err := s.propose(ctx, cmd)
	if err != nil {
		return nil, err
	}
	return r.Response, r.Err
}

// Verify appends an entry at which every replica computes its Sum, and returns its index.
func (s *Service) Verify(ctx context.Context) (index uint64, err error) {
	if s.group.Term() == 0 {
		return 0, s.group.NotLeader()
	}
	r, index, err := s.propose(ctx, &catalogv1.Command{TimeUs: s.now().UnixMicro(),
		Command: &catalogv1.Command_Verify{Verify: &catalogv1.VerifyCatalog{}}})
	if err != nil {
		return 0, err
	}
	return index, r.Err
}

// propose appends a command and waits. A caller that leaves early does not know the outcome.
func (s *Service) propose(ctx context.Context, cmd *catalogv1.Command) (*Result, uint64, error) {
	if f, all := formatOf(cmd), s.state.ReadByAll(Format); f > all {
		return nil, 0, dberr.New(dberr.Unsupported, "the command has format %d, some storage node reads only %d: it can be done when all run this version", f, all)
	}
	raw, err := proto.Marshal(cmd)
	if err != nil {
		return nil, 0, dberr.New(dberr.InvalidArgument, "encode the command: %w", err)
	}
	if len(raw) > commandBytesMax {
		return nil, 0, dberr.New(dberr.LimitExceeded, "a catalog command of %d bytes, the limit is %d (commandBytesMax)", len(raw), commandBytesMax)
	}
	future := s.group.Propose(raw)
	done := make(chan error, 1)
	go func() { done <- future.Error() }() // ends with the entry; Raft bounds how many there are
	select {
	case err := <-done:
		if err != nil {
			return nil, 0, s.failure(err)
		}
	case <-ctx.Done():
		return nil, 0, dberr.New(dberr.CodeOf(dberr.FromStatus(ctx.Err())), "the command was sent, whether it was done is unknown: %w", ctx.Err())
	case <-s.failed:
		return nil, 0, dberr.New(dberr.Unavailable, "this node's disk failed; see its log")
	}
	r, ok := future.Response().(*Result)
	if !ok {
		return nil, 0, dberr.New(dberr.Internal, "the catalog answered a command with %T", future.Response())
	}
	return r, future.Index(), nil
}

func (s *Service) failure(err error) error {
	if errors.Is(err, raft.ErrNotLeader) {
		return s.group.NotLeader()
	}
	return dberr.New(dberr.Unavailable, "the catalog lost its leader: whether the command was done is unknown: %w", err)
}

// Watch streams the catalog as this replica knows it, leader or not: whoever watches ignores what is older than
// what it has.
func (s *Service) Watch(req *catalogv1.WatchRequest, stream grpc.ServerStreamingServer[catalogv1.WatchResponse]) error {
	if id, _ := s.state.Cluster(); id == "" {
		return dberr.New(dberr.Unavailable, "this node has no catalog yet")
	}
	var ticks <-chan time.Time // of an older watcher: never
	if req.GetAlive() {
		t := time.NewTicker(aliveEvery)
		defer t.Stop()
		ticks = t.C
	}
	return s.state.Watch(stream.Context(), stream.Send, ticks)
}

// GetUser reads one user, as of now: a dropped or demoted account is seen as such at once.
func (s *Service) GetUser(ctx context.Context, req *catalogv1.GetUserRequest) (*catalogv1.GetUserResponse, error) {
	if err := s.group.ReadBarrier(ctx); err != nil {
		return nil, err
	}
	u, err := s.state.User(req.GetUserId())
	if err != nil {
		return nil, err
	}
	return &catalogv1.GetUserResponse{User: u, Version: s.state.Version()}, nil
}

// ListUsers pages through users by id.
func (s *Service) ListUsers(ctx context.Context, req *catalogv1.ListUsersRequest) (*catalogv1.ListUsersResponse, error) {
	if err := s.group.ReadBarrier(ctx); err != nil {
		return nil, err
	}
	limit := int(req.GetLimit())
	if limit == 0 {
		limit = usersPageDefault
	}
	users, more, err := s.state.Users(req.GetAfterUserId(), min(limit, usersPageMax))
	if err != nil {
		return nil, err
	}
	return &catalogv1.ListUsersResponse{Users: users, HasMore: more}, nil
}

// ListJobs pages through jobs by id, as of now: a job that was just made is in it.
func (s *Service) ListJobs(ctx context.Context, req *catalogv1.ListJobsRequest) (*catalogv1.ListJobsResponse, error) {
	if err := s.group.ReadBarrier(ctx); err != nil {
		return nil, err
	}
	limit := int(req.GetLimit())
	if limit == 0 {
		limit = jobsPageDefault
	}
	jobs, more, err := s.state.Jobs(req.GetAfterJobId(), min(limit, jobsPageMax))
	if err != nil {
		return nil, err
	}
	return &catalogv1.ListJobsResponse{Jobs: jobs, HasMore: more}, nil
}

// ListErasures pages through receipts by id, as of now.
func (s *Service) ListErasures(ctx context.Context, req *catalogv1.ListErasuresRequest) (*catalogv1.ListErasuresResponse, error) {
	if err := s.group.ReadBarrier(ctx); err != nil {
		return nil, err
	}
	if req.GetJobId() != "" {
		e, err := s.state.Erasure(req.GetJobId())
		if err != nil || e == nil {
			return &catalogv1.ListErasuresResponse{}, err
		}
		return &catalogv1.ListErasuresResponse{Erasures: []*catalogv1.Erasure{e}}, nil
	}
	limit := int(req.GetLimit())
	if limit == 0 {
		limit = erasuresPageMax
	}
	list, more, err := s.state.Erasures(req.GetAfterJobId(), min(limit, erasuresPageMax))
	if err != nil {
		return nil, err
	}
	return &catalogv1.ListErasuresResponse{Erasures: list, HasMore: more}, nil
}
