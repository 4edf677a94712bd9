package rest

import (
	"encoding/json"
	"math"
	"net/http"
	"strconv"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/kalamdb/kalamdb-go/internal/celljson"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
)

// objects is the seed's shape (spec 3.4): rows as objects, plain numbers, ISO 8601 times. The seed knew
// one statement per request; several give one such answer each, without status and took_ms, in
// "results".
type objects struct{}

func (objects) results(b *body, e *exchange, results []*queryv1.StatementResult) error {
	if len(results) == 1 && results[0].GetSubscriptionJson() != "" {
		b.buf = appendSubscriptionRequired(b.buf, e, results[0])
		return nil
	}
	b.buf = append(b.buf, `{"status":"success"`...)
	if len(results) == 1 {
		if err := appendSeedResult(b, e, results[0]); err != nil {
			return err
		}
	} else {
		b.buf = append(b.buf, `,"results":[`...)
		for i, res := range results {
			if err := appendSeedEntry(b, e, res, i == 0); err != nil {
				return err
			}
		}
		b.buf = append(b.buf, ']')
	}
	b.buf = append(b.buf, `,"took_ms":`...)
	b.buf = strconv.AppendInt(b.buf, e.tookMS(), 10)
	b.buf = append(b.buf, '}')
	return nil
}

// tookMS is whole milliseconds, at least one: something did happen.
func (e *exchange) tookMS() int64 { return max(int64(math.Round(e.took())), 1) }

// appendSeedEntry writes one element of a batch's results.
func appendSeedEntry(b *body, e *exchange, res *queryv1.StatementResult, first bool) error {
	if !first {
		b.buf = append(b.buf, ',')
	}
	b.buf = append(b.buf, `{"command":`...)
	b.buf = celljson.AppendJSONText(b.buf, res.GetCommand())
	err := appendSeedResult(b, e, res)
	b.buf = append(b.buf, '}')
	return err
}

// appendSeedResult writes the members of one result, each with a comma before it.
func appendSeedResult(b *body, e *exchange, res *queryv1.StatementResult) error {
	if s := res.GetSubscriptionJson(); s != "" {
		b.buf = appendSubscriptionMembers(b.buf, e, s)
		return nil
	}
	if len(res.GetArrowIpc()) > 0 {
		if err := appendObjectRows(b, res.GetArrowIpc()); err != nil {
			return err
		}
	}
	if m := res.GetMessage(); m != "" {
		b.buf = celljson.AppendJSONText(append(b.buf, `,"message":`...), m)
	}
	switch {
	case changesRows(res.GetCommand()):
		b.buf = strconv.AppendUint(append(b.buf, `,"rows_affected":`...), res.GetRowCount(), 10)
	case len(res.GetArrowIpc()) > 0:
		b.buf = append(b.buf, `,"rows_affected":null`...)
	}
	if res.GetTruncated() {
		b.buf = append(b.buf, `,"truncated":true`...)
	}
	b.buf = appendDurability(b.buf, res)
	return nil
}

func changesRows(command string) bool {
	return command == "INSERT" || command == "UPDATE" || command == "DELETE"
}

func appendObjectRows(b *body, stream []byte) error {
	b.buf = append(b.buf, `,"results":[`...)
	first := true
	err := eachBatch(stream, func(*arrow.Schema) error { return nil }, celljson.Seed,
		func(enc *celljson.BatchEncoder, row int) (err error) {
			if !first {
				b.buf = append(b.buf, ',')
			}
			first = false
			if b.buf, err = enc.AppendObject(b.buf, row); err != nil {
				return err
			}
			return b.spill()
		})
	b.buf = append(b.buf, ']')
	return err
}

// appendSubscriptionRequired is the seed's answer to SUBSCRIBE TO (spec 1.17).
func appendSubscriptionRequired(dst []byte, e *exchange, res *queryv1.StatementResult) []byte {
	dst = append(dst, `{"status":"subscription_required"`...)
	return append(appendSubscriptionMembers(dst, e, res.GetSubscriptionJson()), '}')
}

func appendSubscriptionMembers(dst []byte, e *exchange, subscription string) []byte {
	dst = celljson.AppendJSONText(append(dst, `,"ws_url":`...), e.webSocketURL())
	if !json.Valid([]byte(subscription)) { // the query role's promise; a broken one must not break ours
		subscription = "null"
	}
	dst = append(append(dst, `,"subscription":`...), subscription...)
	return celljson.AppendJSONText(append(dst, `,"message":`...), subscribeMessage)
}

type objectsFault struct {
	Status    string `json:"status"`
	Error     string `json:"error"`
	ErrorType string `json:"error_type"`
	TookMS    int64  `json:"took_ms"`
}

func (objects) fault(w http.ResponseWriter, e *exchange, err error, _ uint32) {
	f := faultOf(err)
	f.running = false // the seed's texts do not number statements
	setErrorHeaders(w.Header(), f.seedStatus, err)
	writeJSON(w, f.seedStatus, objectsFault{Status: "error", Error: f.text(err, 0, e.admin()), ErrorType: f.errorType, TookMS: e.tookMS()})
}
