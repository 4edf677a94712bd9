package exec

import (
	"github.com/kalamdb/kalamdb-go/internal/datum"
	exprv1 "github.com/kalamdb/kalamdb-go/proto/expr/v1"
)

func orderBy(id uint32) *exprv1.OrderBy { return &exprv1.OrderBy{ColumnId: id} }

// compareCells compares two cells for one sort key.
func compareCells(o *exprv1.OrderBy, a, b datum.Datum) int {
	if a.IsNull() || b.IsNull() {
		switch {
		case a.IsNull() && b.IsNull():
			return 0
		case a.IsNull() == o.GetNullsFirst():
			return -1
		}
		return 1
	}
	c, _ := datum.Compare(a, b)
	if o.GetDescending() {
		return -c
	}
	return c
}
