package crash

import (
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
	"github.com/dyn2raft/dyn2raft/verify"
)

// A silent front serves the program's requests up to the one of an operation that
// takes a lock, whose answer is lost, or, with DeleteItem, up to the first that gives one
// back. From there on it is silent until it is healed. Earlier requests of these
// operations ask what is allowed.
type silent struct {
	s            *dynamotest.Server
	operation    string
	dead, healed atomic.Bool
	once         sync.Once
	started      chan struct{}
	p            *program
	then         func() // happens then
}

func (f *silent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	<-f.started
	if f.healed.Load() {
		f.s.ServeHTTP(w, r)
		return
	}
	_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	_, placed := os.Lstat(filepath.Join(f.p.path(), "vault.db"))
	die := operation == f.operation && (operation == "Scan" || operation == "DeleteItem" && placed == nil)
	answer := httptest.NewRecorder()
	if !die && !f.dead.Load() {
		f.s.ServeHTTP(answer, r)
		lock := map[string]string{"PutItem": "migration", "UpdateItem": "_lock"}[operation]
		die = operation == f.operation && lock != "" && f.s.GetItem(f.p.table, "core", lock) != nil
	}
	if die {
		f.once.Do(func() {
			f.dead.Store(true)
			f.then()
		})
	}
	if f.dead.Load() {
		panic(http.ErrAbortHandler)
	}
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

// start starts the program at the front.
func (f *silent) start(t *testing.T, then func(*program)) *program {
	t.Helper()
	f.started = make(chan struct{})
	f.then = func() { then(f.p) }
	front := httptest.NewServer(f)
	t.Cleanup(front.Close)
	f.p = startProgramAt(t, f.s, front.URL, 0)
	close(f.started)
	return f.p
}

func (p *program) says(t *testing.T, status int, want string, args ...string) {
	t.Helper()
	got, text := p.command(t, args...)
	if got != status || !strings.Contains(text, want) {
		t.Errorf("%s: exit status %d, want %d, and %q in\n%s", strings.Join(args, " "), got, status, want, text)
	}
}

// TestInterruptedWithoutAnswer: a copy that is interrupted, and whose locks nobody
// knows to be given back, says so, and can be resumed: at the begin nothing is in
// place, at the end the copy is, and is no success.
func TestInterruptedWithoutAnswer(t *testing.T) {
	s := dynamotest.NewServer(dynamotest.Options{})
	defer s.Close()
	for _, operation := range []string{"PutItem", "UpdateItem", "DeleteItem"} {
		t.Run(operation, func(t *testing.T) {
			f := &silent{s: s, operation: operation}
			p := f.start(t, func(p *program) { _ = p.process.Signal(os.Interrupt) })
			status := p.wait(t)
			said := strings.Join(strings.Fields(p.said("stderr")), " ")
			if status.ExitStatus() != 130 || strings.Contains(p.said("stdout"), "Success!") || strings.Contains(said, "the table is as it was") || !strings.Contains(said, "-resume") {
				t.Errorf("exit status %d:\n%s%s", status.ExitStatus(), p.said("stdout"), said)
			}
			f.healed.Store(true)
			if operation == "DeleteItem" {
				if !strings.Contains(said, "the table was not given back") {
					t.Error(said)
				}
				p.says(t, 5, "NOT GIVEN BACK", "status", "-config", "migrate.hcl")
			} else if !strings.Contains(said, "may still be locked") {
				t.Error(said)
			}
			p.says(t, 0, "Success! All of the keys have been migrated.", "copy", "-config", "migrate.hcl", "-resume")
		})
	}
}

// TestNotGivenBackIsSaid: a process that is killed before it has given the table back
// leaves a copy of which every command says so.
func TestNotGivenBackIsSaid(t *testing.T) {
	s := dynamotest.NewServer(dynamotest.Options{})
	defer s.Close()
	for _, end := range []string{"resumed", "lost", "reset"} {
		t.Run(end, func(t *testing.T) {
			f := &silent{s: s, operation: "DeleteItem"}
			p := f.start(t, func(p *program) { _ = p.process.Kill() })
			if status := p.wait(t); !status.Signaled() {
				t.Fatalf("it was not killed: exit status %d, %s", status.ExitStatus(), p.said("stderr"))
			}
			f.healed.Store(true)
			run, manifest := p.run(), verify.ManifestPath(p.path())
			p.says(t, 5, "State NOT GIVEN BACK: ", "status", "-config", "migrate.hcl")
			p.says(t, 5, `"state": "confirmed"`, "status", "-config", "migrate.hcl", "-format", "json")
			p.says(t, 3, "NOT GIVEN BACK: the copy was complete", "verify", "-manifest", manifest)
			p.says(t, 0, "NOT GIVEN BACK: the copy was complete", "verify", "-config", "migrate.hcl")
			p.says(t, 0, "NOT GIVEN BACK: the copy was complete", "report", "-manifest", manifest, "-o", filepath.Join(p.dir, "report.html"))
			if html, err := os.ReadFile(filepath.Join(p.dir, "report.html")); err != nil || !strings.Contains(string(html), "Not given back") {
				t.Errorf("the report does not say so: %v", err)
			}
			p.says(t, 12, "Do not start a Vault", "copy", "-config", "migrate.hcl")
			if end == "resumed" {
				p.says(t, 0, "Success! All of the keys have been migrated.", "copy", "-config", "migrate.hcl", "-resume")
				p.says(t, 0, "State complete: ", "status", "-config", "migrate.hcl")
				p.says(t, 0, "Equal: ", "verify", "-manifest", manifest)
				return
			}
			if held, err := thieves["leader"].steal(s, p.table, run); err != nil || !held {
				t.Fatal(held, err)
			}
			if end == "lost" {
				p.says(t, 11, "vault.db was taken back", "copy", "-config", "migrate.hcl", "-resume")
				return
			}
			status, text := p.command(t, "copy", "-config", "migrate.hcl", "-reset")
			for _, want := range []string{"do not start a Vault on it", "the lock core/_lock stays: the Vault with leader id", "Removed core/migration"} {
				if status != 0 || !strings.Contains(text, want) {
					t.Errorf("exit status %d, and no %q in\n%s", status, want, text)
				}
			}
		})
	}
}

// TestResetOfWhatCannotBeRead: where nobody can look whether a copy is there, a reset
// says what that would mean.
func TestResetOfWhatCannotBeRead(t *testing.T) {
	s := dynamotest.NewServer(dynamotest.Options{})
	defer s.Close()
	f := &silent{s: s, operation: "Scan"}
	p := f.start(t, func(p *program) { _ = p.process.Kill() })
	p.wait(t)
	f.healed.Store(true)
	if err := os.WriteFile(filepath.Join(raft.WorkDir(p.path()), "copy.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	status, text := p.command(t, "copy", "-config", "migrate.hcl", "-reset")
	if status != 0 || !strings.Contains(text, "which can't be read") || !strings.Contains(text, "do not start a Vault on it") {
		t.Errorf("exit status %d:\n%s", status, text)
	}
}

// TestLockAnsweredByNobody: a request for a lock that something else has answered is
// not taken for a Vault's doing.
func TestLockAnsweredByNobody(t *testing.T) {
	s := dynamotest.NewServer(dynamotest.Options{})
	defer s.Close()
	for _, name := range []string{"PutItem", "UpdateItem", "UpdateItem, and no answer then"} {
		t.Run(name, func(t *testing.T) {
			operation, silent, _ := strings.Cut(name, ", ")
			deletes := atomic.Int32{}
			table := strings.NewReplacer("/", "-", ",", "-").Replace(t.Name())
			if err := s.CreateVaultTable(table); err != nil {
				t.Fatal(err)
			}
			front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				// The leader lock was never taken; the other one can't be given back.
				if silent != "" && strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".DeleteItem") && deletes.Add(1) > 1 {
					panic(http.ErrAbortHandler)
				}
				if !strings.HasSuffix(r.Header.Get("X-Amz-Target"), "."+operation) {
					s.ServeHTTP(w, r)
				}
			}))
			defer front.Close()
			retries := 1
			src, err := dynamodb.New(t.Context(), dynamodb.Options{Table: table, Endpoint: front.URL, AccessKey: "crash", SecretKey: "crash",
				HAEnabled: true, MaxRetries: &retries, RetryFor: time.Second})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := src.Open(t.Context()); err != nil {
				t.Fatal(err)
			}
			_, err = src.Lock(t.Context(), lateRun, false, func(error) {})
			if err == nil || strings.Contains(err.Error(), "running") || strings.Contains(err.Error(), "removed") || errors.Is(err, copier.ErrNotReleased) != (silent != "") {
				t.Errorf("the error is %v; %s", err, hints.Of(err))
			}
			for _, lock := range []string{"core/_lock", "core/migration"} {
				if left := lockOf(s, table, lock, lateRun); left != (silent != "" && lock == "core/migration") {
					t.Errorf("%s is left: %v", lock, left)
				}
			}
		})
	}
}
