package auth

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/authn"
	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/gatewaytest"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/limit"
)

var (
	loopback = netip.MustParseAddr("127.0.0.1")
	remote   = netip.MustParseAddr("203.0.113.7")
)

type bench struct {
	t       *testing.T
	catalog *gatewaytest.Catalog
	*Service
	mu sync.Mutex
	at time.Time
}

func (b *bench) now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.at
}

func (b *bench) advance(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at = b.at.Add(d)
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, at: time.Unix(1_800_000_000, 0)}
	net := rpcnet.NewLocal()
	b.catalog = gatewaytest.NewCatalog(t, net)
	b.catalog.AddUser(t, &catalogv1.User{UserId: "root", Role: catalogv1.Role_ROLE_SYSTEM, AuthType: "password"}, "root secret")
	b.catalog.AddUser(t, &catalogv1.User{UserId: "alice", Role: catalogv1.Role_ROLE_USER, AuthType: "password", Email: "a@b.c"}, "alice secret")
	view := gatewaytest.View(t, net)
	var err error
	b.Service, err = New(Config{Secret: []byte("0123456789abcdef0123456789abcdef"), BcryptCost: gatewaytest.BcryptCost,
		Now: b.now, Logger: slog.New(slog.DiscardHandler)}, view)
	if err != nil {
		t.Fatal(err)
	}
	if err := view.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.Service.Start(t.Context())
	t.Cleanup(func() { b.Service.Stop(); view.Stop() })
	return b
}

// change alters a user and waits until the service's view has seen it.
func (b *bench) change(id string, f func(u *catalogv1.User)) {
	b.t.Helper()
	v := b.catalog.Change(id, func(u *catalogv1.User) *catalogv1.User { f(u); return u })
	if err := b.view.WaitVersion(b.t.Context(), v); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) login(user, password string) Login {
	b.t.Helper()
	l, err := b.Login(b.t.Context(), user, password, loopback)
	if err != nil {
		b.t.Fatal(err)
	}
	return l
}

func wantCode(t *testing.T, what string, err error, want dberr.Code) {
	t.Helper()
	if dberr.CodeOf(err) != want {
		t.Errorf("%s: got %v (%s), want %s", what, err, dberr.CodeOf(err), want)
	}
}

func TestLoginAndBearer(t *testing.T) {
	b := newBench(t)
	l := b.login("alice", "alice secret")
	s, err := b.Bearer(t.Context(), l.AccessToken, remote)
	if err != nil || s.Identity != (catalog.Identity{UserID: "alice", Role: catalog.RoleUser}) {
		t.Fatalf("%+v, %v", s, err)
	}
	if _, err := b.Bearer(t.Context(), l.RefreshToken, remote); err != error(authn.ErrInvalid) {
		t.Errorf("a refresh token as access token: %v", err)
	}
	if _, err := b.Refresh(t.Context(), l.AccessToken, remote); err != error(authn.ErrInvalid) {
		t.Errorf("an access token as refresh token: %v", err)
	}
	again, err := b.Refresh(t.Context(), l.RefreshToken, remote)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Bearer(t.Context(), again.AccessToken, remote); err != nil {
		t.Fatal(err)
	}
	b.advance(24*time.Hour + time.Minute)
	_, err = b.Bearer(t.Context(), l.AccessToken, remote)
	wantCode(t, "expired and remembered", err, dberr.TokenExpired)
	if _, err := b.Refresh(t.Context(), l.RefreshToken, remote); err != nil {
		t.Errorf("refresh after a day: %v", err)
	}
}

// TestRevocation: each change ends a token that was good, and remembered, a moment ago.
func TestRevocation(t *testing.T) {
	for name, change := range map[string]func(*catalogv1.User){
		"role":     func(u *catalogv1.User) { u.Role = catalogv1.Role_ROLE_DBA },
		"version":  func(u *catalogv1.User) { u.TokenVersion++ },
		"drop":     func(u *catalogv1.User) { u.DeletedAtUs = 1 },
		"internal": func(u *catalogv1.User) { u.AuthType = "internal" },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			token := b.login("alice", "alice secret").AccessToken
			if _, err := b.Bearer(t.Context(), token, remote); err != nil {
				t.Fatal(err)
			}
			b.change("alice", change)
			if _, err := b.Bearer(t.Context(), token, remote); err == nil {
				t.Fatal("the token still works")
			}
		})
	}
}

func TestLogout(t *testing.T) {
	b := newBench(t)
	l := b.login("alice", "alice secret")
	s, err := b.Bearer(t.Context(), l.AccessToken, remote)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Logout(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	_, err = b.Bearer(t.Context(), l.AccessToken, remote)
	wantCode(t, "access", err, dberr.Unauthenticated)
	_, err = b.Refresh(t.Context(), l.RefreshToken, remote)
	wantCode(t, "refresh", err, dberr.Unauthenticated)
}

func TestForeignCluster(t *testing.T) {
	b := newBench(t)
	token, err := b.tokens.Issue(authn.Claims{Subject: "alice", Role: catalog.RoleUser, Type: authn.AccessToken,
		IssuedAt: b.now(), ExpiresAt: b.now().Add(time.Hour), ClusterID: "another"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Bearer(t.Context(), token, remote)
	wantCode(t, "token of another cluster", err, dberr.Unauthenticated)
}

func TestHeldSessionsEnd(t *testing.T) {
	b := newBench(t)
	s, err := b.Basic(t.Context(), "alice", "alice secret", loopback)
	if err != nil {
		t.Fatal(err)
	}
	end, release := b.Hold(s)
	b.change("alice", func(u *catalogv1.User) { u.LastLoginAtUs = 5 }) // changes nothing that matters
	select {
	case <-end:
		t.Fatal("ended by a login")
	default:
	}
	b.change("alice", func(u *catalogv1.User) { u.TokenVersion++ })
	<-end
	late, releaseLate := b.Hold(s)
	<-late // held too late: ends by itself
	release()
	releaseLate()
	b.held.mu.Lock()
	defer b.held.mu.Unlock()
	if len(b.held.users) != 0 {
		t.Fatal("the registration stayed")
	}
}

func TestBasicIsRemembered(t *testing.T) {
	b := newBench(t)
	for range 5 {
		if _, err := b.Basic(t.Context(), "alice", "alice secret", remote); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.catalog.Logins(); n != 1 {
		t.Errorf("bcrypt ran %d times", n)
	}
	_, err := b.Basic(t.Context(), "alice", "alice secret2", remote)
	wantCode(t, "wrong password while the right one is remembered", err, dberr.Unauthenticated)
	hash, err := authn.HashPassword("another secret", gatewaytest.BcryptCost)
	if err != nil {
		t.Fatal(err)
	}
	b.change("alice", func(u *catalogv1.User) { u.PasswordHash = hash })
	_, err = b.Basic(t.Context(), "alice", "alice secret", remote)
	wantCode(t, "the old password", err, dberr.Unauthenticated)
}

func TestLockout(t *testing.T) {
	b := newBench(t)
	token := b.login("alice", "alice secret").AccessToken
	for _, user := range []string{"alice", "nobody"} { // names that do not exist lock the same way
		for i := range 5 {
			_, err := b.Login(t.Context(), user, "wrong guess", remote)
			if err != error(authn.ErrInvalid) {
				t.Fatalf("%s, guess %d: %v", user, i+1, err)
			}
		}
		_, err := b.Login(t.Context(), user, "alice secret", remote)
		wantCode(t, user+" locked", err, dberr.AccountLocked)
		_, err = b.Basic(t.Context(), user, "alice secret", remote)
		wantCode(t, user+" locked for Basic", err, dberr.AccountLocked)
	}
	_, err := b.Bearer(t.Context(), token, remote)
	wantCode(t, "token of a locked account", err, dberr.AccountLocked)
	b.advance(15*time.Minute + time.Second)
	b.login("alice", "alice secret")
	_, err = b.Login(t.Context(), "nobody", "x", remote)
	wantCode(t, "nobody after the lock", err, dberr.Unauthenticated)
}

func TestSuccessResetsFailures(t *testing.T) {
	b := newBench(t)
	for range 4 {
		for range 4 {
			_, _ = b.Login(t.Context(), "alice", "wrong guess", remote)
		}
		b.login("alice", "alice secret")
	}
}

// TestHangingUpCounts: a client that leaves while its guess is checked does not save the count.
func TestHangingUpCounts(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.record(ctx, "alice", false)
	if n := b.catalog.User("alice").GetFailedLoginAttempts(); n != 1 {
		t.Fatalf("%d failures recorded", n)
	}
}

// TestManyGuessesAtOnce: no more guesses are answered than the lock allows, however many run at once.
func TestManyGuessesAtOnce(t *testing.T) {
	b := newBench(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	answered := 0
	for range 50 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if _, err := b.Basic(t.Context(), "alice", "wrong guess", remote); dberr.Is(err, dberr.Unauthenticated) {
				mu.Lock()
				answered++
				mu.Unlock()
			}
		}()
	}
	wg.Wait()
	if most := 5 + cap(b.turns) - 1; answered > most {
		t.Fatalf("%d guesses answered, at most %d may be", answered, most)
	}
}

// From outside, an account of this machine answers wrong passwords like a name that nobody has.
func TestAccountsCannotBeFoundByGuessing(t *testing.T) {
	b := newBench(t)
	b.catalog.AddUser(t, &catalogv1.User{UserId: "google", Role: catalogv1.Role_ROLE_USER, AuthType: "oauth"}, "")
	for _, user := range []string{"nobody", "root", "google"} {
		for i := range 5 {
			if _, err := b.Basic(t.Context(), user, "wrong guess", remote); err != error(authn.ErrInvalid) {
				t.Fatalf("%s, guess %d: %v", user, i+1, err)
			}
		}
		_, err := b.Basic(t.Context(), user, "wrong guess", remote)
		wantCode(t, user+" locked", err, dberr.AccountLocked)
		_, err = b.Basic(t.Context(), user, "root secret", remote)
		wantCode(t, user+" locked, with the right password", err, dberr.AccountLocked)
	}
	b.login("root", "root secret") // this machine is not locked out
	for range cap(b.turns) {       // a locked name is refused without a turn at bcrypt
		b.turns <- struct{}{}
	}
	_, err := b.Basic(t.Context(), "nobody", "wrong guess", remote)
	wantCode(t, "a locked stranger while all turns are taken", err, dberr.AccountLocked)
	for range cap(b.turns) {
		<-b.turns
	}
}

// Passwords that come with requests count as logins, unless they are remembered.
func TestBasicIsALogin(t *testing.T) {
	b := newBench(t)
	left := 2
	b.cfg.AdmitLogin = func(netip.Addr) error {
		if left--; left < 0 {
			return errBusy
		}
		return nil
	}
	for range 5 { // the first is checked, the others are remembered
		if _, err := b.Basic(t.Context(), "alice", "alice secret", remote); err != nil {
			t.Fatal(err)
		}
	}
	_, err := b.Basic(t.Context(), "nobody", "wrong guess", remote)
	wantCode(t, "a guess", err, dberr.Unauthenticated)
	_, err = b.Basic(t.Context(), "nobody", "wrong guess", remote)
	wantCode(t, "a guess too many", err, dberr.RateLimited)
	if _, err := b.Basic(t.Context(), "alice", "alice secret", remote); err != nil {
		t.Errorf("a remembered password: %v", err)
	}
	b.login("alice", "alice secret") // Login's callers ask themselves
}

// All clients of an account come at once to a gateway that has just started: bcrypt runs once, not for each.
func TestWaitersShareAProof(t *testing.T) {
	b := newBench(t)
	const clients = 5
	for range cap(b.turns) {
		b.turns <- struct{}{}
	}
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			if _, err := b.Basic(t.Context(), "alice", "alice secret", remote); err != nil {
				t.Error(err)
			}
		})
	}
	for waiting := 0; waiting < clients; runtime.Gosched() {
		b.waiting.Lock()
		waiting = b.waiters
		b.waiting.Unlock()
	}
	for range cap(b.turns) {
		<-b.turns
	}
	wg.Wait()
	if n := b.catalog.Logins(); n > cap(b.turns) {
		t.Errorf("%d clients that waited made %d logins, %d run at once", clients, n, cap(b.turns))
	}
}

func TestOneNetworkDoesNotTakeEveryPlace(t *testing.T) {
	b := newBench(t)
	for range cap(b.turns) {
		b.turns <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range networkWaitersMax {
		if !b.queue(limit.Network(remote), remote) {
			t.Fatal("no place")
		}
	}
	_, err := b.Basic(t.Context(), "alice", "wrong guess", remote)
	wantCode(t, "one more of the same network", err, dberr.RateLimited)
	wg.Go(func() {
		_, err := b.Basic(ctx, "alice", "wrong guess", netip.MustParseAddr("198.51.100.1"))
		if !errors.Is(err, context.Canceled) {
			t.Errorf("of another network: %v", err)
		}
	})
	cancel()
	wg.Wait()
	for range networkWaitersMax {
		b.unqueue(limit.Network(remote))
	}
	for range cap(b.turns) {
		<-b.turns
	}
	if len(b.waitersOf) != 0 || b.waiters != 0 {
		t.Errorf("%d waiters of %d networks are left", b.waiters, len(b.waitersOf))
	}
}

func TestLongIdsLogIn(t *testing.T) {
	b := newBench(t)
	id := strings.Repeat("u", 255)
	b.catalog.AddUser(t, &catalogv1.User{UserId: id, Role: catalogv1.Role_ROLE_USER, AuthType: "password"}, "a secret!")
	b.login(id, "a secret!")
}

func TestWhoMayLogInFromWhere(t *testing.T) {
	b := newBench(t)
	add := func(id string, role catalogv1.Role, typ string, allow bool, password string) {
		b.catalog.AddUser(t, &catalogv1.User{UserId: id, Role: role, AuthType: typ, AllowRemote: allow}, password)
	}
	add("sys", catalogv1.Role_ROLE_SYSTEM, "password", true, "a secret!")
	add("dba", catalogv1.Role_ROLE_DBA, "password", false, "a secret!")
	add("job", catalogv1.Role_ROLE_SERVICE, "internal", true, "a secret!")
	add("bare", catalogv1.Role_ROLE_SERVICE, "internal", false, "")
	add("google", catalogv1.Role_ROLE_USER, "oauth", false, "a secret!")
	for _, c := range []struct {
		user, password string
		from           netip.Addr
		want           dberr.Code
	}{
		{"root", "root secret", loopback, ""},
		{"root", "root secret", remote, dberr.PermissionDenied},
		{"root", "wrong", remote, dberr.Unauthenticated}, // as for a name nobody has; and no locking out
		{"root", "root secret", netip.Addr{}, dberr.PermissionDenied},
		{"sys", "a secret!", remote, ""},
		{"dba", "a secret!", remote, ""},
		{"job", "a secret!", remote, dberr.PermissionDenied},
		{"job", "a secret!", loopback, ""},
		{"bare", "", loopback, dberr.Unauthenticated},
		{"google", "a secret!", loopback, dberr.Unauthenticated},
		{"", "", loopback, dberr.Unauthenticated},
		{"alice", "", loopback, dberr.Unauthenticated},
		{"Alice", "alice secret", loopback, dberr.Unauthenticated},
	} {
		_, err := b.Basic(t.Context(), c.user, c.password, c.from)
		wantCode(t, c.user+" from "+c.from.String(), err, c.want)
	}
	if n := b.catalog.User("root").GetFailedLoginAttempts(); n != 0 {
		t.Errorf("remote guesses at root were counted: %d", n)
	}
	token := b.login("root", "root secret").AccessToken
	_, err := b.Bearer(t.Context(), token, remote)
	wantCode(t, "root's token from outside", err, dberr.PermissionDenied)
}

func TestSetup(t *testing.T) {
	b := newBench(t)
	req := SetupRequest{User: "admin", Password: "first secret", RootPassword: "second secret", Email: "a@b"}
	_, err := b.Setup(t.Context(), req, loopback)
	wantCode(t, "configured already", err, dberr.AlreadyExists)
	b.change("root", func(u *catalogv1.User) { u.PasswordHash = "" })
	_, err = b.Login(t.Context(), "root", "", loopback)
	if dberr.FieldOf(err, FieldReason) != ReasonSetup {
		t.Errorf("login before setup: %v", err)
	}
	_, err = b.Setup(t.Context(), req, remote)
	wantCode(t, "from outside", err, dberr.PermissionDenied)
	for reason, bad := range map[string]SetupRequest{
		ReasonWeakPassword: {User: "admin", Password: "short", RootPassword: "second secret"},
		ReasonInvalidUser:  {User: "a/b", Password: "first secret", RootPassword: "second secret"},
		ReasonUserExists:   {User: "alice", Password: "first secret", RootPassword: "second secret"},
	} {
		if _, err := b.Setup(t.Context(), bad, loopback); dberr.FieldOf(err, FieldReason) != reason {
			t.Errorf("%s: %v", reason, err)
		}
	}
	u, err := b.Setup(t.Context(), req, loopback)
	if err != nil || u.GetRole() != catalogv1.Role_ROLE_DBA {
		t.Fatalf("%v, %v", u, err)
	}
	b.login("root", "second secret")
	b.login("admin", "first secret")
	_, err = b.Setup(t.Context(), SetupRequest{User: "admin2", Password: "first secret", RootPassword: "third secret"}, loopback)
	wantCode(t, "twice", err, dberr.AlreadyExists)
}

func BenchmarkBearer(b *testing.B) {
	net := rpcnet.NewLocal()
	c := gatewaytest.NewCatalog(b, net)
	c.AddUser(b, &catalogv1.User{UserId: "alice", Role: catalogv1.Role_ROLE_USER}, "alice secret")
	view := gatewaytest.View(b, net)
	s, err := New(Config{Secret: make([]byte, 32), BcryptCost: gatewaytest.BcryptCost}, view)
	if err != nil {
		b.Fatal(err)
	}
	if err := view.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	defer view.Stop()
	l, err := s.Login(b.Context(), "alice", "alice secret", loopback)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := s.Bearer(b.Context(), l.AccessToken, loopback); err != nil {
			b.Fatal(err)
		}
	}
}
