package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const modulePrefix = "github.com/kalamdb/kalamdb-go/"

// pkg is what `go list -json` tells of a package.
type pkg struct {
	Dir, ImportPath, Name, Doc string
	Imports                    []string
	TestImports, XTestImports  []string
	GoFiles, CgoFiles          []string
	TestGoFiles, XTestGoFiles  []string
	Error                      *struct{ Err string }
}

func (p *pkg) folder() string { return strings.TrimPrefix(p.ImportPath, modulePrefix) }

// root is the repository: two folders above this one.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// workspace lists every package of the modules in go.work.
func workspace(t *testing.T) []*pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-tags", "duckdb_arrow", "-json=Dir,ImportPath,Name,Doc,Imports,TestImports,XTestImports,GoFiles,CgoFiles,TestGoFiles,XTestGoFiles,Error", "work")
	cmd.Dir = root(t)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var pkgs []*pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		p := new(pkg)
		if err := dec.Decode(p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

// layer is one line of layers.txt.
type layer struct {
	folder      string
	allowed     []string
	testAllowed []string
}

func layers(t *testing.T) []layer {
	t.Helper()
	text, err := os.ReadFile("layers.txt")
	if err != nil {
		t.Fatal(err)
	}
	var out []layer
	for _, line := range strings.Split(string(text), "\n") {
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		l := layer{folder: f[0]}
		test := false
		for _, w := range f[1:] {
			switch {
			case w == "test:":
				test = true
			case test:
				l.testAllowed = append(l.testAllowed, w)
			default:
				l.allowed = append(l.allowed, w)
			}
		}
		out = append(out, l)
	}
	return out
}

func (l layer) permits(importPath string, test bool) bool {
	allowed := l.allowed
	if test {
		allowed = append(append([]string(nil), allowed...), l.testAllowed...)
	}
	if own, ok := strings.CutPrefix(importPath, modulePrefix); ok {
		allowed = append(append([]string(nil), allowed...), l.folder)
		importPath = own
	} else if !strings.Contains(strings.SplitN(importPath, "/", 2)[0], ".") {
		return true // standard library
	}
	for _, a := range allowed {
		if a == "*" || importPath == a || strings.HasPrefix(importPath, a+"/") {
			return true
		}
	}
	return false
}

func TestImportsFollowTheLayers(t *testing.T) {
	rules := layers(t)
	for _, p := range workspace(t) {
		var rule *layer
		for i := range rules {
			if p.folder() == rules[i].folder || strings.HasPrefix(p.folder(), rules[i].folder+"/") {
				rule = &rules[i]
			}
		}
		if rule == nil {
			t.Errorf("%s lies in no folder of layers.txt: add one, with what it may import", p.folder())
			continue
		}
		for _, in := range p.Imports {
			if !rule.permits(in, false) {
				t.Errorf("%s imports %s, which layers.txt does not allow: roles meet at proto, dependencies stay where they are needed", p.folder(), in)
			}
		}
		for _, in := range append(p.TestImports, p.XTestImports...) {
			if !rule.permits(in, true) {
				t.Errorf("%s's tests import %s, which layers.txt does not allow", p.folder(), in)
			}
		}
	}
}

func TestEveryPackageHasAComment(t *testing.T) {
	for _, p := range workspace(t) {
		if p.Name == "" || len(p.GoFiles)+len(p.CgoFiles) == 0 || strings.HasPrefix(p.folder(), "proto/") {
			continue // tests only, or generated (the comment is in the .proto file)
		}
		if p.Doc == "" {
			t.Errorf("%s has no package comment: say what it is for, in the file a reader opens first", p.folder())
		}
	}
}

func TestPackageNamesAreUnique(t *testing.T) {
	seen := map[string]string{}
	for _, p := range workspace(t) {
		if p.Name == "main" || p.Name == "" {
			continue
		}
		if other, taken := seen[p.Name]; taken {
			t.Errorf("%s and %s are both package %s: an import would need an alias", other, p.folder(), p.Name)
		}
		seen[p.Name] = p.folder()
		for _, banned := range []string{"util", "utils", "common", "helpers", "helper", "types", "base", "misc"} {
			if p.Name == banned {
				t.Errorf("%s: %q says nothing about what is inside", p.folder(), p.Name)
			}
		}
	}
}

func TestSiblingsAreReplaced(t *testing.T) {
	for _, l := range layers(t) {
		text, err := os.ReadFile(filepath.Join(root(t), l.folder, "go.mod"))
		if err != nil {
			t.Errorf("%s: %v", l.folder, err)
			continue
		}
		for _, line := range strings.Split(string(text), "\n") {
			f := strings.Fields(strings.TrimPrefix(line, "require "))
			if len(f) < 2 || !strings.HasPrefix(f[0], modulePrefix) || f[1] != "v0.0.0" {
				continue
			}
			want := fmt.Sprintf("%s => ", f[0])
			if !bytes.Contains(text, []byte(want)) {
				t.Errorf("%s/go.mod requires %s without a replace: GOWORK=off would not find it", l.folder, f[0])
			}
		}
	}
}
