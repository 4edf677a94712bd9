package catalog

import (
	"strings"
	"unicode/utf8"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// userIDBytesMax bounds a user's id: it is part of every key of the user's rows.
const userIDBytesMax = 255

// CheckUserID says whether a text can be a user's id: 1 to 255 bytes of UTF-8 without NUL. Everything
// else is allowed, also what means something to a file system (a\b, .., a/b): keys and paths escape ids,
// so that people keep the names they have.
func CheckUserID(id string) error {
	switch {
	case id == "":
		return dberr.New(dberr.InvalidArgument, "the user id is empty")
	case len(id) > userIDBytesMax:
		return dberr.New(dberr.InvalidArgument, "the user id has %d bytes, at most %d are allowed", len(id), userIDBytesMax)
	case strings.ContainsRune(id, 0) || !utf8.ValidString(id):
		return dberr.New(dberr.InvalidArgument, "the user id %q is not valid: it must be UTF-8 without NUL", id)
	}
	return nil
}
