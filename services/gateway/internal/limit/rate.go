// Package limit decides who is asked to come back later: token buckets per user and per address, open
// connections per address, and bans for those who do not listen. Every map is bounded; the clock is
// the caller's.
package limit

import (
	"fmt"
	"time"

	"github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// keysMax bounds the buckets of one Rate (about 200 bytes each). The bucket used longest ago goes
// first, and a bucket that nobody used for a second is full again: only more busy keys than this at
// once could win anything by pushing buckets out.
const keysMax = 20_000

// Rate is a token bucket per key.
type Rate struct {
	what    string
	per     rate.Limit
	burst   int
	now     func() time.Time
	buckets *lru.Cache[string, *rate.Limiter]
}

// NewRate allows each key perSecond events, and burst at once (at least one). Zero perSecond switches
// the limit off. What names the limit in errors.
func NewRate(what string, perSecond float64, burst int, now func() time.Time) *Rate {
	r := &Rate{what: what, per: rate.Limit(perSecond), burst: max(burst, 1), now: now}
	if perSecond <= 0 {
		return r
	}
	buckets, err := lru.New[string, *rate.Limiter](keysMax)
	if err != nil {
		panic(err) // only for a size below one
	}
	r.buckets = buckets
	return r
}

// Take takes one token of the key's bucket, or returns a RateLimited error with retry_after_ms.
func (r *Rate) Take(key string) error {
	if r.buckets == nil {
		return nil
	}
	bucket := rate.NewLimiter(r.per, r.burst)
	if prev, found, _ := r.buckets.PeekOrAdd(key, bucket); found {
		bucket = prev
		r.buckets.Get(key) // now the newest
	}
	now := r.now()
	if bucket.AllowN(now, 1) {
		return nil
	}
	missing := 1 - bucket.TokensAt(now)
	wait := time.Duration(missing / float64(r.per) * float64(time.Second))
	return limited(wait, "rate limit exceeded: at most %g %s per second", float64(r.per), r.what)
}

// limited makes the error of every limit here.
func limited(wait time.Duration, format string, args ...any) error {
	ms := max(wait.Milliseconds(), 1)
	return dberr.New(dberr.RateLimited, format, args...).With(dberr.FieldRetryAfterMS, fmt.Sprint(ms))
}
