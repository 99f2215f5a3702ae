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
	"github.com/dyn2raft/dyn2raft/copier/durable"
)

const crashEntries = 400

const unfinished = "wal, new node-id, unfinished copy"

// variants are the kinds of directory that the tests in this file make. In one
// an unfinished copy is there.
func variants() map[string]func(dir string) (Options, error) {
	return map[string]func(dir string) (Options, error){
		"raft.db": func(dir string) (Options, error) { return testOptions(dir), nil },
		unfinished: func(dir string) (Options, error) {
			o := testOptions(dir)
			o.NodeID, o.WAL = "", true
			return o, leaveWork(o)
		},
	}
}

func variantIn(t *testing.T, variant func(dir string) (Options, error)) Options {
	t.Helper()
	o, err := variant(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return o
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

// leaveWork puts an unfinished copy's files into the work directory.
func leaveWork(o Options) error {
	err := os.MkdirAll(WorkDir(o.Path), 0o700)
	for _, name := range []string{"copy.json", "run-000001"} {
		err = errors.Join(err, os.WriteFile(filepath.Join(WorkDir(o.Path), name), []byte(name), 0o600))
	}
	return err
}

// workLeft tells what of that is there: all (true), nothing (false), or
// something in between, which is an error.
func workLeft(o Options) (bool, error) {
	if there, err := durable.Exists(WorkDir(o.Path)); !there || err != nil {
		return false, err
	}
	list, err := os.ReadDir(WorkDir(o.Path))
	if err != nil || len(list) == 0 {
		return false, err
	}
	for _, name := range []string{"copy.json", "run-000001"} {
		if data, err := os.ReadFile(filepath.Join(WorkDir(o.Path), name)); err != nil || string(data) != name {
			return false, fmt.Errorf("work file %s: %q, %w", name, data, err)
		}
	}
	return true, nil
}

// checkRerun makes another copy where an earlier one failed or was killed, and
// reports whether that had been complete.
func checkRerun(t *testing.T, o Options) (complete bool) {
	t.Helper()
	entries := testEntries(crashEntries)
	complete, err := checkPrepare(o)
	if err != nil {
		t.Error(err)
	}
	if _, err := run(o, entries, nil); complete != errors.Is(err, copier.ErrDestination) || !complete && err != nil {
		t.Errorf("rerun, complete: %v: %v", complete, err)
	}
	if err := checkDone(o, entries); err != nil {
		t.Error(err)
	}
	return complete
}

// checkDone inspects the directory of a complete copy, in which nothing else
// may be.
func checkDone(o Options, entries []copier.Entry) error {
	want := []string{raftName, vaultDBName}
	if o.NodeID == "" {
		want = []string{nodeIDName, raftName, vaultDBName}
	}
	list, err := os.ReadDir(o.Path)
	if err != nil {
		return err
	}
	var got []string
	for _, f := range list {
		got = append(got, f.Name())
	}
	if !slices.Equal(got, want) {
		err = fmt.Errorf("directory holds %q, want %q", got, want)
	}
	return errors.Join(err, inspect(o, entries))
}

// checkPrepare prepares a sink on what an earlier run left, and gives it back
// at once. What was a complete copy must be named as one, if its record is
// there, and is cleaned up after; of anything else only an unfinished copy's
// work directory may be left by Prepare, and that must be.
func checkPrepare(o Options) (complete bool, err error) {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	state, err := Look(o.Path)
	if err != nil {
		return false, err
	}
	complete = state == StateComplete || state == StateUnconfirmed || state == StateConfirmed
	recorded, err := durable.Exists(filepath.Join(o.Path, stagingName, recordName))
	if err != nil {
		return false, err
	}
	work, err := workLeft(o)
	if err != nil && !complete {
		bad("what an unfinished copy left: %w", err)
	}
	s, err := open(o)
	if s == nil {
		return false, err
	}
	ok := s.found.Record != nil
	switch {
	case !complete && err != nil:
		bad("Prepare: %w", err)
	case !complete:
		list, err := os.ReadDir(s.aside(""))
		if err != nil || len(list) != 1 || list[0].Name() != workName {
			bad("the staging directory holds %v after Prepare, %w", list, err)
		}
		if still, err := workLeft(o); still != work || err != nil {
			bad("an unfinished copy was there: %v, and after Prepare: %v, %w", work, still, err)
		}
		for _, name := range []string{raftName, vaultDBName} {
			if there, err := durable.Exists(s.dest(name)); there || err != nil {
				bad("%s is in place after Prepare, %w", name, err)
			}
		}
	case !errors.Is(err, copier.ErrDestination):
		bad("Prepare on a complete copy: %w", err)
	case ok != recorded:
		bad("Prepare on a complete copy, record: %v, says: %w", recorded, err)
	case ok && s.found.Record.RunID != "run-1":
		bad("a complete copy is found to be %+v", s.found)
	}
	// A second run would keep an unfinished copy, and clean up after a
	// complete one.
	if err := s.Close(!complete); err != nil {
		bad("Close: %w", err)
	}
	if still, err := workLeft(o); !complete && (still != work || err != nil) {
		bad("an unfinished copy was there: %v, and after Close: %v, %w", work, still, err)
	}
	return complete, errors.Join(errs...)
}

// A step that fails leaves the directory as it was, or with a complete copy;
// or, where that is asked for, with the work directory too.
func TestEveryStepFails(t *testing.T) {
	injected := errors.New("injected")
	for name, variant := range variants() {
		t.Run(name, func(t *testing.T) {
			ops := steps(t, variantIn(t, variant))
			var complete, stays atomic.Int64
			eachStep(t, ops, 0, func(t *testing.T, i int, op string) {
				o := variantIn(t, variant)
				keep := i%2 == 0
				n := 0
				_, err := runAndKeep(o, testEntries(crashEntries), func(string) error {
					n++
					if n == i+1 {
						return injected
					}
					return nil
				}, keep)
				if !errors.Is(err, injected) {
					t.Errorf("error is %v", err)
				}
				done := errors.Is(err, errCleanUp)
				if blamed := errors.Is(err, copier.ErrDestination); blamed == strings.HasPrefix(op, "entry") {
					t.Errorf("destination is blamed: %v: %v", blamed, err)
				}
				if !done {
					left, lerr := workLeft(o)
					stay := (keep || errors.Is(err, errNotOpened)) && name == unfinished
					if lerr != nil || left != stay {
						t.Errorf("to be kept: %v, left: %v, %v", stay, left, lerr)
					}
					if left {
						stays.Add(1)
					}
					if got := names(t, o.Path); stay && !slices.Equal(got, []string{stagingName}) || !stay && !keep && len(got) != 0 {
						t.Errorf("to be kept: %v, directory holds %q", stay, got)
					}
				}
				if got := checkRerun(t, o); got != done {
					t.Errorf("complete: %v, but the error was %v", got, err)
				} else if got {
					complete.Add(1)
				}
			})
			if n := int(complete.Load()); n == 0 || n > len(ops)/2 || (stays.Load() > 10) != (name == unfinished) {
				t.Errorf("of %d %d were complete, %d kept", len(ops), n, stays.Load())
			}
		})
	}
}

// When everything fails from a step on, what was placed can't be taken back.
// The record lets the next run do it.
func TestEverythingFailsFromAStepOn(t *testing.T) {
	for name, variant := range variants() {
		t.Run(name, func(t *testing.T) {
			ops := steps(t, variantIn(t, variant))
			var stuck atomic.Int64
			// Before the commit it is as if one step fails.
			eachStep(t, ops, slices.Index(ops, "create commit.json.tmp"), func(t *testing.T, i int, op string) {
				o := variantIn(t, variant)
				n := 0
				_, err := runAndKeep(o, testEntries(crashEntries), func(string) error {
					n++
					if n > i {
						return fmt.Errorf("disk is gone: %w", syscall.EIO)
					}
					return nil
				}, i%2 == 0)
				if there, _ := durable.Exists(filepath.Join(o.Path, raftName)); there && !errors.Is(err, errCleanUp) {
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

// A childRun is what a child process is to do: a copy, or a readdress of one, up
// to a step at which it is killed.
type childRun struct {
	Path, NodeID   string
	WAL, Readdress bool
	Step           int
}

// start runs it, and returns an error unless the child is killed.
func (c childRun) start() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	arg, err := json.Marshal(c)
	if err != nil {
		return err
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childEnv+"="+string(arg))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		return fmt.Errorf("child ended with %v, not killed: %s", err, out)
	}
	return nil
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
	kill := func(string) error {
		if n++; n == c.Step+1 {
			// SIGKILL, as by the kernel when memory is short: nothing is
			// run any more in this process.
			if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
				return err
			}
			select {}
		}
		return nil
	}
	var err error
	if c.Readdress {
		_, err = readdress(&o, kill)
	} else {
		_, err = run(o, testEntries(crashEntries), kill)
	}
	fmt.Fprintf(os.Stderr, "not killed: %v\n", err)
	os.Exit(3)
}

// A process that is killed at any step leaves nothing that Vault would open,
// or a complete copy, and the next run goes well.
func TestKilledAtEveryStep(t *testing.T) {
	for name, variant := range variants() {
		t.Run(name, func(t *testing.T) {
			ops := steps(t, variantIn(t, variant))
			var complete, recovered atomic.Int64
			eachStep(t, ops, 0, func(t *testing.T, i int, op string) {
				o := variantIn(t, variant)
				if err := (childRun{Path: o.Path, NodeID: o.NodeID, WAL: o.WAL, Step: i}).start(); err != nil {
					t.Fatal(err)
				}
				if there, _ := durable.Exists(filepath.Join(o.Path, raftName)); there {
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
		stop := errors.New("stop")
		gone := false
		o.Disk = hooked(func(now string) error {
			if now == op || gone {
				gone = true
				return stop // from here on nothing works, as in a process that is gone
			}
			return nil
		})
		s, ctx := mustOpen(t, o), context.Background()
		if _, err := s.Load(ctx, &sliceStream{}); err != nil {
			t.Fatal(err)
		}
		if err := s.commit(ctx); !errors.Is(err, stop) {
			t.Fatalf("Commit returns %v", err)
		}
		if err := s.Close(true); err != nil {
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
		if err := os.Link(s.aside(vaultDBName), s.dest(vaultDBName)); err != nil {
			t.Fatal(err)
		}
		if err := prepare(o); !errors.Is(err, copier.ErrInPlace) {
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
			if err := os.WriteFile(s.aside(recordName), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := prepare(o); !errors.Is(err, copier.ErrDestination) || !strings.HasPrefix(coded(t, err), "staging-unknown ") {
				t.Errorf("record %q: Prepare returns %v", content, err)
			}
			if got, want := names(t, o.Path), []string{stagingName, raftName}; !slices.Equal(got, want) {
				t.Errorf("directory holds %q, want %q", got, want)
			}
		}
	})
}
