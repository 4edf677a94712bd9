package storage

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
)

// withCopy is three nodes, and a process that is down with a copy of node 3's data, at another address.
func withCopy(t *testing.T) (c *cluster, twin *Storage) {
	c = newCluster(t, 3)
	c.start(1, 2, 3)
	c.until("three voters of every group", spread(3))
	c.stop(3)
	cfg := c.nodes[3].cfg
	cfg.Dir = t.TempDir()
	if err := os.CopyFS(cfg.Dir, os.DirFS(c.nodes[3].cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	c.start(3)
	c.until("node 3 is back", spread(3))
	cfg.Addr = addr(4)
	return c, New(cfg, c.faults.As(addr(4)))
}

func stopTwin(t *testing.T, twin *Storage) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
	defer cancel()
	if err := twin.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func TestACopyOfARunningNodesDataDoesNotStart(t *testing.T) {
	c, twin := withCopy(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := twin.Start(ctx)
	if err == nil {
		stopTwin(t, twin)
	}
	if !dberr.Is(err, dberr.InvalidOperation) {
		t.Errorf("error %v, want %s", err, dberr.InvalidOperation)
	}
	c.mustInsert(c.createTable("messages"), 1)
}

// The copy cannot reach the original, so only the leader of the catalog can tell.
func TestACopyThatDoesNotSeeTheOriginalIsExpelled(t *testing.T) {
	c, twin := withCopy(t)
	c.faults.Cut(addr(4), addr(3))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := twin.Start(ctx); err == nil {
		defer stopTwin(t, twin)
		select {
		case <-twin.Failed():
			err = twin.Err()
		case <-ctx.Done():
			t.Fatal("the copy goes on")
		}
		if !dberr.Is(err, dberr.AlreadyExists) {
			t.Errorf("error %v, want %s", err, dberr.AlreadyExists)
		}
	} else {
		t.Error(err)
	}
	c.until("the original is node 3", func(s *clusterv1.StatusResponse) bool {
		for _, n := range s.GetNodes() {
			if n.GetNode().GetNodeId() == 3 {
				return n.GetNode().GetRpcAddr() == addr(3) && spread(3)(s)
			}
		}
		return false
	})
	c.mustInsert(c.createTable("messages"), 1)
}
