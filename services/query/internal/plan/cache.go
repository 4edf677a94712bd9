package plan

import (
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
)

const (
	// cachedPlansMax bounds the plans kept; an application has some hundred texts.
	cachedPlansMax = 2048
	// cachedTextMax keeps long texts, which are rarely sent twice, out: with the parse tree a plan takes
	// several times its text.
	cachedTextMax = 8 << 10
)

type cache struct{ plans *lru.Cache[string, *Plan] }

func newCache() (*cache, error) {
	plans, err := lru.New[string, *Plan](cachedPlansMax)
	if err != nil {
		return nil, dberr.New(dberr.Internal, "make the cache of plans: %w", err)
	}
	return &cache{plans}, nil
}

// cacheKey is everything a plan depends on besides the tables; empty when it must not be kept.
func cacheKey(env *Env, sel *sqlfront.Select) string {
	text := sel.Text()
	if text == "" || len(text) > cachedTextMax {
		return ""
	}
	var b strings.Builder
	b.Grow(len(text) + len(env.Namespace) + len(env.Params) + 2)
	b.WriteString(env.Namespace)
	b.WriteByte(0)
	if env.staged() {
		b.WriteByte('+')
	}
	for _, p := range env.Params {
		b.WriteByte('a' + byte(p.Kind()))
	}
	b.WriteByte(0)
	b.WriteString(text)
	return b.String()
}

// get returns a plan whose tables are still the same.
func (c *cache) get(key string, state *catalogview.State) *Plan {
	if key == "" {
		return nil
	}
	p, ok := c.plans.Get(key)
	if !ok {
		return nil
	}
	for _, s := range p.Scans {
		if s.Table == nil {
			continue
		}
		// A changed table is another value: tables are immutable.
		if t, ok := state.Table(s.Table.Namespace, s.Table.Name); !ok || t != s.Table {
			c.plans.Remove(key)
			return nil
		}
	}
	return p
}

func (c *cache) put(key string, p *Plan) {
	if key != "" {
		c.plans.Add(key, p)
	}
}
