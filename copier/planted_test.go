package copier

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/copier/durable"
)

// What a test of this file plants is what somebody can who may write to the
// destination, and wants more: to have files removed or read that he can't reach.

// plantSetup replaces the setup of an unfinished copy with a sound one that says
// something else.
func plantSetup(t *testing.T, m *machine, change func(*Record)) {
	t.Helper()
	was, err := readSetup(m.work())
	if err != nil || was == nil {
		t.Fatal(was, err)
	}
	change(was)
	j := &journal{dir: m.work(), setup: was}
	if err := j.writeSetup(); err != nil {
		t.Fatal(err)
	}
}

// A setup that names a directory of somebody else's makes nobody remove anything
// there.
func TestPlantedWorkDir(t *testing.T) {
	for name, c := range map[string]struct {
		dir, run string // below the victim's directory
		told     bool   // the new run is told of that directory
	}{
		"anywhere":               {"", "", false},
		"anywhere, told":         {"", "", true},
		"of a copy's own name":   {"dyn2raft-run-1", "", false},
		"another id":             {"dyn2raft-run-2", "", true},
		"an id with a way up":    {"", "/../x", true},
		"a name that goes on":    {"dyn2raft-run-1-more", "", true},
		"beside it, in relative": {"dyn2raft-run-1/.", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			victim := t.TempDir()
			dir := filepath.Join(victim, c.dir)
			if err := os.MkdirAll(filepath.Join(dir, "run-000002"), 0o700); err != nil {
				t.Fatal(err)
			}
			files := []string{"run-000001", "run-000002/precious", "checkpoint-000001.json", "copy.json", "run-me", "run-"}
			for _, f := range files {
				if err := os.WriteFile(filepath.Join(dir, f), []byte("precious"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			m := begun(t, 5, Options{})
			plantSetup(t, m, func(s *Record) {
				s.WorkDir = dir
				if c.dir == "dyn2raft-run-1/." {
					s.WorkDir = victim + "/./dyn2raft-run-1"
				}
				if c.run != "" {
					s.RunID, m.lock.owner = c.run, c.run
				}
			})
			opts := Options{Restart: true}
			if c.told {
				opts.WorkDir = victim
			}
			if _, _, err := m.try(t.Context(), attempt{opts: opts}); err != nil && !errors.Is(err, ErrDestination) && !errors.Is(err, ErrLocked) {
				t.Error(err)
			}
			for _, f := range files {
				if _, err := os.Lstat(filepath.Join(dir, f)); err != nil {
					t.Errorf("removed: %v", err)
				}
			}
			if _, err := os.Lstat(filepath.Join(victim, "x")); err == nil {
				t.Error("a directory was made where the id leads to")
			}
		})
	}
}

// Whatever has the name of a work file and is no file is not removed, nor what is
// in it.
func TestPlantedDirectory(t *testing.T) {
	m := begun(t, 5, Options{})
	precious := filepath.Join(m.work(), "run-999999", "precious")
	if err := os.MkdirAll(precious, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, opts := range []Options{{Restart: true}, {Resume: true}} {
		if _, _, err := m.try(t.Context(), attempt{opts: opts}); !errors.Is(err, durable.ErrNotFile) || !errors.Is(err, ErrDestination) {
			t.Errorf("%+v: %v", opts, err)
		}
		if _, err := os.Lstat(precious); err != nil {
			t.Error(err)
		}
	}
}

// A work directory that is a link is not followed, and one of another user's not
// used.
func TestPlantedWork(t *testing.T) {
	m := begun(t, 5, Options{})
	victim := t.TempDir()
	away := filepath.Join(victim, "work")
	if err := errors.Join(os.Rename(m.work(), away), os.Symlink(away, m.work())); err != nil {
		t.Fatal(err)
	}
	before := filesIn(t, away)
	for _, opts := range []Options{{}, {Restart: true}, {Resume: true}} {
		if _, _, err := m.try(t.Context(), attempt{opts: opts}); !errors.Is(err, syscall.ENOTDIR) || !errors.Is(err, ErrDestination) {
			t.Errorf("%+v: %v", opts, err)
		}
		if got := filesIn(t, away); !slices.Equal(got, before) {
			t.Errorf("%+v: of %q there is %q", opts, before, got)
		}
	}
	if _, _, err := ReadStatus(m.work()); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("status: %v", err)
	}
	if err := errors.Join(os.Remove(m.work()), os.Rename(away, m.work())); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		t.Log("NOT TESTED: files of another user, which only root can make")
		return
	}
	for _, path := range []string{m.work(), filepath.Join(m.work(), "checkpoint-000001.json")} {
		if err := os.Lchown(path, 65534, -1); err != nil {
			t.Fatal(err)
		}
		if _, _, err := m.try(t.Context(), attempt{opts: Options{Restart: true}}); !errors.Is(err, ErrNotOurs) || !errors.Is(err, ErrDestination) {
			t.Errorf("%s of another user: %v", path, err)
		}
		if err := os.Lchown(path, 0, -1); err != nil {
			t.Fatal(err)
		}
	}
}

// A pipe in place of a state file, or one without end, is an error, or is no state:
// nothing waits for it.
func TestPlantedPipe(t *testing.T) {
	for _, name := range []string{setupName, "checkpoint-000001.json", historyName, StatusName, StatusName + ".tmp", historyName + ".tmp", setupName + ".tmp"} {
		for kind, plant := range map[string]func(string) error{
			"pipe":   func(path string) error { return syscall.Mkfifo(path, 0o600) },
			"device": func(path string) error { return os.Symlink("/dev/zero", path) },
			"endless": func(path string) error {
				return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, maxState+1))
			},
		} {
			t.Run(fmt.Sprintf("%s %s", kind, name), func(t *testing.T) {
				m := begun(t, 5, Options{})
				path := filepath.Join(m.work(), name)
				if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Fatal(err)
				}
				if err := plant(path); err != nil {
					t.Fatal(err)
				}
				ended := make(chan error, 1)
				go func() {
					_, _, serr := ReadStatus(m.work())
					_, _, err := m.try(t.Context(), attempt{opts: Options{Resume: true}})
					ended <- errors.Join(serr, err)
				}()
				select {
				case err := <-ended:
					if err != nil && !errors.Is(err, ErrDestination) {
						t.Error(err)
					}
					if (name == setupName) != (err != nil) && kind == "endless" {
						t.Errorf("error is %v", err)
					}
				case <-time.After(time.Minute):
					t.Fatal("it waits")
				}
			})
		}
	}
}

// Until the source is locked nothing of an unfinished copy is removed or changed,
// whatever is said of it.
func TestRestartThatIsRefused(t *testing.T) {
	for _, damaged := range []bool{false, true} {
		m := begun(t, 5, Options{})
		if damaged {
			if err := os.WriteFile(filepath.Join(m.work(), setupName), []byte("{}"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		m.lock.owner = "another run"
		before := contents(t, m.work())
		if _, _, err := m.try(t.Context(), attempt{opts: Options{Restart: true}}); !errors.Is(err, ErrLocked) {
			t.Errorf("error is %v", err)
		}
		if got := contents(t, m.work()); got != before {
			t.Errorf("there was\n%s\nand is\n%s", before, got)
		}
		m.lock.owner = "run-1"
		if _, _, err := m.try(t.Context(), attempt{opts: Options{Resume: true}}); (err != nil) != damaged {
			t.Errorf("damaged %v: %v", damaged, err)
		}
	}
}

// A setup names no pages, so that it is small: one that is not is not read.
func TestPlantedLargeSetup(t *testing.T) {
	path := filepath.Join(t.TempDir(), setupName)
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 16<<20+1)); err != nil {
		t.Fatal(err)
	}
	if _, err := readSetup(filepath.Dir(path)); !errors.Is(err, durable.ErrTooLarge) {
		t.Error(err)
	}
}

// Whatever has the name of a state file and is none is named, before the source is
// locked, and no command runs into it later.
func TestPlantedForStateFile(t *testing.T) {
	for _, name := range []string{setupName, spansName, StatusName, "checkpoint-000001.json", "history.json.tmp"} {
		for kind, plant := range map[string]func(path string) error{
			"directory": func(path string) error { return os.Mkdir(path, 0o700) },
			"pipe":      func(path string) error { return syscall.Mkfifo(path, 0o600) },
		} {
			m := begun(t, 5, Options{})
			m.lock.owner = ""
			path := filepath.Join(m.work(), name)
			if err := errors.Join(os.RemoveAll(path), plant(path)); err != nil {
				t.Fatal(err)
			}
			for _, opts := range []Options{{}, {Resume: true}, {Restart: true}} {
				_, _, err := m.try(t.Context(), attempt{opts: opts})
				code, facts := CodeOf(err)
				if code != WorkNotFile || facts["path"] != path || (facts["setup"] != "") != (name == setupName) || !errors.Is(err, ErrDestination) || m.lock.owner != "" {
					t.Errorf("%s as a %s, %+v: %v, code %s, %v, locked by %q", name, kind, opts, err, code, facts, m.lock.owner)
				}
			}
			if _, _, err := ReadStatus(m.work()); name == setupName {
				if code, _ := CodeOf(err); code != WorkNotFile {
					t.Errorf("status: %v", err)
				}
			}
		}
	}
}

// A checkpoint of another copy, or in another one's place, accounts for nothing: what it
// should account for is read again.
func TestPlantedCheckpoint(t *testing.T) {
	from := map[string]func(t *testing.T) *machine{
		"another run": func(t *testing.T) *machine {
			other := newMachine(t.TempDir(), 6, 3, 150, true)
			if _, killed, err := other.try(t.Context(), attempt{opts: Options{RunID: "run-2"}, killAt: "create checkpoint-000004.json.tmp"}); !killed {
				t.Fatalf("not killed: %v", err)
			}
			return other
		},
		"another copy of that run": func(t *testing.T) *machine { return begun(t, 7, Options{}) },
		"another number":           nil,
	}
	for name, other := range from {
		m, file := begun(t, 5, Options{}), "checkpoint-000002.json"
		take := filepath.Join(m.work(), "checkpoint-000001.json")
		if other != nil {
			take = filepath.Join(other(t).work(), file)
		}
		data, err := os.ReadFile(take)
		if err := errors.Join(err, os.WriteFile(filepath.Join(m.work(), file), data, 0o600)); err != nil {
			t.Fatal(err)
		}
		var warned bool
		_, _, err = m.try(t.Context(), attempt{opts: Options{Resume: true, Events: func(e Event) {
			if w, ok := e.(Warning); ok && strings.Contains(w.Message, file) && strings.Contains(w.Message, errOther.Error()) {
				warned = true
			}
		}}})
		if err != nil || !warned {
			t.Errorf("%s: %v, told: %v", name, err, warned)
		}
		if err := m.check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
