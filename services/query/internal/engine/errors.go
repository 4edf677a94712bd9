package engine

import (
	"errors"
	"regexp"
	"strconv"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Error is what DuckDB answered, beside the dberr error that wraps it.
type Error struct {
	// Kind is DuckDB's name of the kind of error, e.g. "Binder".
	Kind string
	// Message is its text without the kind and the excerpt of the statement.
	Message string
}

func (e *Error) Error() string { return e.Message }

// codes by DuckDB's kinds of errors. Kinds that are not listed are faults.
var codes = map[string]dberr.Code{
	"Parser": dberr.InvalidSQL, "Syntax": dberr.InvalidSQL, "Binder": dberr.InvalidSQL,
	"Catalog": dberr.InvalidSQL, "Invalid Input": dberr.InvalidSQL, "Parameter Not Allowed": dberr.InvalidSQL,
	"Parameter Not Resolved": dberr.InvalidSQL, "Mismatch Type": dberr.InvalidSQL, "Expression": dberr.InvalidSQL,
	"Out of Range": dberr.ValueOutOfRange, "Conversion": dberr.ValueOutOfRange,
	"Divide by Zero": dberr.ValueOutOfRange, "Decimal": dberr.ValueOutOfRange,
	"Out of Memory": dberr.LimitExceeded, "Object Size": dberr.LimitExceeded,
	"INTERRUPT": dberr.Canceled, "Not implemented": dberr.Unsupported, "Permission": dberr.PermissionDenied,
	"Missing Extension": dberr.Unsupported, "Extension Autoloading": dberr.Unsupported,
}

// fatalKinds are faults after which DuckDB refuses every statement.
var fatalKinds = map[string]bool{"FATAL": true, "INTERNAL": true}

var kindPattern = regexp.MustCompile(`^([A-Za-z ]+?) Error: `)

// classify makes an error of DuckDB's message.
func classify(msg string) error {
	e := &Error{Message: msg}
	if m := kindPattern.FindStringSubmatch(msg); m != nil {
		e.Kind = m[1]
		e.Message = msg[len(m[0]):]
	}
	// What follows in later lines is an excerpt of the rewritten statement and guesses at other names.
	e.Message, _, _ = strings.Cut(e.Message, "\n")
	if code, text, ok := ours(e); ok {
		e.Message = text
		return dberr.New(code, "%w", e)
	}
	code, known := codes[e.Kind]
	switch {
	case !known:
		return dberr.New(dberr.Internal, "the SQL engine failed: %w", e)
	case code == dberr.LimitExceeded:
		return dberr.New(code, "the statement needs more memory than the engine may use (engine.memory_bytes): %w", e)
	}
	return dberr.New(code, "%w", e)
}

// isFatal reports whether DuckDB must be replaced.
func isFatal(err error) bool {
	var e *Error
	return errors.As(err, &e) && (fatalKinds[e.Kind] || strings.Contains(e.Message, "database has been invalidated"))
}

// Errors of our scalar functions travel through DuckDB as text.
const ourMark = "kalamdb:"

func markError(code dberr.Code, text string) string {
	return ourMark + string(code) + ":" + strconv.Itoa(len(text)) + ":" + text
}

// ours finds a marked error in DuckDB's text. The mark stands at its start: further in it could come
// from a value that the text quotes.
func ours(e *Error) (dberr.Code, string, bool) {
	rest, ok := strings.CutPrefix(e.Message, ourMark)
	if !ok || e.Kind != "Invalid Input" {
		return "", "", false
	}
	code, rest, ok := strings.Cut(rest, ":")
	if !ok {
		return "", "", false
	}
	length, text, ok := strings.Cut(rest, ":")
	n, err := strconv.Atoi(length)
	if !ok || err != nil || n < 0 || n > len(text) {
		return "", "", false
	}
	return dberr.Code(code), text[:n], true
}
