package command

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl"

	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
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

// TestStanzas: every configuration in the documentation is taken as plan takes it, without
// a warning; a part of one is, with the other parts of the runbook's.
func TestStanzas(t *testing.T) {
	seen := map[string]int{}
	for _, s := range stanzas(pages(t)) {
		kind, err := takeStanza(t, s.text)
		if err != nil {
			t.Errorf("%s: %v\n%s", s.page, err, s.text)
		}
		seen[kind]++
	}
	for kind, want := range map[string]int{"migration": 11, "server": 4, "seal": 1, "other": 2} {
		if seen[kind] < want {
			t.Errorf("%d stanzas of kind %s are found, expected %d at least", seen[kind], kind, want)
		}
	}
	for _, wrong := range []string{`storage_source "dynamodb" { tabel = "x" }`, `storage_destination "raft" { path = "data" node = 1 }`, "storage \"raft\" { }\nlistner \"tcp\" { }", "seal \"awskms\" {", "a = {"} {
		if kind, err := takeStanza(t, wrong); err == nil {
			t.Errorf("%s is taken, as %s", wrong, kind)
		}
	}
}

type onPage struct{ page, text string }

// stanzas are the fenced blocks of HCL, those in spans of code, and the files in YAML.
func stanzas(all map[string]string) (found []onPage) {
	block := regexp.MustCompile("(?ms)^ *```hcl\n(.*?)^ *```$|`(storage_(?:source|destination) \"[a-z_]+\" \\{[^`]*\\})`|\\.hcl: \\|[^\n]*\n((?: {4}[^\n]*\n)+)")
	for path, text := range all {
		for _, m := range block.FindAllStringSubmatch(text, -1) {
			found = append(found, onPage{path, m[1] + m[2] + m[3]})
		}
	}
	return found
}

// takeStanza reports what a text configures, or what is wrong with it.
func takeStanza(t *testing.T, text string) (kind string, err error) {
	t.Helper()
	none := func(string) (string, bool) { return "", false }
	source, destination := strings.Contains(text, "storage_source"), strings.Contains(text, "storage_destination")
	switch {
	case source || destination:
		if !source {
			text += "\nstorage_source \"raft\" { path = \"/mnt/vault-1/data\" }"
			if strings.Contains(text, "storage_destination \"raft\"") {
				text = strings.Replace(text, "storage_source \"raft\" { path = \"/mnt/vault-1/data\" }", "storage_source \"dynamodb\" { }", 1)
			}
		}
		if !destination {
			text += "\nstorage_destination \"raft\" { path = \"/opt/vault/data\" }"
		}
		if !strings.Contains(text, "cluster_addr") {
			text += "\ncluster_addr = \"https://10.0.1.21:8201\""
		}
		c, err := vaultconfig.Parse("migrate.hcl", []byte(text), none)
		if err == nil && len(c.Warnings) > 0 {
			err = c.Warnings[0]
		}
		return "migration", err
	case strings.Contains(text, "storage \"raft\""), strings.Contains(text, "seal "):
		kind = "server"
		if !strings.Contains(text, "storage ") {
			kind = "seal"
			text += "\nstorage \"raft\" { path = \"/opt/vault/data\" }\nlistener \"tcp\" { tls_disable = true }"
		}
		file := filepath.Join(t.TempDir(), "vault.hcl")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := vaultconfig.LoadServer(file, none)
		if err != nil {
			return kind, err
		}
		for _, w := range s.Warnings {
			err = errors.Join(err, w)
		}
		return kind, errors.Join(slices.Concat([]error{err}, s.Problems, s.Duplicates)...)
	}
	_, err = hcl.ParseString(text)
	return "other", err
}
