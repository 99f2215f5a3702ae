// Command notices writes the licences and notices of all that is linked into
// dyn2raft, for its archives and packages: those of Go itself, and of each module
// that has a package in the program for one of the given systems. It fails where a
// module has none.
//
//	go run ./.ci/notices linux/amd64 darwin/arm64 >NOTICES
package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

func main() {
	text, err := run(os.Args[1:])
	if err == nil {
		_, err = os.Stdout.WriteString(text)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "notices:", err)
		os.Exit(1)
	}
}

// A module is what the notices are of.
type module struct{ path, version, dir string }

// A text is a file with a licence or a notice, and whose it is.
type text struct {
	name    string
	content string
	modules []string
}

func run(targets []string) (string, error) {
	if len(targets) == 0 {
		return "", errors.New("name the systems, such as linux/amd64")
	}
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", err
	}
	std := module{"Go's standard library", runtime.Version(), strings.TrimSpace(string(goroot))}
	dirs := map[module]map[string]bool{std: {std.dir: true}}
	for _, target := range targets {
		if err := linked(target, dirs); err != nil {
			return "", err
		}
	}
	modules := slices.SortedFunc(maps.Keys(dirs), func(a, b module) int { return cmp.Compare(a.path, b.path) })
	var texts []*text
	for _, m := range modules {
		found, err := notices(m, dirs[m])
		if err != nil {
			return "", err
		}
		for _, f := range found {
			i := slices.IndexFunc(texts, func(t *text) bool { return t.content == f.content })
			if i < 0 {
				i = len(texts)
				texts = append(texts, f)
			}
			texts[i].modules = append(texts[i].modules, m.path+" "+m.version)
		}
	}
	return write(modules, texts), nil
}

// linked adds the modules that are linked for a system, and the directories of their
// packages.
func linked(target string, dirs map[module]map[string]bool) error {
	system, arch, ok := strings.Cut(target, "/")
	if !ok {
		return fmt.Errorf("%q is no system, such as linux/amd64", target)
	}
	const format = `{{with .Module}}{{if not .Main}}{{.Path}}|{{.Version}}|{{.Dir}}|{{$.Dir}}{{end}}{{end}}`
	cmd := exec.Command("go", "list", "-deps", "-f", format, "./cmd/dyn2raft")
	cmd.Env = append(os.Environ(), "GOOS="+system, "GOARCH="+arch, "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("list the packages for %s: %w", target, err)
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSpace(line), "|")
		if len(f) != 4 {
			continue // of Go itself, or of dyn2raft
		}
		m := module{f[0], f[1], f[2]}
		if dirs[m] == nil {
			dirs[m] = map[string]bool{}
		}
		dirs[m][f[3]] = true
	}
	return nil
}

var named = regexp.MustCompile(`(?i)^(licen[cs]e|copying|copyright|notice|patents|unlicense)([._-].*)?$`)

// notices returns the texts of a module: those beside its packages, and in the
// directories above these.
func notices(m module, packages map[string]bool) ([]*text, error) {
	all := map[string]bool{}
	for dir := range packages {
		for ; len(dir) >= len(m.dir); dir = filepath.Dir(dir) {
			all[dir] = true
		}
	}
	var out []*text
	for dir := range all {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if !e.Type().IsRegular() || !named.MatchString(e.Name()) || strings.HasSuffix(e.Name(), ".go") {
				continue
			}
			file := filepath.Join(dir, e.Name())
			content, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			name := strings.TrimPrefix(file, m.dir+string(filepath.Separator))
			out = append(out, &text{name: name, content: strings.TrimSpace(strings.ReplaceAll(string(content), "\r\n", "\n"))})
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s %s has no licence in %s: look for it, and for whether it may be shipped", m.path, m.version, m.dir)
	}
	slices.SortFunc(out, func(a, b *text) int { return cmp.Compare(a.name, b.name) })
	return out, nil
}

const head = `dyn2raft contains what others have made. This file lists it, and behind the list has
the licences and notices of each. "go mod download MODULE@VERSION" fetches the source of a
module. What dyn2raft contains of it is unchanged.

`

func write(modules []module, texts []*text) string {
	var b strings.Builder
	b.WriteString(head)
	for _, m := range modules {
		fmt.Fprintf(&b, "%s %s\n", m.path, m.version)
	}
	for _, t := range texts {
		fmt.Fprintf(&b, "\n%s\n%s of\n", strings.Repeat("=", 78), t.name)
		for _, m := range t.modules {
			fmt.Fprintf(&b, "  %s\n", m)
		}
		fmt.Fprintf(&b, "\n%s\n", t.content)
	}
	return b.String()
}
