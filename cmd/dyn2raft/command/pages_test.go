package command

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// pages are all pages of the documentation, by their paths in the repository.
func pages(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "bench/*.md"} {
		files, err := filepath.Glob(filepath.Join("..", "..", "..", pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			all[strings.TrimPrefix(filepath.ToSlash(file), "../../../")] = string(text)
		}
	}
	if all["README.md"] == "" || all["docs/runbook.md"] == "" {
		t.Fatalf("the pages are %v", slices.Sorted(maps.Keys(all)))
	}
	return all
}

// TestLinks: every link within the documentation leads to a file, and to a heading
// of it where it names one.
func TestLinks(t *testing.T) {
	all := pages(t)
	for _, fault := range brokenLinks(all) {
		t.Error(fault)
	}
	all["README.md"] += "\n[a](docs/faq.md#no-such) [b](docs/no-such.md) [c](#no-such)\n"
	if got := brokenLinks(all); len(got) != 3 {
		t.Errorf("of three broken links %q are found", got)
	}
}

func brokenLinks(all map[string]string) (faults []string) {
	headings := regexp.MustCompile(`(?m)^#+ (.*)$`)
	dropped := regexp.MustCompile(`[^\p{L}\p{N}_\- ]`)
	anchors := map[string]bool{}
	for path, text := range all {
		for _, m := range headings.FindAllStringSubmatch(text, -1) {
			anchors[path+"#"+strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
		}
	}
	links := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for path, text := range all {
		for _, m := range links.FindAllStringSubmatch(text, -1) {
			file, anchor, ok := strings.Cut(m[1], "#")
			if strings.Contains(m[1], "://") {
				continue
			}
			to := path
			if file != "" {
				to = filepath.ToSlash(filepath.Join(filepath.Dir(path), file))
			}
			if _, err := os.Stat(filepath.Join("..", "..", "..", to)); err != nil || ok && !anchors[to+"#"+anchor] {
				faults = append(faults, path+" links to "+m[1]+", which is not there")
			}
		}
	}
	return faults
}

// TestCommandsOnPages: every command line in the documentation has a command and flags
// that there are.
func TestCommandsOnPages(t *testing.T) {
	all := pages(t)
	delete(all, "CHANGELOG.md") // it tells of what is gone, too
	faults, n := unknownOnPages(all)
	for _, fault := range faults {
		t.Error(fault)
	}
	if n < 50 {
		t.Errorf("only %d command lines are found", n)
	}
	all = map[string]string{"a.md": "    dyn2raft copy -no-such -resume\n`dyn2raft nosuch -x` and `dyn2raft copy -resume=false`\n"}
	if faults, _ := unknownOnPages(all); len(faults) != 2 {
		t.Errorf("of two unknown words %q are found", faults)
	}
}

func unknownOnPages(all map[string]string) (faults []string, n int) {
	flags := map[string]map[string]bool{}
	for _, c := range root(Streams{}).Commands {
		flags[c.Name] = map[string]bool{"help": true, "h": true}
		for _, f := range c.Flags {
			for _, name := range f.Names() {
				flags[c.Name][name] = true
			}
		}
	}
	flags["help"], flags["completion"] = nil, nil // the library's own
	flags["run"] = nil                            // "dyn2raft run ID" is a copy
	// Up to what ends a command in a shell, or a span of code.
	line := regexp.MustCompile("(?m)(?:^    |^.*\\$ |`|vault )dyn2raft ([a-z][a-z-]*)((?: [^`|;&>\n]*)?)")
	flag := regexp.MustCompile(` --?([a-z][a-z-]*)`)
	for path, text := range all {
		text = strings.ReplaceAll(text, "\\\n", " ")
		for _, m := range line.FindAllStringSubmatch(text, -1) {
			n++
			of, ok := flags[m[1]]
			if !ok {
				faults = append(faults, path+": there is no command "+m[1])
			}
			for _, f := range flag.FindAllStringSubmatch(m[2], -1) {
				if ok && !of[f[1]] {
					faults = append(faults, path+": "+m[1]+" has no flag -"+f[1])
				}
			}
		}
	}
	return faults, n
}
