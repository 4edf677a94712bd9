package statement

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/datum"
)

func TestTemplate(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"INSERT INTO app.t (id, v) VALUES (1, 'x')", "INSERT INTO app.t (id, v) VALUES ($1, $2) 1 x"},
		{"insert  into t\nvalues(-5,NULL),(TRUE , false) ;\n", "insert  into t\nvalues($1,$2),($3 , $4) ;\n -5 NULL true false"},
		{"INSERT INTO t VALUES ('it''s', '')", "INSERT INTO t VALUES ($1, $2) it's "},
		{"INSERT INTO t (a) VALUES (DEFAULT), ('\\n')", "INSERT INTO t (a) VALUES (DEFAULT), ($1) \\n"},
		{"INSERT INTO t VALUES (9223372036854775807, -9223372036854775808)",
			"INSERT INTO t VALUES ($1, $2) 9223372036854775807 -9223372036854775808"},
		// Everything below is for the parser.
		{"INSERT INTO t VALUES (DEFAULT)", ""}, {"INSERT INTO t VALUES ()", ""}, {"INSERT INTO t VALUES", ""},
		{"INSERT INTO t VALUES (1.5)", ""}, {"INSERT INTO t VALUES (1e3)", ""}, {"INSERT INTO t VALUES (+1)", ""},
		{"INSERT INTO t VALUES (- 1)", ""}, {"INSERT INTO t VALUES (0x1F)", ""}, {"INSERT INTO t VALUES (1_000)", ""},
		{"INSERT INTO t VALUES (9223372036854775808)", ""}, {"INSERT INTO t VALUES ($1)", ""},
		{"INSERT INTO t VALUES ('a' 'b')", ""}, {"INSERT INTO t VALUES (E'a')", ""}, {"INSERT INTO t VALUES ('a)", ""},
		{"INSERT INTO t VALUES (1) RETURNING a", ""}, {"INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING", ""},
		{"INSERT INTO t VALUES (1); SELECT 1", ""}, {"INSERT INTO t VALUES (1),", ""}, {"INSERT INTO t VALUES (1,)", ""},
		{"INSERT INTO t VALUES (1 -- c\n)", ""}, {"INSERT INTO t VALUES (/* c */ 1)", ""}, {"INSERT INTO t VALUES (now())", ""},
		{"INSERT INTO \"t\" VALUES (1)", ""}, {"INSERT INTO t (a b) VALUES (1)", ""}, {"INSERT INTO tVALUES (1)", ""},
		{"INSERT INTO a.b.c VALUES (1)", ""}, {"INSERT INTO t VALUES (nullx)", ""}, {"INSERT INTO t VALUES ('\xff')", ""},
		{"INSERT INTO t VALUES ('\x00')", ""}, {"SELECT 1", ""}, {"", ""},
		{"INSERT INTO t VALUES (" + strings.Repeat("1,", literalsMax) + "1)", ""},
	} {
		got, literals, ok := template(tc.text)
		if !ok {
			got = ""
		}
		for _, d := range literals {
			switch {
			case !ok:
			case d.IsNull():
				got += " NULL"
			case d.Kind() == datum.KindText:
				got += " " + d.AsText()
			case d.Kind() == datum.KindBool:
				got += fmt.Sprintf(" %t", d.AsBool())
			default:
				got += fmt.Sprintf(" %d", d.AsInt())
			}
		}
		if got != tc.want {
			t.Errorf("%q\n got %q\nwant %q", tc.text, got, tc.want)
		}
	}
}

// FuzzTemplate: putting the literals back gives the text again, so nothing is lost or moved.
func FuzzTemplate(f *testing.F) {
	f.Add("INSERT INTO app.t (id, v) VALUES (1, 'it''s'), (-2, NULL), (DEFAULT, true);")
	f.Fuzz(func(t *testing.T, text string) {
		out, literals, ok := template(text)
		if !ok {
			return
		}
		s := scanner{text: out}
		if !s.word("insert") {
			t.Fatalf("%q became %q", text, out)
		}
		if strings.Count(out, "$") != len(literals) || strings.Contains(out, "'") {
			t.Fatalf("%q became %q with %d literals", text, out, len(literals))
		}
		// What is left is the text without its literals: folding both to their skeletons must agree.
		back := out
		for i := len(literals); i > 0; i-- {
			back = strings.Replace(back, fmt.Sprint("$", i), spelled(literals[i-1]), 1)
		}
		again, same, ok := template(back)
		if !ok || again != out || len(same) != len(literals) {
			t.Fatalf("%q became %q, and that %q", text, out, again)
		}
		for i := range same {
			if same[i] != literals[i] {
				t.Fatalf("literal %d of %q: %v, then %v", i+1, text, literals[i], same[i])
			}
		}
	})
}

func spelled(d datum.Datum) string {
	switch d.Kind() {
	case datum.KindNull:
		return "NULL"
	case datum.KindBool:
		return fmt.Sprint(d.AsBool())
	case datum.KindInt:
		return fmt.Sprint(d.AsInt())
	}
	return "'" + strings.ReplaceAll(d.AsText(), "'", "''") + "'"
}

func BenchmarkTemplate(b *testing.B) {
	const text = "INSERT INTO app.messages (id, room_id, body) VALUES (249871236123492352, 'general', 'Hello there, how are you?')"
	for b.Loop() {
		if _, _, ok := template(text); !ok {
			b.Fatal("not a template")
		}
	}
}
