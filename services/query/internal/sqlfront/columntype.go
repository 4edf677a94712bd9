package sqlfront

import (
	"strconv"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

var serials = set(`serial smallserial bigserial serial2 serial4 serial8`)

// typeTails are the second words of types of several words.
var typeTails = map[string][]string{"double": {"precision"}, "character": {"varying"}, "char": {"varying"},
	"unsigned": {"int", "integer", "bigint", "smallint", "tinyint", "mediumint"}}

// columnType reads a type with its parameters: DECIMAL(10,2), DOUBLE PRECISION, INT UNSIGNED,
// TIMESTAMP(6) WITH TIME ZONE.
func (t *tableReader) columnType(c *catalog.Column) error {
	start := t.pos
	name, err := t.identifier("the type of column " + c.Name)
	if err != nil {
		return err
	}
	first := name
	for _, tail := range typeTails[first] {
		if t.accept(tail) {
			name += " " + tail
			break
		}
	}
	params, err := t.typeParams()
	if err != nil {
		return err
	}
	switch {
	case t.accept("unsigned"):
		name += " unsigned"
		params = nil // a display width, as in INT(11) UNSIGNED
	case t.accept("with", "time", "zone"):
		name += " with time zone"
	case t.accept("without", "time", "zone"):
		name += " without time zone"
	}
	if t.raw(t.at(0)) == "[" || t.word(0) == "array" {
		return t.fail(dberr.Unsupported, 0, "array types are not supported")
	}
	if c.Type, err = catalog.ParseType(name, params); err != nil {
		return t.fail(dberr.CodeOf(err), start-t.pos, "column %q: %w", c.Name, err)
	}
	if serials[first] {
		c.NotNull = true
		c.Default = catalog.Default{Kind: catalog.DefaultSnowflakeID}
	}
	return nil
}

// typeParams reads (n, …); a type has at most two.
func (t *tableReader) typeParams() ([]int, error) {
	if !t.acceptPunct("(") {
		return nil, nil
	}
	var out []int
	for {
		n, err := t.count("a type's parameter")
		if err != nil {
			return nil, err
		}
		if n > 1<<30 {
			return nil, t.fail(dberr.InvalidSQL, -1, "a type's parameter is too large")
		}
		out = append(out, int(n))
		if t.acceptPunct(")") {
			return out, nil
		}
		if err := t.expectPunct(","); err != nil {
			return nil, err
		}
	}
}

// defaultFunctions are the functions DEFAULT may call. Those of bare may be written without ().
var defaultFunctions = map[string]struct {
	kind  catalog.DefaultKind
	bare  bool
	types []catalog.TypeKind
}{
	"now":               {catalog.DefaultNow, false, instantTypes},
	"current_timestamp": {catalog.DefaultNow, true, instantTypes},
	"localtimestamp":    {catalog.DefaultNow, true, instantTypes},
	"snowflake_id":      {catalog.DefaultSnowflakeID, false, []catalog.TypeKind{catalog.SmallInt, catalog.Int, catalog.BigInt}},
	"uuid_v7":           {catalog.DefaultUUIDV7, false, []catalog.TypeKind{catalog.Text, catalog.UUID}},
	"ulid":              {catalog.DefaultULID, false, []catalog.TypeKind{catalog.Text}},
	"current_user":      {catalog.DefaultCurrentUser, true, []catalog.TypeKind{catalog.Text}},
	"current_user_id":   {catalog.DefaultCurrentUser, false, []catalog.TypeKind{catalog.Text}},
}

var instantTypes = []catalog.TypeKind{catalog.Timestamp, catalog.DateTime}

// defaultClause reads what follows DEFAULT: a literal or one of the functions above.
func (t *tableReader) defaultClause(c *catalog.Column) error {
	if t.acceptPunct("(") {
		if err := t.defaultClause(c); err != nil {
			return err
		}
		return t.expectPunct(")")
	}
	if f, ok := defaultFunctions[t.word(0)]; ok {
		name := t.word(0)
		t.pos++
		if !t.acceptPunct("(") {
			if !f.bare {
				return t.unexpected("\"(\" after " + strings.ToUpper(name))
			}
		} else if err := t.expectPunct(")"); err != nil {
			return err
		}
		for _, k := range f.types {
			if k == c.Type.Kind {
				c.Default = catalog.Default{Kind: f.kind}
				return nil
			}
		}
		return t.fail(dberr.InvalidSQL, -1, "DEFAULT %s() does not fit column %q of type %s", strings.ToUpper(name), c.Name, c.Type)
	}
	if t.at(0).kind == tokWord && t.raw(t.at(1)) == "(" {
		return t.fail(dberr.InvalidSQL, 0, "unknown function %s() in DEFAULT: use NOW, SNOWFLAKE_ID, UUID_V7, ULID or CURRENT_USER",
			strings.ToUpper(t.word(0)))
	}
	return t.defaultLiteral(c)
}

func (t *tableReader) defaultLiteral(c *catalog.Column) error {
	start := t.pos
	d, err := t.literal()
	if err != nil {
		return err
	}
	if t.acceptPunct("::") { // 'x'::text: the column's type decides anyway
		var same catalog.Column
		if err := t.columnType(&same); err != nil {
			return err
		}
		if d, err = datum.Convert(d, same.Type); err != nil {
			return t.fail(dberr.InvalidSQL, start-t.pos, "DEFAULT of column %q: %w", c.Name, err)
		}
	}
	if d.IsNull() {
		c.Default = catalog.Default{}
		return nil
	}
	v, err := datum.Convert(d, c.Type)
	if err != nil {
		return t.fail(dberr.InvalidSQL, start-t.pos, "DEFAULT of column %q: %w", c.Name, err)
	}
	c.Default = catalog.Default{Kind: catalog.DefaultLiteral, Literal: datum.Append(nil, v)}
	return nil
}

// literal reads a constant.
func (t *tableReader) literal() (datum.Datum, error) {
	switch {
	case t.accept("true"):
		return datum.Bool(true), nil
	case t.accept("false"):
		return datum.Bool(false), nil
	case t.accept("null"):
		return datum.Null, nil
	case t.at(0).kind == tokString:
		s, err := t.text("a default")
		return datum.Text(s), err
	}
	sign := ""
	if t.acceptPunct("-") {
		sign = "-"
	} else {
		t.acceptPunct("+")
	}
	if t.at(0).kind != tokNumber {
		return datum.Null, t.unexpected("a literal or a function for DEFAULT")
	}
	digits := sign + t.raw(t.at(0))
	t.pos++
	if v, err := strconv.ParseInt(digits, 10, 64); err == nil {
		return datum.Int(v), nil
	}
	if d, err := datum.ParseDecimal(digits); err == nil {
		return d, nil
	}
	d, err := datum.ParseText(catalog.Type{Kind: catalog.Double}, digits)
	if err != nil {
		return datum.Null, t.fail(dberr.InvalidSQL, -1, "%w", err)
	}
	return d, nil
}
