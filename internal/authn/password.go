package authn

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"

	"golang.org/x/crypto/bcrypt"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

const (
	// passwordBytesMin and passwordBytesMax are spec 5.4's bounds, counted in bytes.
	passwordBytesMin = 8
	passwordBytesMax = 1024
	// bcryptBytesMax is what bcrypt reads of a password; it would ignore the rest.
	bcryptBytesMax = 72
	// PasswordCost is bcrypt's cost when the settings name none: about 0.2 s of one core.
	PasswordCost = 12
)

// prehashPrefix separates our pre-hash from plain SHA-256 sums of passwords leaked elsewhere: such a
// sum must not work as a password here.
const prehashPrefix = "kalamdb password v1\x00"

// commonPasswords are refused whatever their case: they are what guessing starts with. Shorter ones
// already fail the length rule.
var commonPasswords = map[string]bool{
	"password": true, "password1": true, "password12": true, "password123": true, "password1234": true,
	"passw0rd": true, "p@ssw0rd": true, "p@ssword": true, "12345678": true, "123456789": true,
	"1234567890": true, "87654321": true, "11111111": true, "00000000": true, "qwertyui": true,
	"qwerty123": true, "qwertyuiop": true, "1q2w3e4r": true, "abcd1234": true, "letmein1": true,
	"iloveyou": true, "sunshine": true, "football": true, "changeme": true, "welcome1": true,
	"trustno1": true, "admin123": true, "administrator": true, "kalamdb1": true, "princess": true,
}

// ValidatePassword checks a new password: 8 to 1024 bytes and not a common one. Every byte is
// allowed, NUL included. The error never repeats the password.
func ValidatePassword(password string) error {
	switch {
	case len(password) < passwordBytesMin:
		return dberr.New(dberr.InvalidArgument, "the password is too short: it needs at least %d bytes", passwordBytesMin)
	case len(password) > passwordBytesMax:
		return dberr.New(dberr.LimitExceeded, "the password is too long: at most %d bytes are allowed", passwordBytesMax)
	case commonPasswords[strings.ToLower(password)]:
		return dberr.New(dberr.InvalidArgument, "the password is one of the most common ones; choose another")
	}
	return nil
}

// HashPassword makes the bcrypt hash that is stored. Cost zero means PasswordCost.
func HashPassword(password string, cost int) (string, error) {
	if len(password) > passwordBytesMax {
		return "", dberr.New(dberr.LimitExceeded, "the password is too long: at most %d bytes are allowed", passwordBytesMax)
	}
	if cost == 0 {
		cost = PasswordCost
	}
	hash, err := bcrypt.GenerateFromPassword(bcryptInput(password), cost)
	if err != nil {
		return "", dberr.New(dberr.Internal, "hash a password: %w", err)
	}
	return string(hash), nil
}

// CheckPassword reports whether the password belongs to the hash. An empty or malformed hash belongs
// to no password.
func CheckPassword(hash, password string) bool {
	if len(password) > passwordBytesMax {
		return false
	}
	return bcrypt.CompareHashAndPassword([]byte(hash), bcryptInput(password)) == nil
}

// bcryptInput maps a password to what bcrypt hashes. bcrypt truncates after 72 bytes, and repeats its
// NUL-terminated key cyclically, so that "a" and "a\x00a" would be one password: both kinds are
// hashed first.
func bcryptInput(password string) []byte {
	if len(password) <= bcryptBytesMax && !strings.Contains(password, "\x00") {
		return []byte(password)
	}
	sum := sha256.Sum256([]byte(prehashPrefix + password))
	return []byte(base64.StdEncoding.EncodeToString(sum[:]))
}
