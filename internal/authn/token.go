package authn

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/strictjson"
)

// Issuer is the iss claim of our own tokens.
const Issuer = "kalamdb"

// TokenType tells what a token is good for.
type TokenType string

// An access token authenticates requests; a refresh token only buys a new pair.
const (
	AccessToken  TokenType = "access"
	RefreshToken TokenType = "refresh"
)

const (
	// SecretBytesMin is required of a secret before anything but loopback may be served: HS256's own size.
	SecretBytesMin = 32
	// tokenBytesMax is ten times what our longest token needs.
	tokenBytesMax = 4 << 10
	// leeway is how far the clocks of two gateways may differ.
	leeway = 60 * time.Second
	// lifetimeMax is more than any setting makes sense of; a longer one was not issued by us.
	lifetimeMax = 10 * 366 * 24 * time.Hour
)

// header is the only header there is. Nothing in a token chooses how it is verified: "alg":"none", RS256
// with our secret as a key, "kid", "jku" and the like all fail because they are not these bytes.
var header = base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`))

// sameHeaders are spellings of it that other JWT libraries write.
var sameHeaders = map[string]bool{
	header: true,
	base64.RawURLEncoding.EncodeToString([]byte(`{"typ":"JWT","alg":"HS256"}`)): true,
	base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256"}`)):             true,
}

var tokenEncoding = base64.RawURLEncoding.Strict()

// Claims is what a token says.
type Claims struct {
	Subject   string
	Email     string
	Role      catalog.Role
	Type      TokenType
	IssuedAt  time.Time
	ExpiresAt time.Time
	// TokenVersion must equal the user's; it rises on whatever shall end old tokens.
	TokenVersion uint64
	// ClusterID keeps tokens of another cluster with the same secret out.
	ClusterID string
}

// wireClaims fixes the names and the order.
type wireClaims struct {
	Subject      string    `json:"sub"`
	Issuer       string    `json:"iss"`
	ExpiresAt    int64     `json:"exp"`
	IssuedAt     int64     `json:"iat"`
	Email        string    `json:"email,omitempty"`
	Role         string    `json:"role"`
	Type         TokenType `json:"token_type"`
	TokenVersion uint64    `json:"tv"`
	ClusterID    string    `json:"cid"`
}

// Tokens issues and verifies tokens with one secret.
type Tokens struct {
	secret []byte
	now    func() time.Time
}

// NewTokens keeps the secret.
func NewTokens(secret []byte, now func() time.Time) *Tokens {
	return &Tokens{secret: append([]byte(nil), secret...), now: now}
}

// Issue signs the claims.
func (t *Tokens) Issue(c Claims) (string, error) {
	body, err := json.Marshal(wireClaims{Subject: c.Subject, Issuer: Issuer, ExpiresAt: c.ExpiresAt.Unix(),
		IssuedAt: c.IssuedAt.Unix(), Email: c.Email, Role: c.Role.String(), Type: c.Type,
		TokenVersion: c.TokenVersion, ClusterID: c.ClusterID})
	if err != nil {
		return "", dberr.New(dberr.Internal, "encode a token: %w", err)
	}
	signed := header + "." + tokenEncoding.EncodeToString(body)
	return signed + "." + tokenEncoding.EncodeToString(t.sign(signed)), nil
}

func (t *Tokens) sign(text string) []byte {
	m := hmac.New(sha256.New, t.secret)
	m.Write([]byte(text))
	return m.Sum(nil)
}

// ErrInvalid is the one answer to every credential that is wrong, whatever is wrong with it.
var ErrInvalid = dberr.New(dberr.Unauthenticated, "Invalid credentials")

// ErrExpired is the answer to a token that was good once; clients log in again and retry.
var ErrExpired = dberr.New(dberr.TokenExpired, "Token expired")

// Verify checks form, signature, issuer and times. The caller compares role, version and cluster with
// what is stored.
func (t *Tokens) Verify(token string) (Claims, error) {
	if len(token) > tokenBytesMax {
		return Claims{}, ErrInvalid
	}
	signed, body, mac, ok := split(token)
	if !ok || !hmac.Equal(mac, t.sign(signed)) {
		return Claims{}, ErrInvalid
	}
	c, ok := readClaims(body)
	if !ok {
		return Claims{}, ErrInvalid
	}
	now := t.now()
	switch life := c.ExpiresAt.Sub(c.IssuedAt); {
	case c.IssuedAt.After(now.Add(leeway)) || life <= 0 || life > lifetimeMax:
		return Claims{}, ErrInvalid
	case !now.Before(c.ExpiresAt.Add(leeway)):
		return Claims{}, ErrExpired
	}
	return c, nil
}

// Expired reports whether a token verified earlier has expired since.
func (t *Tokens) Expired(c Claims) bool { return !t.now().Before(c.ExpiresAt.Add(leeway)) }

// split takes a token apart; ok is false unless it has exactly three parts and our header.
func split(token string) (signed string, body, mac []byte, ok bool) {
	head, rest, found := strings.Cut(token, ".")
	if !found || !sameHeaders[head] {
		return "", nil, nil, false
	}
	payload, sig, found := strings.Cut(rest, ".")
	if !found {
		return "", nil, nil, false
	}
	mac, err := tokenEncoding.DecodeString(sig) // refuses a fourth part: '.' is not base64
	if err != nil || len(mac) != sha256.Size || strings.ContainsAny(token, "\r\n") {
		return "", nil, nil, false // the decoder skips line breaks; one token has one spelling
	}
	if body, err = tokenEncoding.DecodeString(payload); err != nil {
		return "", nil, nil, false
	}
	return token[:len(head)+1+len(payload)], body, mac, true
}

// readClaims is strict although only we can sign: a claim we do not know (aud, nbf, …) might forbid
// the use.
func readClaims(body []byte) (c Claims, ok bool) {
	o, err := strictjson.DecodeObject(body, strictjson.Limits{Depth: 1, Values: 16},
		"sub", "iss", "exp", "iat", "email", "role", "token_type", "tv", "cid")
	if err != nil {
		return c, false
	}
	r := claimReader{o: o}
	c.Subject, c.Email, c.ClusterID = r.text("sub", true), r.text("email", false), r.text("cid", true)
	c.Type = TokenType(r.text("token_type", true))
	role, known := catalog.ParseRole(r.text("role", true))
	c.Role = role
	c.ExpiresAt, c.IssuedAt = time.Unix(r.integer("exp"), 0), time.Unix(r.integer("iat"), 0)
	c.TokenVersion = uint64(r.integer("tv"))
	if r.bad || !known || r.text("iss", true) != Issuer || (c.Type != AccessToken && c.Type != RefreshToken) {
		return Claims{}, false
	}
	return c, true
}

type claimReader struct {
	o   strictjson.Object
	bad bool
}

func (r *claimReader) text(key string, required bool) string {
	s, present, err := r.o.Text(key)
	if err != nil || (required && (!present || s == "")) {
		r.bad = true
	}
	return s
}

// integer reads a whole number from 0 up, far enough below the limits of time.Time's arithmetic.
func (r *claimReader) integer(key string) int64 {
	const most = 1 << 40
	n, isNumber := r.o[key].(json.Number)
	v, err := strconv.ParseInt(string(n), 10, 64)
	if !isNumber || err != nil || v < 0 || v > most {
		r.bad = true
		return 0
	}
	return v
}
