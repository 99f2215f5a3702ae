package command

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/dyn2raft/dyn2raft"

// A room is a package as `go list` has it, and what it declares.
type room struct {
	name, dir string
	imports   []string // of this module
}

// rooms are the packages of this module, by their paths in it.
func rooms(t *testing.T) map[string]room {
	t.Helper()
	cmd := exec.Command("go", "list", "-f", `{{.ImportPath}} {{.Name}} {{.Dir}} {{join .Imports " "}}`, "./...")
	cmd.Dir = filepath.Join("..", "..", "..")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]room{}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		r := room{name: f[1], dir: f[2]}
		for _, path := range f[3:] {
			if below, ok := strings.CutPrefix(path, module+"/"); ok {
				r.imports = append(r.imports, below)
			}
		}
		all[strings.TrimPrefix(f[0], module+"/")] = r
	}
	return all
}

// declared adds what a package declares to names: "name.Top" and "name.Type.Member".
func declared(t *testing.T, r room, names map[string]bool) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(r.dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				names[r.name+"."+receiver(d)+d.Name.Name] = true
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch spec := spec.(type) {
					case *ast.ValueSpec:
						for _, n := range spec.Names {
							names[r.name+"."+n.Name] = true
						}
					case *ast.TypeSpec:
						names[r.name+"."+spec.Name.Name] = true
						if i, ok := spec.Type.(*ast.InterfaceType); ok {
							for _, m := range i.Methods.List {
								for _, n := range m.Names {
									names[r.name+"."+spec.Name.Name+"."+n.Name] = true
								}
							}
						}
					}
				}
			}
		}
	}
}

// receiver is "Type." for a method and "" for a function.
func receiver(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return ""
	}
	typ := d.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if name, ok := typ.(*ast.Ident); ok {
		return name.Name + "."
	}
	return ""
}

var (
	architectureRow  = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| .+ \\| (.*) \\|$")
	architectureName = regexp.MustCompile("`([^`]+)`")
)

// TestArchitecture compares docs/architecture.md with the code: its table has each
// package, with what of this module it imports, and every name in it exists.
func TestArchitecture(t *testing.T) {
	root := filepath.Join("..", "..", "..")
	data, err := os.ReadFile(filepath.Join(root, "docs", "architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	page, all := string(data), rooms(t)
	rows := map[string]string{}
	for _, m := range architectureRow.FindAllStringSubmatch(page, -1) {
		rows[m[1]] = m[2]
	}
	names := map[string]bool{}
	for path, r := range all {
		declared(t, r, names)
		var want []string
		for _, i := range r.imports {
			want = append(want, "`"+i+"`")
		}
		if row, ok := rows[path]; !ok || row != strings.Join(want, " ") {
			t.Errorf("%s imports %s, and the page says %q", path, strings.Join(want, " "), row)
		}
	}
	for path := range rows {
		if _, ok := all[path]; !ok {
			t.Errorf("there is no package %s", path)
		}
	}
	for _, m := range architectureName.FindAllStringSubmatch(page, -1) {
		_, err := os.Stat(filepath.Join(root, m[1]))
		if _, ok := all[m[1]]; err != nil && !ok && !names[m[1]] {
			t.Errorf("there is no %s", m[1])
		}
	}
	if lines := strconv.Itoa(lengthOf(t, filepath.Join(root, "copier", "copiertest", "example_test.go"), "tree")); !strings.Contains(page, "has\n"+lines+" lines") {
		t.Errorf("the example has %s lines", lines)
	}
}

// lengthOf is how many lines a type of a file has with its methods.
func lengthOf(t *testing.T, path, name string) (lines int) {
	t.Helper()
	files := token.NewFileSet()
	f, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	of := func(n ast.Node) int { return files.Position(n.End()).Line - files.Position(n.Pos()).Line + 1 }
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if receiver(d) == name+"." {
				lines += of(d)
			}
		case *ast.GenDecl:
			if slices.ContainsFunc(d.Specs, func(s ast.Spec) bool { ts, ok := s.(*ast.TypeSpec); return ok && ts.Name.Name == name }) {
				lines += of(d)
			}
		}
	}
	return lines
}
