package membership

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/authn"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// users is a catalog of users; creating one that exists changes nothing.
type users struct {
	catalogv1.UnimplementedCatalogServiceServer
	mu     sync.Mutex
	stored *catalogv1.User
	// asked is called by each GetUser before it answers that there is none, so that tests choose who races.
	asked func()
	// lost makes Apply answer that nothing changed, as when its first answer was lost.
	lost bool
}

func (u *users) GetUser(context.Context, *catalogv1.GetUserRequest) (*catalogv1.GetUserResponse, error) {
	u.mu.Lock()
	stored := u.stored
	u.mu.Unlock()
	if stored == nil && u.asked != nil {
		u.asked()
	}
	return &catalogv1.GetUserResponse{User: stored}, nil
}

func (u *users) Apply(_ context.Context, r *catalogv1.ApplyRequest) (*catalogv1.ApplyResponse, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.stored != nil {
		return &catalogv1.ApplyResponse{}, nil
	}
	u.stored = r.GetCommand().GetCreateUser().GetUser()
	return &catalogv1.ApplyResponse{Changed: !u.lost}, nil
}

// serveUsers serves it and returns the connection.
func serveUsers(t *testing.T, u *users) *rpcnet.Conn {
	t.Helper()
	n := rpcnet.NewLocal()
	s, err := rpcnet.NewServer(n, "storage", rpcnet.ServerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	catalogv1.RegisterCatalogServiceServer(s.Registrar(), u)
	s.Serve()
	t.Cleanup(func() { s.Stop(context.Background()) })
	conn, err := rpcnet.Dial(n, "storage")
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, os.ErrNotExist)
}

const testCost = 4 // bcrypt's least: tests need no strength

func TestOfTwoNodesOneMakesRoot(t *testing.T) {
	var both sync.WaitGroup
	both.Add(2)
	u := &users{asked: func() { both.Done(); both.Wait() }} // both see an empty cluster
	conn := serveUsers(t, u)
	var out [2]bytes.Buffer
	var file [2]string
	var errs [2]error
	var run sync.WaitGroup
	for i := range 2 {
		file[i] = filepath.Join(t.TempDir(), "root-password")
		run.Go(func() {
			errs[i] = NewRoot(RootConfig{File: file[i], Cost: testCost, Out: &out[i]}, conn).Start(t.Context())
		})
	}
	run.Wait()
	told := 0
	for i := range 2 {
		if errs[i] != nil {
			t.Fatal(errs[i])
		}
		if exists(file[i] + ".new") {
			t.Error("a waiting password stayed")
		}
		if !exists(file[i]) {
			if out[i].Len() > 0 {
				t.Errorf("the loser says %q", &out[i])
			}
			continue
		}
		told++
		raw, err := os.ReadFile(file[i])
		if err != nil {
			t.Fatal(err)
		}
		password := strings.TrimSpace(string(raw))
		if !authn.CheckPassword(u.stored.GetPasswordHash(), password) {
			t.Error("the file's password is not root's")
		}
		if !strings.Contains(out[i].String(), password) {
			t.Errorf("the winner says %q", &out[i])
		}
		if info, err := os.Stat(file[i]); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
	}
	if told != 1 {
		t.Fatalf("%d nodes told a password", told)
	}
}

func TestALostAnswerKeepsThePassword(t *testing.T) {
	u, file := &users{lost: true}, filepath.Join(t.TempDir(), "root-password")
	if err := NewRoot(RootConfig{File: file, Cost: testCost, Out: &bytes.Buffer{}}, serveUsers(t, u)).Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(file); err != nil || !authn.CheckPassword(u.stored.GetPasswordHash(), strings.TrimSpace(string(raw))) {
		t.Fatalf("the only copy of the password is gone: %v", err)
	}
}

// A process that died between making the user and telling so tells it at its next start.
func TestRootIsSettledByTheNextStart(t *testing.T) {
	hash, err := authn.HashPassword("waiting-password", testCost)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		waiting string
		tells   bool
	}{{"waiting-password", true}, {"a-password-that-lost", false}} {
		file, out := filepath.Join(t.TempDir(), "root-password"), &bytes.Buffer{}
		if err := os.WriteFile(file+".new", []byte(c.waiting+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		conn := serveUsers(t, &users{stored: &catalogv1.User{UserId: rootUser, PasswordHash: hash}})
		if err := NewRoot(RootConfig{File: file, Cost: testCost, Out: out}, conn).Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if exists(file) != c.tells || (out.Len() > 0) != c.tells || exists(file+".new") {
			t.Errorf("%q: file %v, says %q", c.waiting, exists(file), out)
		}
	}
}

func TestAGivenPasswordIsNotRepeated(t *testing.T) {
	u, out := &users{}, &bytes.Buffer{}
	file := filepath.Join(t.TempDir(), "root-password")
	root := NewRoot(RootConfig{Password: "given-by-someone", File: file, Cost: testCost, Out: out}, serveUsers(t, u))
	if err := root.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !authn.CheckPassword(u.stored.GetPasswordHash(), "given-by-someone") || u.stored.GetRole() != catalogv1.Role_ROLE_SYSTEM {
		t.Errorf("stored %v", u.stored)
	}
	if out.Len() > 0 || exists(file) || exists(file+".new") {
		t.Errorf("says %q", out)
	}
}
