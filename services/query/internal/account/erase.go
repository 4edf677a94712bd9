package account

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
)

// jobIDBytes are the random bytes of a job's id: 12 hex digits.
const jobIDBytes = 6

// Erase executes ERASE USER: the account is closed for good when it returns, and a job removes every byte. A user who was dropped can be
// erased too.
func (a *Accounts) Erase(ctx context.Context, id catalog.Identity, s *sqlfront.EraseUser) (string, error) {
	if err := manage(id, catalog.RoleUser); err != nil {
		return "", err
	}
	resp, err := a.Catalog.Client().GetUser(ctx, &catalogv1.GetUserRequest{UserId: s.User})
	if err != nil {
		return "", err
	}
	target := resp.GetUser()
	switch {
	case target == nil && s.IfExists:
		return "User '" + s.User + "' does not exist (skipped)", nil
	case target == nil:
		return "", dberr.New(dberr.UserNotFound, "User '%s' does not exist", s.User)
	case s.User == rootUser:
		return "", dberr.New(dberr.InvalidOperation, "user '%s' cannot be erased: it always exists", s.User)
	case s.User == id.UserID:
		return "", dberr.New(dberr.InvalidOperation, "user '%s' cannot be erased: nobody erases their own account", s.User)
	}
	if err := manage(id, catalog.Role(target.GetRole())); err != nil {
		return "", err
	}
	job, err := a.beginErase(ctx, id, s.User)
	if err != nil {
		return "", err
	}
	return "Erasure started for user '" + s.User + "'. Job ID: " + job, nil
}

// beginErase closes the account and returns the job's id: that of the first attempt when the request is repeated.
func (a *Accounts) beginErase(ctx context.Context, id catalog.Identity, user string) (string, error) {
	var random [jobIDBytes]byte
	_, _ = rand.Read(random[:]) // never fails: see crypto/rand
	parameters, err := json.Marshal(struct {
		User string `json:"user_id"`
	}{user})
	if err != nil {
		return "", dberr.New(dberr.Internal, "describe a job: %w", err)
	}
	resp, err := a.apply(ctx, &catalogv1.Command{Command: &catalogv1.Command_BeginErase{BeginErase: &catalogv1.BeginErase{UserId: user,
		Job: &catalogv1.Job{JobId: catalog.JobErasePrefix + hex.EncodeToString(random[:]), Type: catalog.JobErase, Parameters: string(parameters),
			IdempotencyKey: catalog.EraseKey(user), CreatedBy: id.UserID}}}})
	if err != nil {
		return "", err
	}
	return resp.GetJob().GetJobId(), nil
}
