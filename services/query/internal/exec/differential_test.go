package exec

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/query/internal/plan"
)

// differentialRuns is how many statements a run of the test compares; KALAMDB_DIFFERENTIAL_RUNS asks
// for more.
const differentialRuns = 500

func runs(t *testing.T) int {
	if n, err := strconv.Atoi(os.Getenv("KALAMDB_DIFFERENTIAL_RUNS")); err == nil {
		return n
	}
	return differentialRuns
}

// TestStorageAndEngineAgree runs generated statements twice: as they are, where the conditions are
// internal/predicate's and the order and the limit are the storage role's, and over a subquery, where
// all of it is the engine's. The answers must be equal.
func TestStorageAndEngineAgree(t *testing.T) {
	messages := messagesTable()
	f := start(t, memory.DefaultAllocator, messages)
	seed := uint64(1)
	if s, err := strconv.ParseUint(os.Getenv("KALAMDB_DIFFERENTIAL_SEED"), 10, 64); err == nil {
		seed = s
	}
	g := &generator{rand.New(rand.NewPCG(seed, 7))}
	for i := range 60 {
		f.put(t, messages, "alice", g.messageRow(int64(i))...)
	}
	fast, failed := 0, 0
	for range runs(t) {
		list, rest := g.statement()
		direct := "SELECT " + list + " FROM messages WHERE " + rest
		through := "SELECT " + list + " FROM (SELECT * FROM messages) messages WHERE " + rest
		env := f.env
		p, err := f.bind(f.Catalog.State(), &env, parse(t, direct))
		if err == nil && p.Kind == plan.FastScan {
			fast++
		}
		a, errA := f.query(t, direct)
		b, errB := f.query(t, through)
		switch {
		case errA != nil && errB != nil:
			failed++
		case errA != nil || errB != nil:
			// One may stop before the row, or the operand, that the other fails at.
			if err := onlyError(errA, errB); !dberr.Is(err, dberr.ValueOutOfRange) {
				t.Errorf("%s\n storage: %d rows, %v\n engine:  %d rows, %v", direct, len(a), errA, len(b), errB)
			}
			failed++
		case !slices.Equal(a, b):
			t.Errorf("%s\n storage: %q\n engine:  %q", direct, a, b)
		}
	}
	t.Logf("%d statements, %d of them by storage alone, %d failed", runs(t), fast, failed)
	if fast < runs(t)/2 {
		t.Errorf("only %d of %d statements were answered by storage alone", fast, runs(t))
	}
	if failed > runs(t)/4 {
		t.Errorf("%d of %d statements failed: nothing is compared", failed, runs(t))
	}
}

func onlyError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// generator makes statements over the messages table.
type generator struct{ *rand.Rand }

func pick[T any](g *generator, of ...T) T { return of[g.IntN(len(of))] }

func (g *generator) messageRow(id int64) []datum.Datum {
	null := func(d datum.Datum) datum.Datum {
		if g.IntN(6) == 0 {
			return datum.Null
		}
		return d
	}
	cents := g.Int64N(4000) - 2000
	return []datum.Datum{datum.Int(id), null(datum.Text(pick(g, "a", "b", "Straße", ""))),
		null(datum.Text(pick(g, "alpha", "Beta%", "gam_ma", "  pad ", "ÄÖ", "x", "a\\b", "10", "-3.5"))),
		null(datum.Timestamp(nowUS - g.Int64N(4_000_000_000_000) + 123)), null(datum.Int(pick[int64](g, 0, 1, -7, 12, 2147483647, -2147483648))),
		null(datum.Decimal(cents>>63, uint64(cents), 2)), null(datum.Bool(g.IntN(2) == 0)),
		null(datum.Text(pick(g, `{"k":1,"s":"x"}`, `{"k":{"a":[1,2]}}`, `["k"]`, `"k"`, `{"s":null}`))),
		null(datum.Float(pick[float64](g, 0, 0.5, -2.5, 1e10, 3.25))), null(datum.Bytes([]byte(pick(g, "", "a", "\xff\x00"))))}
}

// statement returns the results and what follows WHERE.
func (g *generator) statement() (list, rest string) {
	columns := []string{"id", "room", "body", "ts", "n", "price", "ok", "meta", "score", "raw"}
	g.Shuffle(len(columns), func(i, j int) { columns[i], columns[j] = columns[j], columns[i] })
	list = strings.Join(columns[:1+g.IntN(4)], ", ")
	rest = g.condition(3)
	order := []string{"id"}
	if g.IntN(2) == 0 {
		order = []string{pick(g, "room", "body", "ts", "n", "price", "ok", "score", "_seq") + pick(g, "", " DESC", " ASC", " NULLS FIRST", " DESC NULLS LAST"), "id"}
	}
	rest += " ORDER BY " + strings.Join(order, ", ") + pick(g, "", " DESC")
	if g.IntN(2) == 0 {
		rest += fmt.Sprintf(" LIMIT %d", g.IntN(20))
	}
	if g.IntN(4) == 0 {
		rest += fmt.Sprintf(" OFFSET %d", g.IntN(20))
	}
	return list, rest
}

func (g *generator) condition(depth int) string {
	if depth == 0 {
		return g.comparison(1)
	}
	switch g.IntN(9) {
	case 0:
		return "(" + g.condition(depth-1) + " AND " + g.condition(depth-1) + ")"
	case 1:
		return "(" + g.condition(depth-1) + " OR " + g.condition(depth-1) + ")"
	case 2:
		return "NOT (" + g.condition(depth-1) + ")"
	case 3:
		return "(" + g.condition(depth-1) + ") IS " + pick(g, "TRUE", "NOT TRUE", "FALSE", "NOT FALSE", "UNKNOWN", "NOT UNKNOWN", "NULL", "NOT NULL")
	case 4:
		return g.membership()
	case 5:
		return g.text(1) + pick(g, " LIKE ", " NOT LIKE ", " ILIKE ") + pick(g, `'a%'`, `'%\_%'`, `'%'`, `'_'`, `'%a%'`, `'Ä_'`, `''`, `'a\\\\b'`, `'%!%%' ESCAPE '!'`)
	case 6:
		return pick(g, "ok", "ok = TRUE", "ok IS NOT TRUE", "ok IS DISTINCT FROM NULL", "meta ? 'k'")
	}
	return g.comparison(2)
}

func (g *generator) comparison(depth int) string {
	op := pick(g, " = ", " <> ", " < ", " <= ", " > ", " >= ", " IS DISTINCT FROM ", " IS NOT DISTINCT FROM ")
	switch g.IntN(4) {
	case 0:
		return g.text(depth) + op + g.text(depth)
	case 1:
		return g.time(depth) + op + g.time(depth)
	}
	return g.number(depth) + op + g.number(depth)
}

func (g *generator) membership() string {
	not := pick(g, "", " NOT")
	switch g.IntN(4) {
	case 0:
		return g.number(1) + not + " IN (1, 0, -7, 2.5" + pick(g, "", ", NULL") + ")"
	case 1:
		return g.text(1) + not + " IN ('a', 'alpha', 'x'" + pick(g, "", ", NULL") + ")"
	case 2:
		return g.number(1) + not + " BETWEEN " + g.number(0) + " AND " + g.number(0)
	}
	return pick(g, "room", "body", "ts", "n", "price", "score", "meta", "raw") + " IS" + not + " NULL"
}

func (g *generator) number(depth int) string {
	if depth == 0 || g.IntN(3) == 0 {
		return pick(g, "n", "price", "score", "id", "0", "1", "-7", "2.5", "0.005", "NULL", "1e3", "2147483648")
	}
	a, b := g.number(depth-1), g.number(depth-1)
	switch g.IntN(10) {
	case 0, 1:
		return "(" + a + pick(g, " + ", " - ", " * ") + b + ")"
	case 2:
		return "(" + pick(g, "n", "id") + pick(g, " / ", " % ") + pick(g, "3", "-2", "id", "(id + 1)") + ")"
	case 3:
		return "(- " + pick(g, "price", "score", "id") + ")"
	case 4:
		return pick(g, "abs", "floor", "ceil", "round") + "(" + pick(g, "price", "n", "id") + ")"
	case 5:
		return "length(" + g.text(depth-1) + ")"
	case 6:
		return "COALESCE(" + pick(g, "n", "price", "score") + ", " + a + ")"
	case 7:
		return "CASE WHEN " + g.comparison(0) + " THEN " + pick(g, "n", "1") + " ELSE " + pick(g, "id", "0", "NULL") + " END"
	case 8:
		return pick(g, "greatest", "least") + "(" + pick(g, "n", "id") + ", " + pick(g, "n", "5") + ")"
	}
	return "NULLIF(" + pick(g, "n", "id") + ", " + pick(g, "1", "0") + ")"
}

func (g *generator) text(depth int) string {
	if depth == 0 || g.IntN(3) == 0 {
		return pick(g, "room", "body", "'a'", "'alpha'", "''", "'Beta%'", "NULL::text", "'ä'")
	}
	a := g.text(depth - 1)
	switch g.IntN(9) {
	case 0:
		return pick(g, "lower", "upper", "trim", "ltrim", "rtrim") + "(" + a + ")"
	case 1:
		return "(" + a + " || " + g.text(depth-1) + ")"
	case 2:
		return "substring(" + a + pick(g, ", 2", ", 1, 2", ", 3, 100", ", -1, 3", ", 0") + ")"
	case 3:
		return "replace(" + a + ", 'a', 'oo')"
	case 4:
		return pick(g, "left", "right") + "(" + a + ", " + pick(g, "2", "0", "-1", "100") + ")"
	case 5:
		return "CAST(" + pick(g, "n", "id", "ok", "price") + " AS TEXT)"
	case 6:
		return "COALESCE(" + a + ", 'none')"
	case 7:
		return "(meta ->> " + pick(g, "'s'", "'k'", "0") + ")"
	}
	return "concat(" + a + ", 'z', " + pick(g, "n", "NULL", "room") + ")"
}

func (g *generator) time(depth int) string {
	if depth == 0 || g.IntN(3) == 0 {
		return pick(g, "ts", "NOW()", "TIMESTAMP '2026-01-01'", "_updated", "NULL::timestamp", "CURRENT_TIMESTAMP")
	}
	a := g.time(depth - 1)
	switch g.IntN(3) {
	case 0:
		return "(" + a + pick(g, " + ", " - ") + "INTERVAL '" + pick(g, "1 day", "2 hours 30 minutes", "1 month", "-1 year", "90 seconds") + "')"
	case 1:
		return "date_trunc('" + pick(g, "year", "month", "week", "day", "hour", "minute", "second") + "', " + a + ")"
	}
	return "COALESCE(" + a + ", NOW())"
}
