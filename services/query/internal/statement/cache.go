package statement

import (
	"sync/atomic"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/kalamdb/kalamdb-go/services/query/internal/dml"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
)

const (
	// cachedTextsMax and cachedTextBytesMax bound the parse cache. Longer texts are mostly literals
	// that never come again.
	cachedTextsMax     = 4096
	cachedTextBytesMax = 8 << 10
)

// parsed is a request's text in statements. It is shared by all requests with the same text, and
// nobody changes it.
type parsed struct {
	statements []sqlfront.Statement
	// insert is the prepared form of a text that is one INSERT.
	insert atomic.Pointer[dml.PreparedInsert]
}

// textCache remembers parsed texts.
type textCache struct {
	limits sqlfront.Limits
	texts  *lru.Cache[string, *parsed]
}

func newTextCache(limits sqlfront.Limits) (*textCache, error) {
	texts, err := lru.New[string, *parsed](cachedTextsMax)
	if err != nil {
		return nil, err
	}
	return &textCache{limits: limits, texts: texts}, nil
}

func (c *textCache) parse(text string) (*parsed, error) {
	if p, ok := c.texts.Get(text); ok {
		return p, nil
	}
	statements, err := sqlfront.Parse(text, c.limits)
	if err != nil {
		return nil, err
	}
	p := &parsed{statements: statements}
	if len(text) <= cachedTextBytesMax && !secret(statements) {
		c.texts.Add(text, p)
	}
	return p, nil
}

// secret reports whether a text holds a password or other credentials, which must not stay in memory.
func secret(statements []sqlfront.Statement) bool {
	for _, s := range statements {
		switch s := s.(type) {
		case *sqlfront.CreateUser, *sqlfront.AlterUser, *sqlfront.CreateStorage, *sqlfront.AlterStorage:
			return true
		case *sqlfront.ExecuteAs:
			if secret([]sqlfront.Statement{s.Inner}) {
				return true
			}
		}
	}
	return false
}
