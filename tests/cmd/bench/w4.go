package main

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/kalamdb/kalamdb-go/tests/client"
	"github.com/kalamdb/kalamdb-go/tests/clusterproc"
	"github.com/kalamdb/kalamdb-go/tests/etcd"
)

// clusterMembers is how many machines' worth of replicas both clusters have.
const clusterMembers = 3

// runW4 is W1 and W2 on three replicas in separate processes, beside an etcd of three members. Both write to
// the same disk three times over.
func runW4(ctx context.Context, s settings, c *contenders) (table, error) {
	t := table{Title: "three replicas: one client, then 64, one-row INSERT against etcd's Put of as many bytes"}
	kalam, err := clusterproc.Start(ctx, clusterproc.Options{Bin: s.bin, Dir: filepath.Join(c.dir, "cluster"),
		Storage: clusterMembers, Query: 1, Live: 1, Gateway: 1})
	if err != nil {
		return t, err
	}
	defer kalam.Kill()
	other, err := etcd.Start(ctx, filepath.Join(c.dir, "etcd"), clusterMembers)
	if err != nil {
		return t, err
	}
	defer other.Stop()
	leader, err := other.Leader(ctx)
	if err != nil {
		return t, err
	}
	w, err := newClusterWriters(ctx, s, c, kalam)
	if err != nil {
		return t, err
	}
	var key atomic.Uint64
	for range s.reps {
		for _, clients := range []int{1, s.workers} {
			name := fmt.Sprintf("%d clients: ", clients)
			if err := drive(ctx, t.line(name+"KalamDB, gateway, query and three storage nodes"), clients, s.perRep, w.insert); err != nil {
				return t, err
			}
			err := drive(ctx, t.line(name+"etcd, three members, at the leader"), clients, s.perRep, func(ctx context.Context, n int) error {
				_, err := other.KV(leader).Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "m/%d/%020d", n, key.Add(1)), Value: []byte(body)})
				return err
			})
			if err != nil {
				return t, err
			}
		}
	}
	for _, clients := range []int{1, s.workers} {
		name := fmt.Sprintf("%d clients: ", clients)
		ours, theirs := t.line(name+"KalamDB, gateway, query and three storage nodes"), t.line(name+"etcd, three members, at the leader")
		t.Notes = append(t.Notes, fmt.Sprintf("%d clients: p50 %.2f × etcd's, rate %.2f ×", clients, median(ratios(ours.P50, theirs.P50)), median(ratios(ours.Rate, theirs.Rate))))
	}
	return t, nil
}

// clusterWriters are accounts and connections to the cluster's gateway.
type clusterWriters struct {
	users []string
	conns *contenders
}

func newClusterWriters(ctx context.Context, s settings, c *contenders, kalam *clusterproc.Cluster) (*clusterWriters, error) {
	addr := kalam.Gateways()[0]
	root, err := client.Dial(addr, "root", clusterproc.RootPassword)
	if err != nil {
		return nil, err
	}
	inner := &contenders{dir: c.dir, root: root}
	c.closes = append(c.closes, inner.stop)
	for range sharedConns {
		conn, err := inner.dial(addr)
		if err != nil {
			return nil, err
		}
		inner.conns = append(inner.conns, conn)
	}
	for _, sql := range []string{"CREATE NAMESPACE bench", `CREATE USER TABLE bench.messages (id BIGINT DEFAULT SNOWFLAKE_ID() PRIMARY KEY,
		conversation TEXT, body TEXT, at TIMESTAMP DEFAULT NOW())`} {
		if _, err := root.Exec(ctx, sql); err != nil {
			return nil, err
		}
	}
	w := &clusterWriters{conns: inner}
	for n := range s.workers {
		w.users = append(w.users, fmt.Sprintf("writer-%d", n))
	}
	return w, inner.accounts(ctx, w.users)
}

func (w *clusterWriters) insert(ctx context.Context, n int) error {
	_, err := w.conns.conns[n%sharedConns].Execute(asUser(ctx, w.users[n]), insertRequest())
	return err
}
