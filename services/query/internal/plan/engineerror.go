package plan

import (
	"errors"
	"regexp"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/query/internal/engine"
)

// What the engine says about names it cannot find.
var (
	noColumn      = regexp.MustCompile(`^(?:Referenced column "([^"]*)" (?:was )?not found|Column "([^"]*)" referenced that exists in the SELECT clause)`)
	noTableColumn = regexp.MustCompile(`^(?:Table|Values list) "([^"]*)" does not have a column named "([^"]*)"`)
	noTable       = regexp.MustCompile(`^Referenced table "([^"]*)" not found`)
	ambiguous     = regexp.MustCompile(`^Ambiguous reference to column name "([^"]*)"`)
)

// ExplainError gives an error of the engine about a name PostgreSQL's words and a place in the user's
// text; the engine knows only the rewritten one. Other errors stay as they are.
func (p *Plan) ExplainError(err error) error {
	var e *engine.Error
	if !errors.As(err, &e) || !dberr.Is(err, dberr.InvalidSQL) {
		return err
	}
	message := foldNames(e.Message)
	if m := noTableColumn.FindStringSubmatch(message); m != nil {
		return p.named(dberr.New(dberr.ColumnNotFound, "column %s.%s does not exist", m[1], m[2]), m[1], m[2])
	}
	if m := noColumn.FindStringSubmatch(message); m != nil {
		name := m[1] + m[2] // one of the two forms matched
		return p.named(dberr.New(dberr.ColumnNotFound, "column \"%s\" does not exist", name), "", name)
	}
	if m := noTable.FindStringSubmatch(message); m != nil {
		return p.named(dberr.New(dberr.InvalidSQL, "missing FROM-clause entry for table \"%s\"", m[1]), m[1], "")
	}
	if m := ambiguous.FindStringSubmatch(message); m != nil {
		return p.named(dberr.New(dberr.InvalidSQL, "column reference \"%s\" is ambiguous", m[1]), "", m[1])
	}
	return err
}

var quotedName = regexp.MustCompile(`"[^"]*"`)

// foldNames undoes the capitals of quoteKeywords.
func foldNames(message string) string {
	return quotedName.ReplaceAllStringFunc(message, strings.ToLower)
}

// named adds the place where the text first uses a name; an empty table or column is not compared.
func (p *Plan) named(err *dberr.Error, table, column string) error {
	for _, r := range p.refs {
		if (table == "" || r.table == table) && (column == "" || r.column == column) {
			return err.At(p.locate(r.location))
		}
	}
	return err
}
