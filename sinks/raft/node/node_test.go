package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/check"
	"github.com/dyn2raft/dyn2raft/copier"
)

// Of the program nothing but its version is asked, and it gets nothing of ours.
func TestVaultVersion(t *testing.T) {
	t.Setenv("VAULT_TOKEN", "topsecret")
	for name, c := range map[string]struct {
		says, table string
		status      copier.Outcome
		want        string
	}{
		"the same":       {says: "Vault v1.21.1 ('abc'), built 2026-01-01", table: "1.21.1", status: copier.Passed},
		"built here":     {says: "Vault v1.21.1, built 2026-01-01", table: "1.21.1", status: copier.Passed},
		"newer":          {says: "Vault v1.22.0", table: "1.21.1", status: copier.Warned, want: "newer than the 1.21.1"},
		"older":          {says: "Vault v1.20.4", table: "1.21.1", status: copier.Failed, want: "older"},
		"candidate":      {says: "Vault v1.21.0-rc1", table: "1.21.0", status: copier.Failed, want: "older"},
		"edition":        {says: "Vault v1.21.1", table: "1.21.1+ent", status: copier.Warned, want: "edition"},
		"enterprise":     {says: "Vault v1.21.1+ent.hsm", table: "1.21.1+ent", status: copier.Passed},
		"table unknown":  {says: "Vault v1.21.1", status: copier.Noted, want: "does not tell"},
		"openbao":        {says: "OpenBao v2.2.0", table: "2.2.0", status: copier.Passed},
		"something else": {says: "Consul v1.20.0", table: "1.21.1", status: copier.Failed, want: "is a Vault"},
		"fails":          {says: "", table: "1.21.1", status: copier.Failed, want: "exit status 3"},
	} {
		dir := t.TempDir()
		program := filepath.Join(dir, "vault")
		script := "#!/bin/sh\necho \"$* $VAULT_TOKEN\" >> " + dir + "/asked\necho '" + strings.ReplaceAll(c.says, "'", "") + "'\n"
		if c.says == "" {
			script += "exit 3\n"
		}
		if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
		p := localProbe(t)
		p.Program, p.Version = program, c.table
		p.program(t.Context())
		got := find(t, p, "vault-version")
		if got.Status != c.status || !strings.Contains(got.Message+got.Hint, c.want) {
			t.Errorf("%s: %+v, expected a %s with %q", name, got, c.status, c.want)
		}
		if asked, err := os.ReadFile(filepath.Join(dir, "asked")); err != nil || string(asked) != "version \n" {
			t.Errorf("%s: asked for %q, %v", name, asked, err)
		}
	}
	// What PATH has of that name is not run.
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	if err := os.WriteFile(filepath.Join(dir, "vault"), []byte("#!/bin/sh\necho Vault v1.21.1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	p := localProbe(t)
	p.Program = "vault"
	p.program(t.Context())
	expect(t, p, "vault-version", copier.Failed, "no such file")
}

func TestUnit(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		says   string
		err    error
		mlock  bool
		status copier.Outcome
		want   string
	}{
		"good":            {says: "LoadState=loaded\nUser=USER\nLimitNOFILE=65536\nLimitMEMLOCK=infinity\n", mlock: true, status: copier.Passed, want: "65536"},
		"few files":       {says: "LoadState=loaded\nUser=USER\nLimitNOFILE=1024\nLimitMEMLOCK=infinity\n", status: copier.Warned, want: "LimitNOFILE=65536"},
		"without limit":   {says: "LoadState=loaded\nUser=USER\nLimitNOFILE=infinity\nLimitMEMLOCK=8388608\n", status: copier.Passed},
		"memory locked":   {says: "LoadState=loaded\nUser=USER\nLimitNOFILE=65536\nLimitMEMLOCK=8388608\n", mlock: true, status: copier.Warned, want: "LimitMEMLOCK=infinity"},
		"another user":    {says: "LoadState=loaded\nUser=somebody-else\nLimitNOFILE=65536\nLimitMEMLOCK=infinity\n", status: copier.Warned, want: "somebody-else"},
		"no unit":         {says: "LoadState=not-found\n", status: copier.Failed, want: "no unit"},
		"no systemd here": {err: errors.New("systemd does not run here"), status: copier.Warned, want: "does not run here"},
	} {
		p := localProbe(t)
		p.Unit, p.mlock = "vault", c.mlock
		p.systemctl = func(_ context.Context, args ...string) (string, error) {
			if args[0] != "show" || !slices.Equal(args[len(args)-2:], []string{"--", "vault"}) {
				t.Errorf("systemctl %q", args)
			}
			return strings.ReplaceAll(c.says, "USER", UserName(os.Geteuid())), c.err
		}
		p.unit(t.Context())
		got := find(t, p, "vault-unit")
		if got.Status != c.status || !strings.Contains(got.Message+got.Hint, c.want) {
			t.Errorf("%s: %+v, expected a %s with %q", name, got, c.status, c.want)
		}
	}
}

func TestAuditPaths(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mode := func(name string, m os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, m); err != nil {
			t.Fatal(err)
		}
		return path
	}
	open, closed, missing := mode("open", 0o777)+"/a.log", mode("closed", 0o755)+"/a.log", filepath.Join(dir, "missing", "a.log")
	file := filepath.Join(mode("file", 0o755), "a.log")
	write(t, file, "")
	if err := os.Chmod(file, 0o666); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		paths  []string
		status []copier.Outcome
		want   string
	}{
		"a file that is there": {paths: []string{file}, status: []copier.Outcome{copier.Passed}},
		"to be made":           {paths: []string{open}, status: []copier.Outcome{copier.Passed}},
		"not a file":           {paths: []string{"stdout", "discard"}, status: []copier.Outcome{copier.Passed, copier.Passed}},
		"no directory":         {paths: []string{missing}, status: []copier.Outcome{copier.Failed}, want: "does not unseal"},
		"another's":            {paths: []string{closed}, status: []copier.Outcome{copier.Failed}, want: "can't write"},
		"one of two":           {paths: []string{open, missing}, status: []copier.Outcome{copier.Passed, copier.Warned}, want: "the other devices"},
		"both":                 {paths: []string{closed, missing}, status: []copier.Outcome{copier.Failed, copier.Failed}},
		"a directory":          {paths: []string{dir}, status: []copier.Outcome{copier.Failed}, want: "no file"},
		"empty":                {paths: []string{""}, status: []copier.Outcome{copier.Failed}, want: "is empty"},
		"relative":             {paths: []string{"audit.log"}, status: []copier.Outcome{copier.Failed}, want: "write it whole"},
	} {
		p := localProbe(t)
		if p.AuditPaths = c.paths; slices.Contains(c.paths, closed) {
			p.Owner = "54321:54321" // not us, whoever runs this
		}
		p.audit()
		var got []copier.Outcome
		text := ""
		for _, r := range check.Plan.Results(p.Findings) {
			got = append(got, r.Status)
			text += r.Message + r.Hint
		}
		if !slices.Equal(got, c.status) || !strings.Contains(text, c.want) {
			t.Errorf("%s: %+v, expected %q with %q", name, p.Findings, c.status, c.want)
		}
	}
}

// Another account's rights are told by the modes.
func TestAccountMay(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "")
	st, err := owner(file)
	if err != nil {
		t.Fatal(err)
	}
	for mode, want := range map[os.FileMode][2]bool{0o666: {true, true}, 0o662: {true, true}, 0o620: {true, false}, 0o602: {false, true}, 0o600: {false, false}, 0o400: {false, false}} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		member, stranger := account{uid: 54321, gids: []uint32{1, st.Gid}}, account{uid: 54321, gids: []uint32{54321}}
		if got := [2]bool{member.may(file, 2), stranger.may(file, 2)}; got != want {
			t.Errorf("%04o: a member of the group and a stranger may write: %v, expected %v", mode, got, want)
		}
		if !(account{}).may(file, 2) && mode&0o200 != 0 {
			t.Errorf("%04o: root may not write", mode)
		}
	}
}
