package dml

import (
	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
)

// Limits of bind parameters (spec 1.1).
const (
	paramsMax     = 50
	paramBytesMax = 512 << 10
)

// Params checks and converts bind parameters.
func Params(in []*queryv1.Param) ([]datum.Datum, error) {
	if len(in) > paramsMax {
		return nil, dberr.New(dberr.LimitExceeded, "%d parameters are given, at most %d are allowed", len(in), paramsMax)
	}
	if len(in) == 0 {
		return nil, nil
	}
	out := make([]datum.Datum, len(in))
	for i, p := range in {
		if n := max(len(p.GetText()), len(p.GetBinary())); n > paramBytesMax {
			return nil, dberr.New(dberr.LimitExceeded, "parameter $%d has %d bytes, at most %d are allowed", i+1, n, paramBytesMax)
		}
		out[i] = paramDatum(p)
	}
	return out, nil
}

func paramDatum(p *queryv1.Param) datum.Datum {
	switch v := p.GetValue().(type) {
	case *queryv1.Param_Boolean:
		return datum.Bool(v.Boolean)
	case *queryv1.Param_Integer:
		return datum.Int(v.Integer)
	case *queryv1.Param_Float:
		return datum.Float(v.Float)
	case *queryv1.Param_Text:
		return datum.Text(v.Text)
	case *queryv1.Param_Binary:
		return datum.Bytes(v.Binary)
	}
	return datum.Null
}

// put converts a value to its column's type and sets it. Row counts from 1.
func (b *batch) put(position int, v datum.Datum, row int) error {
	c := &b.table.Columns[position]
	if v.Kind() != datum.KindOf(c.Type) || !plain(c.Type) {
		var err error
		if v, err = datum.Convert(v, c.Type); err != nil {
			return assignError(err, c, row)
		}
	}
	b.row.Put(position, v)
	return nil
}

// plain reports whether every value of the type's kind is a value of the type, so that nothing needs
// to be checked.
func plain(t catalog.Type) bool {
	switch t.Kind {
	case catalog.Boolean, catalog.BigInt, catalog.Double, catalog.Text, catalog.Bytes, catalog.Timestamp,
		catalog.DateTime, catalog.Date, catalog.Time, catalog.UUID:
		return true
	}
	return false
}

func assignError(err error, c *catalog.Column, row int) error {
	return dberr.New(dberr.CodeOf(err), "column '%s' (%s), row %d: %w", c.Name, c.Type, row, err)
}

// writable finds a column by name for a list of columns to write. System columns and the hidden key
// belong to the server.
func writable(t *catalog.Table, name string) (int, error) {
	if c, ok := t.Column(name); ok {
		for i := range t.Columns {
			if &t.Columns[i] == c {
				return i, nil
			}
		}
	}
	if _, ok := catalog.SystemColumn(name); ok || name == catalog.HiddenKeyColumn {
		return 0, dberr.New(dberr.InvalidOperation, "column '%s' is set by the server and cannot be written", name)
	}
	return 0, dberr.New(dberr.ColumnNotFound, "column \"%s\" of relation \"%s\" does not exist", name, t.QualifiedName())
}

// writableAll finds a list of columns, each named once. No list means all columns, in order.
func writableAll(t *catalog.Table, names []string) ([]int, error) {
	if len(names) == 0 {
		positions := make([]int, 0, len(t.Columns))
		for i := range t.Columns {
			if !t.Columns[i].Hidden {
				positions = append(positions, i)
			}
		}
		return positions, nil
	}
	positions := make([]int, len(names))
	seen := make(map[int]bool, len(names))
	for i, name := range names {
		p, err := writable(t, name)
		if err != nil {
			return nil, err
		}
		if seen[p] {
			return nil, dberr.New(dberr.InvalidSQL, "column \"%s\" is named more than once", name)
		}
		positions[i], seen[p] = p, true
	}
	return positions, nil
}
