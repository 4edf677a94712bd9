package backup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/shardmap"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// RemoveUser makes what a backup has of a user unreadable: the data key goes, and the account. Files that were sealed with the key stay, and
// nobody can read them. Asking again is harmless.
func RemoveUser(ctx context.Context, t Target, d *Description, open OpenKey, user string) error {
	if err := removeKey(t, user); err != nil {
		return err
	}
	return removeAccount(ctx, t, d, open, user)
}

func removeKey(t Target, user string) error {
	slot := shardmap.UserSlot(user)
	if there, err := t.Exists(slotPath(slot)); err != nil || !there {
		return err
	}
	keys, err := readSlotKeys(t, slot)
	if err != nil {
		return err
	}
	if _, has := keys[user]; !has {
		return nil
	}
	delete(keys, user)
	return writeSlotKeys(t, slot, keys)
}

// Missing are the users whose data keys a backup has, and who have none any more: present tells of some users those who have.
func Missing(t Target, present func(users []string) (map[string][]byte, error)) (missing []string, err error) {
	for slot := range uint16(shardmap.Slots) {
		there, err := t.Exists(slotPath(slot))
		if err != nil {
			return nil, err
		}
		if !there {
			continue
		}
		keys, err := readSlotKeys(t, slot)
		if err != nil {
			return nil, err
		}
		has, err := present(slices.Collect(maps.Keys(keys)))
		if err != nil {
			return nil, err
		}
		for user := range keys {
			if has[user] == nil {
				missing = append(missing, user)
			}
		}
	}
	return missing, nil
}

// errFound ends a search.
var errFound = errors.New("found")

// removeAccount writes the accounts anew without one of them, under another name: whoever reads the description finds those it names whole.
func removeAccount(ctx context.Context, t Target, d *Description, open OpenKey, user string) error {
	if d.Accounts == nil {
		return nil
	}
	aead, err := d.OwnKey(ctx, open)
	if err != nil {
		return err
	}
	err = ReadAccounts(t, d.Accounts.Path, aead, func(u *catalogv1.User) error {
		if u.GetUserId() == user {
			return errFound
		}
		return ctx.Err()
	})
	if !errors.Is(err, errFound) {
		return err
	}
	next, stop := pulled(func(yield func(*catalogv1.User) error) error {
		return ReadAccounts(t, d.Accounts.Path, aead, func(u *catalogv1.User) error {
			if u.GetUserId() == user {
				return nil
			}
			return yield(u)
		})
	})
	defer stop()
	old := d.Accounts.Path
	d.AccountsWritten++
	if d.Accounts, err = WriteAccounts(t, fmt.Sprintf("accounts-%d.sealed", d.AccountsWritten), d.ID, aead, next); err != nil {
		return err
	}
	if err := WriteDescription(t, d); err != nil {
		return err
	}
	return t.Remove(old)
}

// pulled turns a visit of accounts into a function that returns one after the other, nil at the end.
func pulled(visit func(yield func(*catalogv1.User) error) error) (next func() (*catalogv1.User, error), stop func()) {
	accounts, stopped := make(chan *catalogv1.User), make(chan struct{})
	var failed error // set before accounts is closed
	go func() {
		defer close(accounts)
		failed = visit(func(u *catalogv1.User) error {
			select {
			case accounts <- u:
				return nil
			case <-stopped:
				return dberr.New(dberr.Unavailable, "nobody wants more accounts")
			}
		})
	}()
	return func() (*catalogv1.User, error) {
			u, ok := <-accounts
			if !ok {
				return nil, failed
			}
			return u, nil
		}, func() {
			close(stopped)
			for range accounts { // until visit has ended
			}
		}
}
