package maintenance

import (
	"context"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/access"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
	"github.com/kalamdb/kalamdb-go/services/query/internal/systemtable"
)

// RestoreUser executes RESTORE USER … AS OF TIMESTAMP. What it refuses, the job would refuse as well: but whoever asks is told at once.
func (j *Jobs) RestoreUser(ctx context.Context, id catalog.Identity, s *sqlfront.RestoreUserRows) (string, error) {
	if err := access.Can(id.Role, access.ManageBackups); err != nil {
		return "", err
	}
	p := catalog.RestoreUserJob{User: s.User, To: s.To, Namespace: s.Namespace, MomentUS: s.MomentUS}
	moment := time.UnixMicro(p.MomentUS).UTC()
	if now := j.Now(); moment.After(now) {
		return "", dberr.New(dberr.InvalidArgument, "%s is in the future (it is %s, in UTC): name a moment that was", moment.Format(momentLayout), now.UTC().Format(momentLayout))
	}
	if err := j.restorable(ctx, id, p.User); err != nil {
		return "", err
	}
	if p.To != "" {
		if err := j.restorable(ctx, id, p.To); err != nil {
			return "", err
		}
	}
	if err := j.checkRestoreUser(ctx, &p); err != nil {
		return "", err
	}
	job, err := j.startWith(ctx, id, catalog.JobRestoreUser, catalog.JobRestoreUserPrefix, catalog.RestoreUserKey(p.Target()), p.Namespace, p)
	if dberr.Is(err, dberr.AlreadyExists) {
		return "", dberr.New(dberr.AlreadyExists, "a restore of user '%s' is already queued or running", p.Target())
	}
	if err != nil {
		return "", err
	}
	return "Restore started for user '" + p.User + "' as of " + moment.Format(momentLayout) + ". Job ID: " + job, nil
}

const momentLayout = "2006-01-02 15:04:05.000"

// restorable refuses a user who is not there, or whose rows the caller may not change.
func (j *Jobs) restorable(ctx context.Context, id catalog.Identity, user string) error {
	resp, err := j.Catalog.Client().GetUser(ctx, &catalogv1.GetUserRequest{UserId: user})
	if err != nil {
		return err
	}
	u := resp.GetUser()
	if u == nil || u.GetDeletedAtUs() != 0 {
		return dberr.New(dberr.UserNotFound, "User '%s' does not exist", user)
	}
	if catalog.Role(u.GetRole()) == catalog.RoleSystem {
		return access.Can(id.Role, access.GrantSystem)
	}
	return nil
}

// checkRestoreUser asks the users' shards.
func (j *Jobs) checkRestoreUser(ctx context.Context, p *catalog.RestoreUserJob) error {
	state := j.Catalog.State()
	if p.Namespace != "" {
		if systemtable.IsSystem(p.Namespace) {
			return dberr.New(dberr.InvalidOperation, "namespace '%s' has system tables only: users have no rows there", p.Namespace)
		}
		if _, ok := state.Namespaces[p.Namespace]; !ok {
			return dberr.New(dberr.NamespaceNotFound, "Namespace '%s' does not exist", p.Namespace)
		}
	}
	req := &storagev1.CheckRestoreUserRequest{UserId: p.User, MomentUs: p.MomentUS, Shard: state.Shards.User(p.User), CatalogVersion: state.Version}
	for id, t := range state.Tables {
		if t.Kind == catalog.UserTable && (p.Namespace == "" || t.Namespace == p.Namespace) {
			req.TableIds = append(req.TableIds, id)
		}
	}
	if _, err := j.CheckRestoreUser(ctx, req); err != nil || p.To == "" {
		return err
	}
	_, err := j.CheckRestoreUser(ctx, &storagev1.CheckRestoreUserRequest{UserId: p.To, Into: true, TableIds: req.TableIds,
		Shard: state.Shards.User(p.To), CatalogVersion: state.Version})
	return err
}
