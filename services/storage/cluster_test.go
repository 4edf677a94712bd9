package storage

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/flight"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/config"
	"github.com/kalamdb/kalamdb-go/internal/router"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	"github.com/kalamdb/kalamdb-go/internal/shardmap"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

const clusterShards = 3

// cluster is storage nodes in one process, each with a disk and a view of the network of its own.
type cluster struct {
	t      *testing.T
	faults *rpcnet.Faults
	nodes  map[int]*member
	router *router.Router
	// version of the catalog that has the tables: a replica that is behind waits for it.
	version uint64
}

type member struct {
	cfg  Config
	node *Storage // nil while it is down
}

func addr(id int) string { return fmt.Sprintf("s%d", id) }

// newCluster makes nodes 1 to n that are down, and a client outside.
func newCluster(t *testing.T, n int) *cluster {
	c := &cluster{t: t, faults: rpcnet.NewFaults(rpcnet.NewLocal()), nodes: map[int]*member{}}
	var join []string
	for id := 1; id <= n; id++ {
		join = append(join, addr(id))
	}
	for id := 1; id <= n; id++ {
		c.nodes[id] = &member{cfg: Config{Dir: t.TempDir(), NodeID: uint16(id), Addr: addr(id), Join: join, BootstrapExpect: min(n, 3),
			Shards: clusterShards, HeartbeatInterval: config.Duration(100 * time.Millisecond), HeartbeatTimeout: config.Duration(400 * time.Millisecond),
			OfflineAfter: config.Duration(time.Second), ReplaceAfter: config.Duration(3 * time.Second),
			Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}}
	}
	t.Cleanup(c.stopAll)
	return c
}

func (c *cluster) start(ids ...int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	var starting sync.WaitGroup
	for _, id := range ids {
		m := c.nodes[id]
		m.node = New(m.cfg, c.faults.As(addr(id)))
		starting.Go(func() {
			if err := m.node.Start(ctx); err != nil {
				c.t.Errorf("start node %d: %v", id, err)
				m.node = nil // Start has stopped it
			}
		})
	}
	starting.Wait()
	if c.t.Failed() {
		c.t.FailNow()
	}
	if c.router == nil {
		c.router = router.New(router.Config{Network: c.faults.As("client"), Seeds: c.nodes[ids[0]].cfg.Join, Logger: slog.New(slog.DiscardHandler)})
		if err := c.router.Start(ctx); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *cluster) stop(ids ...int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.t.Context()), 30*time.Second)
	defer cancel()
	var stopping sync.WaitGroup
	for _, id := range ids {
		m := c.nodes[id]
		stopping.Go(func() {
			if err := m.node.Stop(ctx); err != nil {
				c.t.Errorf("stop node %d: %v", id, err)
			}
			m.node = nil
		})
	}
	stopping.Wait()
}

func (c *cluster) up() (ids []int) {
	for id, m := range c.nodes {
		if m.node != nil {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func (c *cluster) stopAll() {
	c.faults.Heal()
	if c.router != nil {
		c.router.Stop()
	}
	c.stop(c.up()...)
}

// status asks the leader of the catalog.
func (c *cluster) status() (*clusterv1.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	return clusterv1.NewClusterServiceClient(c.router.Catalog()).Status(ctx, &clusterv1.StatusRequest{})
}

// until waits for the cluster to look as wanted.
func (c *cluster) until(what string, wanted func(*clusterv1.StatusResponse) bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 90*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last *clusterv1.StatusResponse
	for {
		s, err := c.status()
		if err == nil && wanted(s) {
			return
		}
		if err == nil {
			last = s
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			c.t.Fatalf("%s never became true; last status %v, %v", what, last, err)
		}
	}
}

// voters counts the voters of each group, as catalog and leaders agree; nil while they do not, or one is of a node that lost its disk.
func voters(s *clusterv1.StatusResponse) map[uint32]int {
	raft, present := map[uint32]*clusterv1.GroupReport{}, map[string]bool{}
	for _, n := range s.GetNodes() {
		present[n.GetNode().GetServerId()] = true
		for _, g := range n.GetReport().GetGroups() {
			if g.GetState() == "Leader" && (raft[g.GetGroup()] == nil || raft[g.GetGroup()].GetTerm() < g.GetTerm()) {
				raft[g.GetGroup()] = g
			}
		}
	}
	out := map[uint32]int{}
	for _, p := range s.GetPlacements() {
		g := raft[p.GetGroup()]
		if g == nil {
			return nil
		}
		for _, r := range p.GetReplicas() {
			if !present[r.GetServerId()] || (r.GetState() == catalogv1.ReplicaState_REPLICA_STATE_VOTER) != slices.Contains(g.GetVoters(), r.GetServerId()) {
				return nil
			}
			if r.GetState() == catalogv1.ReplicaState_REPLICA_STATE_VOTER {
				out[p.GetGroup()]++
			}
		}
		if len(g.GetVoters()) != out[p.GetGroup()] {
			return nil
		}
	}
	return out
}

func spread(n int) func(*clusterv1.StatusResponse) bool {
	return func(s *clusterv1.StatusResponse) bool {
		v := voters(s)
		for group := range uint32(clusterShards + 1) {
			if v[group] != n {
				return false
			}
		}
		return true
	}
}

func (c *cluster) createTable(name string) *catalog.Table {
	c.t.Helper()
	client := catalogv1.NewCatalogServiceClient(c.router.Catalog())
	table := &catalog.Table{Namespace: "app", Name: name, Kind: catalog.UserTable, Columns: []catalog.Column{
		{Name: "id", Type: catalog.Type{Kind: catalog.BigInt}, NotNull: true, PrimaryKey: true},
		{Name: "body", Type: catalog.Type{Kind: catalog.Text}}}}
	var made *catalogv1.ApplyResponse
	for _, cmd := range []*catalogv1.Command{
		{Command: &catalogv1.Command_CreateNamespace{CreateNamespace: &catalogv1.CreateNamespace{Name: "app", IfNotExists: true}}},
		{Command: &catalogv1.Command_CreateTable{CreateTable: &catalogv1.CreateTable{Table: catalog.TableToProto(table)}}}} {
		resp, err := client.Apply(c.t.Context(), &catalogv1.ApplyRequest{Command: cmd})
		if err != nil {
			c.t.Fatal(err)
		}
		made = resp
	}
	c.version = made.GetVersion()
	return catalog.TableFromProto(made.GetTable())
}

func (c *cluster) shardOf(user string) uint32 { return shardmap.Even(clusterShards).User(user) }

// insert writes one row for a user.
func (c *cluster) insert(ctx context.Context, t *catalog.Table, user string, id int) error {
	req := &storagev1.WriteRequest{Identity: &catalogv1.Identity{UserId: user, Role: catalogv1.Role_ROLE_USER}, UserId: user,
		Shard: c.shardOf(user), CatalogVersion: c.version, RequestId: []byte(fmt.Sprintf("%8.8s%08d", user, id)),
		Writes: []*storagev1.TableWrite{{TableId: t.ID, SchemaVersion: t.SchemaVersion,
			Operation: storagev1.Operation_OPERATION_INSERT, Rows: [][]byte{encodeRow(t, id, fmt.Sprint("body ", id))}}}}
	_, err := storagev1.NewStorageServiceClient(c.router.Shard(req.GetShard())).Write(ctx, req)
	return err
}

func (c *cluster) mustInsert(t *catalog.Table, ids ...int) {
	c.t.Helper()
	for _, user := range users {
		for _, id := range ids {
			if err := c.insert(c.t.Context(), t, user, id); err != nil {
				c.t.Fatalf("insert %d for %s: %v", id, user, err)
			}
		}
	}
}

// users have rows in different shards.
var users = []string{"ann", "bob", "eve", "joe", "kim", "lea"}

// count reads a user's rows.
func (c *cluster) count(ctx context.Context, t *catalog.Table, user string) (int, error) {
	req := &storagev1.ScanRequest{Identity: &catalogv1.Identity{UserId: user, Role: catalogv1.Role_ROLE_USER}, Shard: c.shardOf(user),
		TableId: t.ID, SchemaVersion: t.SchemaVersion, ColumnIds: []uint32{1, 2}, UserId: user, CatalogVersion: c.version}
	raw, err := proto.Marshal(req)
	if err != nil {
		return 0, err
	}
	s, err := flight.NewFlightServiceClient(c.router.Shard(c.shardOf(user))).DoGet(ctx, &flight.Ticket{Ticket: raw})
	if err != nil {
		return 0, err
	}
	rd, err := flight.NewRecordReader(s)
	if err != nil {
		return 0, err
	}
	defer rd.Release()
	n := 0
	for rd.Next() {
		n += int(rd.RecordBatch().NumRows())
	}
	return n, rd.Err()
}

func (c *cluster) wantRows(t *catalog.Table, want int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
	defer cancel()
	for _, user := range users {
		n, err := c.count(ctx, t, user)
		for err != nil && ctx.Err() == nil { // a stream is opened once; the leader may be new
			n, err = c.count(ctx, t, user)
		}
		if n != want || err != nil {
			c.t.Fatalf("%s has %d rows (%v), want %d", user, n, err, want)
		}
	}
}

// leaderOf is the node that leads a group.
func (c *cluster) leaderOf(group uint32) int {
	c.t.Helper()
	found := 0
	c.until(fmt.Sprintf("a leader of group %d", group), func(*clusterv1.StatusResponse) bool {
		for id, m := range c.nodes {
			if m.node == nil {
				continue
			}
			if group == 0 && m.node.catalogGroup.Term() != 0 {
				found = id
			}
			if r, ok := m.node.replicas.Get(group - 1); group > 0 && ok && r.Group.Term() != 0 {
				found = id
			}
		}
		return found != 0
	})
	return found
}

func TestThreeNodesMakeAClusterAndSurviveTheLossOfEach(t *testing.T) {
	c := newCluster(t, 3)
	c.start(1, 2, 3)
	if id, _ := c.nodes[2].node.catalog.Cluster(); id != c.nodes[1].node.identity.ClusterID || id == "" {
		t.Fatalf("node 2 has the catalog of cluster %q, node 1 made %q", id, c.nodes[1].node.identity.ClusterID)
	}
	c.until("three voters of every group", spread(3))
	messages := c.createTable("messages")
	c.mustInsert(messages, 1, 2, 3)
	rows := 3
	for id := 1; id <= 3; id++ {
		c.stop(id)
		rows++
		c.mustInsert(messages, rows)
		c.wantRows(messages, rows)
		c.start(id)
		c.until("three voters of every group again", spread(3))
	}
	c.stop(1, 2, 3) // all at once
	c.start(1, 2, 3)
	c.wantRows(messages, rows)
	c.mustInsert(messages, rows+1)
	verified, err := clusterv1.NewClusterServiceClient(c.router.Catalog()).Verify(t.Context(), &clusterv1.VerifyRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range verified.GetGroups() {
		if !g.GetAgrees() || len(g.GetReplicas()) != 3 {
			t.Errorf("group %d: %v", g.GetGroup(), g)
		}
	}
}

func TestALeaderThatIsCutOffServesNothing(t *testing.T) {
	c := newCluster(t, 3)
	c.start(1, 2, 3)
	c.until("three voters of every group", spread(3))
	messages := c.createTable("messages")
	c.mustInsert(messages, 1)
	group := c.shardOf("ann") + 1
	old := c.leaderOf(group)
	r, _ := c.nodes[old].node.replicas.Get(c.shardOf("ann"))
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for r.Group.Leading() { // again and again: a connection that is being dialled escapes a cut
		c.faults.Cut("client", addr(old))
		for id := range c.nodes {
			if id != old {
				c.faults.Cut(addr(old), addr(id))
				c.faults.Cut(addr(id), addr(old))
			}
		}
		<-tick.C
	}
	c.mustInsert(messages, 2) // elsewhere
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := r.Shard.ReadBarrier(ctx); err == nil {
		t.Error("the leader that was cut off serves reads")
	}
	c.faults.Heal()
	c.mustInsert(messages, 3)
	c.wantRows(messages, 3)
}

func TestANodeWhoseDiskWasWipedComesBackAsAnother(t *testing.T) {
	c := newCluster(t, 3)
	c.start(1, 2, 3)
	c.until("three voters of every group", spread(3))
	messages := c.createTable("messages")
	c.mustInsert(messages, 1, 2)
	before, cluster := c.nodes[1].node.ServerID(), c.nodes[1].node.identity.ClusterID
	c.stop(1)
	c.nodes[1].cfg.Dir = t.TempDir()
	c.start(1)
	if now := c.nodes[1].node.ServerID(); now == before {
		t.Fatalf("server id %s again", now)
	}
	if now := c.nodes[1].node.identity.ClusterID; now != cluster {
		t.Fatalf("the wiped node made cluster %s beside %s", now, cluster)
	}
	c.until("the new incarnation votes and the old one is gone", func(s *clusterv1.StatusResponse) bool {
		for _, p := range s.GetPlacements() {
			for _, r := range p.GetReplicas() {
				if r.GetServerId() == before {
					return false
				}
			}
		}
		return spread(3)(s)
	})
	c.stop(2)
	c.mustInsert(messages, 3)
	c.wantRows(messages, 3)
}

func TestReplicasMoveToANewNodeAndTheirDataGoes(t *testing.T) {
	c := newCluster(t, 4)
	c.start(1, 2, 3)
	c.until("three voters of every group", spread(3))
	messages := c.createTable("messages")
	c.mustInsert(messages, 1, 2)
	c.start(4)
	client := clusterv1.NewClusterServiceClient(c.router.Catalog())
	if _, err := client.Drain(t.Context(), &clusterv1.DrainRequest{NodeId: 2}); err != nil {
		t.Fatal(err)
	}
	c.until("node 2 has left", func(s *clusterv1.StatusResponse) bool {
		for _, n := range s.GetNodes() {
			if n.GetNode().GetNodeId() == 2 && n.GetNode().GetStatus() == catalogv1.NodeStatus_NODE_STATUS_LEFT {
				return spread(3)(s)
			}
		}
		return false
	})
	drained := c.nodes[2].node
	c.until("node 2 removed its replicas", func(*clusterv1.StatusResponse) bool {
		groups, err := drained.raftLog.Groups()
		return err == nil && len(drained.replicas.All()) == 0 && !slices.ContainsFunc(groups, func(g uint32) bool { return g > 0 })
	})
	if n := keysOf(t, drained, c.shardOf("ann")); n != 0 {
		t.Errorf("node 2 still has %d keys of a shard", n)
	}
	if n := keysOf(t, c.nodes[4].node, c.shardOf("ann")); n == 0 {
		t.Error("node 4 has nothing of a shard")
	}
	c.mustInsert(messages, 3)
	c.wantRows(messages, 3)
}

// keysOf counts what a node has of a shard.
func keysOf(t *testing.T, node *Storage, shard uint32) (n int) {
	t.Helper()
	for _, span := range keycodec.ShardSpans(shard) {
		it, err := node.hot.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
		if err != nil {
			t.Fatal(err)
		}
		for ok := it.First(); ok; ok = it.Next() {
			n++
		}
		if err := it.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func TestStopDoesNotWaitForWatchers(t *testing.T) {
	r := start(t, Config{FS: vfs.NewMem()})
	watch, err := r.storage.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	messages := r.createTable("messages", catalog.UserTable)
	req := r.insertion(messages, "ann")
	if err := watch.Send(&storagev1.WatchRequest{Request: &storagev1.WatchRequest_Add{Add: &storagev1.WatchAdd{WatchId: 1,
		Shard: req.GetShard(), TableId: messages.ID, UserId: "ann", Identity: req.GetIdentity()}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r.stopped = true
	if err := r.node.Stop(ctx); err != nil || ctx.Err() != nil {
		t.Fatalf("stop: %v, %v", err, ctx.Err())
	}
}

// A node that joins says that it is there while it waits for its catalog: otherwise it is offline before its turn comes,
// and then nobody gives it anything.
func TestAJoiningNodeIsHeardWhileItWaits(t *testing.T) {
	c := newCluster(t, 4)
	c.start(1, 2, 3)
	c.until("three voters of every group", spread(3))
	leader := c.nodes[c.leaderOf(0)].node
	leader.controller.Follow() // placement is busy
	started := make(chan struct{})
	go func() {
		defer close(started)
		c.start(4)
	}()
	c.until("node 4 was heard for longer than a silent node stays active", func(s *clusterv1.StatusResponse) bool {
		for _, n := range s.GetNodes() {
			if n.GetNode().GetNodeId() == 4 && n.GetReport().GetUptimeMs() > 1500 {
				if n.GetNode().GetStatus() != catalogv1.NodeStatus_NODE_STATUS_ACTIVE {
					t.Error("it is not active")
				}
				return true
			}
		}
		return false
	})
	leader.controller.Lead(t.Context())
	<-started
}
