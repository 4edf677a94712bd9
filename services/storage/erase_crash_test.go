//go:build invariants

package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/faultpoint"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// erasePoints are the places where an erasure is interrupted.
var erasePoints = []string{"erase/survey", "erase/shard", "erase/logged", "erase/nodes", "erase/keys", "erase/again", "erase/finish",
	"scrub/applied", "scrub/files", "scrub/logs", "scrub/rows", "scrub/catalog"}

// At each step the directory is copied as it is: what a process that is killed there leaves. A node that starts with it goes on, and ends
// the job.
func TestAnErasureGoesOnAfterACrashAtEachStep(t *testing.T) {
	const marker = "MARK-8812-crash"
	c := newCluster(t, 1)
	c.nodes[1].cfg.Dir = t.TempDir()
	c.start(1)
	c.until("one voter of every group", spread(1))
	if _, err := c.apply(&catalogv1.Command{Command: &catalogv1.Command_CreateUser{CreateUser: &catalogv1.CreateUser{User: &catalogv1.User{UserId: victim,
		Role: catalogv1.Role_ROLE_USER, AuthType: "internal", Metadata: `{"about":"` + marker + `"}`}}}}); err != nil {
		t.Fatal(err)
	}
	notes := c.createTexts("notes", catalog.UserTable)
	for _, user := range []string{victim, "joe"} {
		text := "text"
		if user == victim {
			text = marker
		}
		c.fill(notes, user, text, 0, 20)
		c.flush(notes)
		c.fill(notes, user, text, 100, 10)
	}
	images := takeImages(t, c.nodes[1].cfg.Dir)
	const job = "ER-0000000000cc"
	if err := c.beginErase(victim, job); err != nil {
		t.Fatal(err)
	}
	c.until("the job has ended", func(*clusterv1.StatusResponse) bool { return catalog.JobEnded(c.job(job).GetStatus()) })
	c.wantNothing(marker, "without a crash")
	for _, point := range erasePoints {
		faultpoint.Set(point, nil)
	}
	for _, point := range erasePoints {
		dir := images.dir(point)
		if dir == "" {
			t.Errorf("nobody came by %s", point)
			continue
		}
		t.Run(strings.ReplaceAll(point, "/", "_"), func(t *testing.T) {
			if point != "erase/finish" && point != "erase/again" && point != "erase/keys" && point != "scrub/catalog" && len(hits(t, dir, marker)) == 0 {
				t.Error("nothing of the user was there when it crashed: the image shows nothing")
			}
			cfg := c.nodes[1].cfg
			cfg.Dir, cfg.Logger = dir, slog.New(slog.NewTextHandler(io.Discard, nil))
			node := New(cfg, rpcnet.NewLocal())
			if err := node.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if j := endOf(t, node, job); j.GetStatus() != catalogv1.JobStatus_JOB_STATUS_COMPLETED {
				t.Errorf("got %v", j)
			}
			ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
			defer cancel()
			if err := node.Stop(ctx); err != nil {
				t.Error(err)
			}
			if found := hits(t, dir, marker); len(found) > 0 {
				t.Errorf("still in %v", found)
			}
		})
	}
}

// imageSet are copies of a directory, by place.
type imageSet struct {
	mu   sync.Mutex
	dirs map[string]string
}

// copyStill copies a directory in which a node runs, at a moment when nothing in it changes: the copy is what it is at one time then.
func copyStill(t *testing.T, to, from string) {
	for {
		before := stamps(from)
		err := os.CopyFS(to, os.DirFS(from))
		if err == nil && maps.Equal(before, stamps(from)) {
			return
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // of a file that went meanwhile
			t.Errorf("copy %s: %v", from, err)
			return
		}
		if err := os.RemoveAll(to); err != nil {
			t.Error(err)
			return
		}
	}
}

// stamps are the files below a directory with their sizes and times.
func stamps(dir string) map[string]string {
	files := map[string]string{}
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil //nolint:nilerr // it went meanwhile: the next list says so
		}
		if info, err := d.Info(); err == nil {
			files[path] = fmt.Sprint(info.Size(), info.ModTime().UnixNano())
		}
		return nil
	})
	return files
}

func takeImages(t *testing.T, from string) *imageSet {
	s := &imageSet{dirs: map[string]string{}}
	for _, point := range erasePoints {
		to := filepath.Join(t.TempDir(), "image")
		faultpoint.Set(point, func() error {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.dirs[point] == "" { // the first time
				copyStill(t, to, from)
				s.dirs[point] = to
			}
			return nil
		})
	}
	t.Cleanup(func() {
		for _, point := range erasePoints {
			faultpoint.Set(point, nil)
		}
	})
	return s
}

func (s *imageSet) dir(point string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dirs[point]
}

// A subscription of the user ends with a code, and no other begins.
func TestWatchesOfAnErasedUserEnd(t *testing.T) {
	r := start(t, Config{Dir: t.TempDir()})
	messages := r.createTable("messages", catalog.UserTable)
	r.insert(messages, victim, 1)
	r.insert(messages, "joe", 1)
	r.apply(&catalogv1.Command{Command: &catalogv1.Command_CreateUser{CreateUser: &catalogv1.CreateUser{User: &catalogv1.User{UserId: victim,
		Role: catalogv1.Role_ROLE_USER, AuthType: "internal"}}}})
	hold := make(chan struct{}) // the job waits before it frees the name
	faultpoint.Set("erase/finish", func() error { <-hold; return nil })
	defer faultpoint.Set("erase/finish", nil)
	defer close(hold)
	watch, err := r.storage.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	add := func(id uint64, user string) {
		t.Helper()
		req := r.insertion(messages, user)
		if err := watch.Send(&storagev1.WatchRequest{Request: &storagev1.WatchRequest_Add{Add: &storagev1.WatchAdd{WatchId: id,
			Shard: req.GetShard(), TableId: messages.ID, UserId: user, Identity: req.GetIdentity()}}}); err != nil {
			t.Fatal(err)
		}
	}
	add(1, victim)
	for ended := 0; ended < 2; {
		m, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if m.GetStarted() != nil {
			r.apply(&catalogv1.Command{Command: &catalogv1.Command_BeginErase{BeginErase: &catalogv1.BeginErase{UserId: victim,
				Job: &catalogv1.Job{JobId: "ER-000000000011", Type: catalog.JobErase, IdempotencyKey: catalog.EraseKey(victim), CreatedBy: "root"}}}})
		}
		if e := m.GetEnded(); e != nil {
			if ended++; e.GetCode() != string(dberr.UserNotFound) {
				t.Fatalf("ended: %v", e)
			}
			if ended == 1 {
				add(2, victim)
			}
		}
	}
}
