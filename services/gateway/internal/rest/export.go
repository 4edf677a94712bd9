package rest

import (
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/edge"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/export"
)

// exportStall is how long a client may take to read what it was sent; an export as a whole may take any time.
const exportStall = time.Minute

// reasonExport says that an address names no export.
const reasonExport = "EXPORT_NOT_FOUND"

// exports sends the archive of GET /v1/exports/{user_id}/{export_id} to its owner, or to administrators who may act for the owner.
func (a *API) exports(w http.ResponseWriter, r *http.Request) {
	e := &exchange{api: a, r: r, began: a.Now()}
	req, end, err := a.beginExport(e)
	if err != nil {
		e.log(err)
		arrays{}.fault(w, e, err, 0)
		return
	}
	defer end()
	ctx, unbind := a.Auth.Bind(r.Context(), e.sess) // an account that is closed ends it
	defer unbind()
	out := &patientWriter{to: w, control: http.NewResponseController(w), name: req.ID + ".zip"}
	_ = out.control.SetReadDeadline(time.Time{}) // when a request must have been read, the server would take its client for gone
	err = a.Export.Write(ctx, req, out)
	if err == nil {
		return
	}
	e.log(err)
	if out.begun { // no answer can say so any more: a cut connection does
		panic(http.ErrAbortHandler)
	}
	arrays{}.fault(w, e, err, 0)
}

// beginExport settles who asks, for whom, and that there is a place.
func (a *API) beginExport(e *exchange) (req export.Request, end func(), err error) {
	if e.sess, err = a.authenticate(e.r); err != nil {
		return req, nil, err
	}
	if err := a.PerUser.Take(e.sess.Identity.UserID); err != nil {
		return req, nil, err
	}
	req = export.Request{ID: e.r.PathValue("export_id"), Caller: e.sess.Identity, User: e.r.PathValue("user_id")}
	if req.User != req.Caller.UserID && !req.Caller.Role.Admin() {
		return req, nil, dberr.New(dberr.PermissionDenied, "permission denied: an export is for the user whose data it has")
	}
	if _, ok := catalog.ParseExportID(req.ID, a.Now()); !ok {
		return req, nil, dberr.New(dberr.NotFound, "there is no export '%s': EXPORT USER DATA gives an address that is good for 24 hours",
			req.ID).With(fieldReason, reasonExport)
	}
	if end, err = a.Export.Begin(req.User); err != nil {
		return req, nil, err
	}
	a.Logger.Log(e.r.Context(), slog.LevelInfo, "export", "request_id", edge.RequestID(e.r.Context()), "user", req.User, "by", req.Caller.UserID)
	return req, end, nil
}

// patientWriter sends an answer that takes as long as it takes, to a client that goes on reading.
type patientWriter struct {
	to      http.ResponseWriter
	control *http.ResponseController
	name    string
	begun   bool
}

var _ io.Writer = (*patientWriter)(nil)

func (w *patientWriter) Write(p []byte) (int, error) {
	if !w.begun {
		h := w.to.Header()
		h.Set("Content-Type", "application/zip")
		h.Set("Content-Disposition", `attachment; filename="`+w.name+`"`)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		w.begun = true
	}
	_ = w.control.SetWriteDeadline(time.Now().Add(exportStall)) // where it cannot be set, the server's own deadline holds
	n, err := w.to.Write(p)
	if err != nil {
		return n, dberr.New(dberr.Canceled, "the client reads no more: %w", err)
	}
	return n, nil
}
