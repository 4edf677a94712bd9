package scan

import (
	"bytes"
	"slices"

	"github.com/kalamdb/kalamdb-go/internal/predicate"
	exprv1 "github.com/kalamdb/kalamdb-go/proto/expr/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

// spansOf are the key ranges of a partition that can hold rows for which filter is true, ascending: all of
// it, a range, or one for each value the first key column may have. The filter is evaluated all the same.
func (p *plan) spansOf(filter *exprv1.Expr) []keycodec.Span {
	if p.req.GetAllUsers() { // a range of keys is one in each partition
		return []keycodec.Span{keycodec.PrefixSpan(keycodec.TablePrefix(p.req.GetShard(), p.table.ID))}
	}
	prefix := keycodec.PartitionPrefix(nil, p.req.GetShard(), p.table.ID, p.user)
	if filter == nil {
		return []keycodec.Span{keycodec.PrefixSpan(prefix)}
	}
	r := predicate.KeyRange(filter, p.table)
	if r.Empty {
		return nil
	}
	if r.Points != nil {
		spans := make([]keycodec.Span, len(r.Points))
		for i, d := range r.Points {
			spans[i] = keycodec.PrefixSpan(keycodec.AppendDatum(bytes.Clone(prefix), d))
		}
		return spans
	}
	span := keycodec.PrefixSpan(prefix)
	if r.Low.Set {
		span.Start = keycodec.AppendDatum(bytes.Clone(prefix), r.Low.Value)
		if !r.Low.Inclusive { // further key columns follow the value
			span.Start = keycodec.PrefixEnd(span.Start)
		}
	}
	if r.Top.Set {
		span.End = keycodec.AppendDatum(bytes.Clone(prefix), r.Top.Value)
		if r.Top.Inclusive {
			span.End = keycodec.PrefixEnd(span.End)
		}
	}
	if bytes.Compare(span.Start, span.End) >= 0 {
		return nil
	}
	return []keycodec.Span{span}
}

// inDirection is the order in which a scan visits spans.
func inDirection(spans []keycodec.Span, reverse bool) []keycodec.Span {
	if reverse {
		slices.Reverse(spans)
	}
	return spans
}
