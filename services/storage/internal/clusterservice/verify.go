package clusterservice

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
)

const (
	// verifyGroupsAtOnce bounds the groups compared at a time: each reads all of its state on every replica.
	verifyGroupsAtOnce = 2
	// checksumTimeout bounds one replica's answer: one that is down, or far behind, is reported as such.
	checksumTimeout = 2 * time.Minute
)

// Verify compares the replicas of every group.
func (s *Service) Verify(ctx context.Context, _ *clusterv1.VerifyRequest) (*clusterv1.VerifyResponse, error) {
	zero, err := s.cfg.Groups.Find(0)
	if err != nil {
		return nil, err
	}
	if err := zero.Raft().ReadBarrier(ctx); err != nil {
		return nil, err
	}
	placements := s.cfg.Groups.Placements()
	resp := &clusterv1.VerifyResponse{Groups: make([]*clusterv1.GroupVerified, len(placements))}
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(verifyGroupsAtOnce)
	for i, p := range placements {
		work.Go(func() error {
			g, err := s.verifyGroup(ctx, p)
			resp.Groups[i] = g
			return err
		})
	}
	if err := work.Wait(); err != nil {
		return nil, err
	}
	return resp, nil
}

// verifyGroup has an entry appended and asks each replica for its sum there.
func (s *Service) verifyGroup(ctx context.Context, p *catalogv1.Placement) (*clusterv1.GroupVerified, error) {
	act, err := clusterv1.NewClusterServiceClient(s.cfg.Groups.Leader(p.GetGroup())).Act(ctx,
		&clusterv1.ActRequest{Group: p.GetGroup(), Action: clusterv1.Action_ACTION_VERIFY})
	if err != nil {
		return nil, dberr.New(dberr.CodeOf(err), "verify group %d: %w", p.GetGroup(), err)
	}
	out := &clusterv1.GroupVerified{Group: p.GetGroup(), Index: act.GetIndex(), Agrees: len(p.GetReplicas()) > 0,
		Replicas: make([]*clusterv1.ReplicaSum, len(p.GetReplicas()))}
	var asking sync.WaitGroup
	for i, r := range p.GetReplicas() {
		asking.Go(func() { out.Replicas[i] = s.sumOf(ctx, p.GetGroup(), act.GetIndex(), r) })
	}
	asking.Wait()
	for _, r := range out.Replicas {
		out.Agrees = out.Agrees && r.GetError() == "" && r.GetSum() == out.Replicas[0].GetSum()
	}
	return out, nil
}

func (s *Service) sumOf(ctx context.Context, group uint32, index uint64, r *catalogv1.Replica) *clusterv1.ReplicaSum {
	out := &clusterv1.ReplicaSum{NodeId: r.GetNodeId(), ServerId: r.GetServerId()}
	ctx, cancel := context.WithTimeout(ctx, checksumTimeout)
	defer cancel()
	conn, err := s.cfg.Groups.Server(r.GetServerId())
	if err != nil {
		out.Error = err.Error()
		return out
	}
	resp, err := clusterv1.NewClusterServiceClient(conn).Checksum(ctx, &clusterv1.ChecksumRequest{Group: group, Index: index})
	if err != nil {
		out.Error = err.Error()
		return out
	}
	out.Sum, out.Rows = resp.GetSum(), resp.GetRows()
	return out
}
