package catalogstate

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// oldFile is the catalog that the version before nodes and placements wrote.
func oldFile(t *testing.T) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", "format1", "catalog.db.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func checkOld(t *testing.T, s *State) {
	t.Helper()
	id, shards := s.Cluster()
	table, ok := s.Table(1)
	u, err := s.User("ann")
	purge, err2 := s.ToPurge()
	if id != "old" || shards != 2 || !ok || table.QualifiedName() != "app.msg" || u.GetPasswordHash() != "x" ||
		len(purge) != 1 || s.Applied() != 6 || err != nil || err2 != nil {
		t.Errorf("cluster %s of %d shards, table %v, user %v, to purge %v, applied %d, %v, %v", id, shards, table, u, purge, s.Applied(), err, err2)
	}
	if len(s.Nodes()) != 0 || len(s.Placements()) != 0 || s.ReplicationFactor() != DefaultReplicationFactor {
		t.Errorf("nodes %v, placements %v, factor %d", s.Nodes(), s.Placements(), s.ReplicationFactor())
	}
}

func TestAFileFromBeforeNodesIsRead(t *testing.T) {
	a := &applier{t: t, path: filepath.Join(t.TempDir(), "catalog.db"), index: 6}
	if err := os.WriteFile(a.path, oldFile(t), fileMode); err != nil {
		t.Fatal(err)
	}
	a.reopen()
	t.Cleanup(func() { _ = a.state.Close() })
	checkOld(t, a.state)
	a.must(text(t, `init_cluster { cluster_id: "new" shards: 9 replication_factor: 5 node { node_id: 1 role: "storage" server_id: "n1" format: 2 } }`, 7))
	id, shards := a.state.Cluster()
	if id != "old" || shards != 2 || len(a.state.Nodes()) != 1 || len(a.state.Placements()) != 3 || a.state.ReplicationFactor() != 5 {
		t.Errorf("completed: %s, %d shards, nodes %v, placements %v", id, shards, a.state.Nodes(), a.state.Placements())
	}
}

func TestASnapshotFromBeforeNodesIsRestored(t *testing.T) {
	a := openState(t)
	if err := a.state.Restore(bytes.NewReader(oldFile(t))); err != nil {
		t.Fatal(err)
	}
	checkOld(t, a.state)
}

// cluster is a state with two nodes and a remembered request.
func cluster(t *testing.T) *applier {
	a := openState(t)
	a.must(text(t, `init_cluster { cluster_id: "c" shards: 1 node { node_id: 1 role: "storage" server_id: "n1" format: 2 } }`, 1))
	a.must(text(t, `register_node { node { node_id: 2 role: "storage" server_id: "n2" format: 2 } }`, 2))
	a.must(text(t, `set_replica { group: 1 replica { node_id: 2 server_id: "n2" state: REPLICA_STATE_LEARNER } }`, 3))
	a.must(text(t, `request_id: "0123456789abcdef" create_namespace { name: "app" }`, 4))
	return a
}

func TestASnapshotCarriesNodesPlacementsAndRequests(t *testing.T) {
	from, to := cluster(t), openState(t)
	var snap bytes.Buffer
	if err := from.state.WriteSnapshot(&snap); err != nil {
		t.Fatal(err)
	}
	moved := to.state.Moved()
	if err := to.state.Restore(&snap); err != nil {
		t.Fatal(err)
	}
	<-moved
	if n, ok := to.state.NodeByServer("n2"); !ok || n.GetNodeId() != 2 {
		t.Errorf("node %v", n)
	}
	if p := to.state.Placement(1); len(p.GetReplicas()) != 2 {
		t.Errorf("placement %v", p)
	}
	to.index = from.index
	again := `request_id: "0123456789abcdef" create_namespace { name: "app" }`
	if got, want := to.must(text(t, again, 5)), from.must(text(t, again, 5)); !proto.Equal(got, want) || !got.GetChanged() {
		t.Errorf("answered %v and %v", got, want)
	}
}

func TestTheOldestRequestsAreForgotten(t *testing.T) {
	a := openState(t)
	request := func(i int) *catalogv1.Command {
		c := text(t, `create_namespace { name: "app" if_not_exists: true }`, 1)
		c.RequestId = fmt.Appendf(nil, "%016d", i)
		return c
	}
	var logs []*raft.Log
	for i := range requestsMax + 2 {
		logs = append(logs, a.log(request(i)))
	}
	a.state.Apply(logs)
	err := a.state.view(func(tx *bbolt.Tx) error {
		if n, m := tx.Bucket(bucketRequests).Stats().KeyN, tx.Bucket(bucketRequestLog).Stats().KeyN; n != requestsMax || m != requestsMax {
			t.Errorf("%d requests, %d in order, the limit is %d", n, m, requestsMax)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	a.must(text(t, `create_namespace { name: "other" }`, 1))
	if r := a.must(request(2)); r.GetVersion() != 1 {
		t.Errorf("the oldest one kept was answered with version %d", r.GetVersion())
	}
	if r := a.must(request(1)); r.GetVersion() != uint64(requestsMax+3) {
		t.Errorf("one that was forgotten was answered with version %d", r.GetVersion())
	}
}

func TestEqualCatalogsHaveEqualSums(t *testing.T) {
	one, all := openState(t), openState(t)
	var logs []*raft.Log
	for _, c := range []string{
		`init_cluster { cluster_id: "c" shards: 3 node { node_id: 1 role: "storage" server_id: "n1" format: 2 } }`,
		`create_user { user { user_id: "ann" auth_type: "password" } }`,
		`request_id: "0123456789abcdef" create_namespace { name: "app" }`, `verify {}`, `drop_namespace { name: "app" }`,
	} {
		cmd := text(t, c, 7)
		one.must(cmd)
		logs = append(logs, all.log(cmd))
	}
	for i, r := range all.state.Apply(logs) {
		if r.(*Result).Err != nil {
			t.Fatal(i, r.(*Result).Err)
		}
	}
	a, err := one.state.Checksum(t.Context(), 4)
	b, err2 := all.state.Checksum(t.Context(), 4)
	if err != nil || err2 != nil || a != b || a.Rows == 0 {
		t.Fatalf("sums %v and %v, %v, %v", a, b, err, err2)
	}
	if _, err := one.state.Checksum(t.Context(), 3); !dberr.Is(err, dberr.NotFound) {
		t.Errorf("a sum nobody asked for: %v", err)
	}
	one.must(text(t, `verify {}`, 8)) // entry 6 of both
	all.must(text(t, `record_login { user_id: "ann" success: true }`, 8))
	all.must(text(t, `verify {}`, 8))
	a, err = one.state.Checksum(t.Context(), 6)
	b, err2 = all.state.Checksum(t.Context(), 7)
	if err != nil || err2 != nil || a.Hash == b.Hash {
		t.Errorf("different catalogs: sums %v and %v, %v, %v", a, b, err, err2)
	}
}

func TestWaitVersion(t *testing.T) {
	a := cluster(t)
	if err := a.state.WaitVersion(t.Context(), 4); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.state.WaitVersion(ctx, 5); !dberr.Is(err, dberr.Canceled) {
		t.Errorf("a version nobody has: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- a.state.WaitVersion(t.Context(), 6) }()
	a.must(text(t, `create_namespace { name: "b" }`, 5))
	a.must(text(t, `create_namespace { name: "b" if_not_exists: true }`, 6))
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestNothingIsWrittenThatSomeNodeCannotRead(t *testing.T) {
	a := cluster(t)
	if got := a.state.ReadByAll(7); got != 2 {
		t.Errorf("nodes of format 2 read %d", got)
	}
	partitioned := `create_table { table { namespace: "app" name: "rooms" kind: TABLE_KIND_SHARED partition_column_id: 1 partitions: 4
		columns { name: "room" type { kind: TYPE_KIND_TEXT } primary_key: true not_null: true } } }`
	if _, err := NewService(a.state, leading{}, nil, nil).Apply(t.Context(), &catalogv1.ApplyRequest{Command: text(t, partitioned, 8)}); !dberr.Is(err, dberr.Unsupported) {
		t.Errorf("a partitioned table beside nodes of format 2: %v", err)
	}
	job := `create_job { job { job_id: "FL-000000000001" type: "flush" } }`
	if _, err := NewService(a.state, leading{}, nil, nil).Apply(t.Context(), &catalogv1.ApplyRequest{Command: text(t, job, 8)}); !dberr.Is(err, dberr.Unsupported) {
		t.Errorf("a job beside nodes of format 2: %v", err)
	}
	m := a.state.model.Load().clone()
	m.nodes[3] = &catalogv1.Node{NodeId: 3, Role: "storage", ServerId: "n3"}
	a.state.model.Store(m)
	s := NewService(a.state, leading{}, nil, nil)
	for _, c := range []string{`verify {}`, `request_id: "0123456789abcdef" drop_namespace { name: "app" }`} {
		cmd := text(t, c, 9)
		if _, err := s.Apply(t.Context(), &catalogv1.ApplyRequest{Command: cmd}); !dberr.Is(err, dberr.Unsupported) {
			t.Errorf("%s: %v", c, err)
		}
	}
}

// leading is a group that must not be asked to append anything.
type leading struct{ Group }

func (leading) Term() uint64 { return 1 }

func FuzzOutcome(f *testing.F) {
	for _, r := range []*Result{{Response: &catalogv1.ApplyResponse{Changed: true, Version: 9}}, {Err: dberr.New(dberr.NotFound, "no %d", 1)}} {
		raw, err := appendOutcome(nil, r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := decodeOutcome(raw)
		if err != nil {
			if !dberr.Is(err, dberr.Corrupt) {
				t.Fatal(err)
			}
			return
		}
		again, err := appendOutcome(nil, r)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decodeOutcome(again); err != nil || !proto.Equal(back.Response, r.Response) || dberr.CodeOf(back.Err) != dberr.CodeOf(r.Err) {
			t.Fatalf("%v, then %v, %v", r, back, err)
		}
	})
}
