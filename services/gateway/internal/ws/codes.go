package ws

import (
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Error codes of the N wire (spec 4.1).
const (
	codeAuthRequired   = "AUTH_REQUIRED"
	codeInvalidID      = "INVALID_SUBSCRIPTION_ID"
	codeLimit          = "SUBSCRIPTION_LIMIT_EXCEEDED"
	codeUnauthorized   = "UNAUTHORIZED"
	codeNotFound       = "NOT_FOUND"
	codeInvalidSQL     = "INVALID_SQL"
	codeUnsupported    = "UNSUPPORTED"
	codeFailed         = "SUBSCRIPTION_FAILED"
	codeConversion     = "CONVERSION_ERROR"
	codeBatchFailed    = "BATCH_FETCH_FAILED"
	codeTooLarge       = "MESSAGE_TOO_LARGE"
	codeRateLimit      = "RATE_LIMIT_EXCEEDED"
	codeUnsupportedFmt = "UNSUPPORTED_DATA"
	codeProtocol       = "PROTOCOL"
)

// Ids of error frames that concern no subscription (spec 4.1).
const (
	idProtocol  = "protocol"
	idRateLimit = "rate_limit"
	idSubscribe = "subscribe"
	idInvalid   = "invalid_subscription"
)

// nCode is the N wire's code for an error.
func nCode(err error) string {
	switch dberr.CodeOf(err) {
	case dberr.Unauthenticated, dberr.TokenExpired, dberr.AccountLocked:
		return codeAuthRequired
	case dberr.PermissionDenied:
		return codeUnauthorized
	case dberr.NotFound, dberr.TableNotFound, dberr.NamespaceNotFound, dberr.UserNotFound:
		return codeNotFound
	case dberr.InvalidSQL, dberr.ColumnNotFound, dberr.InvalidArgument:
		return codeInvalidSQL
	case dberr.Unsupported, dberr.InvalidOperation:
		return codeUnsupported
	case dberr.LimitExceeded:
		return codeLimit
	case dberr.RateLimited:
		return codeRateLimit
	case dberr.ValueOutOfRange, dberr.Corrupt:
		return codeConversion
	}
	return codeFailed
}

// sType is the S wire's error_type (spec 3.4): the seed's name where it has one, else ours.
func sType(err error) string {
	switch code := dberr.CodeOf(err); code {
	case dberr.NotFound:
		return string(dberr.TableNotFound)
	case dberr.ColumnNotFound, dberr.InvalidArgument:
		return string(dberr.InvalidSQL)
	case dberr.Unsupported:
		return string(dberr.InvalidOperation)
	default:
		return string(code)
	}
}

// clientMessage is an error's text as clients may see it: faults of ours stay in the log.
func clientMessage(err error) string {
	if dberr.Is(err, dberr.Internal) || dberr.Is(err, dberr.Corrupt) {
		return "internal error; see the server's log"
	}
	return err.Error()
}
