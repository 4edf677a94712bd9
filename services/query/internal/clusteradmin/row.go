package clusteradmin

import (
	"context"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
	"github.com/kalamdb/kalamdb-go/services/query/internal/systemtable"
)

func column(name string, k catalog.TypeKind) catalog.Column {
	return catalog.Column{Name: name, Type: catalog.Type{Kind: k}}
}

var (
	// actionColumns are spec 1.19. snapshots_dir is NULL: a snapshot is part of a node's data directory,
	// which is not the client's to know.
	actionColumns = []catalog.Column{column("action", catalog.Text), column("group_id", catalog.BigInt),
		column("success", catalog.Boolean), column("error", catalog.Text), column("snapshot_index", catalog.BigInt),
		column("target_node_id", catalog.BigInt), column("upto", catalog.BigInt), column("snapshots_dir", catalog.Text)}
	clearColumns = []catalog.Column{column("action", catalog.Text), column("group_id", catalog.BigInt),
		column("success", catalog.Boolean), column("snapshots_cleared", catalog.BigInt)}
	verifyColumns = []catalog.Column{column("group_id", catalog.BigInt), column("index", catalog.BigInt),
		column("node_id", catalog.BigInt), column("server_id", catalog.Text), column("sum", catalog.Text),
		column("rows", catalog.BigInt), column("agrees", catalog.Boolean), column("error", catalog.Text)}
	listColumns = []catalog.Column{column("node_id", catalog.BigInt), column("server_id", catalog.Text),
		column("role", catalog.Text), column("status", catalog.Text), column("rpc_addr", catalog.Text),
		column("raft_addr", catalog.Text), column("api_addr", catalog.Text), column("zone", catalog.Text),
		column("version", catalog.Text), column("heartbeat_age_ms", catalog.BigInt)}
	statusColumns = []catalog.Column{column("group_id", catalog.BigInt), column("node_id", catalog.BigInt),
		column("server_id", catalog.Text), column("state", catalog.Text), column("term", catalog.BigInt),
		column("commit_index", catalog.BigInt), column("applied_index", catalog.BigInt), column("leader", catalog.Text),
		column("activity", catalog.Text)}
)

func actionRow(s *sqlfront.Cluster, group datum.Datum, err error, snapshot datum.Datum) []datum.Datum {
	failure, target, upto := datum.Null, datum.Null, datum.Null
	if err != nil {
		failure = datum.Text(err.Error())
	}
	switch s.Action {
	case sqlfront.ClusterPurge:
		upto = datum.Int(int64(s.Number))
	case sqlfront.ClusterTransferLeader, sqlfront.ClusterDrain, sqlfront.ClusterUndrain, sqlfront.ClusterRemove:
		target = datum.Int(int64(s.Number))
	}
	return []datum.Datum{datum.Text(string(s.Action)), group, datum.Bool(err == nil), failure, snapshot, target, upto, datum.Null}
}

func (a *Admin) verify(ctx context.Context) ([][]datum.Datum, error) {
	resp, err := a.leader().Verify(ctx, &clusterv1.VerifyRequest{})
	if err != nil {
		return nil, err
	}
	var rows [][]datum.Datum
	for _, g := range resp.GetGroups() {
		for _, r := range g.GetReplicas() {
			rows = append(rows, []datum.Datum{datum.Int(int64(g.GetGroup())), datum.Int(int64(g.GetIndex())),
				datum.Int(int64(r.GetNodeId())), datum.Text(r.GetServerId()), datum.TextOrNull(r.GetSum()),
				datum.Int(int64(r.GetRows())), datum.Bool(g.GetAgrees()), datum.TextOrNull(r.GetError())})
		}
	}
	return rows, nil
}

func (a *Admin) list(ctx context.Context) ([][]datum.Datum, error) {
	status, err := a.leader().Status(ctx, &clusterv1.StatusRequest{})
	if err != nil {
		return nil, err
	}
	var rows [][]datum.Datum
	for _, r := range status.GetNodes() {
		n := r.GetNode()
		rows = append(rows, []datum.Datum{datum.Int(int64(n.GetNodeId())), datum.Text(n.GetServerId()), datum.Text(n.GetRole()),
			datum.Text(systemtable.NodeStatus(n.GetStatus())), datum.Text(n.GetRpcAddr()), datum.TextOrNull(n.GetRaftAddr()), datum.TextOrNull(n.GetApiAddr()),
			datum.TextOrNull(n.GetZone()), datum.TextOrNull(n.GetVersion()), datum.Int(int64(r.GetHeartbeatAgeMs()))})
	}
	return rows, nil
}

// status lists replicas, and what the placement controller does in rows that name no group.
func (a *Admin) status(ctx context.Context) ([][]datum.Datum, error) {
	status, err := a.leader().Status(ctx, &clusterv1.StatusRequest{})
	if err != nil {
		return nil, err
	}
	var rows [][]datum.Datum
	for _, r := range status.GetNodes() {
		for _, g := range r.GetReport().GetGroups() {
			rows = append(rows, []datum.Datum{datum.Int(int64(g.GetGroup())), datum.Int(int64(r.GetNode().GetNodeId())),
				datum.Text(g.GetServerId()), datum.Text(g.GetState()), datum.Int(int64(g.GetTerm())),
				datum.Int(int64(g.GetCommitIndex())), datum.Int(int64(g.GetAppliedIndex())), datum.TextOrNull(g.GetLeader()), datum.Null})
		}
	}
	for _, text := range status.GetActivities() {
		row := make([]datum.Datum, len(statusColumns))
		for i := range row {
			row[i] = datum.Null
		}
		row[len(row)-1] = datum.Text(text)
		rows = append(rows, row)
	}
	return rows, nil
}
