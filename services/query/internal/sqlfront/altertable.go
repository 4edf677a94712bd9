package sqlfront

import (
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// AlterTable is ALTER TABLE name with one change: one of the fields behind Table is set (spec 1.5).
type AlterTable struct {
	Source
	Table   Name
	Add     *catalog.Column
	Drop    string
	Rename  *RenameColumn
	Modify  *ModifyColumn
	NotNull *SetNotNull
	Default *SetDefault
	Access  catalog.AccessLevel
	Storage string
}

// RenameColumn is RENAME COLUMN column TO to.
type RenameColumn struct{ Column, To string }

// ModifyColumn is MODIFY COLUMN column type [NULL | NOT NULL]; NotNull is nil without the last.
type ModifyColumn struct {
	Column  string
	Type    catalog.Type
	NotNull *bool
}

// SetNotNull is ALTER COLUMN column SET or DROP NOT NULL.
type SetNotNull struct {
	Column  string
	NotNull bool
}

// SetDefault is ALTER COLUMN column SET DEFAULT, or without a value DROP DEFAULT.
type SetDefault struct {
	Column string
	Value  *DefaultClause
}

// DefaultClause is what follows SET DEFAULT. What it means depends on the column's type, which the text does not say.
type DefaultClause struct {
	Text string
	at   reader
}

// For is the default for a column.
func (d *DefaultClause) For(c *catalog.Column) (catalog.Default, error) {
	again, column := d.at, *c
	err := (&tableReader{reader: &again}).defaultClause(&column)
	return column.Default, err
}

// Command names the statement.
func (*AlterTable) Command() string { return "ALTER TABLE" }

// alterTable reads what follows ALTER TABLE.
func (r *reader) alterTable() (Statement, error) {
	s := &AlterTable{Source: r.source()}
	r.pos += 2
	var err error
	if s.Table, err = r.name("the name of a table"); err != nil {
		return nil, err
	}
	if index := r.vectorIndex(); index != "" {
		return &Later{Source: s.Source, Feature: "ALTER TABLE … " + index}, nil
	}
	if err := r.tableChange(s); err != nil {
		return nil, err
	}
	return s, r.onlyChange()
}

// vectorIndex names a change of an index, else "".
func (r *reader) vectorIndex() string {
	verb := r.word(0)
	if verb != "create" && verb != "drop" {
		return ""
	}
	if r.word(1) == "index" && r.at(2).kind != tokEnd || r.word(1) == "vector" && r.word(2) == "index" {
		return strings.ToUpper(verb) + " INDEX"
	}
	return ""
}

func (r *reader) tableChange(s *AlterTable) (err error) {
	switch {
	case r.accept("add"):
		r.columnWord()
		s.Add, err = r.addedColumn()
	case r.accept("drop"):
		r.columnWord()
		s.Drop, err = r.existingColumn()
	case r.accept("rename"):
		s.Rename, err = r.renamedColumn()
	case r.accept("modify"):
		r.columnWord()
		s.Modify, err = r.modifiedColumn()
	case r.accept("alter"):
		r.columnWord()
		err = r.columnSetting(s)
	case r.accept("set", "storage"):
		s.Storage, err = r.nameOrText("the id of a storage")
	case r.accept("set"):
		s.Access, err = r.tableAccess()
	default:
		err = r.unexpected("ADD, DROP, RENAME, MODIFY, ALTER COLUMN or SET")
	}
	return err
}

// columnWord reads COLUMN, which may be left out, unless it is the name of the column itself.
func (r *reader) columnWord() {
	if r.word(0) == "column" && (r.at(1).kind == tokWord || r.at(1).kind == tokQuoted) {
		r.pos++
	}
}

// existingColumn reads the name of a column that is there. Of the server's own none can be altered.
func (r *reader) existingColumn() (string, error) {
	if r.accept("if", "exists") || r.accept("if", "not", "exists") {
		return "", r.fail(dberr.Unsupported, -1, "IF [NOT] EXISTS is not supported in ALTER TABLE")
	}
	name, err := r.identifier("the name of a column")
	if err == nil && reservedColumns[name] {
		err = r.fail(dberr.InvalidSQL, -1, "column %q is a system column and cannot be altered", name)
	}
	return name, err
}

// addedColumn reads a column as CREATE TABLE does.
func (r *reader) addedColumn() (*catalog.Column, error) {
	if r.word(0) == "if" && r.word(1) == "not" && r.word(2) == "exists" {
		return nil, r.fail(dberr.Unsupported, 0, "IF NOT EXISTS is not supported in ALTER TABLE")
	}
	one := *r
	if end := r.changeEnd(); end < len(r.tokens) {
		one.tokens = r.tokens[:end:end] // a constraint's error then says what is wrong with it
	}
	t := tableReader{reader: &one, s: &CreateTable{}, byCol: map[string]int{}}
	err := t.column()
	r.pos = one.pos
	if err != nil {
		return nil, err
	}
	return &t.s.Columns[0], nil
}

// changeEnd is the position of what cannot belong to a column's declaration: a comma outside of parentheses, FIRST, AFTER.
func (r *reader) changeEnd() int {
	depth := 0
	for i := r.pos + 2; i < len(r.tokens); i++ {
		t := r.tokens[i]
		text := strings.ToLower(r.raw(t))
		switch {
		case t.kind == tokPunct && text == "(":
			depth++
		case t.kind == tokPunct && text == ")":
			depth--
		case depth == 0 && (t.kind == tokPunct && text == "," || t.kind == tokWord && (text == "first" || text == "after")):
			return i
		}
	}
	return len(r.tokens)
}

func (r *reader) renamedColumn() (*RenameColumn, error) {
	if r.word(0) == "to" {
		return nil, r.fail(dberr.Unsupported, 0, "renaming a table is not supported")
	}
	r.columnWord()
	from, err := r.existingColumn()
	if err != nil {
		return nil, err
	}
	if err := r.expect("to"); err != nil {
		return nil, err
	}
	to, err := r.identifier("the new name of the column")
	if err != nil {
		return nil, err
	}
	if err := checkColumnName(to); err != nil {
		return nil, r.fail(dberr.CodeOf(err), -1, "%w", err)
	}
	return &RenameColumn{Column: from, To: to}, nil
}

func (r *reader) modifiedColumn() (*ModifyColumn, error) {
	name, err := r.existingColumn()
	if err != nil {
		return nil, err
	}
	c := catalog.Column{Name: name}
	if err := (&tableReader{reader: r}).columnType(&c); err != nil {
		return nil, err
	}
	if c.Default.Kind != catalog.NoDefault {
		return nil, r.fail(dberr.InvalidSQL, -1, "column %q: a column cannot become SERIAL: give the integer type", name)
	}
	m := &ModifyColumn{Column: name, Type: c.Type}
	switch yes, no := true, false; {
	case r.accept("not", "null"):
		m.NotNull = &yes
	case r.accept("null"):
		m.NotNull = &no
	case r.word(0) == "default":
		return nil, r.fail(dberr.InvalidSQL, 0, "MODIFY takes a type and NULL or NOT NULL: use ALTER COLUMN %s SET DEFAULT", name)
	}
	return m, nil
}

// columnSetting reads what follows ALTER COLUMN.
func (r *reader) columnSetting(s *AlterTable) error {
	name, err := r.existingColumn()
	if err != nil {
		return err
	}
	switch {
	case r.accept("set", "not", "null"):
		s.NotNull = &SetNotNull{Column: name, NotNull: true}
	case r.accept("drop", "not", "null"):
		s.NotNull = &SetNotNull{Column: name}
	case r.accept("drop", "default"):
		s.Default = &SetDefault{Column: name}
	case r.accept("set", "default"):
		s.Default = &SetDefault{Column: name}
		s.Default.Value, err = r.newDefault(name)
	case r.word(0) == "type", r.word(0) == "set" && r.word(1) == "data":
		err = r.fail(dberr.Unsupported, 0, "ALTER COLUMN … TYPE is not supported: use MODIFY COLUMN %s and the type", name)
	default:
		err = r.unexpected("SET NOT NULL, DROP NOT NULL, SET DEFAULT or DROP DEFAULT")
	}
	return err
}

// newDefault reads a default for some column: any type that it fits shows where it ends.
func (r *reader) newDefault(column string) (*DefaultClause, error) {
	d := &DefaultClause{at: *r}
	probe := catalog.Column{Name: column, Type: catalog.Type{Kind: catalog.Text}}
	inner := *r
	for inner.acceptPunct("(") {
		continue
	}
	if f, ok := defaultFunctions[inner.word(0)]; ok {
		probe.Type.Kind = f.types[0]
	}
	from := r.at(0).start
	if err := (&tableReader{reader: r}).defaultClause(&probe); err != nil {
		return nil, err
	}
	d.Text = r.request[from:r.tokens[r.pos-1].end]
	return d, nil
}

// tableAccess reads ACCESS LEVEL level or TBLPROPERTIES (ACCESS_LEVEL = 'level').
func (r *reader) tableAccess() (catalog.AccessLevel, error) {
	properties := r.accept("tblproperties")
	if properties {
		if err := r.expectPunct("("); err != nil {
			return 0, err
		}
		if r.word(0) != "access_level" {
			return 0, r.fail(dberr.Unsupported, 0, "of a table's properties only ACCESS_LEVEL can be set")
		}
		r.pos++
		if err := r.expectPunct("="); err != nil {
			return 0, err
		}
	} else if err := r.expect("access", "level"); err != nil {
		return 0, err
	}
	t := tableReader{reader: r, s: &CreateTable{}}
	err := t.accessLevel()
	if err != nil {
		return 0, err
	}
	if properties {
		err = r.expectPunct(")")
	}
	return t.s.Access, err
}

// onlyChange refuses what follows a change.
func (r *reader) onlyChange() error {
	switch word := r.word(0); {
	case r.raw(r.at(0)) == ",":
		return r.fail(dberr.Unsupported, 0, "ALTER TABLE makes one change: use a statement for each")
	case word == "first", word == "after", word == "cascade", word == "restrict":
		return r.fail(dberr.Unsupported, 0, "%s is not supported in ALTER TABLE", strings.ToUpper(word))
	case !r.done():
		return r.unexpected("the end of the statement")
	}
	return nil
}
