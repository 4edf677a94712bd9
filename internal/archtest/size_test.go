package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// A function fits a screen, a file holds one idea. What is longer stands in exceptions.txt with its
// length, which may shrink but not grow.
const (
	functionLinesMax = 70
	fileLinesMax     = 600
)

func TestFunctionsAndFilesStayShort(t *testing.T) {
	allowed := exceptions(t)
	used := map[string]bool{}
	tooLong := func(name string, lines, limit int) {
		if lines <= limit {
			return
		}
		most, listed := allowed[name]
		used[name] = listed
		if !listed || lines > most {
			t.Errorf("%s has %d lines, more than %d: split it where the ideas part", name, lines, max(limit, most))
		}
	}
	for _, p := range workspace(t) {
		if strings.HasPrefix(p.folder(), "proto/") {
			continue
		}
		for _, file := range append(append([]string(nil), p.GoFiles...), p.CgoFiles...) {
			measure(t, filepath.Join(p.Dir, file), p.folder()+"/"+file, tooLong)
		}
	}
	for name := range allowed {
		if !used[name] {
			t.Errorf("exceptions.txt lists %s, which needs no exception any more: remove the line", name)
		}
	}
}

func measure(t *testing.T, path, name string, report func(name string, lines, limit int)) {
	t.Helper()
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution|parser.ParseComments)
	if err != nil {
		t.Error(err)
		return
	}
	if ast.IsGenerated(f) {
		return
	}
	report(name, fset.File(f.Pos()).LineCount(), fileLinesMax)
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil {
			lines := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1
			report(name+":"+fn.Name.Name, lines, functionLinesMax)
		}
	}
}

func exceptions(t *testing.T) map[string]int {
	t.Helper()
	text, err := os.ReadFile("exceptions.txt")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for _, line := range strings.Split(string(text), "\n") {
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		n, err := strconv.Atoi(f[1])
		if err != nil {
			t.Fatalf("exceptions.txt: %q: %v", line, err)
		}
		out[f[0]] = n
	}
	return out
}
