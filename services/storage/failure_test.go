package storage

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
)

// TestAFullDiskEndsTheNodeAndLosesNothing lets every write to the file system fail from some moment on.
func TestAFullDiskEndsTheNodeAndLosesNothing(t *testing.T) {
	disk := vfs.NewCrashableMem()
	var full atomic.Bool
	broken := errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if full.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return errors.New("no space left on device")
		}
		return nil
	}))
	r, err := tryStart(t, Config{FS: broken}, rpcnet.NewLocal())
	if err != nil {
		t.Fatal(err)
	}
	r.stopped = true // it will not stop in good order
	messages := r.createTable("messages", catalog.UserTable)
	for id := range 100 {
		r.insert(messages, "ann", id)
	}
	full.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := r.storage.Write(ctx, r.insertion(messages, "ann", 1000)); !dberr.Is(err, dberr.Unavailable) {
		t.Errorf("a write on the full disk: %v", err)
	}
	<-r.node.Failed()
	if r.node.Err() == nil {
		t.Error("failed without a reason")
	}
	if _, err := r.storage.Write(ctx, r.insertion(messages, "ann", 1001)); !dberr.Is(err, dberr.Unavailable) {
		t.Errorf("a later write: %v", err)
	}
	if _, err := r.count(messages, "ann"); !dberr.Is(err, dberr.Unavailable) {
		t.Errorf("a read: %v", err)
	}
	if err := r.node.Stop(t.Context()); err == nil { // although writes will wait for ever
		t.Error("stopped in good order")
	}
	after := start(t, Config{FS: disk.CrashClone(vfs.CrashCloneCfg{})})
	after.wantRows(messages, "ann", 100)
}
