package rest

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/ipc"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/celljson"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// arrays is the newer shape (spec 3.3): a schema and rows as arrays, one entry per statement, in order.
type arrays struct{}

func (arrays) results(b *body, e *exchange, results []*queryv1.StatementResult) error {
	b.buf = append(b.buf, `{"status":"success","results":[`...)
	for i, res := range results {
		if i > 0 {
			b.buf = append(b.buf, ',')
		}
		if err := appendEntry(b, e, res); err != nil {
			return err
		}
	}
	b.buf = append(b.buf, `],"took":`...)
	b.buf = strconv.AppendFloat(b.buf, e.took(), 'f', 3, 64)
	b.buf = append(b.buf, '}')
	return nil
}

func appendEntry(b *body, e *exchange, res *queryv1.StatementResult) error {
	b.buf = append(b.buf, '{')
	switch {
	case res.GetSubscriptionJson() != "":
		b.buf = appendSubscriptionRow(b.buf, e, res)
	case len(res.GetArrowIpc()) > 0:
		if err := appendRows(b, res.GetArrowIpc()); err != nil {
			return err
		}
		b.buf = append(b.buf, `,"row_count":`...)
		b.buf = strconv.AppendUint(b.buf, res.GetRowCount(), 10)
	default:
		b.buf = append(b.buf, `"schema":[],"row_count":`...)
		b.buf = strconv.AppendUint(b.buf, res.GetRowCount(), 10)
	}
	if m := res.GetMessage(); m != "" {
		b.buf = celljson.AppendJSONText(append(b.buf, `,"message":`...), m)
	}
	b.buf = celljson.AppendJSONText(append(b.buf, `,"as_user":`...), res.GetAsUser())
	if res.GetTruncated() {
		b.buf = append(b.buf, `,"truncated":true`...)
	}
	b.buf = append(appendDurability(b.buf, res), '}')
	return nil
}

// appendDurability says what an acknowledged write survives, and from where a reader sees it. The
// position is a string: it has more digits than a JavaScript number keeps.
func appendDurability(dst []byte, res *queryv1.StatementResult) []byte {
	name := durabilityNames[res.GetDurability()]
	if name == "" {
		return dst
	}
	dst = append(append(append(dst, `,"durability":"`...), name...), '"')
	if p := res.GetPosition(); p != 0 {
		dst = strconv.AppendUint(append(dst, `,"position":"`...), p, 10)
		dst = append(dst, '"')
	}
	return dst
}

var durabilityNames = map[storagev1.Durability]string{
	storagev1.Durability_DURABILITY_MEMORY: "memory",
	storagev1.Durability_DURABILITY_QUORUM: "quorum",
}

// appendRows writes "schema" and "rows".
func appendRows(b *body, stream []byte) error {
	b.buf = append(b.buf, `"schema":`...)
	first := true
	err := eachBatch(stream, func(s *arrow.Schema) error {
		b.buf = AppendSchema(b.buf, rowbatch.ColumnsOf(s))
		b.buf = append(b.buf, `,"rows":[`...)
		return nil
	}, celljson.JSON, func(enc *celljson.BatchEncoder, row int) (err error) {
		if !first {
			b.buf = append(b.buf, ',')
		}
		first = false
		if b.buf, err = enc.AppendArray(b.buf, row); err != nil {
			return err
		}
		return b.spill()
	})
	b.buf = append(b.buf, ']')
	return err
}

// eachBatch walks an IPC stream of the query role row by row.
func eachBatch(stream []byte, schema func(*arrow.Schema) error, d celljson.Dialect, row func(*celljson.BatchEncoder, int) error) error {
	r, err := ipc.NewReader(bytes.NewReader(stream))
	if err != nil {
		return dberr.New(dberr.Internal, "read a result: %w", err)
	}
	defer r.Release()
	if err := schema(r.Schema()); err != nil {
		return err
	}
	columns := rowbatch.ColumnsOf(r.Schema())
	types := make([]catalog.Type, len(columns))
	for i := range columns {
		types[i] = columns[i].Type
	}
	for r.Next() {
		rec := r.RecordBatch()
		enc, err := celljson.NewBatchEncoder(rec, types, d)
		if err != nil {
			return err
		}
		for i := range int(rec.NumRows()) {
			if err := row(enc, i); err != nil {
				return err
			}
		}
	}
	if err := r.Err(); err != nil {
		return dberr.New(dberr.Internal, "read a result: %w", err)
	}
	return nil
}

// AppendSchema writes columns as results and subscriptions describe them.
func AppendSchema(dst []byte, columns []catalog.Column) []byte {
	dst = append(dst, '[')
	for i := range columns {
		if i > 0 {
			dst = append(dst, ',')
		}
		c := &columns[i]
		dst = celljson.AppendJSONText(append(dst, `{"name":`...), c.Name)
		dst = append(append(dst, `,"data_type":`...), c.Type.WireJSON()...)
		dst = strconv.AppendInt(append(dst, `,"index":`...), int64(i), 10)
		dst = appendFlags(dst, c)
		dst = append(dst, '}')
	}
	return append(dst, ']')
}

func appendFlags(dst []byte, c *catalog.Column) []byte {
	var flags []string
	if c.PrimaryKey {
		flags = append(flags, `"pk"`)
	}
	if c.NotNull {
		flags = append(flags, `"nn"`)
	}
	if c.Unique {
		flags = append(flags, `"uq"`)
	}
	if flags == nil {
		return dst
	}
	return append(append(append(dst, `,"flags":[`...), strings.Join(flags, ",")...), ']')
}

// appendSubscriptionRow answers SUBSCRIBE TO over HTTP: one row that says where to subscribe.
func appendSubscriptionRow(dst []byte, e *exchange, res *queryv1.StatementResult) []byte {
	text, jsonType := catalog.Type{Kind: catalog.Text}, catalog.Type{Kind: catalog.JSON}
	dst = append(dst, `"schema":`...)
	dst = AppendSchema(dst, []catalog.Column{{Name: "status", Type: text}, {Name: "ws_url", Type: text},
		{Name: "subscription", Type: jsonType}, {Name: "message", Type: text}})
	dst = celljson.AppendJSONText(append(dst, `,"rows":[["active",`...), e.webSocketURL())
	dst = celljson.AppendJSONText(append(dst, ','), res.GetSubscriptionJson())
	dst = celljson.AppendJSONText(append(dst, ','), subscribeMessage)
	return append(dst, `]],"row_count":1`...)
}

const subscribeMessage = "WebSocket connection required for live query subscription"

// webSocketURL is the address of /v1/ws as this client reaches us.
func (e *exchange) webSocketURL() string {
	if origin := strings.TrimRight(e.api.PublicOrigin, "/"); origin != "" {
		return "ws" + strings.TrimPrefix(origin, "http") + "/v1/ws"
	}
	scheme := "ws"
	if e.r.TLS != nil {
		scheme = "wss"
	}
	return scheme + "://" + e.r.Host + "/v1/ws"
}

type arraysFault struct {
	Status  string     `json:"status"`
	Results []struct{} `json:"results"`
	Took    float64    `json:"took"`
	Error   struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Details string `json:"details,omitempty"`
		Line    int    `json:"line,omitempty"`
		Column  int    `json:"column,omitempty"`
	} `json:"error"`
}

func (arrays) fault(w http.ResponseWriter, e *exchange, err error, failed uint32) {
	f := faultOf(err)
	out := arraysFault{Status: "error", Results: []struct{}{}, Took: e.took()}
	out.Error.Code, out.Error.Message = f.code, f.text(err, failed, e.admin())
	out.Error.Line, _ = strconv.Atoi(dberr.FieldOf(err, dberr.FieldLine)) // zero, which is left out, when absent
	out.Error.Column, _ = strconv.Atoi(dberr.FieldOf(err, dberr.FieldColumn))
	if e.admin() && !strings.Contains(strings.ToLower(e.sql), "password") {
		out.Error.Details = e.sql // never a text that may hold a password
	}
	setErrorHeaders(w.Header(), f.status, err)
	writeJSON(w, f.status, out)
}
