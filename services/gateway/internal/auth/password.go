package auth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/authn"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/limit"
)

const (
	// userBytesMax and passwordBytesMax bound what is hashed and counted for strangers.
	userBytesMax     = 255 // what a user id may have
	passwordBytesMax = 1024
)

// Basic verifies a user name and a password.
func (s *Service) Basic(ctx context.Context, user, password string, remote netip.Addr) (Session, error) {
	u, err := s.checkPassword(ctx, user, password, remote, false)
	if err != nil {
		return Session{}, err
	}
	return session(u, time.Time{}), nil
}

// checkPassword returns the account when the password is right. always asks for bcrypt and a record
// of the login even when the password is remembered.
func (s *Service) checkPassword(ctx context.Context, user, password string, remote netip.Addr, always bool) (*catalogv1.User, error) {
	if user == "" || len(user) > userBytesMax || len(password) > passwordBytesMax {
		return nil, authn.ErrInvalid
	}
	u, err := s.account(ctx, user)
	if err != nil {
		return nil, err
	}
	switch {
	case s.absent(u, remote) && s.strangerLocked(user), u != nil && s.locked(u):
		return nil, errLocked
	case u != nil && !always && s.passwords.Contains(s.credentialMAC(u, password)):
		return u, s.standing(u, remote)
	case !always && s.cfg.AdmitLogin != nil: // a login by another name
		if err := s.cfg.AdmitLogin(remote); err != nil {
			return nil, err
		}
	}
	leave, err := s.takeTurn(ctx, remote)
	if err != nil {
		return nil, err
	}
	defer leave()
	return s.checkSlowly(ctx, user, password, remote, always)
}

// checkSlowly runs bcrypt. It reads the account again: the wait may have been long enough for others
// to lock it, and then no further guess is answered; or to prove the same password, as when all clients of one
// account come at once to a gateway that has just started: one of them pays, the others have waited for it.
func (s *Service) checkSlowly(ctx context.Context, user, password string, remote netip.Addr, always bool) (*catalogv1.User, error) {
	u, err := s.account(ctx, user)
	if err != nil {
		return nil, err
	}
	if u != nil && s.locked(u) {
		return nil, errLocked
	}
	if u != nil && !always && s.passwords.Contains(s.credentialMAC(u, password)) {
		return u, s.standing(u, remote)
	}
	if s.absent(u, remote) {
		return nil, s.refuseStranger(ctx, user, password, u)
	}
	if !authn.CheckPassword(u.GetPasswordHash(), password) {
		s.record(ctx, user, false)
		return nil, authn.ErrInvalid
	}
	s.record(ctx, user, true)
	s.passwords.Add(s.credentialMAC(u, password), struct{}{})
	return u, nil
}

// byPassword: OAuth accounts have no password of ours, internal ones have none by construction.
func byPassword(u *catalogv1.User) bool {
	return u.GetPasswordHash() != "" && u.GetAuthType() != authOAuth
}

// absent: nobody can log in by this name and a password from there. Such names are answered alike, so
// that the answer tells nobody which accounts exist.
func (s *Service) absent(u *catalogv1.User, remote netip.Addr) bool {
	return u == nil || !byPassword(u) || thisMachineOnly(u, remote)
}

// takeTurn bounds how many bcrypts run: they would take every core from the database. One network does
// not take every place among those who wait.
func (s *Service) takeTurn(ctx context.Context, remote netip.Addr) (leave func(), err error) {
	network := limit.Network(remote)
	if !s.queue(network, remote) {
		return nil, errBusy
	}
	defer s.unqueue(network)
	select {
	case s.turns <- struct{}{}:
		return func() { <-s.turns }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// queue takes a place; this machine, which may forward for many, is not bounded by itself.
func (s *Service) queue(network netip.Prefix, remote netip.Addr) bool {
	s.waiting.Lock()
	defer s.waiting.Unlock()
	if s.waiters == waitersMax || s.waitersOf[network] == networkWaitersMax && !remote.IsLoopback() {
		return false
	}
	s.waiters++
	s.waitersOf[network]++
	return true
}

func (s *Service) unqueue(network netip.Prefix) {
	s.waiting.Lock()
	defer s.waiting.Unlock()
	s.waiters--
	if s.waitersOf[network]--; s.waitersOf[network] == 0 {
		delete(s.waitersOf, network)
	}
}

// record tells the catalog, even when the client has left: hanging up must not save a guess from
// being counted. It returns once this gateway sees the effect.
func (s *Service) record(ctx context.Context, user string, success bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), catalogTimeout)
	defer cancel()
	now := s.cfg.Now()
	resp, err := s.apply(ctx, &catalogv1.Command{Command: &catalogv1.Command_RecordLogin{RecordLogin: &catalogv1.RecordLogin{
		UserId: user, Success: success, MaxFailures: uint32(s.cfg.MaxFailures), LockUntilUs: now.Add(s.cfg.LockFor).UnixMicro()}}})
	if err == nil {
		err = s.view.WaitVersion(ctx, resp.GetVersion())
	}
	if err != nil && !dberr.Is(err, dberr.UserNotFound) && !dberr.Is(err, dberr.NotFound) {
		s.cfg.Logger.WarnContext(ctx, "a login was not recorded", "user", user, "success", success, "error", err)
	}
}

func (s *Service) apply(ctx context.Context, cmd *catalogv1.Command) (*catalogv1.ApplyResponse, error) {
	cmd.TimeUs = s.cfg.Now().UnixMicro()
	return s.view.Client().Apply(ctx, &catalogv1.ApplyRequest{Command: cmd})
}

// strangerRecord counts failures of a name that has no account. Such names lock like real ones, so
// that a lock tells nobody which names exist.
type strangerRecord struct {
	failures    int
	lockedUntil time.Time
}

func (s *Service) strangerLocked(user string) bool {
	r, _ := s.strangers.Get(user)
	return s.cfg.Now().Before(r.lockedUntil)
}

// noUser is no account's id: ids hold no slash.
const noUser = "/"

// refuseStranger does for an absent name all that is done for a wrong password, including the catalog
// command, which finds nobody: same work, same time, same answers. Guesses from elsewhere must not lock
// an account of this machine, so they count here too. Who knows its password may know that it exists.
func (s *Service) refuseStranger(ctx context.Context, user, password string, u *catalogv1.User) error {
	if s.strangerLocked(user) {
		return errLocked
	}
	if u != nil && byPassword(u) {
		if authn.CheckPassword(u.GetPasswordHash(), password) {
			return errRemote
		}
	} else {
		authn.CheckPassword(s.dummyHash, password)
	}
	r, _ := s.strangers.Get(user)
	if r.failures++; r.failures >= s.cfg.MaxFailures {
		r = strangerRecord{lockedUntil: s.cfg.Now().Add(s.cfg.LockFor)}
	}
	s.strangers.Add(user, r)
	s.record(ctx, noUser, false)
	return authn.ErrInvalid
}

// credentialMAC names a verified credential in memory. It holds the stored hash, so a changed
// password makes a different name; the key is this process's own.
func (s *Service) credentialMAC(u *catalogv1.User, password string) (mac [32]byte) {
	m := hmac.New(sha256.New, s.macKey[:])
	for _, part := range []string{u.GetUserId(), password, u.GetPasswordHash()} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		m.Write(n[:])
		m.Write([]byte(part))
	}
	m.Sum(mac[:0])
	return mac
}
