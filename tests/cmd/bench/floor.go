package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	kalamv1 "github.com/kalamdb/kalamdb-go/proto/kalam/v1"
)

// floorService does what no durable server reached over gRPC can avoid: one call, one synced write of
// the request's bytes.
type floorService struct {
	kalamv1.UnimplementedKalamServiceServer
	db   *pebble.DB
	next atomic.Uint64
}

func (f *floorService) Execute(_ context.Context, r *kalamv1.ExecuteRequest) (*kalamv1.ExecuteResponse, error) {
	value, err := proto.Marshal(r)
	if err != nil {
		return nil, err
	}
	if err := f.db.Set(fmt.Appendf(nil, "%020d", f.next.Add(1)), value, pebble.Sync); err != nil {
		return nil, err
	}
	return &kalamv1.ExecuteResponse{Results: []*kalamv1.StatementResult{{RowCount: 1, Message: "Inserted 1 row(s)"}}}, nil
}

// serveFloor runs in a process of its own, as the server does; its address goes to the file "addr".
func serveFloor(ctx context.Context, dir string) error {
	db, err := pebble.Open(filepath.Join(dir, "pebble"), &pebble.Options{})
	if err != nil {
		return err
	}
	defer db.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	kalamv1.RegisterKalamServiceServer(s, &floorService{db: db})
	context.AfterFunc(ctx, s.Stop)
	tmp := filepath.Join(dir, "addr.tmp")
	if err := os.WriteFile(tmp, []byte(l.Addr().String()), 0o600); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(dir, "addr")); err != nil {
		return err
	}
	return s.Serve(l)
}

// startFloor starts the floor's process and returns its address.
func startFloor(ctx context.Context, dir string) (addr string, stop func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return "", nil, err
	}
	cmd := exec.Command(self, "floor-server", dir)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
		if b, err := os.ReadFile(filepath.Join(dir, "addr")); err == nil {
			return string(b), stop, nil
		}
	}
	stop()
	return "", nil, fmt.Errorf("the floor's server did not start")
}
