//go:build e2e

package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// TestKilledCopiesAndProof is what a real Vault makes of a copy that is killed, and what
// verify, its manifest check, inspect and check-cluster say before, during and after
// the life of a real Vault on a copy.
func TestKilledCopiesAndProof(t *testing.T) {
	t.Parallel()
	server := dynamotest.NewServer(dynamotest.Options{})
	t.Cleanup(server.Close)
	s := &slowScenario{
		scenario: scenario{t: t, table: openTable(server.URL), old: newNode(t, "old")},
		server:   server,
	}
	s.fillOld()

	s.killAndGiveUp(newNode(t, "given-up"))
	s.killBehindCommit(newNode(t, "late"))
	n := newNode(t, "node1")
	s.killAndResume(n)
	s.prove(n)
}

// slowScenario is a scenario on a DynamoDB server of the test's own process, which can
// be slowed down while it serves.
type slowScenario struct {
	scenario
	server *dynamotest.Server
	mounts int // secrets engines of the old Vault
}

// A copy of 64 segments by one worker has the first answers for 8 s, two intervals of its
// checkpoints, and the rest not before it is killed.
const scanDelay, scansAnswered = 200 * time.Millisecond, 40

func (s *slowScenario) fillOld() {
	var v *vault
	s.step("old Vault: start on DynamoDB, initialise, unseal", func() { v = s.oldVault() })
	s.step("old Vault: fill, and stop", func() {
		s.contents = fill(s.t, v)
		s.mounts = v.mounts(s.t)
		v.stop(s.t)
		s.table.addFiller(s.t, 2000)
		s.source = s.table.entries(s.t)
	})
	s.t.Logf("the table has %d entries", len(s.source))
}

// killAndResume kills a copy, sees that no Vault starts on its table, and resumes
// it to the end.
func (s *slowScenario) killAndResume(n node) {
	s.t.Helper()
	config := s.migrateFile(n, "")
	before := s.locks()
	s.step("dyn2raft copy is killed", func() { s.killCopy(n, config) })
	s.step("the table stays locked: a real Vault refuses to start on it", s.refusesToStart)
	s.step("a plain rerun is refused, with the two ways on", func() {
		run := s.dyn2raft("copy", "-config", config)
		if run.code == 0 || !strings.Contains(run.stderr, "resume") || !strings.Contains(run.stderr, "restart") {
			s.t.Errorf("exit code %d, want a refusal that names -resume and -restart:\n%s", run.code, run.stderr)
		}
	})
	s.step("dyn2raft copy -resume", func() {
		scans := s.server.Requests()["Scan"]
		run := s.dyn2raft("copy", "-config", config, "-resume")
		s.wantCopied(run, n)
		full := s.scansOfCopy(n)
		if scans = s.server.Requests()["Scan"] - scans; scans == 0 || scans >= full {
			s.t.Errorf("it took %d Scan requests to go on, want some, and fewer than the %d segments", scans, full)
		}
		s.t.Logf("%d Scan requests for what was left of %d segments", scans, full)
	})
	s.step("the table's locks are as they were before the copy", func() {
		s.wantSourceUnchanged()
		s.wantLocks(before)
	})
}

// killAndGiveUp kills a copy, gives it up, and lets the old Vault serve again: then the
// copy can't be resumed, but begun anew once that Vault is stopped.
func (s *slowScenario) killAndGiveUp(n node) {
	s.t.Helper()
	config := s.migrateFile(n, "")
	s.step("another dyn2raft copy is killed", func() { s.killCopy(n, config) })
	s.step("a real Vault refuses to start on its table", s.refusesToStart)
	s.step("dyn2raft copy -reset", func() {
		run := s.dyn2raft("copy", "-config", config, "-reset")
		if run.code != 0 {
			s.t.Fatalf("exit code %d\nstdout: %s\nstderr: %s", run.code, run.stdout, run.stderr)
		}
		s.t.Logf("%s%s", run.stdout, run.stderr)
		s.wantLocks(locks{})
	})
	var v *vault
	s.step("old Vault: starts again, serves and writes", func() {
		v = s.oldVault()
		s.contents.check(s.t, v)
		for _, name := range []string{updatedName, "written after the reset"} {
			s.contents.kv1[name] = map[string]any{"value": "since the reset"}
			v.write(s.t, "kv1/"+name, s.contents.kv1[name])
		}
	})
	s.step("dyn2raft copy -resume is refused while it serves, and disturbs nothing", func() {
		s.wantMoved(config)
		s.contents.checkSecrets(s.t, v)
	})
	s.step("and after it was stopped", func() {
		v.stop(s.t)
		s.wantMoved(config)
	})
	s.step("dyn2raft copy -restart", func() {
		s.source = s.table.entries(s.t)
		s.wantCopied(s.dyn2raft("copy", "-config", config, "-restart"), n)
		s.wantSourceUnchanged()
		s.wantLocks(locks{})
	})
}

// killBehindCommit kills a copy when its result is in place, and before it has said so
// or freed the table. A Vault that knows nothing of it runs on that result; then the
// copy is finished.
func (s *slowScenario) killBehindCommit(n node) {
	s.t.Helper()
	config := s.migrateFile(n, "")
	s.step("dyn2raft copy is killed with its result in place", func() {
		// The table does not say whether it was locked all the time.
		s.server.SetFaults(&dynamotest.Fault{Kind: dynamotest.Delay, Operation: "UpdateItem", Delay: time.Minute,
			Match: func(*dynamotest.Request) bool {
				_, err := os.Stat(filepath.Join(n.dir, "vault.db"))
				return err == nil
			}})
		defer s.server.SetFaults()
		run := start(s.t, "dyn2raft copy", dyn2raftBin, "copy", "-config", config)
		waitFor(s.t, "the copy to put its result in place", time.Minute, func() error {
			if err := run.alive(); err != nil {
				return err
			}
			_, err := os.Stat(filepath.Join(n.dir, "vault.db"))
			return err
		})
		run.kill(s.t)
		if s.locks()[0] == nil {
			s.t.Fatal("the table was freed already: killed too late")
		}
		if run := s.dyn2raft("status", "-config", config); !strings.Contains(run.stdout, " UNCONFIRMED: ") {
			s.t.Errorf("the status says\n%s%s", run.stdout, run.stderr)
		}
	})
	var v *vault
	s.step("a Vault starts on it all the same", func() { v = s.serve(n) })
	s.step("dyn2raft copy -resume is refused while it serves, and says why", func() {
		run := s.dyn2raft("copy", "-config", config, "-resume")
		if run.code != exitLocked || !strings.Contains(run.stderr, "DO NOT START A VAULT ON ") {
			s.t.Errorf("exit code %d, want %d and that it is not confirmed:\n%s", run.code, exitLocked, run.stderr)
		}
		s.contents.checkSecrets(s.t, v)
		v.write(s.t, "kv1/"+updatedName, map[string]any{"value": "on the killed copy"})
	})
	s.step("and finishes the copy once it is stopped", func() {
		v.stop(s.t)
		db := filepath.Join(n.dir, "vault.db")
		before, err := os.ReadFile(db)
		if err != nil {
			s.t.Fatal(err)
		}
		run := s.dyn2raft("copy", "-config", config, "-resume")
		if run.code != 0 || lastLines(run.stdout, 1) != successLine || !strings.Contains(run.stderr, "a Vault has run on the copy since") {
			s.t.Fatalf("exit code %d\nstdout: %s\nstderr: %s", run.code, run.stdout, run.stderr)
		}
		if after, err := os.ReadFile(db); err != nil || sha256.Sum256(after) != sha256.Sum256(before) {
			s.t.Errorf("vault.db is another one now (%v)", err)
		}
		s.wantLocks(locks{})
		if _, err := os.Stat(filepath.Join(n.dir, ".dyn2raft")); !errors.Is(err, fs.ErrNotExist) {
			s.t.Errorf("the work files are still there (%v)", err)
		}
		if run := s.dyn2raft("verify", "-manifest", manifestFile(n)); run.code != exitDiffers || !strings.Contains(run.stdout, "a Vault has run on the directory since the copy") {
			s.t.Errorf("exit code %d, want %d\n%s%s", run.code, exitDiffers, run.stdout, run.stderr)
		}
	})
}

// serve starts a Vault on a copy, and reads every secret.
func (s *slowScenario) serve(n node) *vault {
	s.t.Helper()
	v := startVault(s.t, n, raftStorage(n, ""))
	v.unseal(s.t, s.keys)
	v.waitHealth(s.t, 200)
	s.contents.checkSecrets(s.t, v)
	return v
}

// killCopy starts a copy from a table that answers slowly, and kills it with SIGKILL
// once a part of what it has read is safe.
func (s *slowScenario) killCopy(n node, config string) {
	s.t.Helper()
	s.server.SetFaults(
		&dynamotest.Fault{Kind: dynamotest.Delay, Operation: "Scan", Delay: 5 * time.Minute, After: scansAnswered},
		&dynamotest.Fault{Kind: dynamotest.Delay, Operation: "Scan", Delay: scanDelay})
	defer s.server.SetFaults()
	run := start(s.t, "dyn2raft copy", dyn2raftBin, "copy", "-config", config, "-max-parallel", "1")
	waitFor(s.t, "the copy to save what it has read", time.Minute, func() error {
		if err := run.alive(); err != nil {
			return err
		}
		if status := s.status(config); status.Status.Saved == 0 {
			return fmt.Errorf("%+v", status)
		}
		return nil
	})
	run.kill(s.t)
	if how, ok := run.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || how.Signal() != syscall.SIGKILL {
		s.t.Fatalf("the copy was not killed: %s\n%s", run.cmd.ProcessState, run.output())
	}
	status := s.status(config)
	if status.State != "unfinished" || status.Status.Done >= status.Status.Segments {
		s.t.Fatalf("the status of the killed copy is %+v, want it unfinished, in the middle", status)
	}
	s.t.Logf("killed after %d of %d segments, with %d of %d entries safe",
		status.Status.Done, status.Status.Segments, status.Status.Saved, len(s.source))
	if _, err := os.Stat(filepath.Join(n.dir, "vault.db")); !errors.Is(err, fs.ErrNotExist) {
		s.t.Errorf("the killed copy left a vault.db (%v)", err)
	}
	for i, lock := range s.locks() {
		if value := binary(lock, "Value"); !strings.Contains(value, status.Status.Run) {
			s.t.Errorf("core/%s is %q, want it to name run %s", lockKeys[i], value, status.Status.Run)
		}
	}
}

type copyStatus struct {
	State  string `json:"state"`
	Status struct {
		Run      string `json:"run_id"`
		Done     int64  `json:"segments_done"`
		Segments int64  `json:"segments"`
		Saved    int64  `json:"saved_entries"`
	} `json:"status"`
}

// status is what dyn2raft status tells of a copy.
func (s *slowScenario) status(config string) (status copyStatus) {
	s.t.Helper()
	run := s.dyn2raft("status", "-config", config, "-format", "json")
	s.wantJSON(run, run.code, &status)
	if want := map[string]int{"complete": 0, "running": 4, "unfinished": 5, "unconfirmed": 5, "confirmed": 5, "empty": 6}[status.State]; run.code != want {
		s.t.Errorf("the exit status of a copy that is %s is %d, expected %d", status.State, run.code, want)
	}
	return status
}

// lockKeys are the items in Path "core" that keep Vaults off the table.
var lockKeys = [...]string{"migration", "_lock"}

// locks are those items, each nil where there is none.
type locks [len(lockKeys)]item

func (s *slowScenario) locks() (all locks) {
	s.t.Helper()
	for i, key := range lockKeys {
		all[i] = s.table.get(s.t, "core", key)
	}
	return all
}

func (s *slowScenario) wantLocks(want locks) {
	s.t.Helper()
	for i, lock := range s.locks() {
		if !reflect.DeepEqual(lock, want[i]) {
			s.t.Errorf("core/%s is %v, want %v", lockKeys[i], lock, want[i])
		}
	}
}

// wantMoved wants a copy not to be resumed, because a Vault may have run since.
func (s *slowScenario) wantMoved(config string) {
	s.t.Helper()
	run := s.dyn2raft("copy", "-config", config, "-resume")
	if run.code != exitLocked || !strings.Contains(run.stderr, "a Vault may have run") || !strings.Contains(run.stderr, "-restart") {
		s.t.Errorf("exit code %d, want %d, the reason and -restart:\n%s", run.code, exitLocked, run.stderr)
	}
}

// wantCopied wants a copy to have succeeded, and its result to be as the table.
func (s *slowScenario) wantCopied(run finished, n node) {
	s.t.Helper()
	if run.code != 0 || lastLines(run.stdout, 1) != successLine {
		s.t.Fatalf("exit code %d\nstdout: %s\nstderr: %s", run.code, run.stdout, run.stderr)
	}
	if d := compare(s.source, storedEntries(s.t, n.dir)); d.any() {
		s.t.Fatalf("dyn2raft's copy: %s", d)
	}
}

// scansOfCopy is how many Scan requests a copy that was not interrupted needs at least:
// one for each of its segments.
func (s *slowScenario) scansOfCopy(n node) int {
	s.t.Helper()
	var file struct {
		Record struct {
			Resumed int `json:"resumed"`
			Scan    struct {
				Segments int `json:"segments"`
			} `json:"scan"`
		} `json:"record"`
	}
	b, err := os.ReadFile(manifestFile(n))
	if err == nil {
		err = json.Unmarshal(b, &file)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	manifest := file.Record
	if manifest.Resumed != 1 || manifest.Scan.Segments == 0 {
		s.t.Errorf("the manifest says resumed %d times, %d segments; want once, and some", manifest.Resumed, manifest.Scan.Segments)
	}
	return manifest.Scan.Segments
}

// prove runs a Vault on the copy, and asks all that gives evidence before, during and
// after that.
func (s *slowScenario) prove(n node) {
	s.t.Helper()
	config, manifest := s.migrateFile(n, ""), manifestFile(n)
	before := filepath.Join(s.t.TempDir(), "a copy of the directory")
	s.step("straight after the copy: verify, verify -manifest and inspect are clean", func() {
		if err := os.CopyFS(before, os.DirFS(n.dir)); err != nil {
			s.t.Fatal(err)
		}
		untouched(s.t, n.dir, func() {
			s.wantEqual("verify", "-config", config)
			s.wantEqual("verify", "-manifest", manifest)
			s.wantSound(n.dir)
		})
		s.wantEqual("verify", "-manifest", manifest, "-path", before)
	})

	var v *vault
	s.step("new Vault: start on the copy, read every secret", func() {
		v = s.serve(n)
		s.contents.checkListed(s.t, v)
	})
	s.step("on the running Vault's directory: answered at once", func() {
		for _, args := range [][]string{
			{"verify", "-config", config}, {"verify", "-manifest", manifest}, {"inspect", n.dir},
		} {
			s.wantInUse(args...)
		}
	})
	s.step("dyn2raft check-cluster", func() { s.checkCluster(v, config) })
	written := map[string]any{"value": "after the move"}
	s.step("new Vault: write, stop", func() {
		v.write(s.t, "kv1/"+updatedName, written)
		v.stop(s.t)
	})

	s.step("after the Vault: verify explains what it changed", func() {
		untouched(s.t, n.dir, func() { s.explains(n, config) })
	})
	s.step("after the Vault: verify -manifest can't judge, but judges the copy made before", func() {
		untouched(s.t, n.dir, func() {
			run := s.dyn2raft("verify", "-manifest", manifest)
			if run.code != exitDiffers || !strings.Contains(run.stdout, "a Vault has run on the directory since the copy") {
				s.t.Errorf("exit code %d, want %d and that a Vault has run\nstdout: %s\nstderr: %s", run.code, exitDiffers, run.stdout, run.stderr)
			}
		})
		untouched(s.t, before, func() { s.wantEqual("verify", "-manifest", manifest, "-path", before) })
	})
	s.step("after the Vault: inspect finds the directory sound", func() {
		untouched(s.t, n.dir, func() { s.wantSound(n.dir) })
	})
}

// explains wants verify to name every difference that an independent comparison finds,
// to say that a Vault has run, and to explain all that the test has not written itself.
func (s *slowScenario) explains(n node, config string) {
	s.t.Helper()
	var report struct {
		Started bool `json:"started"`
		Raft    struct {
			Index uint64 `json:"index"`
		} `json:"raft"`
		Known int `json:"known"`
		Diffs []struct {
			Kind  string `json:"kind"`
			Key   string `json:"key"`
			Known string `json:"known"`
		} `json:"diffs"`
	}
	run := s.dyn2raft("verify", "-config", config, "-max-diffs", "-1", "-format", "json")
	s.wantJSON(run, exitDiffers, &report)
	if !report.Started || report.Raft.Index <= 2 {
		s.t.Errorf("started is %t at Raft index %d, want it true and an index above the copy's", report.Started, report.Raft.Index)
	}
	var named difference
	var unexplained []string
	for _, d := range report.Diffs {
		switch d.Kind {
		case "missing":
			named.missing = append(named.missing, d.Key)
		case "different":
			named.changed = append(named.changed, d.Key)
		case "extra":
			named.added = append(named.added, d.Key)
		}
		if d.Known == "" {
			unexplained = append(unexplained, d.Kind+" "+d.Key)
		}
		s.t.Logf("  %-9s %s: %s", d.Kind, d.Key, d.Known)
	}
	if want := compare(s.source, storedEntries(s.t, n.dir)); want.String() != named.String() {
		s.t.Errorf("verify names %s; the directory has %s", named, want)
	}
	ours := "different logical/" + s.contents.kv1UUID + "/" + updatedName
	if !slices.Equal(unexplained, []string{ours}) || report.Known != len(report.Diffs)-1 {
		s.t.Errorf("of %d differences %d are explained, and not explained %q; want all but %q", len(report.Diffs), report.Known, unexplained, ours)
	}

	run = s.dyn2raft("verify", "-config", config)
	if run.code != exitDiffers || !strings.Contains(run.stdout, "a Vault has") || !strings.Contains(run.stdout, "judged") ||
		!strings.Contains(run.stdout, "the keyring of its Raft TLS") {
		s.t.Errorf("exit code %d, want %d, that a Vault has started, why it changes core/raft/tls, and that the rest can't be judged\nstdout: %s\nstderr: %s",
			run.code, exitDiffers, run.stdout, run.stderr)
	}
}

// checkCluster asks about a cluster of one node, which is well, and is not the cluster
// of three that it is said to be.
func (s *slowScenario) checkCluster(v *vault, config string) {
	s.t.Helper()
	environment := []string{"VAULT_ADDR=" + v.node.apiAddr(), "VAULT_TOKEN=" + v.token}
	args := []string{"check-cluster", "-config", config, "-sample", "1s", "-expect-mounts", fmt.Sprint(s.mounts)}
	run := runWith(s.t, time.Minute, environment, dyn2raftBin, args...)
	if run.code != 0 || strings.Contains(run.stdout, "could not be checked") {
		s.t.Errorf("exit code %d, want 0 and everything checked\nstdout: %s\nstderr: %s", run.code, run.stdout, run.stderr)
	}
	s.t.Logf("check-cluster:\n%s", run.stdout)
	run = runWith(s.t, time.Minute, environment, dyn2raftBin, append(args, "-expect-peers", "3")...)
	if run.code != exitDiffers {
		s.t.Errorf("with -expect-peers 3: exit code %d, want %d\nstdout: %s\nstderr: %s", run.code, exitDiffers, run.stdout, run.stderr)
	}
}

func (s *slowScenario) wantEqual(args ...string) {
	s.t.Helper()
	if run := s.dyn2raft(args...); run.code != 0 || !strings.HasPrefix(lastLines(run.stdout, 1), "Equal: ") {
		s.t.Errorf("%s: exit code %d, want 0 and Equal\nstdout: %s\nstderr: %s", strings.Join(args, " "), run.code, run.stdout, run.stderr)
	}
}

// wantSound wants inspect to find a directory sound, with as many entries as are there.
func (s *slowScenario) wantSound(dir string) {
	s.t.Helper()
	var in struct {
		Sound   bool `json:"sound"`
		Entries int  `json:"entries"`
	}
	s.wantJSON(s.dyn2raft("inspect", dir, "-format", "json"), 0, &in)
	if want := len(storedEntries(s.t, dir)); !in.Sound || in.Entries != want {
		s.t.Errorf("inspect: sound is %t, %d entries; want true and %d", in.Sound, in.Entries, want)
	}
}

// wantInUse wants the answer that a Vault is running on the directory, without a Scan of
// the table.
func (s *slowScenario) wantInUse(args ...string) {
	s.t.Helper()
	scans := s.server.Requests()["Scan"]
	run := s.dyn2raft(args...)
	if run.code != exitLocked || !strings.Contains(run.stderr, "Vault") || s.server.Requests()["Scan"] != scans {
		s.t.Errorf("%s: exit code %d, want %d without a Scan\nstdout: %s\nstderr: %s",
			strings.Join(args, " "), run.code, exitLocked, run.stdout, run.stderr)
	}
	s.t.Logf("%s: %.2f s: %s", args[0], run.took.Seconds(), strings.TrimSpace(run.stderr))
}

// wantJSON wants an exit code, and decodes what was written.
func (s *slowScenario) wantJSON(run finished, code int, into any) {
	s.t.Helper()
	if err := json.Unmarshal([]byte(run.stdout), into); err != nil || run.code != code {
		s.t.Fatalf("exit code %d, want %d (%v)\nstdout: %s\nstderr: %s", run.code, code, err, run.stdout, run.stderr)
	}
}

func (s *slowScenario) dyn2raft(args ...string) finished {
	s.t.Helper()
	return runProgram(s.t, 2*time.Minute, dyn2raftBin, args...)
}

// manifestFile is where a copy into the node's directory puts its manifest.
func manifestFile(n node) string { return n.dir + ".dyn2raft.json" }

// untouched wants all files of a directory to be the same after f as before.
func untouched(t *testing.T, dir string, f func()) {
	t.Helper()
	before := fingerprint(t, dir)
	f()
	if after := fingerprint(t, dir); !maps.Equal(before, after) {
		t.Errorf("%s was %v\nand is %v", dir, before, after)
	}
}

// fingerprint is the mode, the time and the hash of every file of a directory.
func fingerprint(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		var content []byte
		if info.Mode().IsRegular() {
			if content, err = os.ReadFile(path); err != nil {
				return err
			}
		}
		files[path] = fmt.Sprintf("%s %s %x", info.Mode(), info.ModTime(), sha256.Sum256(content))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestFingerprintSeesChange proves that untouched can fail.
func TestFingerprintSeesChange(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a")
	long := time.Now().Add(-time.Hour)
	set := func(content string, mode fs.FileMode, modified time.Time) {
		writeFile(t, file, content)
		if err := errors.Join(os.Chmod(file, mode), os.Chtimes(file, modified, modified)); err != nil {
			t.Fatal(err)
		}
	}
	set("content", 0o600, long)
	before := fingerprint(t, dir)
	if !maps.Equal(before, fingerprint(t, dir)) {
		t.Error("nothing has changed, and the fingerprint has")
	}
	for name, change := range map[string]func(){
		"content": func() { set("contenT", 0o600, long) },
		"mode":    func() { set("content", 0o640, long) },
		"time":    func() { set("content", 0o600, long.Add(time.Second)) },
		"a file":  func() { set("content", 0o600, long); writeFile(t, filepath.Join(dir, "b"), "") },
	} {
		change()
		if maps.Equal(before, fingerprint(t, dir)) {
			t.Errorf("%s has changed, and the fingerprint has not", name)
		}
		if err := os.RemoveAll(filepath.Join(dir, "b")); err != nil {
			t.Fatal(err)
		}
	}
}
