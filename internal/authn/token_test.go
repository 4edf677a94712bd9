package authn

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

var (
	testSecret = []byte("0123456789abcdef0123456789abcdef")
	testNow    = time.Unix(1_800_000_000, 0)
)

func testTokens() *Tokens { return NewTokens(testSecret, func() time.Time { return testNow }) }

func testClaims() Claims {
	return Claims{Subject: "alice", Email: "a@b.c", Role: catalog.RoleUser, Type: AccessToken, IssuedAt: testNow,
		ExpiresAt: testNow.Add(24 * time.Hour), TokenVersion: 7, ClusterID: "c1"}
}

func TestTokenRoundTrip(t *testing.T) {
	token, err := testTokens().Issue(testClaims())
	if err != nil {
		t.Fatal(err)
	}
	got, err := testTokens().Verify(token)
	if err != nil || got != testClaims() {
		t.Fatalf("got %+v, %v", got, err)
	}
}

// TestTokenAgainstAnotherLibrary: ours verifies there, theirs verifies here.
func TestTokenAgainstAnotherLibrary(t *testing.T) {
	token, err := testTokens().Issue(testClaims())
	if err != nil {
		t.Fatal(err)
	}
	clock := jwt.WithTimeFunc(func() time.Time { return testNow })
	key := func(*jwt.Token) (any, error) { return testSecret, nil }
	parsed, err := jwt.Parse(token, key, clock, jwt.WithValidMethods([]string{"HS256"}), jwt.WithIssuer(Issuer))
	if err != nil || parsed.Claims.(jwt.MapClaims)["role"] != "user" {
		t.Fatalf("their verdict on ours: %v", err)
	}
	theirs, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims(parsed.Claims.(jwt.MapClaims))).SignedString(testSecret)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := testTokens().Verify(theirs); err != nil {
		t.Fatalf("our verdict on theirs: %v", err)
	}
}

// forge signs any header and claims with the right secret.
func forge(head, claims string) string {
	text := base64.RawURLEncoding.EncodeToString([]byte(head)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims))
	m := hmac.New(sha256.New, testSecret)
	m.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

const goodHeader = `{"alg":"HS256","typ":"JWT"}`

func goodClaims(replace ...string) string {
	s := fmt.Sprintf(`{"sub":"alice","iss":"kalamdb","exp":%d,"iat":%d,"role":"user","token_type":"access","tv":0,"cid":"c1"}`,
		testNow.Unix()+3600, testNow.Unix())
	return strings.NewReplacer(replace...).Replace(s)
}

func hostileTokens() map[string]string {
	good := forge(goodHeader, goodClaims())
	parts := strings.Split(good, ".")
	exp := fmt.Sprint(testNow.Unix() + 3600)
	claims := func(replace ...string) string { return forge(goodHeader, goodClaims(replace...)) }
	return map[string]string{
		"empty":                  "",
		"not a token":            "abc",
		"two parts":              parts[0] + "." + parts[1],
		"four parts":             good + ".x",
		"trailing dot":           good + ".",
		"unsigned":               parts[0] + "." + parts[1] + ".",
		"alg none, no signature": base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".",
		"alg none, signed":       forge(`{"alg":"none","typ":"JWT"}`, goodClaims()),
		"alg None":               forge(`{"alg":"nOnE"}`, goodClaims()),
		"RS256 with the secret":  forge(`{"alg":"RS256","typ":"JWT"}`, goodClaims()),
		"HS512 named":            forge(`{"alg":"HS512","typ":"JWT"}`, goodClaims()),
		"kid path":               forge(`{"alg":"HS256","kid":"../../dev/null"}`, goodClaims()),
		"jku":                    forge(`{"alg":"HS256","jku":"http://evil/"}`, goodClaims()),
		"crit":                   forge(`{"alg":"HS256","crit":["x"]}`, goodClaims()),
		"two algs":               forge(`{"alg":"HS256","alg":"none"}`, goodClaims()),
		"flipped signature":      good[:len(good)-3] + "AAA",
		"padded":                 good + "=",
		"line break":             good[:len(good)-4] + "\n" + good[len(good)-4:],
		"1 MB":                   forge(goodHeader, goodClaims(`"alice"`, `"`+strings.Repeat("a", 1<<20)+`"`)),
		"repeated claim":         claims(`"sub":"alice"`, `"sub":"alice","sub":"root"`),
		"repeated escaped claim": claims(`"sub":"alice"`, `"sub":"alice","\u0073ub":"root"`),
		"exp string":             claims(exp, `"`+exp+`"`),
		"exp float":              claims(exp, exp+".5"),
		"exp negative":           claims(exp, "-1"),
		"exp 1e18":               claims(exp, "1e18"),
		"exp 10^18":              claims(exp, "1000000000000000000"),
		"exp null":               claims(exp, "null"),
		"exp missing":            claims(`"exp":`+exp+`,`, ``),
		"exp far":                claims(exp, fmt.Sprint(testNow.Unix()+11*366*86400)),
		"iat ahead":              claims(fmt.Sprint(testNow.Unix())+`,"role`, fmt.Sprint(testNow.Unix()+3000)+`,"role`),
		"other issuer":           claims(`"kalamdb"`, `"https://accounts.example"`),
		"no issuer":              claims(`"iss":"kalamdb",`, ``),
		"no subject":             claims(`"sub":"alice",`, ``),
		"empty subject":          claims(`"alice"`, `""`),
		"subject object":         claims(`"alice"`, `{"a":"b"}`),
		"unknown role":           claims(`"user"`, `"god"`),
		"anonymous role":         claims(`"user"`, `"anonymous"`),
		"unknown type":           claims(`"access"`, `"id"`),
		"no type":                claims(`"token_type":"access",`, ``),
		"no version":             claims(`"tv":0,`, ``),
		"negative version":       claims(`"tv":0`, `"tv":-1`),
		"no cluster":             claims(`,"cid":"c1"`, ``),
		"aud":                    claims(`"tv":0`, `"tv":0,"aud":"other"`),
		"nbf":                    claims(`"tv":0`, `"tv":0,"nbf":99999999999`),
		"claims array":           forge(goodHeader, `[]`),
		"claims text after":      forge(goodHeader, goodClaims()+"{}"),
		"claims not UTF-8":       claims("alice", "al\xffice"),
	}
}

func TestHostileTokens(t *testing.T) {
	if _, err := testTokens().Verify(forge(goodHeader, goodClaims())); err != nil {
		t.Fatalf("the token all others derive from: %v", err)
	}
	for name, token := range hostileTokens() {
		c, err := testTokens().Verify(token)
		if err != error(ErrInvalid) || c != (Claims{}) {
			t.Errorf("%s: claims %+v, error %v", name, c, err)
		}
	}
}

func TestTokenExpiry(t *testing.T) {
	token, err := testTokens().Issue(testClaims())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		after time.Duration
		want  dberr.Code
	}{{24 * time.Hour, ""}, {24*time.Hour + 59*time.Second, ""}, {24*time.Hour + leeway, dberr.TokenExpired}} {
		at := NewTokens(testSecret, func() time.Time { return testNow.Add(c.after) })
		if _, err := at.Verify(token); dberr.CodeOf(err) != c.want {
			t.Errorf("after %s: %v", c.after, err)
		}
	}
	// An expired token with a wrong signature says nothing about its time.
	at := NewTokens([]byte("another"), func() time.Time { return testNow.Add(48 * time.Hour) })
	if _, err := at.Verify(token); !dberr.Is(err, dberr.Unauthenticated) {
		t.Errorf("another secret: %v", err)
	}
}

// FuzzVerify: whatever verifies must be what Issue makes of the claims read, up to the header's spelling.
func FuzzVerify(f *testing.F) {
	f.Add(forge(goodHeader, goodClaims()))
	for _, token := range hostileTokens() {
		if len(token) < 4096 {
			f.Add(token)
		}
	}
	f.Fuzz(func(t *testing.T, token string) {
		c, err := testTokens().Verify(token)
		if err != nil {
			if !dberr.Is(err, dberr.Unauthenticated) && !dberr.Is(err, dberr.TokenExpired) {
				t.Fatalf("%q: %v", token, err)
			}
			return
		}
		again, err := testTokens().Issue(c)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := testTokens().Verify(again); err != nil || got != c {
			t.Fatalf("%q: %+v became %+v (%v)", token, c, got, err)
		}
	})
}

// FuzzClaims reaches behind the signature.
func FuzzClaims(f *testing.F) {
	f.Add(goodClaims())
	f.Add(goodClaims(`"alice"`, `"\u0000"`))
	f.Fuzz(func(t *testing.T, claims string) {
		c, err := testTokens().Verify(forge(goodHeader, claims))
		if err == nil && (c.Subject == "" || c.ClusterID == "" || c.Role < catalog.RoleUser || !c.ExpiresAt.After(testNow.Add(-leeway))) {
			t.Fatalf("%q verified as %+v", claims, c)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	token, _ := testTokens().Issue(testClaims())
	tokens := testTokens()
	for b.Loop() {
		if _, err := tokens.Verify(token); err != nil {
			b.Fatal(err)
		}
	}
}
