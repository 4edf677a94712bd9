package rest

import (
	"net/http"
	"strconv"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/auth"
)

// fault is an error as an HTTP client sees it, in either shape.
type fault struct {
	// status and code are the newer shape's (spec 3.5), seedStatus and errorType the seed's (3.4).
	status     int
	code       string
	seedStatus int
	errorType  string
	// redact hides the text from everybody but administrators.
	redact bool
	// running marks what failed while a statement ran: the text then names the statement.
	running bool
}

// redactedText is what non-administrators read of a fault of ours.
const redactedText = "SQL request failed"

var faults = map[dberr.Code]fault{
	dberr.Internal: {500, "INTERNAL_ERROR", 500, "Internal", true, false},
	dberr.Corrupt:  {500, "INTERNAL_ERROR", 500, "Storage", true, false},

	dberr.InvalidSQL:       {400, "INVALID_SQL", 400, "InvalidSql", false, false},
	dberr.Unsupported:      {400, "INVALID_SQL", 400, "InvalidOperation", false, false},
	dberr.InvalidArgument:  running(400, "InvalidOperation"),
	dberr.InvalidOperation: running(400, "InvalidOperation"),

	dberr.TableNotFound:     running(404, "TableNotFound"),
	dberr.NamespaceNotFound: running(404, "NamespaceNotFound"),
	dberr.UserNotFound:      running(404, "UserNotFound"),
	dberr.ColumnNotFound:    running(400, "InvalidSql"),
	dberr.NotFound:          running(404, "NotFound"),
	dberr.AlreadyExists:     running(409, "AlreadyExists"),

	dberr.PrimaryKeyViolation: running(409, "AlreadyExists"),
	dberr.UniqueViolation:     running(409, "AlreadyExists"),
	dberr.NotNullViolation:    running(400, "InvalidOperation"),
	dberr.ValueOutOfRange:     running(400, "InvalidOperation"),

	dberr.Unauthenticated:  {401, "INVALID_CREDENTIALS", 401, "Unauthorized", false, false},
	dberr.TokenExpired:     {401, "TOKEN_EXPIRED", 401, "Unauthorized", false, false},
	dberr.AccountLocked:    {401, "ACCOUNT_LOCKED", 401, "Unauthorized", false, false},
	dberr.PermissionDenied: {403, "PERMISSION_DENIED", 403, "PermissionDenied", false, false},

	dberr.LimitExceeded: running(400, "InvalidOperation"),
	dberr.RateLimited:   {429, "RATE_LIMIT_EXCEEDED", 429, "RateLimited", false, false},
	dberr.Timeout:       running(400, "Timeout"),
	dberr.Canceled:      running(400, "Canceled"),
	dberr.Conflict:      running(409, "Conflict"),
	dberr.SchemaChanged: running(409, "Conflict"),
	dberr.ResultLost:    running(409, "ResultLost"),
	dberr.Lagged:        running(400, "InvalidOperation"),
	dberr.PositionGone:  running(400, "InvalidOperation"),

	dberr.NotLeader:   {503, "NOT_LEADER", 503, "Storage", false, false},
	dberr.Unavailable: {503, "CLUSTER_UNAVAILABLE", 503, "Storage", false, false},
}

func running(seedStatus int, errorType string) fault {
	return fault{status: 400, code: "SQL_EXECUTION_ERROR", seedStatus: seedStatus, errorType: errorType, running: true}
}

// reasons refine a code; their faults come before the code's.
var reasons = map[string]fault{
	reasonEmptySQL:         {400, "EMPTY_SQL", 400, "InvalidSql", false, false},
	reasonInvalidParameter: {400, "INVALID_PARAMETER", 400, "InvalidOperation", false, false},
	reasonInvalidInput:     {400, "INVALID_INPUT", 400, "InvalidOperation", false, false},
	reasonMediaType:        {415, "INVALID_INPUT", 415, "InvalidOperation", false, false},
	reasonTooLarge:         {413, "INVALID_INPUT", 413, "InvalidOperation", false, false},
	"PARAMS_WITH_BATCH":    {400, "PARAMS_WITH_BATCH", 400, "InvalidOperation", false, false},
	"BATCH_PARSE_ERROR":    {400, "BATCH_PARSE_ERROR", 400, "InvalidSql", false, false},
	reasonExport:           {404, "EXPORT_NOT_FOUND", 404, "NotFound", false, false},
	auth.ReasonMissing:     {401, "MISSING_AUTHORIZATION", 401, "Unauthorized", false, false},
	auth.ReasonRemoteAccess: {403, "REMOTE_ACCESS_DENIED", 403, "PermissionDenied",
		false, false},
	auth.ReasonSetup: {428, "SETUP_REQUIRED", 428, "Unauthorized", false, false},
}

func faultOf(err error) fault {
	if f, ok := reasons[dberr.FieldOf(err, fieldReason)]; ok {
		return f
	}
	if f, ok := faults[dberr.CodeOf(err)]; ok {
		return f
	}
	return faults[dberr.Internal]
}

// fieldStatement is where the query role says which statement of a text failed.
const fieldStatement = "statement"

// text is the sentence the client reads.
func (f fault) text(err error, failed uint32, admin bool) string {
	if f.redact && !admin {
		return redactedText
	}
	if !f.running {
		return err.Error()
	}
	number := strconv.FormatUint(uint64(max(failed, 1)), 10)
	if n := dberr.FieldOf(err, fieldStatement); n != "" && failed == 0 {
		number = n
	}
	return "Statement " + number + " failed: " + err.Error()
}

// setErrorHeaders adds what goes with a status.
func setErrorHeaders(h http.Header, status int, err error) {
	switch status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="kalamdb"`)
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		h.Set("Retry-After", strconv.Itoa(retryAfter(err)))
	}
}

// retryAfter is in whole seconds, rounded up.
func retryAfter(err error) int {
	const msPerSecond = 1000
	ms, convErr := strconv.Atoi(dberr.FieldOf(err, dberr.FieldRetryAfterMS))
	if convErr != nil || ms < 1 {
		return 1
	}
	return (ms + msPerSecond - 1) / msPerSecond
}
