//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestDemo runs the demo with a real Vault, to its end and not, and wants nothing left.
func TestDemo(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		program string
		flags   []string
		local   bool           // on AWS's DynamoDB Local
		signal  syscall.Signal // once Vault A serves
		code    int
		want    []string
		left    string
	}{
		"to its end": {flags: []string{"-compare"}, want: []string{
			"Equal: all ", "It has lost 8 entries", "b2 and b3 have joined", "node b1 is stopped", "200 of 200 secrets", "5 of 5 users", "5 of 5 tokens", "the transit key decrypts"}},
		"DynamoDB Local": {local: true, want: []string{"Equal: all ", "200 of 200 secrets"}},
		"Ctrl-C":         {local: true, signal: syscall.SIGINT, code: 130, want: []string{"interrupted by SIGINT"}},
		"Vault B fails":  {program: failingOnRaft(t), code: 1, want: []string{"wait for node b1 to answer: the process has ended: exit status 7; the logs are in "}, left: "logs"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			args := []string{"TMPDIR=" + dir, "VAULT_BIN=" + vaultBin, dyn2raftBin, "demo"}
			if c.program != "" {
				args = append(args, "-vault", c.program)
			}
			var tb *table
			if c.local {
				tb = openTable(startDynamoDBLocal(t).URL)
				args = append(args, "-dynamodb", tb.endpoint)
			}
			p := start(t, "the demo", "env", append(args, c.flags...)...)
			if c.signal != 0 {
				waitFor(t, "Vault A", healthLimit, func() error {
					if !strings.Contains(p.output(), "Vault A serves") {
						return fmt.Errorf("it does not serve yet: %w", p.alive())
					}
					return nil
				})
				if err := p.cmd.Process.Signal(c.signal); err != nil {
					t.Fatal(err)
				}
			}
			p.waitExit(t, 10*time.Minute)
			if code := p.cmd.ProcessState.ExitCode(); code != c.code {
				t.Errorf("exit code %d, want %d\n%s", code, c.code, p.output())
			}
			for _, want := range c.want {
				if !strings.Contains(p.output(), want) {
					t.Errorf("it does not say %q:\n%s", want, p.output())
				}
			}
			found := left(t, dir)
			if c.left != "" {
				if len(found) != 1 {
					t.Fatalf("left behind: %q, want one directory", found)
				}
				dir = filepath.Join(dir, found[0])
				found = left(t, dir)
			}
			if strings.Join(found, " ") != c.left {
				t.Errorf("left behind: %q, want %q", found, c.left)
			}
			if tb != nil {
				if tables := tb.names(t); len(tables) > 0 {
					t.Errorf("left behind: the tables %q", tables)
				}
			}
		})
	}
}

// failingOnRaft is a Vault that does not start on integrated storage.
func failingOnRaft(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "vault")
	writeFile(t, file, fmt.Sprintf("#!/bin/sh\ncase \"$*\" in \"server \"*) ! grep -q 'storage \"raft\"' \"$3\" || exit 7 ;; esac\nexec %q \"$@\"\n", vaultBin))
	if err := os.Chmod(file, 0o700); err != nil {
		t.Fatal(err)
	}
	return file
}
