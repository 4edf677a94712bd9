package sqlfront

import "strings"

// secretWords introduce a string that must not be logged; with them, what follows up to the next
// string may be one of = and (.
var secretWords = set(`password credentials oauth oidc config secret token identified auth_data password_hash`)

const mask = "'***'"

// MaskSecrets replaces the strings that follow PASSWORD, CREDENTIALS and their like by '***', for logs
// and history. Text that is not SQL is masked whole, because nobody can say what is in it.
func MaskSecrets(sql string) string {
	tokens, err := lex(sql)
	if err != nil {
		return "(unreadable SQL)"
	}
	var b strings.Builder
	copied, armed := 0, false
	for _, t := range tokens {
		raw := sql[t.start:t.end]
		switch t.kind {
		case tokWord, tokQuoted:
			word := strings.ToLower(strings.Trim(raw, "\"`"))
			armed = secretWords[word] || armed && word == "by" // IDENTIFIED BY
		case tokString:
			if armed {
				b.WriteString(sql[copied:t.start])
				b.WriteString(mask)
				copied = t.end
			}
		case tokOperator, tokPunct:
			armed = armed && (raw == "=" || raw == "(" || raw == ",")
		default:
			armed = false
		}
	}
	b.WriteString(sql[copied:])
	return b.String()
}
