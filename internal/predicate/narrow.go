package predicate

import (
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/kalamdb/kalamdb-go/internal/datum"
)

// against is a comparison of a column with a whole number of its kind: what batches are asked most, and can answer without datums.
type against struct {
	column uint32
	kind   datum.Kind
	value  int64
	accept accepts
}

// narrow takes out of keep the rows for which the condition is not TRUE.
func (n *node) narrow(env *Env, row *batchRow, keep []bool) error {
	for _, part := range n.all {
		if err := part.narrow(env, row, keep); err != nil {
			return err
		}
	}
	if n.all != nil || n.against != nil && n.against.narrow(row.array(n.against.column), keep) {
		return nil
	}
	for i := range keep {
		if !keep[i] {
			continue
		}
		row.at = i
		v, err := n.test(env, row)
		if err != nil {
			return err
		}
		keep[i] = v == isTrue
	}
	return nil
}

// narrow is false when the array is of another form.
func (a *against) narrow(values arrow.Array, keep []bool) bool {
	switch v := values.(type) {
	case *array.Int16:
		return a.kind == datum.KindInt && narrowTo(v.Values(), v, a, keep)
	case *array.Int32:
		return a.kind == datum.KindInt && narrowTo(v.Values(), v, a, keep)
	case *array.Int64:
		return a.kind == datum.KindInt && narrowTo(v.Values(), v, a, keep)
	case *array.Date32:
		return a.kind == datum.KindDate && narrowTo(v.Values(), v, a, keep)
	case *array.Timestamp:
		return a.kind == datum.KindTimestamp && v.DataType().(*arrow.TimestampType).Unit == arrow.Microsecond && narrowTo(v.Values(), v, a, keep)
	case *array.Time64:
		return a.kind == datum.KindTime && v.DataType().(*arrow.Time64Type).Unit == arrow.Microsecond && narrowTo(v.Values(), v, a, keep)
	}
	return false
}

func narrowTo[T ~int16 | ~int32 | ~int64](values []T, of arrow.Array, a *against, keep []bool) bool {
	below, equal, above := a.accept[0], a.accept[1], a.accept[2]
	for i, v := range values {
		switch {
		case int64(v) < a.value:
			keep[i] = keep[i] && below
		case int64(v) > a.value:
			keep[i] = keep[i] && above
		default:
			keep[i] = keep[i] && equal
		}
	}
	if of.NullN() > 0 {
		for i := range keep {
			keep[i] = keep[i] && of.IsValid(i)
		}
	}
	return true
}
