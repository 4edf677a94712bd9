package group

import (
	"context"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// Users finds users: the catalog's view.
type Users interface {
	User(ctx context.Context, id string) (*catalogv1.User, error)
}

// TableDropped ends the subscriptions to a table.
func (h *Hub) TableDropped(table uint32) {
	for _, p := range h.ofTable(table) {
		p.mu.Lock()
		p.dead, p.deadText = dberr.NotFound, "the table was dropped"
		p.endAll(func(*Subscription) bool { return true }, p.dead, p.deadText)
		p.unlock()
	}
}

// TableChanged ends the subscriptions that were planned for another version of a table, and those whose
// user may no longer read it.
func (h *Hub) TableChanged(t *catalog.Table) {
	for _, p := range h.ofTable(t.ID) {
		p.mu.Lock()
		p.endAll(func(s *Subscription) bool { return s.shape.Table().SchemaVersion != t.SchemaVersion },
			dberr.SchemaChanged, "the table was altered; subscribe again from position")
		p.endAll(func(s *Subscription) bool { return !mayRead(t, s.role) }, dberr.PermissionDenied, deniedText)
		p.unlock()
	}
}

const deniedText = "the user may no longer read this table"

// Recheck compares the subscriptions with the whole catalog, after events may have been missed.
func (h *Hub) Recheck(ctx context.Context, tables map[uint32]*catalog.Table, users Users) error {
	for _, id := range h.tables() {
		if t := tables[id]; t == nil {
			h.TableDropped(id)
		} else {
			h.TableChanged(t)
		}
	}
	h.mu.Lock()
	ids := make([]string, 0, len(h.users))
	for id := range h.users {
		ids = append(ids, id)
	}
	h.mu.Unlock()
	for _, id := range ids {
		if err := h.UserChanged(ctx, id, tables, users); err != nil {
			return err
		}
	}
	return nil
}

// UserChanged ends the subscriptions that a user no longer may have.
func (h *Hub) UserChanged(ctx context.Context, id string, tables map[uint32]*catalog.Table, users Users) error {
	subs := h.ofUser(id)
	if len(subs) == 0 {
		return nil
	}
	u, err := users.User(ctx, id)
	if err != nil {
		return err
	}
	for _, s := range subs {
		if u == nil || u.GetDeletedAtUs() != 0 {
			s.End(dberr.PermissionDenied, "the user was dropped")
			continue
		}
		role := catalog.Role(u.GetRole())
		if s.actor != "" {
			role = s.role // EXECUTE AS USER gives its own role, which the user's does not change
		}
		if t := tables[s.shape.Table().ID]; t != nil && !mayRead(t, role) {
			s.End(dberr.PermissionDenied, deniedText)
		}
	}
	return nil
}

// mayRead repeats what was checked when the subscription was planned (spec 6.2): the rows of one's own
// partition always, those of a shared table by its access level.
func mayRead(t *catalog.Table, role catalog.Role) bool {
	if t.Kind.PerUser() {
		return true
	}
	switch t.Access {
	case catalog.AccessPublic, catalog.AccessOpen:
		return role >= catalog.RoleUser
	case catalog.AccessPrivate, catalog.AccessRestricted:
		return role >= catalog.RoleService
	}
	return role.Admin()
}

func (h *Hub) ofUser(id string) []*Subscription {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []*Subscription
	for s := h.users[id]; s != nil; s = s.next {
		out = append(out, s)
	}
	return out
}

func (h *Hub) ofTable(id uint32) []*Partition {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []*Partition
	for _, shard := range h.partitions {
		for key, p := range shard {
			if key.Table == id {
				out = append(out, p)
			}
		}
	}
	return out
}

func (h *Hub) tables() []uint32 {
	h.mu.Lock()
	defer h.mu.Unlock()
	seen := map[uint32]bool{}
	var out []uint32
	for _, shard := range h.partitions {
		for key := range shard {
			if !seen[key.Table] {
				seen[key.Table] = true
				out = append(out, key.Table)
			}
		}
	}
	return out
}
