package engine

import (
	"testing"
)

func TestTextFunctions(t *testing.T) {
	e := newEngine(t, Config{})
	for _, c := range []struct{ expr, want string }{
		{"kalam_concat('a', i::TEXT)", "a0"},
		{"kalam_concat('a', NULL)", "(null)"},
		{"kalam_repeat('ab', 3)", "ababab"},
		{"kalam_repeat('ab', -1)", ""},
		{"kalam_replace('banana', 'an', 'xyz')", "bxyzxyza"},
		{"kalam_replace('abc', '', 'x')", "abc"},
		{"kalam_lpad('äb', 5, 'xy')", "xyxäb"},
		{"kalam_rpad('äb', 5, 'xy')", "äbxyx"},
		{"kalam_lpad('abcdef', 2, 'x')", "ab"},
		{"kalam_lpad('ab', 5, '')", "ab"},
		{`kalam_regexp_replace('foo bar', '(o+)', '[\1]', '')`, "f[oo] bar"},
		{`kalam_regexp_replace('aAa', 'a', '<\&>', 'gi')`, "<a><A><a>"},
		{`kalam_regexp_replace('a', 'x', 'y', '')`, "a"},
		{"kalam_concat(kalam_repeat('a text longer than inline ', 2), 'x')", "a text longer than inline a text longer than inline x"},
		{"kalam_json_get('{\"a.b\": {\"c\": 1.50}}', 'a.b')", `{"c":1.50}`},
		{"kalam_json_get('[1,[2]]', -1)", `[2]`},
		{"kalam_json_get_text('{\"$.a\": \"x\"}', '$.a')", "x"},
		{"kalam_json_get_text('{\"a\": null}', 'a')", "(null)"},
		{"kalam_json_get_text(NULL, 'a')", "(null)"},
		{"kalam_json_has('[\"k\"]', 'k')", "true"},
		{"kalam_json_has('{}', 'k')", "false"},
		{`kalam_like('a_x', '%\_x', '\')`, "true"},
		{`kalam_like('abx', '%\_x', '\')`, "false"},
		{"kalam_like('ABC', 'a%', '')", "false"},
		{"kalam_ilike('ABC', '%b_', '')", "true"},
		{"kalam_like(NULL, 'a', '')", "(null)"},
		{"kalam_like('a', CASE i WHEN 0 THEN 'a' ELSE 'b' END, '')", "true"},
		{"kalam_like(repeat('a', 300), '%a%a%a%a%a%a%a_b', '')", "false"},
		{"kalam_levenshtein('kitten', 'sitting')", "3"},
		{"kalam_levenshtein('äöü', '')", "3"},
		{"kalam_levenshtein('', 'abc')", "3"},
		{"kalam_bounded_json(to_json([1,2]))", "[1,2]"},
	} {
		got, err := collect(t, e, Statement{SQL: "SELECT " + c.expr + " FROM range(1) t(i)"})
		if err != nil || len(got) != 1 || got[0] != c.want {
			t.Errorf("%s: got %q, %v; want %q", c.expr, got, err, c.want)
		}
	}
}

func TestTextThatGrowsTooMuchIsRefused(t *testing.T) {
	e := newEngine(t, Config{})
	for _, sql := range []string{
		"SELECT kalam_repeat('x', 9223372036854775807)",
		"SELECT length(kalam_repeat('x', 1000000 + i)) FROM range(2000) t(i)",
		"SELECT kalam_lpad('x', 1000000000, 'y')",
		"SELECT kalam_replace(kalam_repeat('x', 1000000), 'x', kalam_repeat('y', 1000000))",
		"SELECT kalam_regexp_replace(kalam_repeat('x', 10000), 'x', kalam_repeat('y', 10000), 'g')",
		"SELECT kalam_levenshtein(kalam_repeat('x', 10000), kalam_repeat('y', 10000))",
		"SELECT kalam_concat(kalam_repeat('x', 35000000), kalam_repeat('x', 35000000))",
		`SELECT max(strlen(kalam_bounded_json(to_json(kalam_repeat('"', 20000 + i % 2))))) FROM range(2048) t(i)`,
	} {
		if _, err := collect(t, e, Statement{SQL: sql}); err == nil {
			t.Errorf("%s: ran", sql)
		}

	}
}
