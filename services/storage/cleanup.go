package storage

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

const (
	// cleanupInterval is how often users are looked at who were dropped: all accounts are read for it.
	cleanupInterval = time.Hour
	// cleanupRetry is the pause after an erasure that could not be begun, and after finding that another node leads the catalog.
	cleanupRetry = time.Minute
	// cleanupPage is how many accounts are read at a time.
	cleanupPage = 1000
	// jobIDBytes are the random bytes of a job's id: 12 hex digits.
	jobIDBytes = 6
)

// cleanUsers erases users who were dropped longer ago than they can be restored, on the leader of the catalog.
func (s *Storage) cleanUsers(ctx context.Context) {
	for {
		next, err := s.cleanRound(ctx)
		if err != nil && ctx.Err() == nil {
			s.cfg.Logger.WarnContext(ctx, "erase users who were dropped", "error", err)
			next = min(next, cleanupRetry)
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
		case <-s.catalog.UsersLeft():
		case <-timer.C:
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// cleanRound begins to erase those who are due, and returns when to look again.
func (s *Storage) cleanRound(ctx context.Context) (next time.Duration, err error) {
	if s.catalogGroup.Term() == 0 {
		return cleanupRetry, nil // the leader does it; this node may be the next one
	}
	next = cleanupInterval
	for after, more := "", true; more && err == nil && ctx.Err() == nil; {
		var users []*catalogv1.User
		if users, more, err = s.catalog.Users(after, cleanupPage); err != nil {
			return next, err
		}
		for _, u := range users {
			after = u.GetUserId()
			if u.GetDeletedAtUs() == 0 || u.GetErasedBy() != "" {
				continue
			}
			left := time.UnixMicro(u.GetDeletedAtUs()).Add(s.cfg.userRetention).Sub(s.cfg.Now())
			if left > 0 {
				next = min(next, left)
				continue
			}
			err = s.cleanUser(ctx, u)
		}
	}
	return next, err
}

// cleanUser makes the job. Who was restored meanwhile, or is erased already, is left alone.
func (s *Storage) cleanUser(ctx context.Context, u *catalogv1.User) error {
	var random [jobIDBytes]byte
	_, _ = rand.Read(random[:]) // never fails: see crypto/rand
	parameters, err := json.Marshal(struct {
		User string `json:"user_id"`
	}{u.GetUserId()})
	if err != nil {
		return dberr.New(dberr.Internal, "describe a job: %w", err)
	}
	_, err = s.commands.Apply(ctx, &catalogv1.ApplyRequest{Command: &catalogv1.Command{Command: &catalogv1.Command_BeginErase{BeginErase: &catalogv1.BeginErase{
		UserId: u.GetUserId(), DroppedAtUs: u.GetDeletedAtUs(), Job: &catalogv1.Job{JobId: catalog.JobUserCleanupPrefix + hex.EncodeToString(random[:]),
			Type: catalog.JobUserCleanup, Parameters: string(parameters), IdempotencyKey: catalog.EraseKey(u.GetUserId())}}}}})
	if dberr.Is(err, dberr.Conflict) || dberr.Is(err, dberr.AlreadyExists) || dberr.Is(err, dberr.UserNotFound) {
		return nil
	}
	return err
}
