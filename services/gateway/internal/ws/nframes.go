package ws

import (
	"strconv"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
)

// schemaBytesMax bounds the schema of one subscription's rows.
const schemaBytesMax = 1 << 20

// event implements wire.
func (n nWire) event(w *writer, sub *subscription, ev event) error {
	switch e := ev.GetEvent().(type) {
	case *livev1.ConnectResponse_Subscribed:
		if e.Subscribed.GetSnapshotFollows() {
			// The acknowledgement tells of the first batch, so it waits for it.
			sub.pendingAck = e.Subscribed
			return nil
		}
		return n.ack(w, sub, e.Subscribed, control{status: statusReady, last: sub.liveFrom(e.Subscribed)})
	case *livev1.ConnectResponse_InitialRows:
		return n.initialRows(w, sub, e.InitialRows)
	case *livev1.ConnectResponse_Changed:
		return n.change(w, sub, e.Changed)
	}
	return nil
}

// liveFrom is where a client without snapshot may resume before it has seen a row: where it is live
// from, or, while what it missed is still on its way, where it resumed.
func (sub *subscription) liveFrom(m *livev1.Subscribed) uint64 {
	if sub.from != 0 {
		return sub.from
	}
	return m.GetPosition()
}

const (
	statusLoading      = "loading"
	statusLoadingBatch = "loading_batch"
	statusReady        = "ready"
)

// control is a frame's batch_control.
type control struct {
	batch  uint32
	more   bool
	status string
	last   uint64
}

func (c control) write(e *envelope, sub *subscription) {
	e.key("batch_control")
	e.open()
	e.key("batch_num")
	e.integer(int64(c.batch))
	e.key("has_more")
	e.boolean(c.more)
	e.field("status", c.status)
	e.key("last_seq_id")
	switch {
	case c.last == 0:
		e.null()
	case sub.textSeq:
		e.text(strconv.FormatUint(c.last, 10))
	default:
		e.integer(int64(c.last))
	}
	e.field("version_domain", sub.versionDomain())
	e.close()
}

func (n nWire) ack(w *writer, sub *subscription, m *livev1.Subscribed, c control) error {
	schema, _, err := rowbatch.Decode(memory.DefaultAllocator, m.GetSchemaIpc(), schemaBytesMax)
	if err != nil {
		return dberr.New(dberr.Internal, "the schema of subscription %s: %w", sub.id, err)
	}
	e := w.begin()
	e.open()
	e.field("type", "subscription_ack")
	e.field("subscription_id", sub.id)
	e.key("total_rows")
	e.integer(0)
	c.write(e, sub)
	writeReset(e, m)
	e.key("schema")
	writeSchema(e, schema)
	e.close()
	w.end()
	sub.acked = true
	return nil
}

// writeReset tells a client that resumed that its position was too old: the snapshot that follows
// replaces what it has.
func writeReset(e *envelope, m *livev1.Subscribed) {
	if m.GetReset_() {
		e.key("reset")
		e.boolean(true)
	}
}

// writeSchema lists the columns the client asked for; _seq comes with every row without being asked for.
func writeSchema(e *envelope, schema *arrow.Schema) {
	fields := make([]arrow.Field, 0, schema.NumFields())
	for _, f := range schema.Fields() {
		if f.Name != catalog.SeqColumn {
			fields = append(fields, f)
		}
	}
	e.openList(len(fields))
	for i, f := range fields {
		e.element()
		e.open()
		e.field("name", f.Name)
		e.key("data_type")
		writeType(e, rowbatch.TypeOf(f))
		e.key("index")
		e.integer(int64(i))
		if flags, ok := f.Metadata.GetValue(rowbatch.FlagsKey); ok && flags != "" {
			writeFlags(e, flags)
		}
		e.close()
	}
	e.closeList()
}

func writeFlags(e *envelope, list string) {
	flags := strings.Split(list, ",")
	e.key("flags")
	e.openList(len(flags))
	for _, f := range flags {
		e.element()
		e.text(f)
	}
	e.closeList()
}

// writeType writes "BigInt", or {"Decimal":{"precision":10,"scale":2}}.
func writeType(e *envelope, t catalog.Type) {
	if !e.packed {
		e.raw([]byte(t.WireJSON()))
		return
	}
	switch t.Kind {
	case catalog.Decimal:
		e.open()
		e.key("Decimal")
		e.open()
		e.key("precision")
		e.integer(int64(t.Precision))
		e.key("scale")
		e.integer(int64(t.Scale))
		e.close()
		e.close()
	case catalog.Embedding:
		e.open()
		e.key("Embedding")
		e.integer(int64(t.Dimension))
		e.close()
	default:
		e.text(t.Kind.WireName())
	}
}

func (n nWire) initialRows(w *writer, sub *subscription, m *livev1.InitialRows) error {
	c := control{batch: m.GetBatchNum(), more: m.GetHasMore(), status: statusReady, last: m.GetLastSeq()}
	switch {
	case c.more && c.batch == 0:
		c.status = statusLoading
	case c.more:
		c.status = statusLoadingBatch
	}
	if !sub.acked && sub.pendingAck != nil {
		if err := n.ack(w, sub, sub.pendingAck, c); err != nil {
			return err
		}
		sub.pendingAck = nil
	}
	e := w.begin()
	e.open()
	e.field("type", "initial_data_batch")
	e.field("subscription_id", sub.id)
	e.key("rows")
	writeRows(e, m.GetRows())
	c.write(e, sub)
	e.close()
	w.end()
	return nil
}

// writeRows splices rows encoded by the live role. No bytes mean no rows.
func writeRows(e *envelope, rows []byte) {
	if len(rows) == 0 {
		e.openList(0)
		e.closeList()
		return
	}
	e.raw(rows)
}

func (n nWire) change(w *writer, sub *subscription, m *livev1.Changed) error {
	var kind string
	switch m.GetKind() {
	case livev1.Kind_KIND_INSERT:
		kind = "insert"
	case livev1.Kind_KIND_UPDATE:
		kind = "update"
	case livev1.Kind_KIND_DELETE:
		kind = "delete"
	default:
		return dberr.New(dberr.Internal, "a change of unknown kind %d", m.GetKind())
	}
	e := w.begin()
	e.open()
	e.field("type", "change")
	e.field("subscription_id", sub.id)
	e.field("change_type", kind)
	if m.GetKind() != livev1.Kind_KIND_DELETE {
		e.key("rows")
		writeRows(e, m.GetRows())
	}
	if m.GetKind() != livev1.Kind_KIND_INSERT {
		e.key("old_values")
		writeRows(e, m.GetOldRows())
	}
	e.close()
	w.end()
	return nil
}

// ended implements wire.
func (n nWire) ended(w *writer, sub *subscription, err error) {
	e := w.begin()
	nError(e, sub.id, nCode(err), clientMessage(err), positionOf(err))
	w.end()
}

// nError writes an error frame. Where a subscription can be resumed the text says from where, and the
// member position has it for programs.
func nError(e *envelope, id, code, message, position string) {
	e.open()
	e.field("type", "error")
	e.field("subscription_id", id)
	e.field("code", code)
	if position != "" {
		message += " (last position " + position + ")"
	}
	e.field("message", message)
	if position != "" {
		e.field("position", position)
	}
	e.close()
}
