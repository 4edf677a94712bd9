// Package clusteradmin runs CLUSTER statements (spec 1.19): it asks the leader of group 0, or the leader of
// each group, and answers one row a group or node. What one group refuses is that group's row.
package clusteradmin

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/access"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
	"github.com/kalamdb/kalamdb-go/services/query/internal/systemtable"
)

const (
	// groupTimeout bounds what one group may take, so that a group without a leader is a row and not the
	// end of the statement.
	groupTimeout = 10 * time.Second
	// groupsAtOnce bounds the groups one statement disturbs at the same time.
	groupsAtOnce = 4
)

// Router finds the leaders of groups.
type Router interface {
	View() *catalogview.View
	Group(group uint32) grpc.ClientConnInterface
}

// Admin runs the statements.
type Admin struct{ Router Router }

// work makes a statement's rows.
type work func(ctx context.Context) ([][]datum.Datum, error)

// Run begins one statement. It does nothing until the first row is asked for, so that whoever only wants to
// know the columns changes nothing.
func (a *Admin) Run(id catalog.Identity, s *sqlfront.Cluster) (*systemtable.Stream, error) {
	if err := access.Can(id.Role, access.ManageCluster); err != nil {
		return nil, err
	}
	if s.Action == sqlfront.ClusterJoin {
		return nil, dberr.New(dberr.InvalidOperation, "CLUSTER JOIN: nodes join by themselves; name storage nodes in the new node's cluster.join and start it")
	}
	columns, do := a.choose(s)
	if do == nil {
		return nil, dberr.New(dberr.Unsupported, "%s is not supported", s.Command())
	}
	begun := false
	return systemtable.NewStream(columns, func(ctx context.Context) ([][]datum.Datum, error) {
		if begun {
			return nil, nil
		}
		begun = true
		return do(ctx)
	})
}

// choose finds what a statement does and the columns of its answer.
func (a *Admin) choose(s *sqlfront.Cluster) ([]catalog.Column, work) {
	switch s.Action {
	case sqlfront.ClusterSnapshot, sqlfront.ClusterPurge:
		return actionColumns, func(ctx context.Context) ([][]datum.Datum, error) {
			return a.act(ctx, s, clusterv1.Action_ACTION_SNAPSHOT)
		}
	case sqlfront.ClusterStepDown, sqlfront.ClusterTriggerElection:
		// Leaders that give up their office are how elections are forced; nobody campaigns against a
		// leader that is well.
		return actionColumns, func(ctx context.Context) ([][]datum.Datum, error) {
			return a.act(ctx, s, clusterv1.Action_ACTION_STEP_DOWN)
		}
	case sqlfront.ClusterTransferLeader:
		return actionColumns, func(ctx context.Context) ([][]datum.Datum, error) { return a.transfer(ctx, s) }
	case sqlfront.ClusterRebalance, sqlfront.ClusterDrain, sqlfront.ClusterUndrain, sqlfront.ClusterRemove:
		return actionColumns, func(ctx context.Context) ([][]datum.Datum, error) { return a.whole(ctx, s) }
	case sqlfront.ClusterClear:
		return clearColumns, func(context.Context) ([][]datum.Datum, error) { return a.clear(s), nil }
	case sqlfront.ClusterVerify:
		return verifyColumns, a.verify
	case sqlfront.ClusterList:
		return listColumns, a.list
	case sqlfront.ClusterStatus:
		return statusColumns, a.status
	}
	return nil, nil
}

func (a *Admin) leader() clusterv1.ClusterServiceClient {
	return clusterv1.NewClusterServiceClient(a.Router.Group(0))
}

// eachGroup runs f for every group, several at a time, and returns the rows in the order of groups.
func (a *Admin) eachGroup(ctx context.Context, f func(ctx context.Context, group uint32, c clusterv1.ClusterServiceClient) []datum.Datum) [][]datum.Datum {
	rows := make([][]datum.Datum, a.groups())
	room := make(chan struct{}, groupsAtOnce)
	var working sync.WaitGroup
	for i := range rows {
		room <- struct{}{}
		working.Go(func() {
			defer func() { <-room }()
			ctx, cancel := context.WithTimeout(ctx, groupTimeout)
			defer cancel()
			group := uint32(i)
			rows[i] = f(ctx, group, clusterv1.NewClusterServiceClient(a.Router.Group(group)))
		})
	}
	working.Wait()
	return rows
}

// groups is the catalog's group and one for each shard.
func (a *Admin) groups() int { return int(a.Router.View().State().Shards.Shards()) + 1 }

func (a *Admin) act(ctx context.Context, s *sqlfront.Cluster, action clusterv1.Action) ([][]datum.Datum, error) {
	rows := a.eachGroup(ctx, func(ctx context.Context, group uint32, c clusterv1.ClusterServiceClient) []datum.Datum {
		resp, err := c.Act(ctx, &clusterv1.ActRequest{Group: group, Action: action})
		snapshot := datum.Null
		if err == nil && action == clusterv1.Action_ACTION_SNAPSHOT {
			snapshot = datum.Int(int64(resp.GetIndex()))
		}
		return actionRow(s, datum.Int(int64(group)), err, snapshot)
	})
	return rows, nil
}

// transfer hands every group's leadership to one node. A group that has no voter there says so in its row.
func (a *Admin) transfer(ctx context.Context, s *sqlfront.Cluster) ([][]datum.Datum, error) {
	status, err := a.leader().Status(ctx, &clusterv1.StatusRequest{})
	if err != nil {
		return nil, err
	}
	server := ""
	for _, n := range status.GetNodes() {
		if uint64(n.GetNode().GetNodeId()) == s.Number {
			server = n.GetNode().GetServerId()
		}
	}
	if server == "" {
		return nil, dberr.New(dberr.NotFound, "there is no node %d", s.Number)
	}
	rows := a.eachGroup(ctx, func(ctx context.Context, group uint32, c clusterv1.ClusterServiceClient) []datum.Datum {
		_, err := c.ChangeMember(ctx, &clusterv1.ChangeMemberRequest{Group: group, ServerId: server,
			Change: clusterv1.MemberChange_MEMBER_CHANGE_TRANSFER})
		return actionRow(s, datum.Int(int64(group)), err, datum.Null)
	})
	return rows, nil
}

// whole asks the leader of group 0 for what concerns no single group.
func (a *Admin) whole(ctx context.Context, s *sqlfront.Cluster) ([][]datum.Datum, error) {
	node, err := uint32(s.Number), error(nil)
	switch s.Action {
	case sqlfront.ClusterRebalance:
		_, err = a.leader().Rebalance(ctx, &clusterv1.RebalanceRequest{})
	case sqlfront.ClusterRemove:
		_, err = a.leader().Remove(ctx, &clusterv1.RemoveRequest{NodeId: node})
	default:
		_, err = a.leader().Drain(ctx, &clusterv1.DrainRequest{NodeId: node, Undrain: s.Action == sqlfront.ClusterUndrain})
	}
	if err != nil {
		return nil, err
	}
	return [][]datum.Datum{actionRow(s, datum.Null, nil, datum.Null)}, nil
}

// clear has nothing to remove: a group keeps one snapshot, its state.
func (a *Admin) clear(s *sqlfront.Cluster) (rows [][]datum.Datum) {
	for group := range a.groups() {
		rows = append(rows, []datum.Datum{datum.Text(string(s.Action)), datum.Int(int64(group)), datum.Bool(true), datum.Int(0)})
	}
	return rows
}
