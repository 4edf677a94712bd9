// Package dberr holds the errors that cross a hop between roles: a code for programs, a sentence
// for people, and the cause inside.
//
// A code is a stable string and part of the wire contract: codes are added, never renamed. In a
// gRPC status it travels as the Reason of an ErrorInfo detail (domain "kalamdb"), with the error's
// fields as its metadata; see ToStatus and FromStatus.
package dberr

import (
	"errors"
	"fmt"
	"maps"
)

// Code says what kind of error it is. Programs branch on it and on nothing else.
type Code string

// The codes. Beside each: who can do something about it.
const (
	// Internal is a fault of ours: a bug, a broken invariant, an error nobody classified.
	Internal Code = "Internal"

	// InvalidSQL is text that does not parse or a form that is not allowed; fields line, column.
	InvalidSQL Code = "InvalidSql"
	// InvalidArgument is a malformed request, parameter or value.
	InvalidArgument Code = "InvalidArgument"
	// Unsupported is a valid wish that this version does not fulfil; docs/status.md lists them.
	Unsupported Code = "Unsupported"
	// InvalidOperation is a statement that is never possible on this kind of object.
	InvalidOperation Code = "InvalidOperation"

	// TableNotFound, NamespaceNotFound, UserNotFound, ColumnNotFound, NotFound: no such object.
	TableNotFound     Code = "TableNotFound"
	NamespaceNotFound Code = "NamespaceNotFound"
	UserNotFound      Code = "UserNotFound"
	ColumnNotFound    Code = "ColumnNotFound"
	NotFound          Code = "NotFound"
	// AlreadyExists is a name that is taken.
	AlreadyExists Code = "AlreadyExists"

	// PrimaryKeyViolation and the following are constraints; nothing was written.
	PrimaryKeyViolation Code = "PrimaryKeyViolation"
	NotNullViolation    Code = "NotNullViolation"
	UniqueViolation     Code = "UniqueViolation"
	// ValueOutOfRange is a value or a computation that does not fit its type, division by zero included.
	ValueOutOfRange Code = "ValueOutOfRange"

	// Unauthenticated is a missing or wrong credential; its text never says which part was wrong.
	Unauthenticated Code = "Unauthenticated"
	// TokenExpired is a token that was good once; log in again.
	TokenExpired Code = "TokenExpired"
	// AccountLocked is too many failed logins.
	AccountLocked Code = "AccountLocked"
	// PermissionDenied is a known user without the right.
	PermissionDenied Code = "PermissionDenied"

	// LimitExceeded is a named limit of this server; the text names the limit and its value.
	LimitExceeded Code = "LimitExceeded"
	// RateLimited asks to come back after field retry_after_ms.
	RateLimited Code = "RateLimited"
	// Timeout is the statement's or the caller's deadline.
	Timeout Code = "Timeout"
	// Canceled is the caller's own wish.
	Canceled Code = "Canceled"

	// Conflict is a row that changed between read and write; reading again helps.
	Conflict Code = "Conflict"
	// SchemaChanged is a statement bound to an older schema; binding again helps.
	SchemaChanged Code = "SchemaChanged"
	// NotLeader is a request to the wrong replica; field leader names the right one, if known.
	NotLeader Code = "NotLeader"
	// Unavailable is a role that cannot be reached or is stopping; retrying may help.
	Unavailable Code = "Unavailable"

	// ResultLost is a transaction that an earlier attempt of the request committed, and whose results nobody has any
	// more: it is done, and must not be sent again.
	ResultLost Code = "ResultLost"

	// Lagged closes a subscription whose reader was too slow; field position is where to resume.
	Lagged Code = "Lagged"
	// PositionGone is a position older than the change log.
	PositionGone Code = "PositionGone"
	// Corrupt is stored or received data that fails its checks.
	Corrupt Code = "Corrupt"
)

// Field keys used with With.
const (
	FieldLine         = "line"
	FieldColumn       = "column"
	FieldLeader       = "leader"
	FieldPosition     = "position"
	FieldRetryAfterMS = "retry_after_ms"
	// FieldWrite is the number, from 0, of the table write that was refused, of a request with several.
	FieldWrite = "write"
)

// Error is an error with a code.
type Error struct {
	code   Code
	msg    string
	fields map[string]string
	cause  error
}

// New makes an error. The format may hold %w, whose operand becomes the cause.
func New(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{code: code, msg: err.Error(), cause: errors.Unwrap(err)}
}

// With returns a copy that carries a field across the wire.
func (e *Error) With(key, value string) *Error {
	c := *e
	c.fields = maps.Clone(e.fields)
	if c.fields == nil {
		c.fields = map[string]string{}
	}
	c.fields[key] = value
	return &c
}

// At returns a copy that names a place in the SQL text; both count from 1.
func (e *Error) At(line, column int) *Error {
	return e.With(FieldLine, fmt.Sprint(line)).With(FieldColumn, fmt.Sprint(column))
}

func (e *Error) Error() string { return e.msg }

// Unwrap returns the cause, or nil.
func (e *Error) Unwrap() error { return e.cause }

// Code returns the error's code.
func (e *Error) Code() Code { return e.code }

// Field returns a field's value, or "".
func (e *Error) Field(key string) string { return e.fields[key] }

// CodeOf returns the code of the first *Error in err's chain, Internal for any other error, and ""
// for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.code
	}
	return Internal
}

// Is reports whether err carries the code.
func Is(err error, code Code) bool { return err != nil && CodeOf(err) == code }

// FieldOf returns a field of the first *Error in err's chain, or "".
func FieldOf(err error, key string) string {
	var e *Error
	if errors.As(err, &e) {
		return e.fields[key]
	}
	return ""
}

// FieldsOf returns a copy of the fields of the first *Error in err's chain; nil when it has none.
func FieldsOf(err error) map[string]string {
	var e *Error
	if errors.As(err, &e) {
		return maps.Clone(e.fields)
	}
	return nil
}
