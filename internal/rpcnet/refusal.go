package rpcnet

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

const (
	// refusalPause is the least time between two lines about one role: who is refused calls again at once.
	refusalPause = time.Minute
	// refusalRolesMax bounds the roles remembered; a peer that knows the secret may call itself anything.
	refusalRolesMax = 32
)

// doorkeeper refuses callers whose role is not among those a server accepts, and says so in the log: a node at
// the wrong address is a mistake of whoever set the cluster up.
type doorkeeper struct {
	accepted []string // empty means all
	log      *slog.Logger
	now      func() time.Time

	mu   sync.Mutex
	told map[string]time.Time // by role
}

func newDoorkeeper(accepted []string, log *slog.Logger) *doorkeeper {
	return &doorkeeper{accepted: accepted, log: log, now: time.Now, told: map[string]time.Time{}}
}

// check lets everybody pass on networks that prove nothing.
func (d *doorkeeper) check(ctx context.Context, method string) error {
	p, known := PeerFromContext(ctx)
	if !known || len(d.accepted) == 0 || slices.Contains(d.accepted, p.Role) {
		return nil
	}
	if d.tell(p.Role) {
		d.log.WarnContext(ctx, "a node called what its role may not call", "role", p.Role, "name", p.Name, "method", method, "accepted", d.accepted)
	}
	return dberr.New(dberr.PermissionDenied, "a node of the role %q may not call this", p.Role)
}

// tell reports whether it is time for a line about a role.
func (d *doorkeeper) tell(role string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.now()
	if last, ok := d.told[role]; ok && now.Sub(last) < refusalPause {
		return false
	}
	for r, last := range d.told {
		if now.Sub(last) >= refusalPause {
			delete(d.told, r)
		}
	}
	if len(d.told) >= refusalRolesMax {
		return false
	}
	d.told[role] = now
	return true
}
