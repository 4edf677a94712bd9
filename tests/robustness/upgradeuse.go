package robustness

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/tests/client"
)

// mixedTimeout bounds what is done between two replacements.
const mixedTimeout = time.Minute

// ask runs a statement as root at one gateway, again on what clients try again on.
func (u *Upgrade) ask(ctx context.Context, r *run, gateway, sql string) (*client.Result, error) {
	g := NewGateways([]string{gateway})
	g.watch = r.gateways.watch
	for {
		res, err := u.once(ctx, g, sql)
		if err == nil || ctx.Err() != nil || !slices.Contains(retriable, dberr.CodeOf(err)) {
			return res, err
		}
		pause(ctx, reopenPause)
	}
}

// askNew is ask for a table that has just been made. A query node learns about it a moment after the one that made
// it, and until then knows no such table, with or without an upgrade: that is counted and not judged.
func (u *Upgrade) askNew(ctx context.Context, out *UpgradeReport, gateway, sql string) (*client.Result, error) {
	g := NewGateways([]string{gateway})
	for again := false; ; {
		res, err := u.once(ctx, g, sql)
		code := dberr.CodeOf(err)
		if code == dberr.PrimaryKeyViolation && again {
			return res, nil // the attempt before had worked
		}
		if code == dberr.TableNotFound {
			out.Late++
		} else {
			out.Errors.see(ctx, sql, err)
			if err == nil || !slices.Contains(retriable, code) {
				return res, err
			}
			again = true
		}
		if ctx.Err() != nil {
			return nil, err
		}
		pause(ctx, reopenPause)
	}
}

func (u *Upgrade) once(ctx context.Context, g *Gateways, sql string) (*client.Result, error) {
	c, err := g.Dial("root", u.Root())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Exec(ctx, sql)
}

// useMixed makes a table at one gateway and uses it at both.
func (u *Upgrade) useMixed(ctx context.Context, r *run, out *UpgradeReport) error {
	ctx, cancel := context.WithTimeout(ctx, mixedTimeout)
	defer cancel()
	u.mixed++
	all := u.Gateways()
	one, other := all[u.mixed%len(all)], all[(u.mixed+1)%len(all)]
	table := fmt.Sprintf("%s.mixed%d", r.namespace, u.mixed)
	for _, s := range []struct{ gateway, sql string }{
		{one, "CREATE SHARED TABLE IF NOT EXISTS " + table + " (id BIGINT PRIMARY KEY, v BIGINT NOT NULL)"},
		{one, "INSERT INTO " + table + " (id, v) VALUES (1, 10)"},
		{other, "UPDATE " + table + " SET v = 11 WHERE id = 1"},
		{one, "UPDATE " + table + " SET v = 12 WHERE id = 1"},
	} {
		if _, err := u.askNew(ctx, out, s.gateway, s.sql); err != nil {
			return fmt.Errorf("%s: %w", s.sql, err)
		}
	}
	for _, gateway := range all {
		res, err := u.askNew(ctx, out, gateway, "SELECT id, v FROM "+table)
		if err != nil {
			return fmt.Errorf("read %s: %w", table, err)
		}
		if got := fmt.Sprint(res.Rows); got != "[[1 12]]" {
			return fmt.Errorf("%s holds %s at %s", table, got, gateway)
		}
	}
	return nil
}

// waitVersion returns when so many active nodes of a role say that they run a version: the new program has
// taken the node's place.
func (u *Upgrade) waitVersion(ctx context.Context, r *run, role, version string, want int) error {
	ctx, cancel := context.WithTimeout(ctx, mixedTimeout)
	defer cancel()
	sql := fmt.Sprintf("SELECT COUNT(*) FROM system.nodes WHERE role = '%s' AND status = 'active' AND version = '%s'", role, version)
	got := any(nil)
	for ctx.Err() == nil {
		res, err := u.ask(ctx, r, u.Gateways()[0], sql)
		if err != nil {
			return fmt.Errorf("ask for versions: %w", err)
		}
		if got = res.Rows[0][0]; got == int64(want) {
			return nil
		}
		pause(ctx, reopenPause)
	}
	return fmt.Errorf("%v of %d %s nodes are active with version %s", got, want, role, version)
}
