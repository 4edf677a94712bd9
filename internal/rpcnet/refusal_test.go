package rpcnet

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/peer"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

func TestRefusalsAreLoggedOnceAMinute(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(1000, 0)
	d := newDoorkeeper([]string{"gateway"}, slog.New(slog.NewTextHandler(&out, nil)))
	d.now = func() time.Time { return now }
	refuse := func(role string) {
		t.Helper()
		ctx := peer.NewContext(context.Background(), &peer.Peer{AuthInfo: Peer{Role: role, Name: "n"}})
		if err := d.check(ctx, "/query/Execute"); !dberr.Is(err, dberr.PermissionDenied) {
			t.Fatal(err)
		}
	}
	lines := func() int { return strings.Count(out.String(), "\n") }
	for range 3 {
		refuse("live")
	}
	if lines() != 1 || !strings.Contains(out.String(), "role=live") || !strings.Contains(out.String(), "method=/query/Execute") {
		t.Fatalf("log: %s", &out)
	}
	if refuse("storage"); lines() != 2 {
		t.Fatalf("another role is not told: %s", &out)
	}
	now = now.Add(refusalPause)
	if refuse("live"); lines() != 3 {
		t.Fatalf("a minute later: %s", &out)
	}
	for i := range 10 * refusalRolesMax {
		refuse(fmt.Sprint("made up ", i))
	}
	if len(d.told) > refusalRolesMax {
		t.Fatalf("%d roles are remembered", len(d.told))
	}
	gateway := peer.NewContext(context.Background(), &peer.Peer{AuthInfo: Peer{Role: "gateway"}})
	if err := d.check(gateway, "/m"); err != nil {
		t.Error(err)
	}
	if err := d.check(context.Background(), "/m"); err != nil {
		t.Errorf("in one process: %v", err)
	}
}
