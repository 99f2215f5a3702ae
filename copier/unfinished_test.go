package copier

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/copier/durable"
)

// An attempt is one process on a machine.
type attempt struct {
	opts Options
	// killAt ends the process in front of the nth operation of that name,
	// counted from 0.
	killAt string
	nth    int
	// before is asked ahead of each operation, and fail before each page.
	before func(durable.Op) error
	fail   func() error
	source func(*lineSource) Source // makes the source another one
	sink   func(*dirSink) Sink
}

// try runs an attempt. killed reports whether it was.
func (m *machine) try(ctx context.Context, a attempt) (res Record, killed bool, err error) {
	var mu sync.Mutex
	n := 0
	m.ops = nil
	m.dead.Store(false)
	disk := &durable.Disk{Before: func(op durable.Op) error {
		mu.Lock()
		if m.dead.Load() {
			mu.Unlock()
			return errKilled
		}
		m.ops = append(m.ops, op.String())
		if a.killAt != "" && op.String() == a.killAt {
			n++
			if n > a.nth {
				m.dead.Store(true)
				mu.Unlock()
				return errKilled
			}
		}
		mu.Unlock()
		if a.before != nil {
			return a.before(op)
		}
		return nil
	}}
	line := &lineSource{lines: m.lines, split: m.split, rnd: rand.New(rand.NewPCG(m.rnd.Uint64(), 2)), lock: &m.lock,
		read: &m.reads, fail: a.fail, dead: m.dead.Load, work: m.work()}
	var src Source = line
	if a.source != nil {
		src = a.source(line)
	}
	dir := &dirSink{dir: m.dir, disk: disk}
	var dst Sink = dir
	if a.sink != nil {
		dst = a.sink(dir)
	}
	opts := a.opts
	opts.Disk, opts.Memory, opts.Workers, opts.Uninitialized = disk, MinMemory, 3, true
	if opts.CheckpointInterval == 0 {
		opts.CheckpointInterval = 300 * time.Microsecond
		if a.fail == nil { // else it may wait for a checkpoint
			line.ticks = make(chan time.Time)
			opts.ticks = line.ticks
		}
	}
	opts.tune = func(s *sorter) { s.limit, s.hold, s.fanIn = 400, 2, 4 }
	res, err = Copy(ctx, src, dst, opts)
	return res, m.dead.Load(), err
}

// begun is a machine with a copy that was killed after some checkpoints.
func begun(t *testing.T, seed uint64, opts Options) *machine {
	t.Helper()
	m := newMachine(t.TempDir(), seed, 3, 150, true)
	opts.RunID = "run-1"
	if _, killed, err := m.try(t.Context(), attempt{opts: opts, killAt: "create checkpoint-000004.json.tmp"}); !killed {
		t.Fatalf("not killed: %v", err)
	}
	return m
}

func (m *machine) work() string { return filepath.Join(m.dir, "work") }

// onRecord returns the runs that count, and which entries are in them, by
// their places in machine.reads.
func (m *machine) onRecord(t *testing.T) (map[string][]int, int) {
	t.Helper()
	j := &journal{dir: m.work()}
	all, err := j.readCheckpoints(func(what string) { t.Error(what) })
	if err != nil {
		t.Fatal(err)
	}
	alive, _ := replay(all)
	out, n := map[string][]int{}, 0
	for _, r := range alive {
		out[r.File] = []int{}
		for _, p := range r.Pages {
			from, to, err := place(p.From.From, len(m.lines[p.From.Index]))
			if err == nil && p.From.Until != nil {
				to, _, err = place(p.From.Until, 0)
			}
			if err == nil && len(p.Next) > 0 {
				to, _, err = place(p.Next[0].From, 0)
			}
			if err != nil {
				t.Fatal(err)
			}
			for i := from; i < to; i++ {
				out[r.File] = append(out[r.File], p.From.Index*1000+i)
				n++
			}
		}
	}
	return out, n
}

// After a kill, what is on record is not read again, and the rest is, once. Of
// a damaged run exactly its own pages are.
func TestOnlyTheRestIsReadAgain(t *testing.T) {
	parts := 0
	for seed := range uint64(12) {
		m := begun(t, seed, Options{})
		runs, saved := m.onRecord(t)
		if saved == 0 {
			t.Fatalf("%d entries are on record", saved)
		}
		if saved < 150 {
			parts++
		}
		again := map[int]bool{}
		for s, l := range m.lines {
			for i := range l {
				again[s*1000+i] = true
			}
		}
		damaged := ""
		for file, entries := range runs {
			if damaged == "" && seed%3 > 0 && len(entries) > 0 {
				damaged = file
				path := filepath.Join(m.work(), file)
				data, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				data[len(data)/2] ^= 1
				if err := os.WriteFile(path, data, 0o600); err != nil {
					t.Fatal(err)
				}
				continue
			}
			for _, e := range entries {
				delete(again, e)
			}
		}
		before := slices.Clone(m.reads)
		var warnings []string
		res, _, err := m.try(t.Context(), attempt{opts: Options{Resume: true, Events: func(e Event) {
			if w, ok := e.(Warning); ok && w.Check != "initialized" { // the fakes hold no Vault
				warnings = append(warnings, w.Message)
			}
		}}})
		if err != nil {
			t.Fatal(err)
		}
		for i, n := range m.reads {
			if want := before[i] + map[bool]int{true: 1}[again[i]]; n != want {
				t.Errorf("seed %d, damaged %q: entry %d of segment %d was read %d times in all, want %d", seed, damaged, i%1000, i/1000, n, want)
			}
		}
		if (len(warnings) == 1) != (damaged != "") || damaged != "" && !strings.Contains(warnings[0], damaged) {
			t.Errorf("damaged %q, warnings %q", damaged, warnings)
		}
		if res.Resumed != 1 || res.Scan.Entries != 150 || res.RunID != "run-1" {
			t.Errorf("result %+v", res)
		}
		if err := m.check(); err != nil {
			t.Error(err)
		}
	}
	if parts == 0 {
		t.Error("all was on record each time")
	}
}

type otherSource struct {
	*lineSource
	change func(*Info)
}

func (s otherSource) Open(ctx context.Context) (Info, error) {
	info, err := s.lineSource.Open(ctx)
	s.change(&info)
	return info, err
}

type otherSink struct {
	*dirSink
	identity Identity
}

func (s otherSink) Identity() Identity { return s.identity }

// contents describes a directory's files.
func contents(t *testing.T, dir string) string {
	t.Helper()
	var out strings.Builder
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		fmt.Fprintf(&out, "%s %x\n", path, data)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// An unfinished copy of something else is not resumed, and not touched.
func TestResumeComparesIdentities(t *testing.T) {
	apart, other := t.TempDir(), t.TempDir()
	m := begun(t, 1, Options{WorkDir: apart})
	base := Options{Resume: true}
	info := func(f func(*Info)) func(*lineSource) Source {
		return func(s *lineSource) Source { return otherSource{s, f} }
	}
	for name, c := range map[string]struct {
		attempt
		was, now string
	}{
		"name":        {attempt{source: info(func(i *Info) { i.Name = "row" })}, "line", "row"},
		"id":          {attempt{source: info(func(i *Info) { i.ID = "line:2" })}, "line:1", "line:2"},
		"incarnation": {attempt{source: info(func(i *Info) { i.Incarnation = "b" })}, "a", "b"},
		"path":        {attempt{sink: func(s *dirSink) Sink { return otherSink{s, Identity{"path": "/elsewhere"}} }}, m.dir, "/elsewhere"},
		"more":        {attempt{sink: func(s *dirSink) Sink { return otherSink{s, Identity{"path": m.dir, "node": "n"}} }}, "", "n"},
		"work":        {attempt{opts: Options{WorkDir: other}}, apart, other},
	} {
		t.Run(name, func(t *testing.T) {
			before, beforeApart := contents(t, m.dir), contents(t, apart)
			a := c.attempt
			a.opts.Resume = true
			res, _, err := m.try(t.Context(), a)
			if !errors.Is(err, ErrOtherCopy) || !errors.Is(err, ErrConfig) || !strings.HasPrefix(coded(err), "other-") && coded(err) != "source-remade map[held:yes]" {
				t.Fatalf("error is %v", err)
			}
			if text := err.Error(); !strings.Contains(text, fmt.Sprintf("%q", c.was)) || !strings.Contains(text, fmt.Sprintf("%q", c.now)) {
				t.Errorf("error does not name %q and %q: %s", c.was, c.now, text)
			}
			if contents(t, m.dir) != before || contents(t, apart) != beforeApart {
				t.Error("files have changed")
			}
			if m.lock.owner != "run-1" || res.RunID != "run-1" {
				t.Errorf("locked by %q, run %q", m.lock.owner, res.RunID)
			}
		})
	}
	// With the same values, given or not, it goes on. How many spans it would be
	// split into now does not matter: it was split.
	base.Segments, base.WorkDir = 5, apart
	if _, _, err := m.try(t.Context(), attempt{opts: base}); err != nil {
		t.Fatal(err)
	}
	if m.lock.owner != "" || len(filesIn(t, apart)) > 0 {
		t.Errorf("locked by %q, left: %q", m.lock.owner, filesIn(t, apart))
	}
}

func TestResumeWithNothingThere(t *testing.T) {
	m := newMachine(t.TempDir(), 3, 2, 50, false)
	res, _, err := m.try(t.Context(), attempt{opts: Options{Resume: true}})
	if err != nil || res.Resumed != 0 || !res.Complete {
		t.Fatalf("%+v, %v", res, err)
	}
	if err := m.check(); err != nil {
		t.Error(err)
	}
}

// A process killed behind its commit leaves a complete copy: resuming it frees
// the source and removes the work files, and does nothing else.
func TestResumeOfACompleteCopy(t *testing.T) {
	for _, apart := range []string{"", t.TempDir()} {
		m := newMachine(t.TempDir(), 4, 2, 50, false)
		if _, killed, err := m.try(t.Context(), attempt{opts: Options{RunID: "run-1", WorkDir: apart}, killAt: "sync " + filepath.Base(m.dir), nth: 1}); !killed {
			t.Fatal(err)
		}
		if m.lock.owner != "run-1" {
			t.Fatalf("locked by %q: killed too late", m.lock.owner)
		}
		if _, _, err := m.try(t.Context(), attempt{}); !errors.Is(err, ErrInPlace) || m.lock.owner != "run-1" {
			t.Errorf("plain rerun: %v, locked by %q", err, m.lock.owner)
		}
		reads := slices.Clone(m.reads)
		res, _, err := m.try(t.Context(), attempt{opts: Options{Resume: true}})
		if err != nil || !res.Complete || res.RunID != "run-1" || res.Scan.Entries != 50 || !slices.Equal(reads, m.reads) {
			t.Errorf("%+v, %v", res, err)
		}
		if err := m.check(); err != nil {
			t.Error(err)
		}
		if apart != "" && len(filesIn(t, apart)) > 0 {
			t.Errorf("left: %q", filesIn(t, apart))
		}
	}
}

// Restart throws away what dyn2raft has written, and nothing else: of the work files
// elsewhere only where it is told of that directory too.
func TestRestartSparesOthers(t *testing.T) {
	for _, told := range []bool{true, false} {
		apart := t.TempDir()
		m := begun(t, 5, Options{WorkDir: apart})
		own := filepath.Join(apart, "dyn2raft-run-1")
		foreign := []string{filepath.Join(apart, "theirs"), filepath.Join(apart, "run-000001"), filepath.Join(own, "notes.tmp"), filepath.Join(own, "run-1"), filepath.Join(m.work(), "theirs")}
		for _, path := range foreign {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		before := filesIn(t, own)
		there := func(when string, paths ...string) {
			t.Helper()
			for _, path := range paths {
				if _, err := os.Lstat(path); err != nil {
					t.Errorf("%s: %v", when, err)
				}
			}
		}
		opts := Options{Restart: true, RunID: "run-2"}
		want := before
		if told {
			opts.WorkDir, want = apart, []string{"notes.tmp", "run-1"}
		}
		began, warned := false, false
		opts.Events = func(e Event) {
			switch e := e.(type) {
			case Warning:
				warned = warned || strings.Contains(e.Message, own)
			case PhaseStarted:
				if e.Phase != PhaseScan {
					return
				}
				began = true
				there("as it begins", foreign...)
				if got := filesIn(t, own); !slices.Equal(got, want) {
					t.Errorf("of the old run there is %q, expected %q", got, want)
				}
				if m.lock.owner != "run-1" {
					t.Errorf("locked by %q", m.lock.owner)
				}
			}
		}
		res, _, err := m.try(t.Context(), attempt{opts: opts})
		if err != nil || !began || res.Resumed != 0 || res.RunID != "run-1" || warned == told {
			t.Fatalf("told %v: warned %v, %+v, %v", told, warned, res, err)
		}
		there("in the end", foreign[:4]...)
		if err := m.check(); err != nil {
			t.Error(err)
		}
	}
}

// What is left of a copy that was being thrown away, without its setup, is not
// taken for a part of the next one.
func TestStaleCheckpoints(t *testing.T) {
	for seed := range uint64(8) {
		m := begun(t, seed, Options{})
		if err := os.Remove(filepath.Join(m.work(), setupName)); err != nil {
			t.Fatal(err)
		}
		m.lock.owner = ""
		m.lines[0] = m.lines[0][:len(m.lines[0])/2] // and the source is another one by now
		_, killed, err := m.try(t.Context(), attempt{killAt: "create checkpoint-000002.json.tmp"})
		if !killed {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if _, _, err := m.try(t.Context(), attempt{opts: Options{Resume: true}}); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if err := m.check(); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
	}
}

// Work files are where they were asked for, and are removed when the copy is done.
func TestWorkDirElsewhere(t *testing.T) {
	apart := t.TempDir()
	m := newMachine(t.TempDir(), 6, 3, 150, true)
	var runs atomic.Int64
	_, _, err := m.try(t.Context(), attempt{opts: Options{RunID: "run-1", WorkDir: apart}, before: func(op durable.Op) error {
		if strings.HasPrefix(filepath.Base(op.Path), runPrefix) {
			runs.Add(1)
			if filepath.Dir(op.Path) != filepath.Join(apart, "dyn2raft-run-1") {
				t.Errorf("a run at %s", op.Path)
			}
		}
		return nil
	}})
	if err != nil || runs.Load() == 0 {
		t.Fatalf("%d operations on runs, %v", runs.Load(), err)
	}
	if got := filesIn(t, apart); len(got) > 0 {
		t.Errorf("left: %q", got)
	}
	// One that is gone, perhaps because it is not mounted, is not begun anew.
	m = begun(t, 6, Options{WorkDir: apart})
	own := filepath.Join(apart, "dyn2raft-run-1")
	if err := os.Rename(own, own+"-away"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.try(t.Context(), attempt{opts: Options{Resume: true}}); !errors.Is(err, ErrDestination) || coded(err) != "work-gone map[]" || m.lock.owner != "run-1" {
		t.Errorf("without its work files: %v", err)
	}
	if err := os.Rename(own+"-away", own); err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.try(t.Context(), attempt{opts: Options{Resume: true}}); err != nil {
		t.Error(err)
	}
	m = newMachine(t.TempDir(), 6, 3, 50, true)
	if _, _, err := m.try(t.Context(), attempt{opts: Options{WorkDir: filepath.Join(apart, "none")}}); !errors.Is(err, ErrDestination) || len(filesIn(t, m.dir)) > 0 {
		t.Errorf("directory that is not there: %v, left %q", err, filesIn(t, m.dir))
	}
}

// What a copy that fails keeps, and what not.
func TestWhatIsKept(t *testing.T) {
	for name, c := range map[string]struct {
		err   error
		early bool // before anything was saved
		keep  bool
	}{
		"source":       {errFake, false, true},
		"nothing read": {errFake, true, false},
		"duplicate":    {&Error{Kind: ErrSource, Err: ErrDuplicateKey}, false, false},
		"lock lost":    {&Error{Kind: ErrLocked, Err: errors.New("another")}, false, false},
		"moved":        {&Error{Kind: ErrSource, Err: ErrMoved}, false, false},
		"cancelled":    {context.Canceled, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t.TempDir(), 8, 3, 150, true)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			saved := make(chan struct{})
			var once sync.Once
			opts := Options{Events: func(e Event) {
				if _, ok := e.(Checkpointed); ok {
					once.Do(func() { close(saved) })
				}
			}}
			pages := 0
			var mu sync.Mutex
			res, _, err := m.try(ctx, attempt{opts: opts, fail: func() error {
				mu.Lock()
				pages++
				first := pages == 1
				mu.Unlock()
				if c.early {
					return c.err
				}
				if first {
					return nil // for there to be something
				}
				select {
				case <-saved:
				case <-time.After(2 * time.Minute):
					t.Error("nothing was saved")
				}
				if c.err == context.Canceled { //nolint:errorlint // it is the very one
					cancel()
					return nil
				}
				return c.err
			}})
			if !errors.Is(err, c.err) || res.Resumable != c.keep || res.Complete {
				t.Fatalf("%+v, %v", res, err)
			}
			if left := len(filesIn(t, m.dir)) > 0; left != c.keep {
				t.Errorf("kept: %v", left)
			}
			if locked := m.lock.owner != ""; locked != c.keep {
				t.Errorf("locked: %v", locked)
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

// A disk that fails ends the copy with the destination's error, and the copy
// can be resumed once the disk is well again.
func TestEveryOperationFails(t *testing.T) {
	errnos := []error{syscall.ENOSPC, syscall.EIO, syscall.EROFS}
	for _, forGood := range []bool{false, true} {
		t.Run(fmt.Sprintf("for good: %v", forGood), func(t *testing.T) {
			t.Parallel()
			resumed := 0
			for at := 0; ; at++ {
				errno := errnos[at%len(errnos)]
				m := newMachine(t.TempDir(), 9, 3, 40, true)
				var mu sync.Mutex
				n, failed := 0, durable.Op{}
				res, _, err := m.try(t.Context(), attempt{before: func(op durable.Op) error {
					mu.Lock()
					defer mu.Unlock()
					n++
					if n == at+1 {
						failed = op
					}
					if n == at+1 || n > at && forGood {
						return &fs.PathError{Op: op.Verb, Path: op.Path, Err: errno}
					}
					return nil
				}})
				if n <= at {
					if err != nil || resumed < 10 {
						t.Errorf("%d resumed, %v", resumed, err)
					}
					return
				}
				if err != nil {
					// The sink of these tests does not wrap its errors.
					sinks := strings.HasPrefix(filepath.Base(failed.Path), "result") || filepath.Base(failed.Path) == "loaded" ||
						failed.Path == m.dir || failed.Path == m.work() && failed.Verb != durable.Sync
					if !errors.Is(err, errno) || !sinks && !errors.Is(err, ErrDestination) {
						t.Errorf("%s: %v", failed, err)
					}
					if errors.Is(err, ErrSource) || errors.Is(err, ErrLocked) {
						t.Errorf("%s: the source is blamed: %v", failed, err)
					}
				}
				again, _, rerr := m.try(t.Context(), attempt{opts: Options{Resume: true}})
				if forGood && !res.Resumable && errors.Is(rerr, ErrMoved) {
					// Nothing could be removed of a copy that was not worth
					// keeping, and had given the source back.
					_, _, rerr = m.try(t.Context(), attempt{opts: Options{Restart: true}})
				}
				if rerr != nil && !(res.Complete && strings.HasPrefix(rerr.Error(), "prepare: file already exists")) {
					t.Fatalf("%s: %v, resumed: %v", failed, err, rerr)
				}
				if err != nil && res.Resumable != (again.Resumed > 0) && !forGood {
					t.Errorf("%s: resumable: %v, resumed: %d", failed, res.Resumable, again.Resumed)
				}
				resumed += min(again.Resumed, 1)
				if err := m.check(); err != nil {
					t.Errorf("%s: %v", failed, err)
				}
			}
		})
	}
}

// A process that is killed while runs are merged into larger ones loses
// nothing.
func TestKilledWhileMerging(t *testing.T) {
	merged := 0
	for nth := range 12 {
		m := newMachine(t.TempDir(), 10, 3, 250, true)
		op, again := "remove run-", 0
		_, _, err := m.try(t.Context(), attempt{before: func(o durable.Op) error {
			if m.dead.Load() {
				return errKilled
			}
			if strings.HasPrefix(o.String(), op) {
				if again++; again > nth {
					m.dead.Store(true)
					return errKilled
				}
			}
			return nil
		}})
		if !m.dead.Load() {
			t.Fatalf("no %d merged runs: %v", nth+1, err)
		}
		merged++
		if _, _, err := m.try(t.Context(), attempt{opts: Options{Resume: true}}); err != nil {
			t.Fatalf("killed at removal %d: %v", nth, err)
		}
		if err := m.check(); err != nil {
			t.Errorf("killed at removal %d: %v", nth, err)
		}
	}
}

// The status is there while a copy runs, and after it, unless it is complete.
func TestReadStatus(t *testing.T) {
	m := newMachine(t.TempDir(), 11, 3, 100, true)
	if s, setup, err := ReadStatus(m.work()); s != nil || setup != nil || err != nil {
		t.Errorf("of nothing: %v, %v, %v", s, setup, err)
	}
	var during *Status
	res, _, err := m.try(t.Context(), attempt{opts: Options{RunID: "run-1"}, before: func(op durable.Op) error {
		if filepath.Base(op.Path) != "loaded" {
			return nil
		}
		for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); {
			if s, setup, err := ReadStatus(m.work()); err != nil || setup == nil || setup.RunID != "run-1" {
				t.Errorf("during the copy: %v, %v", setup, err)
			} else if during = s; s != nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		return syscall.EIO
	}})
	if !errors.Is(err, syscall.EIO) || !res.Resumable {
		t.Fatalf("%+v, %v", res, err)
	}
	if during == nil || during.RunID != "run-1" || during.PID != os.Getpid() || !during.Ended.IsZero() || during.Error != "" {
		t.Errorf("during the copy: %+v", during)
	}
	s, setup, err := ReadStatus(m.work())
	if err != nil || s == nil || setup == nil {
		t.Fatalf("after the copy: %v, %v, %v", s, setup, err)
	}
	if s.Entries != 100 || s.Saved != 100 || s.Phase != PhaseLoad || s.Ended.IsZero() || s.Error == "" || s.Checkpoint.IsZero() || s.Source.Name != "line" {
		t.Errorf("after the copy: %+v", s)
	}
	// One that was killed had last told of itself before its last checkpoint: what is
	// safe is what the next process resumes from.
	old := *s
	old.Saved, old.Checkpoint = 7, s.Checkpoint.Add(-time.Second)
	(&statusFile{path: filepath.Join(m.work(), StatusName)}).write(old)
	if s, _, err := ReadStatus(m.work()); err != nil || s == nil || s.Saved != 100 || !s.Checkpoint.After(old.Checkpoint) {
		t.Errorf("of one that was killed: %+v, %v", s, err)
	}
	if err := GiveUp(m.work(), Tool{}); err != nil {
		t.Fatal(err)
	}
	if _, setup, err := ReadStatus(m.work()); err != nil || setup == nil || setup.RunID != "run-1" || setup.Amended(AmendGivenUp) == nil {
		t.Errorf("of one that was given up: %+v, %v", setup, err)
	}
	for _, torn := range []string{"", "{", "\x00\x00"} {
		if err := os.WriteFile(filepath.Join(m.work(), StatusName), []byte(torn), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, setup, err := ReadStatus(m.work()); s != nil || setup == nil || err != nil {
			t.Errorf("torn: %v, %v, %v", s, setup, err)
		}
	}
	for _, o := range []Options{{Resume: true}, {}} {
		if _, _, err := m.try(t.Context(), attempt{opts: o}); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "it was given up at") {
			t.Errorf("%+v: %v", o, err)
		}
	}
	m.lock.owner = "" // whoever gives a copy up frees its source
	if _, _, err := m.try(t.Context(), attempt{opts: Options{Restart: true}}); err != nil {
		t.Fatal(err)
	}
	if s, setup, err := ReadStatus(m.work()); s != nil || setup != nil || err != nil {
		t.Errorf("of a complete copy: %v, %v, %v", s, setup, err)
	}
	if err := GiveUp(m.work(), Tool{}); err != nil {
		t.Error(err)
	}
}

// An interrupted copy ends within 2 s, however slow the disk is, and keeps its
// last checkpoint.
func TestInterruptedOnASlowDisk(t *testing.T) {
	t.Parallel()
	m := newMachine(t.TempDir(), 12, 3, 900, true)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	slow, interrupted, late := false, false, 0
	res, _, err := m.try(ctx, attempt{before: func(op durable.Op) error {
		mu.Lock()
		if op.String() == "create checkpoint-000003.json.tmp" && !slow {
			slow = true
			time.AfterFunc(100*time.Millisecond, func() {
				mu.Lock()
				interrupted = true
				mu.Unlock()
				cancel()
			})
		}
		wait := slow && strings.HasPrefix(filepath.Base(op.Path), runPrefix)
		if wait && interrupted {
			late++
		}
		mu.Unlock()
		if wait {
			time.Sleep(400 * time.Millisecond)
		}
		return nil
	}})
	if !errors.Is(err, context.Canceled) || !res.Resumable {
		t.Fatalf("%+v, %v", res, err)
	}
	// Of 2 s each of two writers has five such steps, and what is left to do has many more.
	if late > 12 {
		t.Errorf("%d steps of 400 ms began behind the interrupt", late)
	}
	if _, saved := m.onRecord(t); saved == 0 || saved >= 900 {
		t.Errorf("%d entries are on record", saved)
	}
	if _, _, err := m.try(t.Context(), attempt{opts: Options{Resume: true}}); err != nil {
		t.Fatal(err)
	}
	if err := m.check(); err != nil {
		t.Error(err)
	}
}

// A backedUpSource makes backups.
type backedUpSource struct {
	*lineSource
	calls *int
}

func (s backedUpSource) Snapshot(_ context.Context, name string) (string, error) {
	*s.calls++
	return name, nil
}

// A backup stays with the copy: a process that resumes it makes no other; where there
// is none yet, it is made.
func TestBackupOfAResumedCopy(t *testing.T) {
	for _, c := range []struct {
		first, then string
		want        string
		calls       int
	}{{"first", "", "first", 1}, {"first", "second", "first", 1}, {"", "second", "second", 1}, {"", "", "", 0}} {
		var calls int
		source := func(s *lineSource) Source { return backedUpSource{s, &calls} }
		m := newMachine(t.TempDir(), 5, 3, 150, true)
		if _, killed, err := m.try(t.Context(), attempt{opts: Options{RunID: "run-1", Backup: c.first}, source: source, killAt: "create checkpoint-000004.json.tmp"}); !killed {
			t.Fatalf("not killed: %v", err)
		}
		var kept []string
		kill := true
		again := Options{Resume: true, Backup: c.then, Record: func(_ context.Context, r Record) error {
			kept = append(kept, r.Backup)
			if kill && r.State == Confirmed {
				m.dead.Store(true)
			}
			return nil
		}}
		// Killed behind its commit, and again resumed.
		if _, killed, err := m.try(t.Context(), attempt{opts: again, source: source}); !killed {
			t.Errorf("%+v: %v", c, err)
		}
		kill = false
		res, _, err := m.try(t.Context(), attempt{opts: again, source: source})
		if err != nil || res.Backup != c.want || len(kept) < 4 || slices.ContainsFunc(kept, func(s string) bool { return s != c.want }) || calls != c.calls {
			t.Errorf("%+v: backup %q, on record %q, %d calls, %v", c, res.Backup, kept, calls, err)
		}
		if err := m.check(); err != nil {
			t.Error(err)
		}
	}
}

// killedBehindCommit returns a machine on which a copy was killed with its result
// in place.
func killedBehindCommit(t *testing.T, entries int, opts Options, sink func(*dirSink) Sink) *machine {
	t.Helper()
	m := newMachine(t.TempDir(), 4, 2, entries, false)
	opts.RunID = "run-1"
	if _, killed, err := m.try(t.Context(), attempt{opts: opts, killAt: "sync " + filepath.Base(m.dir), nth: 1, sink: sink}); !killed {
		t.Fatalf("not killed: %v", err)
	}
	if _, err := (&dirSink{dir: m.dir}).result(); err != nil {
		t.Fatal(err)
	}
	return m
}

// A complete copy whose locks are still in its source is not finished with
// another source: they would stay, and its record would name that one.
func TestFinishOfAnotherSource(t *testing.T) {
	m := killedBehindCommit(t, 50, Options{}, nil)
	other := func(s *lineSource) Source {
		return otherSource{s, func(i *Info) { i.Name, i.ID, i.Incarnation = "row", "line:2", "b" }}
	}
	finish := func(context.Context, Record) error { t.Error("it was finished"); return nil }
	_, _, err := m.try(t.Context(), attempt{opts: Options{Resume: true, Record: finish}, source: other})
	if !errors.Is(err, ErrOtherCopy) || !errors.Is(err, ErrConfig) || !strings.HasSuffix(coded(err), "source:line:1]") {
		t.Errorf("%v, %s", err, coded(err))
	}
	if m.lock.owner != "run-1" {
		t.Errorf("locked by %q", m.lock.owner)
	}
	if _, _, err := m.try(t.Context(), attempt{opts: Options{Resume: true}}); err != nil {
		t.Fatal(err)
	}
	if err := m.check(); err != nil {
		t.Error(err)
	}
}

// Who finishes a copy says of it what it was: one of a source without entries has
// digests, which are known to be none.
func TestFinishTellsWhatItWas(t *testing.T) {
	var opts Options
	m := killedBehindCommit(t, 0, opts, nil)
	finished := 0
	opts.Resume = true
	opts.Record = func(_ context.Context, r Record) error {
		finished++
		if r.Proof == nil {
			t.Errorf("%+v", r)
		}
		return nil
	}
	opts.Events = func(e Event) {
		if w, ok := e.(Warning); ok && w.Check != "initialized" { // the fakes hold no Vault
			t.Errorf("warned: %s", w.Message)
		}
	}
	if _, _, err := m.try(t.Context(), attempt{opts: opts}); err != nil || finished != 3 {
		t.Fatalf("finished %d times: %v", finished, err)
	}
}
