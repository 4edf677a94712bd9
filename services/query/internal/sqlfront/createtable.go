package sqlfront

import (
	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

var tableKinds = map[string]catalog.TableKind{"user": catalog.UserTable, "shared": catalog.SharedTable,
	"stream": catalog.StreamTable}

// tableReader reads CREATE TABLE.
type tableReader struct {
	*reader
	s     *CreateTable
	byCol map[string]int
	// keyAt is where the key was declared, to refuse a second declaration.
	keyed bool
}

func (r *reader) createTable() (Statement, error) {
	t := tableReader{reader: r, s: &CreateTable{Source: r.source(), SeedGrammar: true}, byCol: map[string]int{}}
	r.pos++
	t.s.Kind = r.tableKind()
	if err := r.expect("table"); err != nil {
		return nil, err
	}
	t.s.IfNotExists = r.ifNotExists()
	var err error
	if t.s.Table, err = r.name("the name of a table"); err != nil {
		return nil, err
	}
	if err := checkName("table", t.s.Table.Name); err != nil {
		return nil, r.fail(dberr.CodeOf(err), -1, "%w", err)
	}
	if err := t.elements(); err != nil {
		return nil, err
	}
	if err := t.clauses(); err != nil {
		return nil, err
	}
	return t.s, nil
}

func (r *reader) tableKind() catalog.TableKind {
	kind := tableKinds[r.word(0)]
	if kind != 0 {
		r.pos++
	}
	return kind
}

func (r *reader) dropTable() (Statement, error) {
	s := &DropTable{Source: r.source()}
	r.pos++
	s.Kind = r.tableKind()
	if err := r.expect("table"); err != nil {
		return nil, err
	}
	s.IfExists = r.ifExists()
	var err error
	if s.Table, err = r.name("the name of a table"); err != nil {
		return nil, err
	}
	return r.end(s)
}

// elements reads the parenthesized list of columns and table constraints; a trailing comma is fine.
func (t *tableReader) elements() error {
	if err := t.expectPunct("("); err != nil {
		return err
	}
	for !t.acceptPunct(")") {
		if err := t.element(); err != nil {
			return err
		}
		if !t.acceptPunct(",") {
			if err := t.expectPunct(")"); err != nil {
				return err
			}
			break
		}
	}
	if len(t.s.Columns) == 0 {
		return t.fail(dberr.InvalidSQL, -1, "a table needs at least one column")
	}
	return nil
}

func (t *tableReader) element() error {
	if t.word(0) == "constraint" {
		t.pos++
		if _, err := t.identifier("the name of a constraint"); err != nil {
			return err
		}
	}
	next := t.raw(t.at(1))
	switch first := t.word(0); {
	case first == "primary" && t.word(1) == "key":
		return t.primaryKeyClause()
	case first == "unique" && next == "(":
		return t.uniqueClause()
	case first == "check" && next == "(", first == "exclude" && next != "":
		return t.fail(dberr.Unsupported, 0, "CHECK and EXCLUDE constraints are not supported")
	case first == "foreign" && t.word(1) == "key":
		return t.fail(dberr.Unsupported, 0, "FOREIGN KEY constraints are not supported")
	case (first == "index" || first == "key") && next == "(":
		return t.fail(dberr.Unsupported, 0, "indexes are not supported")
	}
	return t.column()
}

// columnList reads (a, b, …) and gives the positions of declared columns.
func (t *tableReader) columnList() ([]int, error) {
	if err := t.expectPunct("("); err != nil {
		return nil, err
	}
	var out []int
	for {
		name, err := t.identifier("the name of a column")
		if err != nil {
			return nil, err
		}
		i, ok := t.byCol[name]
		if !ok {
			return nil, t.fail(dberr.InvalidSQL, -1, "column %q is not declared before this constraint", name)
		}
		out = append(out, i)
		t.accept("asc")
		if t.acceptPunct(")") {
			return out, nil
		}
		if err := t.expectPunct(","); err != nil {
			return nil, err
		}
		if t.acceptPunct(")") {
			return out, nil
		}
	}
}

// primaryKeyClause reads PRIMARY KEY (…). The key's columns are kept in the order of the table, so a
// composite key in another order is refused.
func (t *tableReader) primaryKeyClause() error {
	t.pos += 2
	columns, err := t.columnList()
	if err != nil {
		return err
	}
	if err := t.onlyKey(); err != nil {
		return err
	}
	for n, i := range columns {
		if n > 0 && i <= columns[n-1] {
			return t.fail(dberr.Unsupported, -1, "the columns of a composite PRIMARY KEY must be in the order of the table")
		}
		t.s.Columns[i].PrimaryKey, t.s.Columns[i].NotNull = true, true
	}
	return nil
}

func (t *tableReader) onlyKey() error {
	if t.keyed {
		return t.fail(dberr.InvalidSQL, -1, "a table has one PRIMARY KEY")
	}
	t.keyed = true
	return nil
}

func (t *tableReader) uniqueClause() error {
	t.pos++
	columns, err := t.columnList()
	if err != nil {
		return err
	}
	if len(columns) > 1 {
		return t.fail(dberr.Unsupported, -1, "UNIQUE over several columns is not supported")
	}
	t.s.Columns[columns[0]].Unique = true
	return nil
}

func (t *tableReader) column() error {
	name, err := t.identifier("the name of a column")
	if err != nil {
		return err
	}
	if err := checkColumnName(name); err != nil {
		return t.fail(dberr.CodeOf(err), -1, "%w", err)
	}
	if _, ok := t.byCol[name]; ok {
		return t.fail(dberr.InvalidSQL, -1, "column %q is declared more than once", name)
	}
	c := catalog.Column{Name: name}
	if err := t.columnType(&c); err != nil {
		return err
	}
	given := map[string]bool{}
	for t.at(0).kind == tokWord {
		if err := t.constraint(&c, given); err != nil {
			return err
		}
	}
	if given["null"] && c.NotNull {
		return t.fail(dberr.InvalidSQL, -1, "column %q is declared NULL and NOT NULL", name)
	}
	t.byCol[name] = len(t.s.Columns)
	t.s.Columns = append(t.s.Columns, c)
	return nil
}

// constraint reads one constraint of a column; each may be given once.
func (t *tableReader) constraint(c *catalog.Column, given map[string]bool) error {
	once := func(what string) error {
		if given[what] {
			return t.fail(dberr.InvalidSQL, -1, "column %q has two %s clauses", c.Name, what)
		}
		given[what] = true
		return nil
	}
	switch {
	case t.accept("constraint"):
		_, err := t.identifier("the name of a constraint")
		return err
	case t.accept("not", "null"):
		c.NotNull = true
		return once("NOT NULL")
	case t.accept("null"):
		return once("null")
	case t.accept("primary", "key"):
		c.PrimaryKey, c.NotNull = true, true
		return t.onlyKey()
	case t.accept("unique"):
		t.accept("key")
		c.Unique = true
		return once("UNIQUE")
	case t.accept("default"):
		if err := once("DEFAULT"); err != nil {
			return err
		}
		return t.defaultClause(c)
	case t.accept("auto_increment"), t.accept("autoincrement"), t.accept("identity"):
		if err := once("DEFAULT"); err != nil {
			return err
		}
		return t.generated(c)
	case t.accept("generated"):
		if err := once("DEFAULT"); err != nil {
			return err
		}
		return t.identityClause(c)
	}
	if what, ok := refusedConstraints[t.word(0)]; ok {
		return t.fail(dberr.Unsupported, 0, "%s is not supported", what)
	}
	return t.unexpected("a column constraint, \",\" or \")\"")
}

var refusedConstraints = map[string]string{"check": "CHECK", "references": "FOREIGN KEY (REFERENCES)",
	"collate": "COLLATE", "comment": "a COMMENT on a column", "character": "CHARACTER SET", "on": "ON UPDATE",
	"storage": "STORAGE of a column", "compression": "COMPRESSION of a column"}

// identityClause reads what follows GENERATED: ALWAYS or BY DEFAULT, AS IDENTITY, options.
func (t *tableReader) identityClause(c *catalog.Column) error {
	if !t.accept("always") && !t.accept("by", "default") {
		return t.unexpected("ALWAYS or BY DEFAULT")
	}
	if t.word(0) == "as" && t.raw(t.at(1)) == "(" {
		return t.fail(dberr.Unsupported, 1, "computed columns are not supported")
	}
	if err := t.expect("as", "identity"); err != nil {
		return err
	}
	return t.generated(c)
}

// generated makes the column's DEFAULT a snowflake id; start and step mean nothing to one.
func (t *tableReader) generated(c *catalog.Column) error {
	if !isIntegerType(c.Type) {
		return t.fail(dberr.InvalidSQL, -1, "column %q is %s: only integers are generated", c.Name, c.Type)
	}
	if t.raw(t.at(0)) == "(" {
		return t.fail(dberr.Unsupported, 0, "options of IDENTITY are not supported: ids are snowflakes")
	}
	c.Default = catalog.Default{Kind: catalog.DefaultSnowflakeID}
	return nil
}

func isIntegerType(t catalog.Type) bool {
	return t.Kind == catalog.SmallInt || t.Kind == catalog.Int || t.Kind == catalog.BigInt
}
