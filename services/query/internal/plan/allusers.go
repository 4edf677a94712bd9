package plan

import (
	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
)

// acrossUsers reads all_users(namespace.table) as the table it names; ok is false when FROM calls
// another function.
func acrossUsers(f *pg.RangeFunction) (table *pg.RangeVar, ok bool, err error) {
	fn := sqlfront.AllUsersCall(f)
	if fn == nil {
		return nil, false, nil
	}
	wrong := dberr.New(dberr.InvalidSQL, "%s takes the name of one table: %s(namespace.table)", sqlfront.AllUsers, sqlfront.AllUsers)
	if len(fn.GetArgs()) != 1 || fn.GetAggDistinct() || fn.GetAggFilter() != nil || fn.GetOver() != nil || len(fn.GetAggOrder()) > 0 ||
		f.GetIsRowsfrom() || f.GetOrdinality() || len(f.GetColdeflist()) > 0 {
		return nil, false, wrong
	}
	parts, star := path(fn.GetArgs()[0].GetColumnRef())
	if star || len(parts) == 0 || len(parts) > 3 {
		return nil, false, wrong
	}
	v := &pg.RangeVar{Relname: parts[len(parts)-1], Alias: f.GetAlias(), Location: fn.GetLocation()}
	if len(parts) > 1 {
		v.Schemaname = parts[len(parts)-2]
	}
	if len(parts) > 2 {
		v.Catalogname = parts[0]
	}
	return v, true, nil
}

// spanUsers makes a scan of one user's rows one of every user's.
func (p *planning) spanUsers(scan *Scan, v *pg.RangeVar) error {
	if scan.Table == nil || scan.Table.Kind != catalog.UserTable {
		return p.at(dberr.New(dberr.InvalidOperation, "%s reads USER tables; %s is none", sqlfront.AllUsers, v.GetRelname()), v.GetLocation())
	}
	owner, ok := scan.Table.AnyColumn(catalog.UserIDColumnID)
	if !ok {
		return dberr.New(dberr.Internal, "plan: no column names the owner of a row")
	}
	scan.AllUsers = true
	at := len(scan.EngineColumns()) // before the hidden key
	scan.Columns = append(scan.Columns[:at:at], append([]catalog.Column{*owner}, scan.Columns[at:]...)...)
	return nil
}
