// Command notices writes the licences and notices of all that is linked into
// dyn2raft, for its archives and packages: those of Go itself, and of each module
// that has a package in the program for one of the given systems. It fails where a
// module has none.
//
//	go run ./.ci/notices linux/amd64 darwin/arm64 >NOTICES
package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

func main() {
	if err := run(os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "notices:", err)
		os.Exit(1)
	}
}

// A module is what the notices are of.
type module struct {
	Path, Version, Dir string
	Main               bool
}

// A text is a file with a licence or a notice, and whose it is.
type text struct {
	name    string
	content string
	modules []string
}

func run(w io.Writer, targets []string) error {
	if len(targets) == 0 {
		return errors.New("name the systems, such as linux/amd64")
	}
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return err
	}
	std := module{Path: "Go's standard library", Version: runtime.Version(), Dir: strings.TrimSpace(string(goroot))}
	dirs := map[module]map[string]bool{std: {std.Dir: true}}
	for _, target := range targets {
		if err := linked(target, dirs); err != nil {
			return err
		}
	}
	modules := make([]module, 0, len(dirs))
	for m := range dirs {
		modules = append(modules, m)
	}
	slices.SortFunc(modules, func(a, b module) int { return cmp.Compare(a.Path, b.Path) })
	var texts []*text
	for _, m := range modules {
		found, err := notices(m, dirs[m])
		if err != nil {
			return err
		}
		for _, f := range found {
			i := slices.IndexFunc(texts, func(t *text) bool { return t.content == f.content })
			if i < 0 {
				i = len(texts)
				texts = append(texts, f)
			}
			texts[i].modules = append(texts[i].modules, m.Path+" "+m.Version)
		}
	}
	return write(w, modules, texts)
}

// linked adds the modules that are linked for a system, and the directories of their
// packages.
func linked(target string, dirs map[module]map[string]bool) error {
	system, arch, ok := strings.Cut(target, "/")
	if !ok {
		return fmt.Errorf("%q is no system, such as linux/amd64", target)
	}
	cmd := exec.Command("go", "list", "-deps", "-json=Dir,Module", "./cmd/dyn2raft")
	cmd.Env = append(os.Environ(), "GOOS="+system, "GOARCH="+arch, "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("list the packages for %s: %w", target, err)
	}
	for in := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			Dir    string
			Module *module
		}
		if err := in.Decode(&p); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if p.Module == nil || p.Module.Main {
			continue
		}
		if dirs[*p.Module] == nil {
			dirs[*p.Module] = map[string]bool{}
		}
		dirs[*p.Module][p.Dir] = true
	}
}

var named = regexp.MustCompile(`(?i)^(licen[cs]e|copying|copyright|notice|patents|unlicense)([._-].*)?$`)

// notices returns the texts of a module: those beside its packages, and in the
// directories above these.
func notices(m module, packages map[string]bool) ([]*text, error) {
	all := map[string]bool{}
	for dir := range packages {
		for ; len(dir) >= len(m.Dir); dir = filepath.Dir(dir) {
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
			content, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				return nil, err
			}
			name, err := filepath.Rel(m.Dir, filepath.Join(dir, e.Name()))
			if err != nil {
				return nil, err
			}
			out = append(out, &text{name: name, content: strings.TrimSpace(strings.ReplaceAll(string(content), "\r\n", "\n"))})
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s %s has no licence in %s: look for it, and for whether it may be shipped", m.Path, m.Version, m.Dir)
	}
	slices.SortFunc(out, func(a, b *text) int { return cmp.Compare(a.name, b.name) })
	return out, nil
}

const head = `dyn2raft contains what others have made. This file lists it, and behind the list has
the licences and notices of each. "go mod download MODULE@VERSION" fetches the source of a
module. What dyn2raft contains of it is unchanged.

`

func write(w io.Writer, modules []module, texts []*text) error {
	var b strings.Builder
	b.WriteString(head)
	for _, m := range modules {
		fmt.Fprintf(&b, "%s %s\n", m.Path, m.Version)
	}
	for _, t := range texts {
		fmt.Fprintf(&b, "\n%s\n%s of\n", strings.Repeat("=", 78), t.name)
		for _, m := range t.modules {
			fmt.Fprintf(&b, "  %s\n", m)
		}
		fmt.Fprintf(&b, "\n%s\n", t.content)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
