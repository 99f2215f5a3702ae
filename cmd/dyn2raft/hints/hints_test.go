package hints

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
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

// TestRunbookHasEveryCode: who sees a code finds it in the runbook, and there are the
// words that we print, with each fact's name in capitals.
func TestRunbookHasEveryCode(t *testing.T) {
	text, err := os.ReadFile("../../../docs/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n### By code\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var got []string
	for line := range strings.Lines(section) {
		if strings.HasPrefix(line, "| `") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	codes := copier.Codes()
	var want []string
	for _, code := range slices.Sorted(maps.Keys(codes)) {
		facts := map[string]string{}
		for _, name := range codes[code] {
			facts[name] = strings.ToUpper(name)
		}
		if code == dynamodb.Denied {
			facts["policy"] = " POLICY" // it is what comes behind AWS's "a"
		}
		words, err := parseWords(&copier.Error{Code: code})
		if err != nil {
			t.Fatalf("%s: %v", code, err)
		}
		var said strings.Builder
		words.Funcs(template.FuncMap{
			"size": func(s string) string { return s },
			"aws":  func() string { return "by its cause: the setting or variable that is wrong, and how to put it right" },
		})
		if err := words.Execute(&said, facts); err != nil {
			t.Fatalf("%s: %v", code, err)
		}
		want = append(want, fmt.Sprintf("| `%s` | %s |", code, strings.ReplaceAll(said.String(), "|", `\|`)))
	}
	if len(got) != len(want) {
		t.Errorf("the runbook has %d codes, expected %d", len(got), len(want))
	}
	for _, row := range want {
		if !slices.Contains(got, row) {
			t.Errorf("the runbook lacks this row, or has it otherwise:\n%s", row)
		}
	}
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
		"other source":      {&copier.Error{Code: copier.ResultDamaged, Facts: map[string]string{"known": ""}}, "free the table with -reset, and copy again", "makes the copy anew"},
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
