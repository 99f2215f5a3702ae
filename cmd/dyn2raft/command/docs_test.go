package command

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v3"
)

// TestReferences compares docs/commands.md with the commands, and docs/errors.md with the
// errors' codes.
func TestReferences(t *testing.T) {
	for name, page := range map[string]func() ([]byte, error){"commands.md": markdown, "errors.md": errorsPage} {
		want, err := page()
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			line := 1
			for len(got) > 0 && len(want) > 0 && got[0] == want[0] {
				line += map[bool]int{true: 1}[got[0] == '\n']
				got, want = got[1:], want[1:]
			}
			t.Errorf("docs/%s is not what the program says, from line %d on: run `make docs`", name, line)
		}
	}
}

// TestReferenceIsComplete: every command and flag is in both forms, and
// nothing that another machine or version would write otherwise.
func TestReferenceIsComplete(t *testing.T) {
	version, date = "9.8.7-test", "2026-11-24T23:00:00Z"
	t.Cleanup(func() { version, date = "", "" })
	md, err := markdown()
	if err != nil {
		t.Fatal(err)
	}
	page, err := man()
	if err != nil {
		t.Fatal(err)
	}
	sections := strings.Split(string(md), "\n## ")
	pages := strings.Split(string(page), "\n.SS ")
	commands := root(Streams{}).Commands
	for _, c := range commands {
		at := slices.IndexFunc(sections, func(s string) bool { return strings.HasPrefix(s, "dyn2raft "+c.Name+"\n") })
		atPage := slices.IndexFunc(pages, func(s string) bool { return strings.HasPrefix(s, roff(c.Name)+"\n") })
		if c.Hidden {
			if at >= 0 || atPage >= 0 {
				t.Errorf("%s is hidden, and described", c.Name)
			}
			continue
		}
		if at < 0 || atPage < 0 {
			t.Errorf("%s is not described in both", c.Name)
			continue
		}
		for _, f := range c.VisibleFlags() {
			name := f.Names()[0]
			if !strings.Contains(sections[at], "| `-"+name+"`") && !strings.Contains(sections[at], "| `-"+name+" ") {
				t.Errorf("markdown: %s has no -%s", c.Name, name)
			}
			if !strings.Contains(pages[atPage], `\fB\-`+roff(name)+`\fR`) {
				t.Errorf("manual: %s has no -%s", c.Name, name)
			}
		}
	}
	locals := []string{version, "2026-11", runtime.Version(), os.TempDir()}
	if home, err := os.UserHomeDir(); err == nil && len(home) > 1 { // in a container it can be "/"
		locals = append(locals, home+"/")
	}
	for _, local := range locals {
		if bytes.Contains(md, []byte(local)) {
			t.Errorf("docs/commands.md would have %q in it", local)
		}
	}
	if !bytes.HasPrefix(page, []byte(`.TH DYN2RAFT 1 "2026-11-24" "dyn2raft 9.8.7-test"`)) {
		t.Errorf("the manual begins with %.80q", page)
	}
	for _, m := range exitMeanings {
		if !strings.Contains(strings.Join(paragraphs(root(Streams{}).Description), " "), m.Status+" "+m.Meaning) {
			t.Errorf("the help has no exit status %q", m.Status+" "+m.Meaning)
		}
	}
	for _, v := range []string{"AWS_DYNAMODB_TABLE", "AWS_DEFAULT_REGION", "VAULT_RAFT_NODE_ID", "VAULT_CLUSTER_ADDR", "NO_COLOR"} {
		if !bytes.Contains(md, []byte("`"+v+"`")) || !bytes.Contains(page, []byte(v)) {
			t.Errorf("%s is not described in both", v)
		}
	}
	if bytes.Contains(md, []byte("AWS_DYNAMODB_ALLOW_UPDATES")) {
		t.Error("a variable of no use here is described")
	}
}

func TestOption(t *testing.T) {
	for _, c := range []struct {
		flag cli.DocGenerationFlag
		want option
	}{
		{&cli.StringFlag{Name: "x", Value: "a|b", Usage: "write a `file` of `them`"}, option{"x", "file", "string", "a|b", "write a file of `them`"}},
		{&cli.IntFlag{Name: "x", Usage: "this `number` (default: as many (all) as there are)", HideDefault: true},
			option{"x", "number", "int", "", "this number (default: as many (all) as there are)"}},
		{&cli.IntFlag{Name: "x", Usage: "so many (default: no limit)", HideDefault: true}, option{"x", "int", "int", "no limit", "so many"}},
		{&cli.BoolFlag{Name: "x", Usage: "with `it`"}, option{"x", "", "bool", "", "with `it`"}},
		{&cli.DurationFlag{Name: "x", Value: 600e9, Usage: "time"}, option{"x", "duration", "duration", "10m", "time"}},
		{&cli.DurationFlag{Name: "x", Value: 90e9, Usage: "time"}, option{"x", "duration", "duration", "1m30s", "time"}},
	} {
		if got := newOption("x", c.flag); got != c.want {
			t.Errorf("%+v, expected %+v", got, c.want)
		}
	}
}

func TestRoff(t *testing.T) {
	for in, want := range map[string]string{
		"":                         "",
		"-x 'y' \\n `z`":           `\-x \(aqy\(aq \en z`,
		".first":                   `\&.first`,
		strings.Repeat("abc ", 30): strings.Repeat("abc ", 19) + "abc\n" + strings.Repeat("abc ", 9) + "abc",
	} {
		if got := roff(in); got != want {
			t.Errorf("%q becomes %q, expected %q", in, got, want)
		}
	}
	// No line of the page begins with a control character that is not a request.
	page, err := man()
	if err != nil {
		t.Fatal(err)
	}
	request := regexp.MustCompile(`^\.(TH|SH|SS|PP|TP|B|nf|fi)\b`)
	for line := range strings.Lines(string(page)) {
		if strings.HasPrefix(line, ".") && !request.MatchString(line) || strings.HasPrefix(line, "'") || strings.TrimSpace(line) == "" {
			t.Errorf("line of the manual: %q", line)
		}
	}
}
