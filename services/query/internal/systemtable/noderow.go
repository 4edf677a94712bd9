package systemtable

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// users pages through the catalog: there may be millions, and one page is held at a time.
func (t *Tables) users(catalog.Identity) pager {
	after, more := "", true
	return func(ctx context.Context) ([][]datum.Datum, error) {
		if !more {
			return nil, nil
		}
		resp, err := t.cfg.Users.ListUsers(ctx, &catalogv1.ListUsersRequest{AfterUserId: after, Limit: pageRows})
		if err != nil {
			return nil, err
		}
		users := resp.GetUsers()
		more = resp.GetHasMore() && len(users) > 0
		out := make([][]datum.Datum, 0, len(users))
		for _, u := range users {
			out = append(out, userRow(u))
			after = u.GetUserId()
		}
		return out, nil
	}
}

// maskedHash stands for every password hash, also for administrators.
const maskedHash = "***"

func userRow(u *catalogv1.User) []datum.Datum {
	return []datum.Datum{datum.Text(u.GetUserId()), datum.Text(maskedHash),
		datum.Text(catalog.Role(u.GetRole()).String()), datum.TextOrNull(u.GetEmail()), datum.Text(u.GetAuthType()),
		datum.TextOrNull(u.GetAuthData()), datum.Text(cmp.Or(u.GetStorageMode(), catalog.StorageModeTable)), datum.TextOrNull(u.GetStorageId()),
		datum.Int(int64(u.GetFailedLoginAttempts())),
		moment(u.GetLockedUntilUs()), moment(u.GetLastLoginAtUs()), datum.Timestamp(u.GetCreatedAtUs()),
		datum.Timestamp(u.GetUpdatedAtUs()), datum.Null, moment(u.GetDeletedAtUs()), datum.Text(u.GetUserId()),
		datum.TextOrNull(u.GetMetadata()), datum.Bool(u.GetAllowRemote())}
}

func (t *Tables) live(catalog.Identity) pager {
	return paged(func(ctx context.Context) ([][]datum.Datum, error) {
		all, err := t.cfg.Live.LiveQueries(ctx)
		if err != nil {
			return nil, err
		}
		var out [][]datum.Datum
		for _, q := range all {
			out = append(out, []datum.Datum{datum.Text(q.GetLiveId()), datum.Text(q.GetConnectionId()),
				datum.Text(q.GetSubscriptionId()), datum.Text(q.GetNamespace()), datum.Text(q.GetTable()),
				datum.Text(q.GetUserId()), datum.Text(q.GetQuery()), datum.TextOrNull(q.GetOptionsJson()),
				datum.Text(q.GetStatus()), datum.Timestamp(q.GetCreatedAtUs()), datum.Timestamp(q.GetLastUpdateUs()),
				datum.Int(int64(q.GetChanges())), datum.Int(int64(q.NodeID)), datum.Null})
		}
		return out, nil
	})
}

// stats joins the roles' own counters. A role that cannot be reached is an error: a list that is short
// without saying so would mislead.
func (t *Tables) stats(catalog.Identity) pager {
	return paged(func(ctx context.Context) ([][]datum.Datum, error) {
		storage, err := t.cfg.Storage.StorageStats(ctx)
		if err != nil {
			return nil, err
		}
		live, err := t.cfg.Live.LiveStats(ctx)
		if err != nil {
			return nil, err
		}
		all := map[string]string{}
		maps.Copy(all, storage)
		maps.Copy(all, live)
		if t.cfg.Own != nil {
			maps.Copy(all, t.cfg.Own())
		}
		var out [][]datum.Datum
		for _, name := range slices.Sorted(maps.Keys(all)) {
			out = append(out, []datum.Datum{datum.Text(name), datum.Text(all[name])})
		}
		return out, nil
	})
}

func (t *Tables) settings(catalog.Identity) pager {
	return paged(func(context.Context) ([][]datum.Datum, error) {
		var out [][]datum.Datum
		for _, k := range t.cfg.Settings {
			category, _, _ := strings.Cut(k.Name, ".")
			out = append(out, []datum.Datum{datum.Text(k.Name), datum.Text(k.Value()), datum.Text(k.Doc), datum.Text(category)})
		}
		return out, nil
	})
}

// datatypeRows is spec 1.6.
var datatypeRows = [][4]string{
	{"Boolean", "Boolean", "BOOLEAN", "true or false"},
	{"Int16", "SmallInt", "SMALLINT", "16-bit integer"},
	{"Int32", "Int", "INT", "32-bit integer"},
	{"Int64", "BigInt", "BIGINT", "64-bit integer"},
	{"Float32", "Float", "FLOAT", "32-bit floating point number"},
	{"Float64", "Double", "DOUBLE", "64-bit floating point number"},
	{"Decimal128(precision, scale)", "Decimal", "DECIMAL(precision, scale)", "exact number, at most 38 digits"},
	{"Utf8", "Text", "TEXT", "text"},
	{"Binary", "Bytes", "BYTES", "binary data"},
	{"Utf8", "Json", "JSON", "JSON text"},
	{"Timestamp(Microsecond)", "Timestamp", "TIMESTAMP", "point in time, microseconds since the Unix epoch"},
	{"Timestamp(Microsecond, UTC)", "DateTime", "DATETIME", "point in time in UTC, microseconds since the Unix epoch"},
	{"Date32", "Date", "DATE", "day, counted from the Unix epoch"},
	{"Time64(Microsecond)", "Time", "TIME", "time of day, microseconds since midnight"},
	{"FixedSizeBinary(16)", "Uuid", "UUID", "universally unique identifier"},
	{"FixedSizeList(Float32, dimension)", "Embedding", "EMBEDDING(dimension)", "vector of 1 to 8192 numbers"},
	{"Utf8", "File", "FILE", "reference to a file, as JSON"},
}

func (t *Tables) datatypes(catalog.Identity) pager {
	return paged(func(context.Context) ([][]datum.Datum, error) {
		var out [][]datum.Datum
		for _, r := range datatypeRows {
			out = append(out, []datum.Datum{datum.Text(r[0]), datum.Text(r[1]), datum.Text(r[2]), datum.Text(r[3])})
		}
		return out, nil
	})
}
