package catalogstate

import (
	"bytes"
	"context"
	"encoding/binary"

	"go.etcd.io/bbolt"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/shardmap"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// bucketUserKeys has users' data keys, wrapped: slot u16, user id → key. The first one makes it: see bucketJobs.
var bucketUserKeys = []byte("user_keys")

const (
	// userKeysMax bounds the keys of one command and of one page.
	userKeysMax = 1000
	// wrappedUserKeyMax bounds one of them in bytes: a data key, sealed.
	wrappedUserKeyMax = 256
)

func userKeyKey(user string) []byte { return slotUserKey(shardmap.UserSlot(user), user) }

func slotUserKey(slot uint16, user string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, slot), user...)
}

// createUserKeys keeps the first key of each: what was sealed with it must stay readable.
func (t *transaction) createUserKeys(c *catalogv1.CreateUserKeys) (*catalogv1.ApplyResponse, error) {
	if n := len(c.GetKeys()); n > userKeysMax {
		return nil, refuse(dberr.LimitExceeded, "%d data keys at a time, the limit is %d (userKeysMax)", n, userKeysMax)
	}
	for _, k := range c.GetKeys() {
		if err := catalog.CheckUserID(k.GetUserId()); err != nil {
			return nil, refuse(dberr.CodeOf(err), "%w", err)
		}
		if n := len(k.GetWrapped()); n == 0 || n > wrappedUserKeyMax {
			return nil, refuse(dberr.InvalidArgument, "a data key of %d bytes, it has 1 to %d", n, wrappedUserKeyMax)
		}
	}
	b, err := t.tx.CreateBucketIfNotExists(bucketUserKeys)
	if err != nil {
		return nil, err
	}
	resp := changed()
	for _, k := range c.GetKeys() {
		if t.model.erasing[k.GetUserId()] != "" { // the answer does not have it
			continue
		}
		key := userKeyKey(k.GetUserId())
		if old := b.Get(key); old != nil {
			k.Wrapped = bytes.Clone(old) // decoded from the entry: nobody else has it
		} else if err := b.Put(key, k.GetWrapped()); err != nil {
			return nil, err
		}
		resp.UserKeys = append(resp.UserKeys, k)
	}
	return resp, nil
}

// destroyUserKey removes a user's key while the account is closed for good: nobody makes another one.
func (t *transaction) destroyUserKey(c *catalogv1.DestroyUserKey) (*catalogv1.ApplyResponse, error) {
	if t.model.erasing[c.GetUserId()] == "" {
		return nil, refuse(dberr.InvalidOperation, "user '%s' is not being erased: the data key stays", c.GetUserId())
	}
	b := t.tx.Bucket(bucketUserKeys)
	if b == nil {
		return unchanged()
	}
	return changed(), b.Delete(userKeyKey(c.GetUserId()))
}

// UserKeys returns the wrapped data keys of users that have one.
func (s *State) UserKeys(users []string) (keys map[string][]byte, err error) {
	keys = map[string][]byte{}
	err = s.view(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketUserKeys)
		if b == nil {
			return nil
		}
		for _, u := range users {
			if wrapped := b.Get(userKeyKey(u)); wrapped != nil {
				keys[u] = bytes.Clone(wrapped)
			}
		}
		return nil
	})
	return keys, err
}

// UserKeysOf returns a page of the data keys of a slot, in order of the users' ids, and whether there are more.
func (s *State) UserKeysOf(slot uint16, after string) (keys []*catalogv1.UserKey, more bool, err error) {
	prefix := slotUserKey(slot, "")
	err = s.view(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketUserKeys)
		if b == nil {
			return nil
		}
		c := b.Cursor()
		for k, v := c.Seek(slotUserKey(slot, after)); bytes.HasPrefix(k, prefix); k, v = c.Next() {
			if user := string(k[len(prefix):]); user != after {
				if len(keys) == userKeysMax {
					more = true
					return nil
				}
				keys = append(keys, &catalogv1.UserKey{UserId: user, Wrapped: bytes.Clone(v)})
			}
		}
		return nil
	})
	return keys, more, err
}

// ListUserKeys reads data keys, as of now.
func (s *Service) ListUserKeys(ctx context.Context, req *catalogv1.ListUserKeysRequest) (*catalogv1.ListUserKeysResponse, error) {
	if n := len(req.GetUserIds()); n > userKeysMax || req.GetSlot() >= shardmap.Slots {
		return nil, dberr.New(dberr.InvalidArgument, "%d users and slot %d: at most %d users, and slots below %d", n, req.GetSlot(), userKeysMax, shardmap.Slots)
	}
	if err := s.group.ReadBarrier(ctx); err != nil {
		return nil, err
	}
	if len(req.GetUserIds()) == 0 {
		keys, more, err := s.state.UserKeysOf(uint16(req.GetSlot()), req.GetAfterUserId())
		return &catalogv1.ListUserKeysResponse{Keys: keys, HasMore: more}, err
	}
	found, err := s.state.UserKeys(req.GetUserIds())
	if err != nil {
		return nil, err
	}
	resp := &catalogv1.ListUserKeysResponse{}
	for _, u := range req.GetUserIds() {
		if wrapped, ok := found[u]; ok {
			resp.Keys = append(resp.Keys, &catalogv1.UserKey{UserId: u, Wrapped: wrapped})
		}
	}
	return resp, nil
}
