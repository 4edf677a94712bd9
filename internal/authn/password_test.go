package authn

import (
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

func TestPasswordsAreNotTruncatedOrFolded(t *testing.T) {
	long := strings.Repeat("x", bcryptBytesMax)
	passwords := []string{"correct horse", "correct hors", long, long + "a", long + "b", long + "a\x00",
		"abcdefgh", "abcdefgh\x00abcdefgh", "\x00\x00\x00\x00\x00\x00\x00\x00", strings.Repeat("\xff", passwordBytesMax)}
	hashes := make([]string, len(passwords))
	for i, p := range passwords {
		h, err := HashPassword(p, bcrypt.MinCost)
		if err != nil {
			t.Fatalf("hash password %d: %v", i, err)
		}
		hashes[i] = h
	}
	for i, p := range passwords {
		for j, h := range hashes {
			if got := CheckPassword(h, p); got != (i == j) {
				t.Errorf("password %d against hash %d: %v", i, j, got)
			}
		}
	}
}

func TestPreHashIsNotThePlainSum(t *testing.T) {
	long := strings.Repeat("y", bcryptBytesMax+1)
	h, err := HashPassword(long, bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	if CheckPassword(h, "") || CheckPassword("", "") || CheckPassword("nonsense", long) {
		t.Error("an empty or malformed hash, or an empty password, was accepted")
	}
	if CheckPassword(h, strings.Repeat("y", passwordBytesMax+1)) {
		t.Error("a password beyond the limit was accepted")
	}
}

func TestValidatePassword(t *testing.T) {
	for _, tc := range []struct {
		password string
		want     dberr.Code
	}{
		{"", dberr.InvalidArgument}, {"seven77", dberr.InvalidArgument}, {"eight888", ""},
		{"PassWord123", dberr.InvalidArgument}, {"12345678", dberr.InvalidArgument},
		{"with\x00nul!", ""}, {strings.Repeat("z", 1024), ""}, {strings.Repeat("z", 1025), dberr.LimitExceeded},
	} {
		err := ValidatePassword(tc.password)
		if got := dberr.CodeOf(err); got != tc.want {
			t.Errorf("%.20q: code %q, want %q", tc.password, got, tc.want)
		}
		if err != nil && tc.password != "" && strings.Contains(err.Error(), tc.password) {
			t.Errorf("the error repeats the password: %v", err)
		}
	}
}

func TestHashPasswordRefusesWhatItCannotCheck(t *testing.T) {
	if _, err := HashPassword(strings.Repeat("a", passwordBytesMax+1), bcrypt.MinCost); !dberr.Is(err, dberr.LimitExceeded) {
		t.Errorf("got %v", err)
	}
	if _, err := HashPassword("whatever1", 99); !dberr.Is(err, dberr.Internal) {
		t.Errorf("cost 99: got %v", err)
	}
}
