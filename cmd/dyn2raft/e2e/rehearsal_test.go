//go:build e2e

package e2e

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"
)

const (
	rehearsalScript = "../../../docs/rehearsal.sh"
	runbookFile     = "../../../docs/runbook.md"
)

// TestRehearsal runs the whole runbook, from an empty directory to a Vault of three
// nodes and back, and proves that what is wrong on the way ends it. It does so on the
// embedded server, since DynamoDB Local makes no backups; `make rehearsal` takes that one.
func TestRehearsal(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		dyn2raft, runbook string // other ones, to fail with
		end               bool   // by SIGTERM, while cluster A is being filled
		want              string // the last line
	}{
		"all is well":                        {want: "cluster B served, and cluster A can again"},
		"vault.db is damaged after the copy": {dyn2raft: damaging(t), want: `FAILED in step "3.5 verify, and keep the evidence"`},
		"the runbook prints another command": {runbook: otherRunbook(t, "copy -config", "copy -konfig"),
			want: "the runbook prints a command that is not rehearsed: sudo -u vault dyn2raft copy -konfig"},
		"the runbook prints one command less": {runbook: otherRunbook(t, "    sudo systemctl disable", "sudo systemctl disable"),
			want: "the runbook does not print: sudo systemctl disable --now vault"},
		"it is stopped": {end: true, want: "interrupted"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			program := cmp.Or(c.dyn2raft, dyn2raftBin)
			script, err := filepath.Abs(rehearsalScript)
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			p := start(t, "the rehearsal", "env", "TMPDIR="+dir, "VAULT_BIN="+vaultBin, "DYN2RAFT_BIN="+program, "RUNBOOK="+c.runbook, "bash", script)
			t.Cleanup(func() { p.stop(t) }) // in order, so that it ends its own processes
			if c.end {
				waitFor(t, "cluster A", healthLimit, func() error {
					if !strings.Contains(p.output(), "[a] $ ") {
						return fmt.Errorf("it has not begun: %w", p.alive())
					}
					return p.alive()
				})
				p.stop(t)
			}
			p.waitExit(t, 6*time.Minute)
			last := lastLines(p.output(), 1)
			if failed := strings.Contains(last, "REHEARSAL FAILED"); !strings.Contains(last, c.want) || p.cmd.ProcessState.Success() == failed {
				t.Errorf("%s, last line %q, want %q", p.cmd.ProcessState, last, c.want)
			}
			for _, line := range regexp.MustCompile(`(?m)^==> \d+ s: .*$`).FindAllString(p.output(), -1) {
				t.Log(line)
			}
			t.Logf("%6.1f s  %s", time.Since(began).Seconds(), last)
			if found := left(t, dir); len(found) > 0 {
				t.Errorf("left behind: %q", found)
			}
		})
	}
}

// damaging is a dyn2raft that damages the vault.db that a copy has finished, in the third
// of the rehearsal's eight large values, which are nearly all of it.
func damaging(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "dyn2raft")
	writeFile(t, file, fmt.Sprintf(`#!/usr/bin/env bash
case "$*" in "copy "*" -resume"*) ;; *) exec %[1]q "$@" ;; esac
%[1]q "$@" || exit
file=$(dirname "$3")/../opt/data/vault.db
head -c 64 /dev/zero | dd of="$file" bs=1 seek=$(($(wc -c <"$file") / 3)) conv=notrunc status=none
`, dyn2raftBin))
	if err := os.Chmod(file, 0o700); err != nil {
		t.Fatal(err)
	}
	return file
}

// otherRunbook is the runbook with a text replaced wherever it is.
func otherRunbook(t *testing.T, text, with string) string {
	t.Helper()
	b, err := os.ReadFile(runbookFile)
	if err != nil {
		t.Fatal(err)
	}
	other := strings.ReplaceAll(string(b), text, with)
	if other == string(b) {
		t.Fatalf("the runbook has no %q", text)
	}
	file := filepath.Join(t.TempDir(), "runbook.md")
	writeFile(t, file, other)
	return file
}

// left is what is in a directory, and, where the system can tell, the processes that were
// given a file in it.
func left(t *testing.T, dir string) (found []string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		found = append(found, f.Name())
	}
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range commands {
		// One that ends meanwhile can't be read.
		if b, err := os.ReadFile(file); err == nil && strings.Contains(string(b), dir) {
			found = append(found, string(b))
		}
	}
	return found
}

// TestLeftSees proves that left finds a file, and on Linux a process.
func TestLeftSees(t *testing.T) {
	dir := t.TempDir()
	if found := left(t, dir); len(found) > 0 {
		t.Errorf("nothing is there, and it finds %q", found)
	}
	file := filepath.Join(dir, "a")
	writeFile(t, file, "")
	want := 1
	if runtime.GOOS == "linux" {
		p := start(t, "tail", "tail", "-f", file)
		waitFor(t, "tail to run", time.Minute, func() error {
			if len(left(t, dir)) == 1 {
				return fmt.Errorf("it is not seen: %v", p.alive())
			}
			return nil
		})
		want = 2
	}
	if found := left(t, dir); len(found) != want {
		t.Errorf("found %q, want %d", found, want)
	}
}
