package rest

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strconv"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/strictjson"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/edge"
)

// Reasons this package gives errors of its own; they are the codes of spec 3.5.
const (
	reasonEmptySQL         = "EMPTY_SQL"
	reasonInvalidParameter = "INVALID_PARAMETER"
	reasonInvalidInput     = "INVALID_INPUT"
	reasonMediaType        = "UNSUPPORTED_MEDIA_TYPE"
	reasonTooLarge         = "BODY_TOO_LARGE"
	fieldReason            = "reason"
)

const (
	// paramsMax and paramBytesMax are spec 1.1's limits; the query role checks them again.
	paramsMax     = 50
	paramBytesMax = 512 << 10
	// partsMax bounds a multipart body: the fields of the JSON form, and files.
	partsMax = 32
)

// sqlRequest is one POST of SQL.
type sqlRequest struct {
	sql       string
	namespace string
	params    []*queryv1.Param
	// consistency of reads; staleness in milliseconds, for stale ones.
	consistency storagev1.Consistency
	staleness   uint32
}

// readSQL reads the body in either form.
func readSQL(r *http.Request, bodyMax int64) (sqlRequest, error) {
	r.Body = http.MaxBytesReader(nil, r.Body, bodyMax)
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case mediaType == "multipart/form-data" && err == nil:
		return readMultipart(r, bodyMax)
	case mediaType == "application/json":
	default:
		// Forms, text/plain and nothing may be posted by any web page with a browser's remembered password.
		return sqlRequest{}, dberr.New(dberr.InvalidArgument, "Content-Type must be application/json or multipart/form-data").
			With(fieldReason, reasonMediaType)
	}
	body, err := readAll(r.Body, bodyMax)
	if err != nil {
		return sqlRequest{}, err
	}
	return decodeSQL(body)
}

func readAll(body io.Reader, most int64) ([]byte, error) {
	data, err := io.ReadAll(body)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, dberr.New(dberr.LimitExceeded, "The request body is larger than %d bytes (rate_limit.request_body_limit_bytes)", most).
			With(fieldReason, reasonTooLarge)
	case err != nil:
		return nil, dberr.New(dberr.InvalidArgument, "The request body could not be read: %w", err).With(fieldReason, reasonInvalidInput)
	}
	return data, nil
}

// decodeSQL decodes the JSON form.
func decodeSQL(body []byte) (sqlRequest, error) {
	o, err := strictjson.DecodeObject(body, strictjson.Limits{}, "sql", "params", "namespace_id", "consistency", "max_staleness_ms")
	if err != nil {
		return sqlRequest{}, invalidInput(err)
	}
	var req sqlRequest
	if req.sql, _, err = o.Text("sql"); err != nil {
		return sqlRequest{}, invalidInput(err)
	}
	if req.namespace, _, err = o.Text("namespace_id"); err != nil {
		return sqlRequest{}, invalidInput(err)
	}
	if req.params, err = paramsOf(o["params"]); err != nil {
		return sqlRequest{}, err
	}
	word, _, err := o.Text("consistency")
	if err != nil {
		return sqlRequest{}, invalidInput(err)
	}
	if err := req.setConsistency(word); err != nil {
		return sqlRequest{}, err
	}
	if err := req.setStaleness(o["max_staleness_ms"]); err != nil {
		return sqlRequest{}, err
	}
	return req, req.check()
}

func (r sqlRequest) check() error {
	if strings.TrimSpace(r.sql) == "" {
		return dberr.New(dberr.InvalidArgument, "The SQL text is empty").With(fieldReason, reasonEmptySQL)
	}
	if err := edge.CheckConsistency(r.consistency, r.staleness); err != nil {
		return invalidInput(err)
	}
	return nil
}

func (r *sqlRequest) setConsistency(word string) (err error) {
	if r.consistency, err = edge.Consistency(word); err != nil {
		return invalidInput(err)
	}
	return nil
}

// setStaleness takes the JSON value; null is none.
func (r *sqlRequest) setStaleness(v any) error {
	if v == nil {
		return nil
	}
	n, isNumber := v.(json.Number)
	ms, err := strconv.ParseUint(n.String(), 10, 32)
	if !isNumber || err != nil {
		return invalidInput(errors.New("max_staleness_ms must be a whole number of milliseconds below 2^32"))
	}
	r.staleness = uint32(ms)
	return nil
}

func invalidInput(err error) error {
	return dberr.New(dberr.InvalidArgument, "The request body is invalid: %w", err).With(fieldReason, reasonInvalidInput)
}

func invalidParameter(format string, args ...any) error {
	return dberr.New(dberr.InvalidArgument, format, args...).With(fieldReason, reasonInvalidParameter)
}

func paramsOf(v any) ([]*queryv1.Param, error) {
	list, ok := v.([]any)
	if v != nil && !ok {
		return nil, invalidParameter("params must be an array")
	}
	if len(list) > paramsMax {
		return nil, invalidParameter("%d parameters are more than the %d allowed", len(list), paramsMax)
	}
	params := make([]*queryv1.Param, len(list))
	for i, e := range list {
		var err error
		if params[i], err = paramOf(i+1, e); err != nil {
			return nil, err
		}
	}
	return params, nil
}

// paramOf converts exactly: a number that would change on the way is refused.
func paramOf(number int, v any) (*queryv1.Param, error) {
	switch v := v.(type) {
	case nil:
		return &queryv1.Param{Value: &queryv1.Param_Null{Null: true}}, nil
	case bool:
		return &queryv1.Param{Value: &queryv1.Param_Boolean{Boolean: v}}, nil
	case string:
		if len(v) > paramBytesMax {
			return nil, invalidParameter("parameter $%d has %d bytes, more than the %d allowed", number, len(v), paramBytesMax)
		}
		return &queryv1.Param{Value: &queryv1.Param_Text{Text: v}}, nil
	case json.Number:
		return numberParam(number, v.String())
	}
	return nil, invalidParameter("parameter $%d is an array or an object; send it as a string", number)
}

func numberParam(number int, text string) (*queryv1.Param, error) {
	if !strings.ContainsAny(text, ".eE") {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, invalidParameter("parameter $%d does not fit 64 bits; send it as a string", number)
		}
		return &queryv1.Param{Value: &queryv1.Param_Integer{Integer: n}}, nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return nil, invalidParameter("parameter $%d is outside the range of DOUBLE; send it as a string", number)
	}
	return &queryv1.Param{Value: &queryv1.Param_Float{Float: f}}, nil
}

// readMultipart reads the form with which clients send files. Files themselves are refused.
func readMultipart(r *http.Request, bodyMax int64) (sqlRequest, error) {
	parts, err := r.MultipartReader()
	if err != nil {
		return sqlRequest{}, invalidInput(err)
	}
	var req sqlRequest
	seen := map[string]bool{}
	for range partsMax {
		p, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			return req, req.check()
		}
		if err != nil {
			return sqlRequest{}, partFailed(err, bodyMax)
		}
		if seen[p.FormName()] {
			return sqlRequest{}, invalidInput(errors.New("a form field appears twice"))
		}
		seen[p.FormName()] = true
		if err := req.readPart(p, bodyMax); err != nil {
			return sqlRequest{}, err
		}
	}
	return sqlRequest{}, invalidInput(errors.New("the form has more than " + strconv.Itoa(partsMax) + " parts"))
}

func partFailed(err error, bodyMax int64) error {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		_, err = readAll(failing{err}, bodyMax)
		return err
	}
	return invalidInput(err)
}

// failing is a reader that fails, so that one function words the error.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func (r *sqlRequest) readPart(p *multipart.Part, bodyMax int64) error {
	name := p.FormName()
	if strings.HasPrefix(name, "file:") {
		return dberr.New(dberr.Unsupported, "Uploading files (FILE columns) is not supported by this version")
	}
	data, err := readAll(p, bodyMax)
	if err != nil {
		return err
	}
	text := string(data)
	switch name {
	case "sql":
		r.sql = text
	case "namespace_id":
		r.namespace = text
	case "consistency":
		return r.setConsistency(text)
	case "max_staleness_ms":
		return r.setStaleness(json.Number(text))
	case "params":
		v, err := strictjson.Decode(data, strictjson.Limits{})
		if err != nil {
			return invalidParameter("params is not JSON: %v", err)
		}
		r.params, err = paramsOf(v)
		return err
	default:
		return invalidInput(errors.New("unknown form field"))
	}
	return nil
}
