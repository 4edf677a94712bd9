package plan

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
	"testing"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/query/internal/engine"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
	"github.com/kalamdb/kalamdb-go/services/query/internal/systemtable"
)

// written are the functions that planning itself writes into the engine's text.
var written = map[string]bool{scanFunction: true, "make_timestamp": true, "abs": true, "pow": true, "xor": true, "trunc": true,
	"regexp_matches": true, "like_escape": true, engine.Like: true, engine.ILike: true, engine.Levenshtein: true,
	"substr": true, "date_trunc": true, "date_part": true, "strftime": true, "array_cosine_distance": true,
	"array_inner_product": true, "to_json": true, "json_object": true, "json_array": true, "mod": true, "fdiv": true, "fmod": true,
	"generate_series": true, "range": true, "unnest": true, "timezone": true,
	engine.NonZero: true, engine.Concat: true, engine.Repeat: true, engine.Replace: true, engine.PadLeft: true,
	engine.PadRight: true, engine.RegexpReplace: true, engine.BoundedJSON: true, engine.JSONGet: true, engine.JSONGetText: true,
	engine.JSONHas: true, engine.ToBytes: true, engine.SnowflakeID: true, engine.UUIDv7: true, engine.ULID: true}

func mayBeWritten(name string) bool {
	if written[name] {
		return true
	}
	for _, list := range []map[string]string{functions, aggregates} {
		for from, to := range list {
			if to == name || to == "=" && from == name {
				return true
			}
		}
	}
	return false
}

// FuzzPlan plans arbitrary text: it never panics, its errors have codes, and the engine's text calls no
// function and reads no table that is not allowed.
func FuzzPlan(f *testing.F) {
	for _, sql := range seeds(f) {
		f.Add(sql)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list, err := sqlfront.Parse(text, sqlfront.Limits{})
		if err != nil || len(list) != 1 {
			return
		}
		sel, ok := list[0].(*sqlfront.Select)
		if !ok {
			return
		}
		planner, err := NewPlanner(systemtable.New(systemtable.Config{}))
		if err != nil {
			t.Fatal(err)
		}
		env := &Env{Namespace: "app", Params: []datum.Datum{datum.Int(1), datum.Text("x"), datum.Null}}
		p, err := planner.Plan(&catalogview.State{}, env, sel)
		if err != nil {
			if dberr.Is(err, dberr.Internal) {
				t.Errorf("%s: %v", text, err)
			}
			return
		}
		b, err := p.Bind(env)
		if err != nil {
			return
		}
		b.Explain(4)
		checkText(t, text, p.SQL)
	})
}

// TestLikeWithoutBacktracking: the engine's own LIKE tries every place for every %.
func TestLikeWithoutBacktracking(t *testing.T) {
	planner, err := NewPlanner(systemtable.New(systemtable.Config{}))
	if err != nil {
		t.Fatal(err)
	}
	for condition, ours := range map[string]bool{
		"x LIKE 'a%b'": false, "x NOT LIKE '%a%'": false, "x LIKE 'a_'": true, `x LIKE 'a\%'`: true, "x LIKE x": true,
		"x ILIKE 'a'": true, "x NOT ILIKE 'a'": true, "x LIKE 'a!%' ESCAPE '!'": true, "x LIKE $1": true,
		"x LIKE 'a' || '_'": true, "x ~~ 'a_'": true, "x LIKE 'a%'::text": true,
	} {
		list, err := sqlfront.Parse("SELECT "+condition+" FROM unnest(ARRAY['a']) g(x)", sqlfront.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		p, err := planner.Plan(&catalogview.State{}, &Env{Namespace: "app", Params: []datum.Datum{datum.Text("x")}}, list[0].(*sqlfront.Select))
		if err != nil {
			t.Errorf("%s: %v", condition, err)
			continue
		}
		if got := strings.Contains(p.SQL, engine.Like+"(") || strings.Contains(p.SQL, engine.ILike+"("); got != ours {
			t.Errorf("%s became %s", condition, p.SQL)
		}
	}
}

func checkText(t *testing.T, text, sql string) {
	tree, err := pg.Parse(sql)
	if err != nil {
		return // some of it is the engine's grammar only
	}
	ctes := map[string]bool{}
	sqlfront.Walk(tree, func(m proto.Message) bool {
		if c, ok := m.(*pg.CommonTableExpr); ok {
			ctes[strings.ToLower(c.GetCtename())] = true
		}
		return true
	})
	for _, call := range sqlfront.Functions(tree) {
		if name, ok := functionName(call); !ok && name != "" || !mayBeWritten(name) && !writtenAsSyntax[name] {
			t.Errorf("%s\n calls %q in %s", text, name, sql)
		}
	}
	for _, r := range sqlfront.Tables(tree) {
		if !ctes[strings.ToLower(r.GetRelname())] {
			t.Errorf("%s\n reads %q in %s", text, r.GetRelname(), sql)
		}
	}
}

// writtenAsSyntax are calls that the parser makes of the text's syntax: AT TIME ZONE, POSITION, TRIM …
var writtenAsSyntax = map[string]bool{"timezone": true, "btrim": true, "position": true, "substring": true}

// seeds are the statements of the golden tests.
func seeds(f *testing.F) []string {
	paths, err := filepath.Glob("../exec/testdata/*.txt")
	if err != nil || len(paths) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	var out []string
	for _, path := range paths {
		file, err := os.Open(path)
		if err != nil {
			f.Fatal(err)
		}
		var sql []string
		inside := false
		for s := bufio.NewScanner(file); s.Scan(); {
			switch line := s.Text(); {
			case strings.HasPrefix(line, "query") || strings.HasPrefix(line, "explain"):
				inside, sql = true, nil
			case line == "----" && inside:
				out = append(out, strings.Join(sql, "\n"))
				inside = false
			case inside && !strings.HasPrefix(line, "--"):
				sql = append(sql, line)
			}
		}
		if err := file.Close(); err != nil {
			f.Fatal(err)
		}
	}
	return append(out, "SELECT position('a' in 'b'), timestamp '2024-01-01' at time zone 'UTC'")
}
