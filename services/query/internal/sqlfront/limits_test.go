package sqlfront

import (
	"strings"
	"testing"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// nests makes texts whose trees are as high as n says.
var nests = map[string]func(n int) string{
	"parentheses": func(n int) string { return "SELECT " + strings.Repeat("(", n) + "1" + strings.Repeat(")", n) },
	"calls":       func(n int) string { return "SELECT " + strings.Repeat("f(", n) + "1" + strings.Repeat(")", n) },
	"subqueries":  func(n int) string { return "SELECT " + strings.Repeat("(SELECT ", n) + "1" + strings.Repeat(")", n) },
	"derived": func(n int) string {
		return "SELECT 1 FROM " + strings.Repeat("(SELECT 1 FROM ", n) + "a" + strings.Repeat(") x", n)
	},
	"case": func(n int) string {
		return "SELECT " + strings.Repeat("CASE WHEN a THEN ", n) + "1" + strings.Repeat(" END", n)
	},
	"arrays":    func(n int) string { return "SELECT " + strings.Repeat("ARRAY[", n) + "1" + strings.Repeat("]", n) },
	"not":       func(n int) string { return "SELECT " + strings.Repeat("NOT ", n) + "true" },
	"minus":     func(n int) string { return "SELECT " + strings.Repeat("- ", n) + "a" },
	"plus":      func(n int) string { return "SELECT 1" + strings.Repeat("+1", n) },
	"power":     func(n int) string { return "SELECT 1" + strings.Repeat(" ^ 1", n) },
	"concat":    func(n int) string { return "SELECT 'a'" + strings.Repeat("||'a'", n) },
	"casts":     func(n int) string { return "SELECT 1" + strings.Repeat("::int", n) },
	"collate":   func(n int) string { return "SELECT a" + strings.Repeat(` COLLATE "C"`, n) },
	"zones":     func(n int) string { return "SELECT a" + strings.Repeat(" AT LOCAL", n) },
	"operator":  func(n int) string { return "SELECT a" + strings.Repeat(" OPERATOR(+) 1", n) },
	"subscript": func(n int) string { return "SELECT (a)" + strings.Repeat("[1]", n) },
	"fields":    func(n int) string { return "SELECT (a)" + strings.Repeat(".b", n) },
	"union":     func(n int) string { return "SELECT 1, 1" + strings.Repeat(" UNION ALL SELECT 1, 1", n) },
	"except":    func(n int) string { return "SELECT 1" + strings.Repeat(" EXCEPT SELECT 1", n) },
	"joins":     func(n int) string { return "SELECT 1, 2 FROM a" + strings.Repeat(" JOIN b ON x AND y", n) },
	"natural":   func(n int) string { return "SELECT 1 FROM a" + strings.Repeat(" NATURAL JOIN b", n) },
	"staircase": func(n int) string {
		return "SELECT " + strings.Repeat("(", n/10) + "1" + strings.Repeat("+1+1+1+1+1+1+1+1+1+1)", n/10)
	},
	"between": func(n int) string { return "SELECT a BETWEEN 1 AND 2" + strings.Repeat(" + 2", n) },
	"explain": func(n int) string { return strings.Repeat("EXPLAIN ", n) + "SELECT 1" },
	"execute": func(n int) string { return strings.Repeat("EXECUTE AS USER a ", n) + "SELECT 1" },
	"default": func(n int) string {
		return "CREATE TABLE t (a INT DEFAULT " + strings.Repeat("(", n) + "1" + strings.Repeat(")", n) + ")"
	},
	"unclosed": func(n int) string { return "SELECT " + strings.Repeat("(1+", n) },
	"with": func(n int) string {
		return strings.Repeat("WITH a AS (", n) + "SELECT 1" + strings.Repeat(") SELECT 1", n)
	},
}

// TestDeepText shows that no text makes a recursive reader fall: everything high is refused before
// PostgreSQL's parser sees it, and what is accepted can be parsed and written again.
func TestDeepText(t *testing.T) {
	for name, nest := range nests {
		t.Run(name, func(t *testing.T) {
			for _, n := range []int{100_000, 5000, 1100} {
				text := nest(n)
				if len(text) > defaultTextBytes {
					text = text[:defaultTextBytes]
				}
				if _, err := Parse(text, Limits{}); !dberr.Is(err, dberr.LimitExceeded) {
					t.Fatalf("%d deep: %v", n, err)
				}
			}
			for _, n := range []int{10, 100, 300, 511, 512, 513, 899, 900, 901} {
				mustSurvive(t, nest(n))
			}
		})
	}
}

// mustSurvive parses; what is accepted must be good for everything done with it later.
func mustSurvive(t *testing.T, text string) {
	t.Helper()
	statements, err := Parse(text, Limits{})
	if err != nil {
		if dberr.CodeOf(err) == dberr.Internal {
			t.Fatalf("error without code: %v", err)
		}
		return
	}
	for _, s := range statements {
		if s, ok := s.(*Select); ok {
			out, err := Deparse(s.Tree.Stmt)
			if err == nil {
				// The parser's own writer forgets some parentheses, as in (0)[0]: an error is allowed
				// here, a crash is not.
				_, _ = pg.Parse(out)
			}
		}
	}
}

func TestFlatTextIsNotDeep(t *testing.T) {
	for name, text := range map[string]string{
		"and":    "SELECT 1 WHERE a = 1" + strings.Repeat(" AND a = 1", 5000),
		"or":     "SELECT 1 WHERE a = 1" + strings.Repeat(" OR NOT (a + 1 = 1)", 5000),
		"in":     "SELECT a IN (1" + strings.Repeat(", -1", defaultListItems-1) + ")",
		"values": "INSERT INTO t VALUES (-1, 1 + 1)" + strings.Repeat(", (-1, 1 + 1)", 20_000),
		"list":   "SELECT a + 1" + strings.Repeat(", t.a + 1", 5000),
		"case":   "SELECT CASE" + strings.Repeat(" WHEN a = 1 THEN -1", 3000) + " END",
		"nested": nests["parentheses"](nestingMax),
		"names":  "SELECT t.case" + strings.Repeat(", t.case", 2000),
	} {
		if _, err := Parse(text, Limits{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLimits(t *testing.T) {
	for _, c := range []struct {
		name, text string
		limits     Limits
		want       dberr.Code
	}{
		{"bytes", "SELECT 1", Limits{TextBytes: 7}, dberr.LimitExceeded},
		{"bytes, just", "SELECT 1", Limits{TextBytes: 8}, ""},
		{"default bytes", "SELECT '" + strings.Repeat("x", 1<<20) + "'", Limits{}, dberr.LimitExceeded},
		{"statements", strings.Repeat("SELECT 1;", 1001), Limits{}, dberr.LimitExceeded},
		{"statements, just", strings.Repeat("SELECT 1;", 1000), Limits{}, ""},
		{"IN list", "SELECT a IN (1, 2, 3)", Limits{ListItems: 2}, dberr.LimitExceeded},
		{"IN list, just", "SELECT a IN (1, 2, 3)", Limits{ListItems: 3}, ""},
		{"NUL", "SELECT '\x00'", Limits{}, dberr.InvalidSQL},
		{"UTF-8", "SELECT '\xff'", Limits{}, dberr.InvalidSQL},
		{"replacement character", "SELECT '\uFFFD'", Limits{}, ""},
	} {
		if _, err := Parse(c.text, c.limits); dberr.CodeOf(err) != c.want {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestStatementsKnowTheirPlace(t *testing.T) {
	request := "SELECT 'ü' ;  -- note\n DELETE FROM t WHERE a = 1; EXECUTE AS USER b (SELECT 2)"
	statements, err := Parse(request, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"SELECT 'ü'", "DELETE FROM t WHERE a = 1", "EXECUTE AS USER b (SELECT 2)"} {
		s := statements[i]
		if s.Text() != want || request[s.Offset():s.Offset()+len(want)] != want {
			t.Errorf("statement %d: %q at %d", i, s.Text(), s.Offset())
		}
	}
	inner := statements[2].(*ExecuteAs).Inner
	if inner.Text() != "SELECT 2" || request[inner.Offset():] != "SELECT 2)" {
		t.Errorf("inner: %q at %d", inner.Text(), inner.Offset())
	}
	where := statements[1].(*Delete)
	if line, column := where.Tree.Locate(Location(where.Where)); line != 2 || column != 22 {
		t.Errorf("the condition is at %d:%d", line, column)
	}
}

func TestWalkers(t *testing.T) {
	statements, err := Parse("SELECT f(a, $2) FROM x JOIN app.y ON g($1) WHERE EXISTS (SELECT 1 FROM z)", Limits{})
	if err != nil {
		t.Fatal(err)
	}
	stmt := statements[0].(*Select).Tree.Stmt
	if n := Params(stmt); n != 2 || !HasParams(stmt) {
		t.Errorf("%d parameters", n)
	}
	if n := len(Tables(stmt)); n != 3 {
		t.Errorf("%d tables", n)
	}
	if n := len(Functions(stmt)); n != 2 {
		t.Errorf("%d functions", n)
	}
	a, err := Normalize("SELECT * FROM t WHERE a = 1")
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := Normalize("SELECT * FROM t WHERE a = 2"); a != b {
		t.Errorf("%q and %q differ", a, b)
	}
}

func FuzzParse(f *testing.F) {
	for _, nest := range nests {
		f.Add(nest(20))
	}
	for _, text := range seeds {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		mustSurvive(t, text)
		MaskSecrets(text)
	})
}
