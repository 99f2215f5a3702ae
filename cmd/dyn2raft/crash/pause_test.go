package crash

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
	"github.com/dyn2raft/dyn2raft/verify"
)

var pausesFlag = flag.Int("pauses", 5, "how many processes are stopped by SIGSTOP")

// A program is a process of the command itself, which copies a table of its own.
type program struct {
	server  *dynamotest.Server
	table   string
	dir     string
	process *os.Process
}

// startProgram starts it.
func startProgram(t *testing.T, s *dynamotest.Server, n int) *program {
	t.Helper()
	return startProgramAt(t, s, s.URL, n)
}

// startProgramAt starts it with another address of the server.
func startProgramAt(t *testing.T, s *dynamotest.Server, url string, n int) *program {
	t.Helper()
	p := &program{server: s, table: fmt.Sprintf("%s-%d", strings.ReplaceAll(t.Name(), "/", "-"), n), dir: filepath.Join(t.TempDir(), strconv.Itoa(n))}
	if err := s.CreateVaultTable(p.table); err != nil {
		t.Fatal(err)
	}
	if _, err := (dynamotest.VaultShape{Entries: 200, Seed: 1, ValueSize: 100}).Load(s, p.table); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("storage_source \"dynamodb\" {\n  table = %q\n  endpoint = %q\n  region = \"us-east-1\"\n  ha_enabled = \"true\"\n  access_key = \"key\"\n  secret_key = \"secret\"\n}\n"+
		"storage_destination \"raft\" {\n  path = %q\n  node_id = \"node-1\"\n}\ncluster_addr = \"https://10.0.0.1:8201\"\n", p.table, url, p.path())
	file := filepath.Join(p.dir, "migrate.hcl")
	if err := errors.Join(os.Mkdir(p.dir, 0o700), os.Mkdir(p.path(), 0o700), os.WriteFile(file, []byte(config), 0o600)); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out [2]*os.File
	for i, name := range []string{"stdout", "stderr"} {
		if out[i], err = os.Create(filepath.Join(p.dir, name)); err != nil {
			t.Fatal(err)
		}
		defer out[i].Close()
	}
	p.process, err = os.StartProcess(exe, []string{"dyn2raft", "copy", "-config", file, "-segments", "4", "-memory", "64MiB"},
		&os.ProcAttr{Env: append(os.Environ(), commandEnv+"=1"), Files: []*os.File{nil, out[0], out[1]}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *program) path() string { return filepath.Join(p.dir, "data") }

// said is what it has written to standard output or error.
func (p *program) said(where string) string {
	text, err := os.ReadFile(filepath.Join(p.dir, where))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// run is the id of the copy, once it has locked the table.
func (p *program) run() string {
	value, _ := p.server.GetItem(p.table, "core", "_lock")["Identity"].(*types.AttributeValueMemberB)
	if value == nil || p.server.GetItem(p.table, "core", "migration") == nil {
		return ""
	}
	return string(value.Value)
}

// check judges what a process has done that was stopped, and from which a lock was
// taken meanwhile that was held until then, or not.
func (p *program) check(status int, held bool) error {
	success := strings.Contains(p.said("stdout"), "Success!")
	_, err := os.Lstat(filepath.Join(p.path(), "vault.db"))
	there := err == nil
	m, err := verify.ReadManifest(verify.ManifestPath(p.path()))
	record := err == nil && m.State != copier.Unconfirmed
	if held && (status == 0 || success || there || record) || !held && (status != 0 || !success || !there || !record) {
		return fmt.Errorf("the lock was held: %v; exit status %d, success %v, vault.db in place: %v, manifest: %v\n%s%s", held, status, success, there, record, p.said("stdout"), p.said("stderr"))
	}
	if held && !strings.Contains(p.said("stderr"), "error: ") {
		return errors.New("nothing is said: " + p.said("stderr"))
	}
	return nil
}

// wait waits until it stops or ends.
func (p *program) wait(t *testing.T) (status syscall.WaitStatus) {
	t.Helper()
	for {
		_, err := syscall.Wait4(p.process.Pid, &status, syscall.WUNTRACED, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return status
	}
}

// locked waits until it has locked the table.
func (p *program) locked(t *testing.T) (run string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); run == ""; run = p.run() {
		if time.Now().After(deadline) {
			t.Fatalf("it does not lock the table: %s", p.said("stderr"))
		}
		time.Sleep(time.Millisecond)
	}
	return run
}

// TestPaused stops the program at random moments by SIGSTOP, as a machine is that
// is paused, gives one of its locks to another meanwhile, and lets it go on.
func TestPaused(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d: repeat with -args -seed %[1]d -pauses %d", seed, *pausesFlag)
	rnd := rand.New(rand.NewPCG(seed, 1))
	s := dynamotest.NewServer(dynamotest.Options{Latency: time.Millisecond})
	defer s.Close()
	var length time.Duration // from the lock to the end
	stopped, held, late := 0, 0, 0
	// How long a copy takes depends on what else the machine does: more are stopped
	// until one was in time.
	for n := 0; (stopped < *pausesFlag || held == 0) && n < 20**pausesFlag; n++ {
		p := startProgram(t, s, n)
		run := p.locked(t)
		began := time.Now()
		if n == 0 {
			if status := p.wait(t); status.ExitStatus() != 0 {
				t.Fatalf("exit status %d: %s", status.ExitStatus(), p.said("stderr"))
			}
			length = time.Since(began)
			if err := p.check(0, false); err != nil {
				t.Fatal(err)
			}
			continue
		}
		time.Sleep(time.Duration(rnd.Int64N(int64(length))))
		if err := p.process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		status := p.wait(t)
		if !status.Stopped() { // it was done before
			if err := p.check(status.ExitStatus(), false); err != nil {
				t.Error(err)
			}
			continue
		}
		stopped++
		name := []string{"leader", "migration"}[n%2]
		was, err := thieves[name].steal(s, p.table, run)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		if err := p.check(p.wait(t).ExitStatus(), was); err != nil {
			t.Errorf("seed %d, process %d, lost its %s lock: %v", seed, n, name, err)
		}
		if was {
			held++
		} else {
			late++
		}
	}
	t.Logf("%d stopped, within %v each: %d lost a lock, %d had given it back", stopped, length.Round(time.Millisecond), held, late)
	if held == 0 {
		t.Error("none lost a lock")
	}
}
