package catalogstate

import (
	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

func checkRole(r catalogv1.Role) error {
	if r < catalogv1.Role_ROLE_USER || r > catalogv1.Role_ROLE_SYSTEM {
		return refuse(dberr.InvalidArgument, "an account cannot have role %d", r)
	}
	return nil
}

func (t *transaction) createUser(c *catalogv1.CreateUser) (*catalogv1.ApplyResponse, error) {
	u := c.GetUser() // decoded from the entry: nobody else has it
	if u == nil {
		return nil, refuse(dberr.InvalidArgument, "CREATE USER without a user")
	}
	if err := catalog.CheckUserID(u.GetUserId()); err != nil {
		return nil, refuse(dberr.CodeOf(err), "%w", err)
	}
	old, err := readUser(t.tx, u.GetUserId())
	if err != nil {
		return nil, err
	}
	switch {
	case old.GetErasedBy() != "":
		return nil, refuse(dberr.AlreadyExists, "User '%s' is being erased by job %s: its name is free when that has ended", u.GetUserId(), old.GetErasedBy())
	case old.GetDeletedAtUs() != 0:
		return nil, refuse(dberr.AlreadyExists, "User '%s' already exists: it was dropped, its name stays blocked and it can be restored", u.GetUserId())
	case old != nil && c.GetIfNotExists():
		return &catalogv1.ApplyResponse{User: old}, nil
	case old != nil:
		return nil, refuse(dberr.AlreadyExists, "User '%s' already exists", u.GetUserId())
	}
	if u.GetRole() == catalogv1.Role_ROLE_UNSPECIFIED {
		u.Role = catalogv1.Role_ROLE_USER
	}
	if err := checkRole(u.GetRole()); err != nil {
		return nil, err
	}
	switch u.GetAuthType() {
	case "password", "oauth", "internal":
	default:
		return nil, refuse(dberr.InvalidArgument, "authentication %q is not password, oauth or internal", u.GetAuthType())
	}
	if err := t.checkUserStorage(u); err != nil {
		return nil, err
	}
	u.CreatedAtUs, u.UpdatedAtUs, u.DeletedAtUs = t.now, t.now, 0
	u.FailedLoginAttempts, u.LockedUntilUs, u.LastLoginAtUs = 0, 0, 0
	u.TokenVersion = 1
	return t.storeUser(u)
}

// storeUser writes a user and tells the caches.
func (t *transaction) storeUser(u *catalogv1.User) (*catalogv1.ApplyResponse, error) {
	t.emit(&catalogv1.WatchResponse{Event: &catalogv1.WatchResponse_UserChanged{UserChanged: u.GetUserId()}})
	resp := changed()
	resp.User = u
	return resp, putMessage(t.bucket(bucketUsers), []byte(u.GetUserId()), u)
}

// liveUser finds a user that is not dropped.
func (t *transaction) liveUser(id string) (*catalogv1.User, error) {
	u, err := readUser(t.tx, id)
	if err != nil {
		return nil, err
	}
	if u == nil || u.GetDeletedAtUs() != 0 {
		return nil, refuse(dberr.UserNotFound, "User '%s' does not exist", id)
	}
	return u, nil
}

func (t *transaction) alterUser(c *catalogv1.AlterUser) (*catalogv1.ApplyResponse, error) {
	u, err := t.liveUser(c.GetUserId())
	if err != nil {
		return nil, err
	}
	if c.Role != nil {
		if err := checkRole(c.GetRole()); err != nil {
			return nil, err
		}
		if c.GetRole() != u.GetRole() {
			u.TokenVersion++ // tokens carry the role
		}
		u.Role = c.GetRole()
	}
	if c.PasswordHash != nil {
		u.PasswordHash = c.GetPasswordHash()
		u.TokenVersion++
		u.FailedLoginAttempts, u.LockedUntilUs = 0, 0
	}
	if c.Email != nil {
		u.Email = c.GetEmail()
	}
	if c.Metadata != nil {
		u.Metadata = c.GetMetadata()
	}
	if c.StorageMode != nil {
		u.StorageMode = c.GetStorageMode()
	}
	if c.StorageId != nil {
		u.StorageId = c.GetStorageId()
	}
	if err := t.checkUserStorage(u); err != nil {
		return nil, err
	}
	u.UpdatedAtUs = t.now
	return t.storeUser(u)
}

func (t *transaction) dropUser(c *catalogv1.DropUser) (*catalogv1.ApplyResponse, error) {
	u, err := t.liveUser(c.GetUserId())
	if err != nil {
		if _, missing := err.(*refused); missing && c.GetIfExists() {
			return unchanged()
		}
		return nil, err
	}
	u.DeletedAtUs, u.UpdatedAtUs = t.now, t.now
	u.TokenVersion++
	t.wakeLeft = true
	return t.storeUser(u)
}

func (t *transaction) restoreUser(c *catalogv1.RestoreUser) (*catalogv1.ApplyResponse, error) {
	u, err := readUser(t.tx, c.GetUserId())
	if err != nil {
		return nil, err
	}
	if u == nil {
		return nil, refuse(dberr.UserNotFound, "User '%s' does not exist", c.GetUserId())
	}
	if u.GetDeletedAtUs() == 0 {
		return &catalogv1.ApplyResponse{User: u}, nil
	}
	if u.GetErasedBy() != "" {
		return nil, refuse(dberr.InvalidOperation, "User '%s' is being erased by job %s and cannot be restored", c.GetUserId(), u.GetErasedBy())
	}
	u.DeletedAtUs, u.UpdatedAtUs = 0, t.now
	u.FailedLoginAttempts, u.LockedUntilUs = 0, 0
	return t.storeUser(u)
}

// recordLogin counts failures and locks the account at the limit. A lock that has run out starts the
// count anew.
func (t *transaction) recordLogin(c *catalogv1.RecordLogin) (*catalogv1.ApplyResponse, error) {
	u, err := t.liveUser(c.GetUserId())
	if err != nil {
		return nil, err
	}
	if c.GetSuccess() {
		u.FailedLoginAttempts, u.LockedUntilUs, u.LastLoginAtUs = 0, 0, t.now
		return t.storeUser(u)
	}
	if u.GetLockedUntilUs() != 0 && u.GetLockedUntilUs() <= t.now {
		u.FailedLoginAttempts, u.LockedUntilUs = 0, 0
	}
	u.FailedLoginAttempts++
	if c.GetMaxFailures() > 0 && u.GetFailedLoginAttempts() >= c.GetMaxFailures() && u.GetLockedUntilUs() == 0 {
		u.LockedUntilUs = c.GetLockUntilUs()
	}
	return t.storeUser(u)
}

func (t *transaction) revokeTokens(c *catalogv1.RevokeTokens) (*catalogv1.ApplyResponse, error) {
	u, err := t.liveUser(c.GetUserId())
	if err != nil {
		return nil, err
	}
	u.TokenVersion++
	u.UpdatedAtUs = t.now
	return t.storeUser(u)
}
