package crash

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
	"github.com/dyn2raft/dyn2raft/verify"
)

// command runs another command of the program.
func (p *program) command(t *testing.T, args ...string) (status int, text string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, args...)
	cmd.Env, cmd.Dir = append(os.Environ(), commandEnv+"=1"), p.dir
	out, err := cmd.CombinedOutput()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), strings.Join(strings.Fields(string(out)), " ")
}

// TestUnconfirmedIsSaid: a process that is killed between the rename and the table's
// answer leaves a copy of which every command says that it is not confirmed. Resumed,
// it is confirmed, or taken back; where a Vault runs on it, neither.
func TestUnconfirmedIsSaid(t *testing.T) {
	s := dynamotest.NewServer(dynamotest.Options{})
	defer s.Close()
	for n, name := range []string{"", "leader", "migration"} {
		t.Run("lost "+name, func(t *testing.T) {
			var p *program
			var started sync.WaitGroup
			started.Add(1)
			var once sync.Once
			front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				started.Wait()
				if _, err := os.Lstat(filepath.Join(p.path(), "vault.db")); err == nil && strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".UpdateItem") {
					dead := false
					once.Do(func() {
						_, dead = p.process.Kill(), true
					})
					if dead {
						panic(http.ErrAbortHandler)
					}
				}
				s.ServeHTTP(w, r)
			}))
			defer front.Close()
			p = startProgramAt(t, s, front.URL, n)
			started.Done()
			if status := p.wait(t); !status.Signaled() {
				t.Fatalf("it was not killed: exit status %d, %s", status.ExitStatus(), p.said("stderr"))
			}
			run := p.run()
			says := func(status int, want string, args ...string) {
				t.Helper()
				got, text := p.command(t, args...)
				if got != status || !strings.Contains(text, want) || strings.Contains(text, "0001-01-01 ") || strings.Contains(text, "Success!") != (status == 0 && args[0] == "copy") {
					t.Errorf("%s: exit status %d, want %d, and %q in\n%s", strings.Join(args, " "), got, status, want, text)
				}
			}
			manifest := verify.ManifestPath(p.path())
			says(5, "State UNCONFIRMED: ", "status", "-config", "migrate.hcl")
			says(5, `"state": "unconfirmed"`, "status", "-config", "migrate.hcl", "-format", "json")
			says(3, "UNCONFIRMED: the copy was put in place, and the table has not confirmed", "verify", "-manifest", manifest)
			says(0, "UNCONFIRMED: the copy was put in place, and the table has not confirmed", "verify", "-config", "migrate.hcl")
			says(0, "UNCONFIRMED: the copy was put in place", "report", "-manifest", manifest, "-o", filepath.Join(p.dir, "report.html"))
			says(12, "put in place", "copy", "-config", "migrate.hcl")
			if name == "" {
				record := filepath.Join(p.path(), ".dyn2raft", "commit.json")
				write := func(file, text string) (was string) {
					t.Helper()
					data, err := os.ReadFile(file)
					if err := errors.Join(err, os.WriteFile(file, []byte(text), 0o600)); err != nil {
						t.Fatal(err)
					}
					return string(data)
				}
				// One of the two records can be lost: the other one says what is there.
				sound := write(manifest, "{")
				says(5, "State UNCONFIRMED: ", "status", "-config", "migrate.hcl")
				says(5, "Manifest NOT READABLE: read manifest ", "status", "-config", "migrate.hcl")
				says(12, "is in place in "+p.path()+", and UNCONFIRMED: do not start a Vault on it, and leave the table locked. Only its record depends on the manifest",
					"copy", "-config", "migrate.hcl", "-resume")
				write(manifest, strings.Replace(sound, `"run_id": "`, `"run_id": "x`, 1))
				was := write(record, "{")
				says(12, "nobody knows whether the table has confirmed that copy", "status", "-config", "migrate.hcl")
				says(12, "nobody knows whether the table has confirmed that copy", "copy", "-config", "migrate.hcl", "-resume", "-ignore", "manifest")
				write(record, strings.Replace(was, `"state":"unconfirmed"`, `"state":"unconfirmes"`, 1))
				write(manifest, sound)
				says(5, "State UNCONFIRMED: ", "status", "-config", "migrate.hcl")
				says(0, "Success! All of the keys have been migrated.", "copy", "-config", "migrate.hcl", "-resume")
				says(0, "State complete: ", "status", "-config", "migrate.hcl")
				says(0, "Equal: ", "verify", "-manifest", manifest)
				return
			}
			if held, err := thieves[name].steal(s, p.table, run); err != nil || !held {
				t.Fatal(held, err)
			}
			vault, err := bbolt.Open(filepath.Join(p.path(), "vault.db"), 0o600, &bbolt.Options{Timeout: 10 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			says(11, "DO NOT START A VAULT ON ", "copy", "-config", "migrate.hcl", "-resume")
			if err := vault.Close(); err != nil {
				t.Fatal(err)
			}
			says(11, "vault.db was taken back, and nothing is in place in ", "copy", "-config", "migrate.hcl", "-resume")
			if _, err := os.Lstat(filepath.Join(p.path(), "vault.db")); err == nil {
				t.Error("vault.db is in place")
			}
			says(5, "State unfinished: ", "status", "-config", "migrate.hcl")
		})
	}
}
