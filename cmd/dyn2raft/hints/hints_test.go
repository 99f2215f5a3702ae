package hints

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"text/template/parse"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
)

// TestEveryCodeHasWords: the libraries' codes are those of the table, and words name
// no fact that a code does not give.
func TestEveryCodeHasWords(t *testing.T) {
	codes := copier.Codes()
	if len(table) != len(codes) || len(codes) < 60 {
		t.Errorf("%d codes, words for %d", len(codes), len(table))
	}
	for code, facts := range codes {
		words, err := parseWords(&copier.Error{Code: code})
		if err != nil {
			t.Errorf("%s: %v", code, err)
			continue
		}
		for _, name := range fields(words.Tree.Root, words.Lookup) {
			if !slices.Contains(facts, name) {
				t.Errorf("the words for %s name %q, and its facts are %q", code, name, facts)
			}
		}
	}
}

// TestEntries: every code has an entry, and every entry a code; what an entry says that
// is printed is in the source, or what the system says.
func TestEntries(t *testing.T) {
	entries, err := Entries()
	if err != nil {
		t.Fatal(err)
	}
	said, statuses := printed(t)
	for _, e := range entries {
		for _, says := range e.Says {
			for fragment := range strings.SplitSeq(says, "…") {
				for _, part := range regexp.MustCompile(`: |, |; `).Split(fragment, -1) {
					if part = strings.Trim(part, " ,;:()%"); !saidInPieces(said, part, 3) {
						t.Errorf("%s: nothing prints %q", e.Code, part)
					}
				}
			}
		}
		for _, status := range statuses[e.Code] {
			if !slices.Contains(strings.Split(e.Status, " or "), status) {
				t.Errorf("%s ends with status %s, and its entry says %s", e.Code, status, e.Status)
			}
		}
	}
	if saidInPieces(said, "a message that nothing here prints", 3) {
		t.Error("every message would be taken for one that is printed")
	}
	if len(statuses) < 60 {
		t.Errorf("the status of %d codes is known", len(statuses))
	}
	text := entriesText
	t.Cleanup(func() { entriesText = text })
	for _, wrong := range []string{
		strings.Replace(text, "## answers-late", "## answers-later", 1),
		strings.Replace(text, "lost: ", "lots: ", 1),
		strings.Replace(text, "again: ", "", 1),
		strings.Replace(text, "\n## vault-runs", "\n## vault-on-data", 1),
	} {
		if entriesText = wrong; wrong == text {
			t.Error("nothing is wrong")
		}
		if got, err := Entries(); err == nil {
			t.Errorf("%d entries of a wrong text", len(got))
		}
	}
}

// saidInPieces reports whether a text is of at most n pieces that are in said.
func saidInPieces(said, text string, n int) bool {
	if strings.Contains(said, text) {
		return true
	}
	for i := range text {
		if n > 1 && text[i] == ' ' && strings.Contains(said, text[:i]) && saidInPieces(said, text[i+1:], n-1) {
			return true
		}
	}
	return false
}

// printed is all that the source has in quotes, with the system's errors, and the exit
// status of each code as far as an error's kind stands beside it.
func printed(t *testing.T) (string, map[copier.Code][]string) {
	t.Helper()
	var said strings.Builder
	for e := range syscall.Errno(134) {
		said.WriteString(e.Error() + "\n")
	}
	said.WriteString(fs.ErrExist.Error() + "\n")
	kinds := map[string]string{"ErrConfig": "1", "ErrSource": "10", "ErrLocked": "11", "ErrDestination": "12"}
	made := map[string]map[string]copier.Code{} // by package and name
	used := map[[3]string]bool{}                // package, name, kind
	for _, root := range []string{"copier", "sinks", "sources", "verify", "bench"} {
		err := filepath.WalkDir(filepath.Join("..", "..", "..", root), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.BasicLit:
					if text, err := strconv.Unquote(n.Value); n.Kind == token.STRING && err == nil {
						said.WriteString(strings.ReplaceAll(text, "%%", "%") + "\n")
					}
				case *ast.ValueSpec:
					for i, v := range n.Values {
						if call, ok := v.(*ast.CallExpr); ok && last(call.Fun) == "NewCode" {
							code, err := strconv.Unquote(call.Args[0].(*ast.BasicLit).Value)
							if err != nil {
								t.Error(err)
							}
							if made[file.Name.Name] == nil {
								made[file.Name.Name] = map[string]copier.Code{}
							}
							made[file.Name.Name][n.Names[i].Name] = copier.Code(code)
						}
					}
				case *ast.CompositeLit:
					found := [3]string{file.Name.Name}
					for _, e := range n.Elts {
						pair, ok := e.(*ast.KeyValueExpr)
						if !ok {
							continue
						}
						switch last(pair.Key) {
						case "Code":
							found[1] = last(pair.Value)
							if s, ok := pair.Value.(*ast.SelectorExpr); ok {
								found[0] = last(s.X)
							}
						case "Kind":
							found[2] = last(pair.Value)
						}
					}
					used[found] = true
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	statuses := map[copier.Code][]string{}
	for u := range used {
		if code, status := made[u[0]][u[1]], kinds[u[2]]; code != "" && status != "" {
			statuses[code] = append(statuses[code], status)
		}
	}
	return said.String(), statuses
}

// last is an identifier, or that behind the dot.
func last(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

// TestOneDash: flags have one dash wherever we print or document them, as those of
// Vault's command have.
func TestOneDash(t *testing.T) {
	ours := regexp.MustCompile(`(?:^|[^-\w])--(resume|restart|reset|manifest|work-dir|read-capacity|retry-for|source-stopped|keep-source-locked|readback|insecure-http|metrics-listen)\b`)
	files := 0
	for _, pattern := range []string{"../../../*.md", "../../../docs/*", "../*/*.go", "../../../copier/*.go", "../../../s*/*/*.go", "../../../verify/*.go"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			files++
			for n, line := range strings.Split(string(text), "\n") {
				if ours.MatchString(line) {
					t.Errorf("%s:%d: two dashes: %s", name, n+1, line)
				}
			}
		}
	}
	if files < 100 {
		t.Errorf("%d files were looked at", files)
	}
}

// TestWords are those that decide something.
func TestWords(t *testing.T) {
	unreachable := &copier.Error{Code: dynamodb.Unreachable, Facts: map[string]string{"endpoint_from": "", "proxy_from": "HTTPS_PROXY", "proxy": "http://p"}}
	gaveUp := func(limit, service string, err error) error {
		return &copier.Error{Code: dynamodb.GaveUp, Facts: map[string]string{"limit": limit, "service": service}, Err: err}
	}
	for name, c := range map[string]struct {
		err       error
		want, not string
	}{
		"none":              {errors.New("broken"), "", ""},
		"outer first":       {With(unreachable, "look"), "look", "endpoint"},
		"empty":             {With(unreachable, ""), "the endpoint can't be reached", ""},
		"wrapped":           {fmt.Errorf("x: %w", &copier.Error{Op: "y", Err: unreachable}), "AWS_DYNAMODB_ENDPOINT, the region, the network and the proxy of HTTPS_PROXY (http://p)", ""},
		"joined":            {errors.Join(errors.New("broken"), unreachable, With(errors.New("x"), "look")), "the endpoint", "look"},
		"an outage":         {gaveUp("time", "", errors.New("broken")), "fix the cause, then resume (-resume)", "dynamodb_max_retries"},
		"outage and cause":  {gaveUp("time", "", unreachable), "(http://p), then resume (-resume)", "fix the cause"},
		"failing service":   {gaveUp("number", "failing", errors.New("broken")), "the service fails: wait", "fix"},
		"few tries":         {gaveUp("prepare", "", errors.New("broken")), "then run the same command again", "-resume"},
		"max retries":       {gaveUp("number", "", errors.New("broken")), "without dynamodb_max_retries", ""},
		"backup":            {&copier.Error{Code: dynamodb.BackupFailed, Err: unreachable}, "(http://p); or leave -backup out", "fix the cause"},
		"backup, no cause":  {&copier.Error{Code: dynamodb.BackupFailed, Err: errors.New("broken")}, "fix the cause; or leave -backup out", ""},
		"full":              {&copier.Error{Code: raft.DiskFull, Facts: map[string]string{"written": "2048", "free": ""}}, "Written so far: 2.0 KiB. Plan", "Free"},
		"files are quoted":  {&copier.Error{Code: raft.HoldsData, Facts: map[string]string{"files": "/a b/vault.db\n/a b/raft", "aside": "/a b/old"}}, "mkdir '/a b/old' && mv '/a b/vault.db' '/a b/raft' '/a b/old'", ""},
		"a fact is missing": {&copier.Error{Code: raft.DiskFull}, "no words for code disk-full", ""},
		"other source":      {&copier.Error{Code: copier.ResultDamaged, Facts: map[string]string{"known": ""}}, "free the table with -reset, and copy again", "makes the copy again"},
		"standing table":    {&copier.Error{Code: dynamodb.TableStatus, Facts: map[string]string{"status": "ARCHIVED"}}, "restore it from a backup", "wait"},
		"no HA":             {&copier.Error{Code: dynamodb.NotStopped, Facts: map[string]string{"ha": "", "replicas": ""}}, `put ha_enabled = "true" into`, "regions"},
		"global table":      {&copier.Error{Code: dynamodb.NotStopped, Facts: map[string]string{"ha": "", "replicas": "yes"}}, "in each of these regions, then say so with -source-stopped", "ha_enabled"},
	} {
		got := Of(c.err)
		if !strings.Contains(got, c.want) || c.want == "" && got != "" || c.not != "" && strings.Contains(got, c.not) {
			t.Errorf("%s: %q, expected %q and not %q", name, got, c.want, c.not)
		}
	}
}

// fields are the names of the facts in words, those of the parts that they call too.
func fields(n parse.Node, lookup func(string) *template.Template) (out []string) {
	switch n := n.(type) {
	case *parse.ListNode:
		if n == nil {
			return nil
		}
		for _, n := range n.Nodes {
			out = append(out, fields(n, lookup)...)
		}
	case *parse.ActionNode:
		return fields(n.Pipe, lookup)
	case *parse.PipeNode:
		for _, c := range n.Cmds {
			for _, n := range c.Args {
				out = append(out, fields(n, lookup)...)
			}
		}
	case *parse.IfNode:
		return slices.Concat(fields(n.Pipe, lookup), fields(n.List, lookup), fields(n.ElseList, lookup))
	case *parse.FieldNode:
		return n.Ident
	case *parse.TemplateNode:
		return fields(lookup(n.Name).Tree.Root, lookup)
	}
	return out
}
