package sqlfront

import (
	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// RestoreUserRows is RESTORE USER name [IN NAMESPACE namespace] [TO USER name] AS OF TIMESTAMP 'timestamp'. RestoreUser is another thing: it
// takes back that an account was dropped.
type RestoreUserRows struct {
	Source
	User string
	// Namespace is empty for the tables of all.
	Namespace string
	// To is the user to write to; empty: User.
	To string
	// MomentUS is in microseconds since the Unix epoch.
	MomentUS int64
}

// Command names the statement.
func (*RestoreUserRows) Command() string { return "RESTORE USER AS OF" }

// restoreUserRows reads what follows RESTORE USER.
func (r *reader) restoreUserRows(src Source) (Statement, error) {
	s := &RestoreUserRows{Source: src}
	var err error
	if s.User, err = r.userID(); err != nil {
		return nil, err
	}
	if r.accept("in", "namespace") {
		if s.Namespace, err = r.identifier("the name of a namespace"); err != nil {
			return nil, err
		}
	}
	if r.accept("to", "user") {
		if s.To, err = r.userID(); err != nil {
			return nil, err
		}
		if s.To == s.User {
			return nil, r.fail(dberr.InvalidSQL, -1, "TO USER names another user than the one whose rows are restored: leave it out to restore the rows where they were")
		}
	}
	if err := r.expect("as", "of", "timestamp"); err != nil {
		return nil, err
	}
	text, err := r.text("a timestamp in quotes")
	if err != nil {
		return nil, err
	}
	d, err := datum.ParseText(catalog.Type{Kind: catalog.Timestamp}, text)
	if err != nil {
		return nil, r.fail(dberr.InvalidSQL, -1, "%w: write it as '2026-11-24 10:00:00' (in UTC) or with a zone, as '2026-11-24T11:00:00+01:00'", err)
	}
	s.MomentUS = d.AsInt()
	return r.end(s)
}
