package copier

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/copier/durable"
)

// A deafSource locks, and does not answer who wants to give its locks back.
type deafSource struct{ *lineSource }

type deafLease struct{ Lease }

func (s deafSource) Lock(ctx context.Context, runID string, held bool, lost func(error)) (Lease, error) {
	l, err := s.lineSource.Lock(ctx, runID, held, lost)
	return deafLease{l}, err
}

func (l deafLease) Release(ctx context.Context, end End) error {
	if end == EndUnfinished {
		return nil
	}
	<-ctx.Done()
	return &Error{Kind: ErrSource, Op: "release", Err: context.Cause(ctx), Code: "reset-it"}
}

func deaf(s *lineSource) Source { return deafSource{s} }

// Whoever is interrupted before anything was saved, and can't give the locks
// back, ends within 2 s all the same, and the record of the locks stays: the
// copy takes them over.
func TestInterruptedAndNotReleased(t *testing.T) {
	t.Parallel()
	m := newMachine(t.TempDir(), 3, 3, 50, true)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	why := errors.New("interrupted by a signal")
	res, _, err := m.try(ctx, attempt{opts: Options{RunID: "run-1", CheckpointInterval: time.Hour}, source: deaf, fail: func() error {
		cancel(why)
		return why
	}})
	if err == nil || interruptedRelease > 1500*time.Millisecond || !strings.Contains(err.Error(), "no answer within "+interruptedRelease.String()) {
		t.Errorf("the wait for the locks is not cut short: %v", err)
	}
	if !errors.Is(err, why) || !errors.Is(err, ErrNotReleased) || !res.Resumable {
		t.Fatalf("resumable %v, %v", res.Resumable, err)
	}
	if m.lock.owner != "run-1" {
		t.Fatalf("locked by %q: nothing was shown", m.lock.owner)
	}
	if _, _, err := m.try(t.Context(), attempt{}); !errors.Is(err, ErrUnfinished) {
		t.Errorf("a plain rerun: %v", err)
	}
	if res, _, err := m.try(t.Context(), attempt{opts: Options{Resume: true}}); err != nil || res.RunID != "run-1" {
		t.Fatalf("run %s, %v", res.RunID, err)
	}
	if err := m.check(); err != nil || m.lock.owner != "" {
		t.Errorf("locked by %q, %v", m.lock.owner, err)
	}
}

// A copy whose entries can't be trusted is not resumed, also where its locks
// could not be given back; but they keep their name.
func TestNotTrustedAndNotReleased(t *testing.T) {
	t.Parallel()
	m := newMachine(t.TempDir(), 3, 3, 150, true)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	saved := make(chan struct{})
	var first, once sync.Once
	res, _, err := m.try(ctx, attempt{source: deaf, opts: Options{RunID: "run-1", Events: func(e Event) {
		if _, ok := e.(Checkpointed); ok {
			once.Do(func() { close(saved) })
		}
	}}, fail: func() (err error) {
		err = &Error{Kind: ErrSource, Err: ErrDuplicateKey}
		first.Do(func() { err = nil }) // for there to be something
		if err == nil {
			return nil
		}
		select {
		case <-saved:
		case <-time.After(2 * time.Minute):
			t.Error("nothing was saved")
		}
		time.AfterFunc(100*time.Millisecond, cancel) // or it would take 15 s
		return err
	}})
	if !errors.Is(err, ErrNotReleased) || !errors.Is(err, ErrDuplicateKey) || res.Resumable {
		t.Fatalf("resumable %v, %v", res.Resumable, err)
	}
	if was, err := readSetup(m.work()); err != nil || was == nil || was.RunID != "run-1" {
		t.Errorf("the record is %+v, %v", was, err)
	}
}

// A copy that can't be thrown away is still there, and so is its lock.
func TestRestartThatFails(t *testing.T) {
	m := begun(t, 1, Options{})
	removes := 0
	res, _, err := m.try(t.Context(), attempt{opts: Options{Restart: true}, before: func(op durable.Op) error {
		if op.Verb == durable.Remove {
			if removes++; removes > 1 {
				return syscall.EIO
			}
		}
		return nil
	}})
	if !errors.Is(err, syscall.EIO) || !res.Resumable || m.lock.owner != "run-1" {
		t.Fatalf("resumable %v, locked by %q: %v", res.Resumable, m.lock.owner, err)
	}
	if _, _, err := m.try(t.Context(), attempt{opts: Options{Resume: true}}); err != nil {
		t.Fatal(err)
	}
	if err := m.check(); err != nil {
		t.Error(err)
	}
}

// A copy that was given up has no lock any more: what takes its place has an id of its own.
func TestRestartOfAGivenUp(t *testing.T) {
	m := begun(t, 1, Options{})
	if err := GiveUp(m.work(), Tool{}); err != nil {
		t.Fatal(err)
	}
	m.lock.owner = ""
	res, _, err := m.try(t.Context(), attempt{opts: Options{Restart: true}})
	if err != nil || res.RunID == "" || res.RunID == "run-1" || res.Amended(AmendGivenUp) != nil {
		t.Errorf("run %q, %v", res.RunID, err)
	}
	if err := m.check(); err != nil || m.lock.owner != "" {
		t.Errorf("locked by %q, %v", m.lock.owner, err)
	}
}

// A source that was deleted and made anew has no lock of the copy: that is thrown
// away, and not resumed.
func TestRestartWithSourceMadeAnew(t *testing.T) {
	m := begun(t, 1, Options{})
	m.lock.owner = ""
	other := func(s *lineSource) Source { return otherSource{s, func(i *Info) { i.Incarnation = "b" }} }
	_, _, err := m.try(t.Context(), attempt{source: other, opts: Options{Resume: true}})
	if !errors.Is(err, ErrOtherCopy) || coded(err) != "source-remade map[held:yes]" {
		t.Fatalf("resumed: %v; %s", err, coded(err))
	}
	if _, _, err := m.try(t.Context(), attempt{source: other, opts: Options{Restart: true}}); err != nil {
		t.Fatal(err)
	}
	if err := m.check(); err != nil {
		t.Error(err)
	}
}

// The locks of a copy of another source would lose their name with its record.
func TestRestartWithAnotherSource(t *testing.T) {
	for name, change := range map[string]func(*Info){
		"id": func(i *Info) { i.ID = "line:2" },
	} {
		t.Run(name, func(t *testing.T) {
			apart := t.TempDir()
			m := begun(t, 1, Options{WorkDir: apart})
			before := contents(t, m.dir) + contents(t, apart)
			other := func(s *lineSource) Source { return otherSource{s, change} }
			_, _, err := m.try(t.Context(), attempt{source: other, opts: Options{Restart: true}})
			if !errors.Is(err, ErrConfig) || !errors.Is(err, ErrOtherCopy) {
				t.Fatalf("error is %v", err)
			}
			if got, want := coded(err), fmt.Sprintf("other-source map[files:%s and %s source:line:1]", m.work(), filepath.Join(apart, "dyn2raft-run-1")); got != want {
				t.Errorf("code %s, expected %s", got, want)
			}
			if contents(t, m.dir)+contents(t, apart) != before || m.lock.owner != "run-1" {
				t.Error("something has changed")
			}
			// What there is to do for a source that is gone.
			for _, dir := range []string{m.work(), filepath.Join(apart, "dyn2raft-run-1")} {
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
			}
			m.lock.owner = ""
			if _, _, err := m.try(t.Context(), attempt{source: other, opts: Options{Restart: true}}); err != nil {
				t.Error(err)
			}
			if err := m.check(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Whose work files vanish is not told that they are kept.
func TestWorkFilesVanish(t *testing.T) {
	for _, what := range []string{"all", "runs"} {
		t.Run(what, func(t *testing.T) {
			apart := t.TempDir()
			m := newMachine(t.TempDir(), 8, 3, 300, true)
			gone := m.work()
			if what == "runs" {
				gone = filepath.Join(apart, "dyn2raft-run-1")
			}
			away := filepath.Join(t.TempDir(), "away")
			res, _, err := m.try(t.Context(), attempt{opts: Options{RunID: "run-1", WorkDir: apart}, before: func(op durable.Op) error {
				if op.String() == "create checkpoint-000003.json.tmp" {
					return os.Rename(gone, away)
				}
				return nil
			}})
			if !errors.Is(err, ErrDestination) || !errors.Is(err, ErrWorkGone) || res.Resumable {
				t.Fatalf("resumable %v, %v", res.Resumable, err)
			}
			var codes []string
			for _, err := range err.(interface{ Unwrap() []error }).Unwrap() { //nolint:errorlint // the joined errors
				codes = append(codes, coded(err))
			}
			if !slices.Contains(codes, "work-gone map[]") {
				t.Errorf("codes %q", codes)
			}
			if m.lock.owner != "run-1" {
				t.Errorf("locked by %q", m.lock.owner)
			}
			if err := errors.Join(os.RemoveAll(gone), os.Rename(away, gone)); err != nil {
				t.Fatal(err)
			}
			if _, _, err := m.try(t.Context(), attempt{opts: Options{Resume: true}}); err != nil {
				t.Error(err)
			}
			if err := m.check(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A record that can't be read is told as far as it can be, and nothing is
// removed by what it says.
func TestDamagedRecord(t *testing.T) {
	apart := t.TempDir()
	m := begun(t, 5, Options{WorkDir: apart})
	file := filepath.Join(m.work(), setupName)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, regexp.MustCompile(`"segments":\d`).ReplaceAll(data, []byte(`"segments":;`)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err = m.try(t.Context(), attempt{opts: Options{Resume: true}})
	own := filepath.Join(apart, "dyn2raft-run-1")
	if !errors.Is(err, durable.ErrNotSealed) || coded(err) != "record-damaged map[run:run-1 work_dir:"+own+"]" {
		t.Fatalf("%v, %s", err, coded(err))
	}
	m.lock.owner = ""
	var warned []string
	if _, _, err := m.try(t.Context(), attempt{opts: Options{Restart: true, Events: func(e Event) {
		if w, ok := e.(Warning); ok {
			warned = append(warned, w.Message)
		}
	}}}); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(warned, func(w string) bool { return strings.Contains(w, own) }) {
		t.Errorf("nothing names %s: %q", own, warned)
	}
	if len(filesIn(t, own)) == 0 {
		t.Error("removed by what a damaged record says")
	}
	if got := leftBy(t.TempDir()); got["run"]+got["work_dir"] != "" {
		t.Errorf("of nothing: %q", got)
	}
}

// A run's name is never given to another one, whatever files are lost.
func TestRunNamesAreNotUsedAgain(t *testing.T) {
	m := begun(t, 9, Options{})
	runs, _ := m.onRecord(t)
	var last int
	for name := range runs {
		var n int
		if _, err := fmt.Sscanf(name, runPrefix+"%d", &n); err != nil {
			t.Fatal(err)
		}
		last = max(last, n)
		if err := os.Remove(filepath.Join(m.work(), name)); err != nil {
			t.Fatal(err)
		}
	}
	names, err := filepath.Glob(filepath.Join(m.work(), runPrefix+"*"))
	if err != nil || last == 0 {
		t.Fatal(last, err)
	}
	for _, name := range names { // in no checkpoint
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	var created atomic.Int64
	if _, _, err := m.try(t.Context(), attempt{opts: Options{Resume: true}, before: func(op durable.Op) error {
		n := 0
		if _, err := fmt.Sscanf(filepath.Base(op.Path), runPrefix+"%d", &n); err == nil && op.Verb == durable.Create {
			created.Add(1)
			if n <= last {
				t.Errorf("%s is made anew, %d was the last", op.Path, last)
			}
		}
		return nil
	}}); err != nil {
		t.Fatal(err)
	}
	if created.Load() == 0 {
		t.Error("no run was made: nothing was shown")
	}
	if err := m.check(); err != nil {
		t.Error(err)
	}
}
