package catalogstate

import (
	"bytes"
	"encoding/binary"
	"slices"

	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// The buckets of erasures. The first one makes them, as with jobs.
var (
	bucketErasures      = []byte("erasures")       // job id → Erasure
	bucketErasuresOpen  = []byte("erasures_open")  // user id → job id
	bucketErasuresEnded = []byte("erasures_ended") // index of the entry that ended it, job id → a mark
)

// keyErasuresEnded counts the receipts of erasures that have ended.
var keyErasuresEnded = []byte("erasures_ended")

const (
	// erasuresEndedMax is how many receipts are kept, the newest. One has about 20 KB at most.
	erasuresEndedMax = 1000
	// erasedFilesMax, erasedTablesMax and erasedNodesMax bound a receipt.
	erasedFilesMax  = 100
	erasedTablesMax = 10_000
	erasedNodesMax  = 1000
)

// RootUser always exists (spec 5.3).
const RootUser = "root"

// Erasing returns the job that erases a user; "" when none does. Whoever reads or writes rows of a user asks it.
func (s *State) Erasing(user string) (job string) { return s.model.Load().erasing[user] }

// Erasure returns a receipt, nil when there is none.
func (s *State) Erasure(job string) (e *catalogv1.Erasure, err error) {
	err = s.view(func(tx *bbolt.Tx) error {
		e, err = readErasure(tx, job)
		return err
	})
	return e, err
}

// Erasures returns up to limit receipts after a job's id, and whether there are more.
func (s *State) Erasures(after string, limit int) (list []*catalogv1.Erasure, more bool, err error) {
	err = s.view(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketErasures)
		if b == nil {
			return nil
		}
		c := b.Cursor()
		k, v := c.Seek([]byte(after))
		if k != nil && string(k) == after {
			k, v = c.Next()
		}
		for ; k != nil; k, v = c.Next() {
			if len(list) == limit {
				more = true
				return nil
			}
			e, err := decodeErasure(v)
			if err != nil {
				return err
			}
			list = append(list, e)
		}
		return nil
	})
	return list, more, err
}

func readErasure(tx *bbolt.Tx, job string) (*catalogv1.Erasure, error) {
	b := tx.Bucket(bucketErasures)
	if b == nil || b.Get([]byte(job)) == nil {
		return nil, nil
	}
	return decodeErasure(b.Get([]byte(job)))
}

func decodeErasure(raw []byte) (*catalogv1.Erasure, error) {
	e := &catalogv1.Erasure{}
	if err := proto.Unmarshal(raw, e); err != nil {
		return nil, dberr.New(dberr.Corrupt, "read an erasure: %w", err)
	}
	return e, nil
}

// loadErasing reads which users are being erased.
func loadErasing(tx *bbolt.Tx, m *model) error {
	b := tx.Bucket(bucketErasuresOpen)
	if b == nil {
		return nil
	}
	return b.ForEach(func(user, job []byte) error {
		m.erasing[string(user)] = string(job)
		return nil
	})
}

// beginErase closes an account for good. What its record says of the user goes here and now, also from answers that are remembered; what
// old pages of the file and the log have goes when the nodes are scrubbed.
func (t *transaction) beginErase(c *catalogv1.BeginErase) (*catalogv1.ApplyResponse, error) {
	u, err := t.erasable(c)
	if err != nil {
		return nil, err
	}
	j := c.GetJob()
	t.erases = true
	defer func() { t.erases = false }()
	resp, err := t.createJob(&catalogv1.CreateJob{Job: j})
	if err != nil {
		return nil, err
	}
	for _, name := range [][]byte{bucketErasures, bucketErasuresOpen, bucketErasuresEnded} {
		if _, err := t.tx.CreateBucketIfNotExists(name); err != nil {
			return nil, err
		}
	}
	bare := &catalogv1.User{UserId: u.GetUserId(), Role: u.GetRole(), AuthType: u.GetAuthType(), CreatedAtUs: u.GetCreatedAtUs(), UpdatedAtUs: t.now,
		DeletedAtUs: u.GetDeletedAtUs(), TokenVersion: u.GetTokenVersion() + 1, ErasedBy: j.GetJobId()}
	if bare.DeletedAtUs == 0 {
		bare.DeletedAtUs = t.now
	}
	if _, err := t.storeUser(bare); err != nil {
		return nil, err
	}
	if err := t.forgetAnswers(u.GetUserId()); err != nil {
		return nil, err
	}
	t.edit().erasing[u.GetUserId()] = j.GetJobId()
	if err := t.bucket(bucketErasuresOpen).Put([]byte(u.GetUserId()), []byte(j.GetJobId())); err != nil {
		return nil, err
	}
	return resp, putMessage(t.bucket(bucketErasures), []byte(j.GetJobId()), &catalogv1.Erasure{JobId: j.GetJobId(), Type: j.GetType(),
		UserId: u.GetUserId(), AskedBy: j.GetCreatedBy(), BegunAtUs: t.now, BeginIndex: t.index})
}

// erasable finds an account that may be erased, dropped or not.
func (t *transaction) erasable(c *catalogv1.BeginErase) (*catalogv1.User, error) {
	id, j := c.GetUserId(), c.GetJob()
	if !catalog.JobErases(j.GetType()) {
		return nil, refuse(dberr.InvalidArgument, "a job of type %q erases nobody", j.GetType())
	}
	if id == RootUser {
		return nil, refuse(dberr.InvalidOperation, "user '%s' cannot be erased: it always exists", id)
	}
	if id == j.GetCreatedBy() {
		return nil, refuse(dberr.InvalidOperation, "user '%s' cannot be erased: nobody erases their own account", id)
	}
	u, err := readUser(t.tx, id)
	switch {
	case err != nil:
		return nil, err
	case u == nil:
		return nil, refuse(dberr.UserNotFound, "User '%s' does not exist", id)
	case u.GetErasedBy() != "":
		return nil, refuse(dberr.AlreadyExists, "User '%s' is being erased by job %s", id, u.GetErasedBy())
	case c.GetDroppedAtUs() != 0 && u.GetDeletedAtUs() != c.GetDroppedAtUs():
		return nil, refuse(dberr.Conflict, "User '%s' was restored or dropped anew meanwhile", id)
	}
	return u, nil
}

// forgetAnswers takes the user's record out of answers to repeated requests: CREATE USER is answered with it. There are requestsMax at
// most. The answers stay: a repetition must not be done again.
func (t *transaction) forgetAnswers(user string) error {
	requests := t.bucket(bucketRequests)
	var ids, replaced [][]byte // a bucket must not change under its cursor
	err := requests.ForEach(func(id, raw []byte) error {
		if len(raw) < 8 || !bytes.Contains(raw, []byte(user)) {
			return nil
		}
		r, err := decodeOutcome(raw[8:])
		if err != nil || r.Response.GetUser().GetUserId() != user {
			return err
		}
		r.Response.User = &catalogv1.User{UserId: user}
		bare, err := appendOutcome(slices.Clone(raw[:8]), r)
		ids, replaced = append(ids, slices.Clone(id)), append(replaced, bare)
		return err
	})
	if err != nil {
		return err
	}
	for i := range ids {
		if err := requests.Put(ids[i], replaced[i]); err != nil {
			return err
		}
	}
	return nil
}

// openErasure finds one that has not ended.
func (t *transaction) openErasure(job string) (*catalogv1.Erasure, error) {
	e, err := readErasure(t.tx, job)
	switch {
	case err != nil:
		return nil, err
	case e == nil:
		return nil, refuse(dberr.NotFound, "there is no erasure %s", job)
	case e.GetFinishedAtUs() != 0:
		return nil, refuse(dberr.InvalidOperation, "erasure %s has ended", job)
	}
	return e, nil
}

func (t *transaction) updateErasure(c *catalogv1.UpdateErasure) (*catalogv1.ApplyResponse, error) {
	e, err := t.openErasure(c.GetJobId())
	if err != nil {
		return nil, err
	}
	if s := c.GetSurvey(); s != nil && e.GetSurvey() == nil {
		if len(s.GetFiles()) > erasedFilesMax || len(s.GetTables()) > erasedTablesMax {
			return nil, refuse(dberr.LimitExceeded, "a receipt of %d files and %d tables, the limits are %d and %d (erasedFilesMax, erasedTablesMax)",
				len(s.GetFiles()), len(s.GetTables()), erasedFilesMax, erasedTablesMax)
		}
		e.Survey = s
	}
	if c.GetEraseIndex() != 0 {
		if e.EraseIndex != c.GetEraseIndex() {
			e.Nodes = nil // what was confirmed was another entry's
		}
		e.EraseIndex = c.GetEraseIndex()
	}
	for _, n := range c.GetNodes() {
		e.Nodes = slices.DeleteFunc(e.Nodes, func(o *catalogv1.ErasedNode) bool { return o.GetServerId() == n.GetServerId() })
		e.Nodes = append(e.Nodes, n)
	}
	if len(e.GetNodes()) > erasedNodesMax {
		return nil, refuse(dberr.LimitExceeded, "a receipt of %d nodes, the limit is %d (erasedNodesMax)", len(e.GetNodes()), erasedNodesMax)
	}
	if len(c.GetBackups()) > 0 {
		e.Backups = c.GetBackups()
	}
	return changed(), putMessage(t.bucket(bucketErasures), []byte(e.GetJobId()), e)
}

// finishErase frees the name. The receipt stays until erasuresEndedMax others have ended after it.
func (t *transaction) finishErase(c *catalogv1.FinishErase) (*catalogv1.ApplyResponse, error) {
	e, err := t.openErasure(c.GetJobId())
	if err != nil {
		return nil, err
	}
	user := []byte(e.GetUserId())
	if err := t.bucket(bucketUsers).Delete(user); err != nil {
		return nil, err
	}
	if err := t.bucket(bucketErasuresOpen).Delete(user); err != nil {
		return nil, err
	}
	delete(t.edit().erasing, e.GetUserId())
	t.emit(&catalogv1.WatchResponse{Event: &catalogv1.WatchResponse_UserChanged{UserChanged: e.GetUserId()}})
	e.FinishedAtUs = t.now
	if err := putMessage(t.bucket(bucketErasures), []byte(e.GetJobId()), e); err != nil {
		return nil, err
	}
	return changed(), t.keepReceipts(e.GetJobId())
}

// keepReceipts notes the end of one and forgets the oldest ones.
func (t *transaction) keepReceipts(job string) error {
	ended, meta := t.bucket(bucketErasuresEnded), t.bucket(bucketMeta)
	if err := ended.Put(append(binary.BigEndian.AppendUint64(nil, t.index), job...), endedMark); err != nil {
		return err
	}
	n := number(meta, keyErasuresEnded) + 1
	for ; n > erasuresEndedMax; n-- {
		oldest, _ := ended.Cursor().First()
		if len(oldest) <= 8 {
			return dberr.New(dberr.Corrupt, "the catalog counts %d receipts and does not list them", n)
		}
		if err := t.bucket(bucketErasures).Delete(oldest[8:]); err != nil {
			return err
		}
		if err := ended.Delete(oldest); err != nil {
			return err
		}
	}
	return putNumber(meta, keyErasuresEnded, n)
}
