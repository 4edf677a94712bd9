package sqlfront

import (
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// nameMax bounds names of namespaces, tables and columns (spec 1.1).
const nameMax = 64

func set(words string) map[string]bool {
	out := map[string]bool{}
	for _, w := range strings.Fields(words) {
		out[w] = true
	}
	return out
}

// reservedNamespaces cannot be created (spec 1.1).
var reservedNamespaces = set(`system sys root kalamdb kalam main default sql admin internal information_schema
	pg_catalog datafusion`)

// reservedColumns cannot be declared (spec 1.1).
var reservedColumns = set(`_seq _deleted _id _row_id _rowid _key _updated _created _timestamp _version _hash`)

// reservedWords are PostgreSQL's reserved keywords: they mean something else wherever a name may stand.
var reservedWords = set(`all analyse analyze and any array as asc asymmetric authorization binary both case cast check
	collate collation column concurrently constraint create cross current_catalog current_date current_role
	current_schema current_time current_timestamp current_user default deferrable desc distinct do else end except
	false fetch for foreign freeze from full grant group having ilike in initially inner intersect into is isnull
	join lateral leading left like limit localtime localtimestamp natural not notnull null offset on only or order
	outer overlaps placing primary references returning right select session_user similar some symmetric table
	tablesample then to trailing true union unique user using variadic verbose when where window with`)

// checkName applies the rules of spec 1.1 to a folded name.
func checkName(what, name string) error {
	switch {
	case name == "":
		return dberr.New(dberr.InvalidSQL, "the name of a %s must not be empty", what)
	case len(name) > nameMax:
		return dberr.New(dberr.InvalidSQL, "%s name %.16q… is longer than %d characters", what, name, nameMax)
	case name[0] == '_' || name[0] >= '0' && name[0] <= '9':
		return dberr.New(dberr.InvalidSQL, "%s name %q must begin with a letter", what, name)
	case reservedWords[name]:
		return dberr.New(dberr.InvalidSQL, "%s name %q is a reserved word of SQL", what, name)
	}
	for _, c := range name {
		if c != '_' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return dberr.New(dberr.InvalidSQL, "%s name %q may hold letters, digits and _ only", what, name)
		}
	}
	return nil
}

func checkColumnName(name string) error {
	if reservedColumns[name] {
		return dberr.New(dberr.InvalidSQL, "column name %q is reserved", name)
	}
	return checkName("column", name)
}

func checkNamespaceName(name string) error {
	if reservedNamespaces[name] {
		return dberr.New(dberr.InvalidSQL, "namespace name %q is reserved", name)
	}
	return checkName("namespace", name)
}
