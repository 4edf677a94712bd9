package plan

import (
	"fmt"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/partition"
	exprv1 "github.com/kalamdb/kalamdb-go/proto/expr/v1"
)

// Explain draws a bound plan, one line per step, from the result down to the scans. shards is how many
// shards the cluster has.
func (b *Bound) Explain(shards uint32) []string {
	var out []string
	switch b.Kind {
	case FastScan:
		return b.Scans[0].explain("storage: ", "", shards)
	case FastCount:
		out = append(out, "count rows")
		return append(out, b.Scans[0].explain("└─ storage: ", "   ", shards)...)
	}
	out = append(out, "engine: "+b.SQL)
	for i := range b.Scans {
		branch, below := "├─ ", "│  "
		if i == len(b.Scans)-1 {
			branch, below = "└─ ", "   "
		}
		out = append(out, b.Scans[i].explain(fmt.Sprintf("%s%s(%d) = ", branch, scanFunction, i), below, shards)...)
	}
	return out
}

func (b *BoundScan) explain(first, below string, shards uint32) []string {
	name, kind := "", "system"
	if b.Table != nil {
		name, kind = b.Table.QualifiedName(), b.Table.Kind.String()
	} else {
		name = b.System.Namespace + "." + b.System.Name
	}
	out := []string{first + "scan " + name + " (" + kind + ")"}
	add := func(format string, args ...any) { out = append(out, below+"   "+fmt.Sprintf(format, args...)) }
	if b.AllUsers {
		add("all users, shards: %d", shards)
	}
	if b.Table != nil && b.Table.Partitioned() {
		add("%s", b.showPartitions())
	}
	if b.Filter != nil {
		add("filter %s", b.show(b.Filter))
	}
	if b.IncludeDeleted {
		add("with deleted rows")
	}
	if len(b.Order) > 0 {
		add("order by %s", b.showOrder())
	} else if b.Ordered {
		add("order by primary key")
	}
	if b.Empty {
		add("no rows")
	} else if b.Limit > 0 {
		add("limit %d", b.Limit)
	}
	if b.Offset > 0 {
		add("offset %d", b.Offset)
	}
	return out
}

func (b *BoundScan) showPartitions() string {
	chosen, all, err := partition.Matching(b.Table, b.Filter)
	if all || err != nil {
		return fmt.Sprintf("all %d partitions", b.Table.Partitions)
	}
	return fmt.Sprintf("partitions: %d of %d", len(chosen), b.Table.Partitions)
}

func (b *BoundScan) showOrder() string {
	var out []string
	for _, o := range b.Order {
		s := b.columnName(o.GetColumnId())
		if o.GetDescending() {
			s += " desc"
		}
		if o.GetNullsFirst() != o.GetDescending() {
			s += map[bool]string{true: " nulls first", false: " nulls last"}[o.GetNullsFirst()]
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

func (b *BoundScan) columnName(id uint32) string {
	if c, ok := b.Table.AnyColumn(id); ok {
		return c.Name
	}
	return fmt.Sprintf("column %d", id)
}

// show writes a predicate as calls.
func (b *BoundScan) show(e *exprv1.Expr) string {
	switch n := e.GetNode().(type) {
	case *exprv1.Expr_ColumnId:
		return b.columnName(n.ColumnId)
	case *exprv1.Expr_Literal:
		d, _, err := datum.Decode(n.Literal)
		if err != nil {
			return "?"
		}
		return showDatum(d)
	}
	args := make([]string, 0, len(e.GetCall().GetArgs()))
	for _, a := range e.GetCall().GetArgs() {
		args = append(args, b.show(a))
	}
	return e.GetCall().GetName() + "(" + strings.Join(args, ", ") + ")"
}

func showDatum(d datum.Datum) string {
	switch d.Kind() {
	case datum.KindNull:
		return "NULL"
	case datum.KindText:
		return "'" + strings.ReplaceAll(d.AsText(), "'", "''") + "'"
	}
	if t, ok := kindTypes[d.Kind()]; ok {
		return datum.FormatText(d, catalog.Type{Kind: t})
	}
	return d.Kind().String()
}

// kindTypes are types whose text form fits any value of a kind.
var kindTypes = map[datum.Kind]catalog.TypeKind{datum.KindBool: catalog.Boolean, datum.KindInt: catalog.BigInt,
	datum.KindFloat: catalog.Double, datum.KindDecimal: catalog.Decimal, datum.KindTimestamp: catalog.Timestamp,
	datum.KindDate: catalog.Date, datum.KindTime: catalog.Time, datum.KindUUID: catalog.UUID, datum.KindBytes: catalog.Bytes}
