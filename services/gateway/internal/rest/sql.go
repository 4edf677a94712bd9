package rest

import (
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/auth"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/edge"
)

// shape writes answers in one generation's form.
type shape interface {
	// results writes the results into b; an error means nothing useful was written.
	results(b *body, e *exchange, results []*queryv1.StatementResult) error
	fault(w http.ResponseWriter, e *exchange, err error, failed uint32)
}

// exchange is one SQL request and what is known about it so far.
type exchange struct {
	api   *API
	r     *http.Request
	began time.Time
	sess  auth.Session
	sql   string
}

func (e *exchange) admin() bool { return e.sess.Identity.Role.Admin() }

// took is milliseconds so far.
func (e *exchange) took() float64 {
	return float64(e.api.Now().Sub(e.began).Microseconds()) / float64(time.Millisecond/time.Microsecond)
}

func (a *API) sqlArrays(w http.ResponseWriter, r *http.Request)  { a.sql(w, r, arrays{}) }
func (a *API) sqlObjects(w http.ResponseWriter, r *http.Request) { a.sql(w, r, objects{}) }

func (a *API) sql(w http.ResponseWriter, r *http.Request, s shape) {
	switch r.URL.Query().Get("format") {
	case "arrays":
		s = arrays{}
	case "objects":
		s = objects{}
	}
	e := &exchange{api: a, r: r, began: a.Now()}
	resp, err := a.execute(e)
	if err == nil && resp.GetError() == nil {
		err = e.write(w, s, resp.GetResults())
	}
	switch {
	case err != nil:
		e.log(err)
		s.fault(w, e, err, 0)
	case resp.GetError() != nil:
		err = dberr.FromMessage(resp.GetError())
		e.log(err)
		s.fault(w, e, err, resp.GetFailedStatement())
	}
}

// execute does everything up to the answer. Who asks is settled before the body is read.
func (a *API) execute(e *exchange) (*queryv1.ExecuteResponse, error) {
	var err error
	if e.sess, err = a.authenticate(e.r); err != nil {
		return nil, err
	}
	if err := a.PerUser.Take(e.sess.Identity.UserID); err != nil {
		return nil, err
	}
	req, err := readSQL(e.r, a.BodyBytesMax)
	if err != nil {
		return nil, err
	}
	e.sql = req.sql
	id, err := requestID(e.r, e.sess.Identity.UserID)
	if err != nil {
		return nil, err
	}
	return a.Query.Execute(e.r.Context(), &queryv1.ExecuteRequest{Identity: catalog.IdentityToProto(e.sess.Identity),
		Sql: req.sql, Params: req.params, Namespace: req.namespace, RequestId: id,
		Consistency: req.consistency, MaxStalenessMs: req.staleness, Repetition: e.r.Header.Get(idempotencyHeader) != ""})
}

// idempotencyHeader is the header of a client's key: two requests with the same one write once.
const idempotencyHeader = "Idempotency-Key"

func requestID(r *http.Request, user string) ([]byte, error) {
	keys := r.Header.Values(idempotencyHeader)
	if len(keys) > 1 {
		return nil, invalidInput(errors.New("more than one " + idempotencyHeader + " header"))
	}
	id, err := edge.StatementID(user, r.Header.Get(idempotencyHeader))
	if err != nil {
		return nil, invalidInput(err)
	}
	return id, nil
}

// write sends the results. Once part of them is out an error can only cut the connection, which every
// client sees; a shortened answer would look like a complete one.
func (e *exchange) write(w http.ResponseWriter, s shape, results []*queryv1.StatementResult) error {
	b := newBody(w, e.r)
	err := s.results(b, e, results)
	if err == nil {
		err = b.finish()
	}
	if err != nil && b.committed {
		e.log(err)
		panic(http.ErrAbortHandler)
	}
	if err != nil {
		b.release()
	}
	return err
}

// log keeps what the client may not read. The SQL text stays out: it holds data.
func (e *exchange) log(err error) {
	level := slog.LevelDebug
	if faultOf(err).redact {
		level = slog.LevelError
	}
	e.api.Logger.Log(e.r.Context(), level, "sql request failed", "request_id", edge.RequestID(e.r.Context()),
		"user", e.sess.Identity.UserID, "code", string(dberr.CodeOf(err)), "error", err)
}
