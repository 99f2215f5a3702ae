package raft

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/dyn2raft/dyn2raft/copier"
)

const crashEntries = 400

// variants are the kinds of directory that the tests in this file make.
func variants() map[string]func(dir string) Options {
	return map[string]func(dir string) Options{
		"raft.db": testOptions,
		"wal, new node-id": func(dir string) Options {
			o := testOptions(dir)
			o.NodeID, o.WAL = "", true
			return o
		},
	}
}

// steps returns the names of all the steps of a copy, in their order.
func steps(t *testing.T, o Options) []string {
	t.Helper()
	var out []string
	if _, err := run(o, testEntries(crashEntries), func(op string) error {
		out = append(out, op)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	placed := slices.Index(out, "place "+vaultDBName)
	if placed < 18 || len(out)-placed < 4 || !slices.Contains(out, "entry 299") {
		t.Fatalf("a copy has the steps %q; many are missing", out)
	}
	return out
}

// eachStep runs f as a parallel test for every step from an index on, and waits for all. The
// tests of this file wait for the disk most of the time.
func eachStep(t *testing.T, ops []string, from int, f func(t *testing.T, i int, op string)) {
	t.Helper()
	t.Run("step", func(t *testing.T) {
		for i, op := range ops {
			if i < from {
				continue
			}
			t.Run(fmt.Sprintf("%02d %s", i, op), func(t *testing.T) {
				t.Parallel()
				f(t, i, op)
			})
		}
	})
}

// checkRerun makes another copy where an earlier one failed or was killed, and
// tells whether that had been complete.
func checkRerun(t *testing.T, o Options) (complete bool) {
	t.Helper()
	entries := testEntries(crashEntries)
	_, err := os.Lstat(filepath.Join(o.Path, vaultDBName))
	complete = err == nil
	_, recorded := os.Lstat(filepath.Join(o.Path, stagingName, recordName))
	_, err = run(o, entries, nil)
	if complete {
		if !errors.Is(err, copier.ErrDestination) {
			t.Errorf("rerun on a complete copy: %v", err)
		} else if says := strings.Contains(err.Error(), "complete copy that run run-1 made"); says != (recorded == nil) {
			t.Errorf("rerun on a complete copy, record: %v, says: %v", recorded, err)
		}
	} else if err != nil {
		t.Errorf("rerun: %v", err)
	}
	if err := inspect(o, entries); err != nil {
		t.Error(err)
	}
	want := []string{raftName, vaultDBName}
	if o.NodeID == "" {
		want = []string{nodeIDName, raftName, vaultDBName}
	}
	if complete {
		want = append([]string{stagingName}, want...)
		if got := names(t, o.Path); !slices.Equal(got, want) && !slices.Equal(got, want[1:]) {
			t.Errorf("directory holds %q, want %q", got, want)
		}
	} else if got := names(t, o.Path); !slices.Equal(got, want) {
		t.Errorf("directory holds %q, want %q", got, want)
	}
	return complete
}

// A step that fails leaves the directory as it was, or with a complete copy.
func TestEveryStepFails(t *testing.T) {
	injected := errors.New("injected")
	for name, variant := range variants() {
		t.Run(name, func(t *testing.T) {
			ops := steps(t, variant(t.TempDir()))
			var complete atomic.Int64
			eachStep(t, ops, 0, func(t *testing.T, i int, op string) {
				o := variant(t.TempDir())
				var warnings int
				o.Notify = func(e copier.Event) {
					if _, ok := e.(copier.Warning); ok {
						warnings++
					}
				}
				n := 0
				_, err := run(o, testEntries(crashEntries), func(string) error {
					n++
					if n == i+1 {
						return injected
					}
					return nil
				})
				if err == nil {
					if warnings != 1 {
						t.Errorf("%d warnings, want one of the work files that are left", warnings)
					}
				} else {
					if !errors.Is(err, injected) {
						t.Errorf("error is %v", err)
					}
					if blamed := errors.Is(err, copier.ErrDestination); blamed == strings.HasPrefix(op, "entry") {
						t.Errorf("destination is blamed: %v: %v", blamed, err)
					}
					if got := names(t, o.Path); len(got) != 0 {
						t.Errorf("directory holds %q", got)
					}
				}
				if got := checkRerun(t, o); got != (err == nil) {
					t.Errorf("complete: %v, but the error was %v", got, err)
				} else if got {
					complete.Add(1)
				}
			})
			if n := int(complete.Load()); n == 0 || n > len(ops)/2 {
				t.Errorf("%d of %d were complete", n, len(ops))
			}
		})
	}
}

// When everything fails from a step on, what was placed can't be taken back.
// The record lets the next run do it.
func TestEverythingFailsFromAStepOn(t *testing.T) {
	for name, variant := range variants() {
		t.Run(name, func(t *testing.T) {
			ops := steps(t, variant(t.TempDir()))
			var stuck atomic.Int64
			// Before the commit it is as if one step fails.
			eachStep(t, ops, slices.Index(ops, "write commit.json.tmp"), func(t *testing.T, i int, op string) {
				o := variant(t.TempDir())
				n := 0
				_, err := run(o, testEntries(crashEntries), func(string) error {
					n++
					if n > i {
						return fmt.Errorf("disk is gone: %w", syscall.EIO)
					}
					return nil
				})
				if there, _ := exists(filepath.Join(o.Path, raftName)); there && err != nil {
					stuck.Add(1)
					if !strings.Contains(err.Error(), "take back") {
						t.Errorf("error does not say that something is left: %v", err)
					}
				}
				checkRerun(t, o)
			})
			if stuck.Load() == 0 {
				t.Error("raft was never left in place")
			}
		})
	}
}

const childEnv = "DYN2RAFT_TEST_CHILD"

// A childRun is what a child process is to do: a copy, up to a step at which
// it is killed.
type childRun struct {
	Path, NodeID string
	WAL          bool
	Step         int
}

// child runs in the child process. It never returns from the step.
func child() {
	var c childRun
	if err := json.Unmarshal([]byte(os.Getenv(childEnv)), &c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	o := testOptions(c.Path)
	o.NodeID, o.WAL = c.NodeID, c.WAL
	n := 0
	_, err := run(o, testEntries(crashEntries), func(string) error {
		if n++; n == c.Step+1 {
			// SIGKILL, as by the kernel when memory is short: nothing is
			// run any more in this process.
			if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
				return err
			}
			select {}
		}
		return nil
	})
	fmt.Fprintf(os.Stderr, "not killed: %v\n", err)
	os.Exit(3)
}

// A process that is killed at any step leaves nothing that Vault would open,
// or a complete copy, and the next run goes well.
func TestKilledAtEveryStep(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, variant := range variants() {
		t.Run(name, func(t *testing.T) {
			ops := steps(t, variant(t.TempDir()))
			var complete, recovered atomic.Int64
			eachStep(t, ops, 0, func(t *testing.T, i int, op string) {
				o := variant(t.TempDir())
				arg, err := json.Marshal(childRun{o.Path, o.NodeID, o.WAL, i})
				if err != nil {
					t.Fatal(err)
				}
				cmd := exec.Command(exe)
				cmd.Env = append(os.Environ(), childEnv+"="+string(arg))
				out, err := cmd.CombinedOutput()
				var exit *exec.ExitError
				if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
					t.Fatalf("child ended with %v, not killed: %s", err, out)
				}
				if there, _ := exists(filepath.Join(o.Path, raftName)); there {
					recovered.Add(1)
				}
				if checkRerun(t, o) {
					complete.Add(1)
					recovered.Add(-1)
				}
			})
			if c, r := int(complete.Load()), int(recovered.Load()); c == 0 || r == 0 || c > len(ops)/2 {
				t.Errorf("of %d killed runs %d were complete, and %d had raft in place without vault.db",
					len(ops), c, r)
			}
		})
	}
}

// What Vault made after a crash is not taken for ours.
func TestRecoverySparesOthers(t *testing.T) {
	crash := func(t *testing.T, o Options, op string) {
		t.Helper()
		s, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		stop := errors.New("stop")
		s.disk.before = func(now string) error {
			if now == op || s.keepStaging {
				s.keepStaging = true
				return stop // from here on nothing works, as in a process that is gone
			}
			return nil
		}
		ctx := context.Background()
		if err := s.Prepare(ctx, "run-1"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Load(ctx, &sliceStream{}); err != nil {
			t.Fatal(err)
		}
		if err := s.Commit(ctx); !errors.Is(err, stop) {
			t.Fatalf("Commit returns %v", err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("raft of another", func(t *testing.T) {
		o := testOptions(t.TempDir())
		crash(t, o, "place raft")
		theirs := filepath.Join(o.Path, raftName, "theirs")
		if err := os.MkdirAll(theirs, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := prepare(o); !errors.Is(err, copier.ErrDestination) {
			t.Errorf("Prepare returns %v", err)
		}
		if _, err := os.Stat(theirs); err != nil {
			t.Error(err)
		}
	})
	t.Run("vault.db of another", func(t *testing.T) {
		o := testOptions(t.TempDir())
		crash(t, o, "place vault.db")
		theirs := filepath.Join(o.Path, vaultDBName)
		if err := os.WriteFile(theirs, []byte("theirs"), 0o600); err != nil {
			t.Fatal(err)
		}
		err := prepare(o)
		if !errors.Is(err, copier.ErrDestination) || strings.Contains(err.Error(), "complete") {
			t.Errorf("Prepare returns %v", err)
		}
		if got, want := names(t, o.Path), []string{stagingName, raftName, vaultDBName}; !slices.Equal(got, want) {
			t.Errorf("directory holds %q, want %q", got, want)
		}
	})
	t.Run("vault.db linked, not yet unlinked", func(t *testing.T) {
		o := testOptions(t.TempDir())
		crash(t, o, "place vault.db")
		s := &Sink{opts: o}
		if err := os.Link(s.stage(vaultDBName), s.dest(vaultDBName)); err != nil {
			t.Fatal(err)
		}
		if err := prepare(o); err == nil || !strings.Contains(err.Error(), "complete copy that run run-1 made") {
			t.Errorf("Prepare returns %v", err)
		}
	})
	t.Run("node-id changed", func(t *testing.T) {
		o := testOptions(t.TempDir())
		o.NodeID = ""
		crash(t, o, "place vault.db")
		theirs := filepath.Join(o.Path, nodeIDName)
		if err := os.WriteFile(theirs, []byte("theirs"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := run(o, nil, nil); err != nil {
			t.Fatal(err)
		}
		if err := inspect(o, nil); err != nil {
			t.Error(err)
		}
		if id, err := os.ReadFile(theirs); err != nil || string(id) != "theirs" {
			t.Errorf("node-id holds %q, %v", id, err)
		}
	})
	t.Run("record not ours", func(t *testing.T) {
		for _, content := range []string{"", "{", `{"format":2}`} {
			o := testOptions(t.TempDir())
			crash(t, o, "place vault.db")
			s := &Sink{opts: o}
			if err := os.WriteFile(s.stage(recordName), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := prepare(o); !errors.Is(err, copier.ErrDestination) || hint(err) == "" {
				t.Errorf("record %q: Prepare returns %v", content, err)
			}
			if got, want := names(t, o.Path), []string{stagingName, raftName}; !slices.Equal(got, want) {
				t.Errorf("directory holds %q, want %q", got, want)
			}
		}
	})
}
