package disks

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestDisk(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	d, err := New(ctx, filepath.Join(dir, "image"), filepath.Join(dir, "mnt"), 32)
	if err != nil {
		t.Skip("no disks can be mounted here: ", err)
	}
	defer func() {
		if err := d.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	write := func(name string) error { return os.WriteFile(filepath.Join(d.Path, name), make([]byte, 1<<20), 0o600) }
	if err := write("a"); err != nil {
		t.Fatal(err)
	}
	if err := d.Fill(); err != nil {
		t.Fatal(err)
	}
	if err := write("b"); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a full disk took a write: %v", err)
	}
	if err := d.Free(); err != nil {
		t.Fatal(err)
	}
	if err := d.Freeze(ctx); err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() { written <- write("c") }()
	select {
	case err := <-written:
		t.Errorf("a frozen disk took a write: %v", err)
	case <-time.After(200 * time.Millisecond): // it can only show that it did not happen yet
	}
	if err := d.Thaw(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-written; err != nil {
		t.Errorf("after thawing: %v", err)
	}
}
