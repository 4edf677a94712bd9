package shard

import (
	"context"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// A write that was bound to a newer catalog waits for it, and only then looks at its tables.
func TestAWriteWaitsForItsCatalog(t *testing.T) {
	n := openNode(t, nodeOptions{tables: testTables{}})
	defer n.stop()
	arrived := make(chan struct{})
	n.shard.cfg.WaitVersion = func(ctx context.Context, version uint64) error {
		if version != 7 {
			t.Errorf("waited for %d", version)
		}
		select {
		case <-arrived:
			n.shard.cfg.Tables = tables()
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	req := request("ann", insert(message(1, "a", nil)))
	if _, err := n.shard.Write(t.Context(), req); !dberr.Is(err, dberr.TableNotFound) {
		t.Errorf("without a version: %v", err)
	}
	req.CatalogVersion = 7
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.shard.Write(ctx, req); !dberr.Is(dberr.FromStatus(err), dberr.Canceled) {
		t.Errorf("the caller gave up: %v", err)
	}
	done := make(chan error)
	go func() { _, err := n.shard.Write(t.Context(), req); done <- err }()
	close(arrived)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
