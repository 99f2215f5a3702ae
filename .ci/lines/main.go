// Command lines counts the lines of Go code of a commit (HEAD by default), package by
// package: those with anything on them but a comment. Code that only tests run (files of
// tests, and packages that stand in for a part or test one) is counted apart.
package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"go/scanner"
	"go/token"
	"io"
	"log"
	"maps"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"text/tabwriter"
)

type count struct{ code, tests int }

func main() {
	log.SetFlags(0)
	commit := "HEAD"
	if len(os.Args) > 1 {
		commit = os.Args[1]
	}
	packages, err := read(commit)
	if err != nil {
		log.Fatalf("lines: count %s: %v", commit, err)
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(n count, name string) { fmt.Fprintf(out, "%d\t%d\t  %s\n", n.code, n.tests, name) }
	fmt.Fprintf(out, "code\ttests\t  package\n")
	var all, command count
	for _, dir := range slices.Sorted(maps.Keys(packages)) {
		n := packages[dir]
		row(*n, dir)
		all = count{all.code + n.code, all.tests + n.tests}
		if strings.HasPrefix(dir, "cmd/") {
			command = count{command.code + n.code, command.tests + n.tests}
		}
	}
	row(command, "of that in cmd/")
	row(all, "total of "+commit)
	if err := out.Flush(); err != nil {
		log.Fatal(err)
	}
}

func read(commit string) (map[string]*count, error) {
	git := exec.Command("git", "archive", "--format=tar", commit)
	git.Stderr = os.Stderr
	stdout, err := git.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := git.Start(); err != nil {
		return nil, err
	}
	packages := map[string]*count{}
	for files := tar.NewReader(stdout); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, errors.Join(err, git.Wait())
		}
		name := header.Name
		if path.Ext(name) != ".go" || strings.Contains("/"+name, "/testdata/") {
			continue
		}
		source, err := io.ReadAll(files)
		if err != nil {
			return nil, err
		}
		dir := path.Dir(name)
		if packages[dir] == nil {
			packages[dir] = new(count)
		}
		if strings.HasSuffix(name, "_test.go") || strings.HasSuffix(dir, "test") || path.Base(dir) == "pipes" {
			packages[dir].tests += lines(source)
		} else {
			packages[dir].code += lines(source)
		}
	}
	return packages, git.Wait()
}

// lines counts the lines of source that hold a token, or a part of one.
func lines(source []byte) int {
	file := token.NewFileSet().AddFile("", -1, len(source))
	var s scanner.Scanner
	s.Init(file, source, nil, 0)
	n, last := 0, 0
	for {
		pos, tok, literal := s.Scan()
		if tok == token.EOF {
			return n
		}
		if tok == token.SEMICOLON && literal == "\n" {
			continue
		}
		first := file.Line(pos)
		end := first + strings.Count(literal, "\n")
		n += end - max(first, last+1) + 1
		last = end
	}
}
