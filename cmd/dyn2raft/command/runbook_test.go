package command

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// sources is the root of the repository, seen from this package.
const sources = "../../.."

// operations returns how the errors begin that the sources can make: what
// copier.Error calls the operation, as far as it is the same each time.
func operations(t *testing.T) []string {
	t.Helper()
	files := map[string][]*ast.File{} // by package
	err := filepath.WalkDir(sources, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains([]string{"testdata", "bench", "dynamotest", "durabletest", "copiertest", ".git"}, d.Name()) {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		files[filepath.Dir(path)] = append(files[filepath.Dir(path)], file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, files := range files {
		var takers []string // functions that are given an operation
		for _, file := range files {
			for _, d := range file.Decls {
				if f, ok := d.(*ast.FuncDecl); ok && len(f.Type.Params.List) > 0 {
					if first := f.Type.Params.List[0]; len(first.Names) > 0 && first.Names[0].Name == "op" {
						takers = append(takers, f.Name.Name)
					}
				}
			}
		}
		for _, file := range files {
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.CompositeLit:
					if named(n.Type) == "Error" {
						for _, e := range n.Elts {
							if kv, ok := e.(*ast.KeyValueExpr); ok && named(kv.Key) == "Op" {
								out = append(out, begins(kv.Value))
							}
						}
					}
				case *ast.CallExpr:
					if len(n.Args) > 0 && slices.Contains(takers, named(n.Fun)) {
						out = append(out, begins(n.Args[0]))
					}
				}
				return true
			})
		}
	}
	slices.Sort(out)
	return slices.DeleteFunc(slices.Compact(out), func(s string) bool { return s == "" })
}

// named is the last part of a name: Error of copier.Error.
func named(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

// begins is the text that an expression begins with.
func begins(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		if err != nil {
			return ""
		}
		text, _, _ = strings.Cut(text, "%")
		return strings.TrimRight(text, " :\"")
	case *ast.BinaryExpr:
		return begins(e.X)
	case *ast.CallExpr:
		if named(e.Fun) == "Sprintf" {
			return begins(e.Args[0])
		}
	}
	return ""
}

// TestRunbookHasEveryError says that who sees an error finds it in the runbook.
func TestRunbookHasEveryError(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(sources, "docs", "runbook.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, tables, ok := strings.Cut(string(text), "\n## When something goes wrong\n")
	if !ok {
		t.Fatal("the runbook does not say what to do when something goes wrong")
	}
	all := operations(t)
	for _, want := range []string{"back up table", "reach Vault at", "write report", "read manifest", "commit"} {
		if !slices.Contains(all, want) {
			t.Errorf("%q was not found in the sources: this test does not see all", want)
		}
	}
	for _, op := range all {
		if !strings.Contains(tables, "`"+op+"`") && !strings.Contains(tables, "`"+op+" ") && !strings.Contains(tables, "`"+op+":") {
			t.Errorf("no line of the runbook has an error that begins with `%s`", op)
		}
	}
}
