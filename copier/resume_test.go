package copier

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/copier/durable/durabletest"
)

// A lineSource has the entries of each segment in a line, and pages of random
// sizes. Its tokens are "FROM" or "FROM:TO", places in the line. A page may
// split what is left into several ranges.
type lineSource struct {
	lines [][]Entry
	split bool
	mu    sync.Mutex
	rnd   *rand.Rand
	// lock is the run that holds the source, and foreign is set when somebody
	// else took it.
	lock *lineLock
	read *[]int // how often each entry was read, by its place; shared by all processes
	// fail, where set, is asked before a page is served.
	fail func() error
	dead func() bool // the process was killed
	// work, where set, is the work directory: the source is split while that has no
	// record of it, and read once it has.
	work string

	ticks chan time.Time // where set, a checkpoint is due each fourth page
	pages atomic.Int64
}

// splitOnRecord reports whether the work directory says that the source was split.
func (s *lineSource) splitOnRecord() bool {
	was, err := readSetup(s.work)
	_, missing := os.Lstat(filepath.Join(s.work, spansName))
	return err == nil && was != nil && was.Segments == len(s.lines) && missing == nil
}

type lineLock struct {
	mu    sync.Mutex
	owner string
}

func (s *lineSource) Open(context.Context) (Info, error) {
	n := int64(0)
	for _, l := range s.lines {
		n += int64(len(l))
	}
	return Info{Name: "line", ID: "line:1", Incarnation: "a", Items: n}, nil
}

func (s *lineSource) Close() error { return nil }

func (s *lineSource) Split(_ context.Context, n int) ([]Span, error) {
	if n != 0 && n != len(s.lines) {
		return nil, fmt.Errorf("asked for %d segments", n)
	}
	if s.work != "" && s.splitOnRecord() {
		return nil, errors.New("it was split before")
	}
	var out []Span
	for i := range s.lines {
		out = append(out, Span{Index: i})
	}
	return out, nil
}

func place(token []byte, end int) (int, int, error) {
	if len(token) == 0 {
		return 0, end, nil
	}
	if !bytes.Contains(token, []byte(":")) {
		token = fmt.Appendf(slices.Clip(token), ":%d", end) // others hold it too
	}
	var from, to int
	_, err := fmt.Sscanf(string(token), "%d:%d", &from, &to)
	return from, to, err
}

func (s *lineSource) Read(ctx context.Context, seg Span, b *Batch) (Page, error) {
	p, err := s.page(ctx, seg, b)
	if err == nil && s.ticks != nil && s.pages.Add(1)%4 == 0 {
		select {
		case s.ticks <- time.Time{}:
		case <-ctx.Done():
		}
	}
	return p, err
}

func (s *lineSource) page(ctx context.Context, seg Span, b *Batch) (Page, error) {
	if s.fail != nil {
		if err := s.fail(); err != nil {
			return Page{}, err
		}
	}
	if err := ctx.Err(); err != nil {
		return Page{}, err
	}
	if s.work != "" && !s.splitOnRecord() {
		return Page{}, errors.New("it is read, and its spans are not on record")
	}
	line := s.lines[seg.Index]
	from, to, err := place(seg.From, len(line))
	if err != nil {
		return Page{}, err
	}
	if seg.Until != nil {
		if to, _, err = place(seg.Until, 0); err != nil {
			return Page{}, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	end := min(from+s.rnd.IntN(6), to)
	if end == from && to > from {
		end++
	}
	for i, e := range line[from:end] {
		if i%3 == 0 {
			time.Sleep(10 * time.Microsecond)
		}
		b.Append(e.Key, e.Value)
		(*s.read)[seg.Index*1000+from+i]++
	}
	p := Page{Counts: Counts{"units": 1}, WireBytes: int64(end - from)}
	token := func(a, b int) Span {
		t := fmt.Appendf(nil, "%d", a)
		if b != len(line) {
			t = fmt.Appendf(t, ":%d", b)
		}
		return Span{Index: seg.Index, From: t}
	}
	switch {
	case end == to:
	case seg.Until != nil:
		n := token(end, len(line))
		n.Until = seg.Until
		p.Next = []Span{n}
	case s.split && s.rnd.IntN(4) == 0 && to-end > 3:
		m := end + 1 + s.rnd.IntN(to-end-1)
		p.Next = []Span{token(end, m), token(m, to)}
	default:
		p.Next = []Span{token(end, to)}
	}
	return p, nil
}

func (s *lineSource) Lock(_ context.Context, runID string, held bool, _ func(error)) (Lease, error) {
	s.lock.mu.Lock()
	defer s.lock.mu.Unlock()
	if held && s.lock.owner != runID {
		return nil, &Error{Kind: ErrLocked, Op: "lock", Err: fmt.Errorf("%w: it is %q", ErrMoved, s.lock.owner)}
	}
	if s.lock.owner != "" && s.lock.owner != runID {
		return nil, &Error{Kind: ErrLocked, Op: "lock", Err: errors.New(s.lock.owner)}
	}
	s.lock.owner = runID
	return &lineLease{s, runID}, nil
}

func (s *lineSource) Unlock(_ context.Context, runID string, _ End) error {
	s.lock.mu.Lock()
	defer s.lock.mu.Unlock()
	if s.lock.owner == runID {
		s.lock.owner = ""
	}
	return nil
}

type lineLease struct {
	s   *lineSource
	run string
}

func (l *lineLease) Check(context.Context) error {
	l.s.lock.mu.Lock()
	defer l.s.lock.mu.Unlock()
	if l.s.lock.owner != l.run {
		return &Error{Kind: ErrLocked, Op: "check", Err: fmt.Errorf("%w: it is %q", ErrMoved, l.s.lock.owner)}
	}
	return nil
}

func (l *lineLease) Release(ctx context.Context, end End) error {
	if l.s.dead() || end == EndUnfinished {
		return nil
	}
	return l.s.Unlock(ctx, l.run, end)
}

// A dirSink writes its entries as one file of JSON.
type dirSink struct {
	dir  string
	disk *durable.Disk
}

type dirStage struct {
	*dirSink
	loaded []Entry
	record Record
}

type dirResult struct {
	Record  Record
	Entries []Entry
}

func (s *dirSink) Identity() Identity { return Identity{"path": s.dir} }
func (s *dirSink) WorkDir() string    { return filepath.Join(s.dir, "work") }

func (s *dirSink) result() (r *dirResult, err error) {
	data, err := os.ReadFile(filepath.Join(s.dir, "result"))
	if err != nil {
		return nil, err
	}
	return r, json.Unmarshal(data, &r)
}

func (s *dirSink) Open(context.Context) (found State, err error) {
	work, err := durable.Exists(s.WorkDir())
	if err != nil {
		return found, err
	}
	if r, err := s.result(); err == nil {
		// Who is told that it is complete will free the source.
		if err := s.disk.Sync(s.dir); err != nil {
			return found, err
		}
		if work {
			return State{Record: &r.Record}, nil
		}
		return found, &Error{Kind: ErrDestination, Op: "prepare", Err: os.ErrExist}
	}
	if !work {
		if err := s.disk.Mkdir(s.WorkDir()); err != nil {
			return found, err
		}
	}
	return found, s.disk.Sync(s.dir)
}

func (s *dirSink) Stage(context.Context, string) (Stage, error) {
	return &dirStage{dirSink: s}, nil
}

func (s *dirSink) Close() error {
	if list, err := os.ReadDir(s.dir); err == nil && len(list) == 1 && list[0].IsDir() {
		_ = os.Remove(s.WorkDir()) // if it is empty
	}
	return nil
}

func (s *dirStage) Load(_ context.Context, in Stream) (LoadStats, error) {
	if err := s.disk.Step(durable.Write, filepath.Join(s.dir, "loaded")); err != nil {
		return LoadStats{}, err
	}
	var err error
	s.loaded, err = drain(in)
	stats := LoadStats{Entries: int64(len(s.loaded))}
	for _, e := range s.loaded {
		stats.Bytes += int64(len(e.Key) + len(e.Value))
	}
	return stats, err
}

func (s *dirStage) Reader(context.Context) (Source, error) {
	if r, err := s.result(); err == nil {
		return entrySource(r.Entries), nil
	}
	return entrySource(s.loaded), nil
}

func (s *dirStage) Prepare(_ context.Context, r Record) error {
	s.record = r
	return nil
}

func (s *dirSink) write(r dirResult) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return s.disk.Replace(filepath.Join(s.dir, "result"), data)
}

func (s *dirStage) Commit(context.Context) error {
	return s.write(dirResult{s.record, s.loaded})
}

func (s *dirStage) Amend(record Record) error {
	r, err := s.result()
	if err != nil {
		return err
	}
	r.Record = record
	return s.write(*r)
}

func (s *dirStage) Rollback() error {
	if err := s.disk.RemoveFile(filepath.Join(s.dir, "result")); err != nil {
		return err
	}
	return s.disk.Sync(s.dir)
}

func (s *dirStage) Close(keep bool) error {
	if keep {
		return nil
	}
	_ = os.Remove(filepath.Join(s.dir, "result.tmp")) // of an Amend that failed
	root, err := os.OpenRoot(filepath.Dir(s.WorkDir()))
	if err != nil {
		return err
	}
	return errors.Join(s.disk.Remove(root, filepath.Base(s.WorkDir())), root.Close())
}

var errKilled = errors.New("killed")

// A machine runs copies of one source into one directory, and kills them.
type machine struct {
	dir   string
	lines [][]Entry
	split bool
	lock  lineLock
	reads []int
	rnd   *rand.Rand

	power *durabletest.Recorder // of powerloss_test.go; or nil
	put   *putStore             // of unordered_test.go; or nil

	ops  []string // of the last process
	mu   sync.Mutex
	dead atomic.Bool
}

func newMachine(dir string, seed uint64, segments, entries int, split bool) *machine {
	rnd := rand.New(rand.NewPCG(seed, 1))
	m := &machine{dir: dir, split: split, rnd: rnd, reads: make([]int, segments*1000), lines: make([][]Entry, segments)}
	for _, e := range randomEntries(rnd, entries) {
		i := rnd.IntN(segments)
		if rnd.IntN(2) == 0 {
			i = 0 // a hot one
		}
		m.lines[i] = append(m.lines[i], e)
	}
	return m
}

func (m *machine) all() []Entry { return sortedCopy(slices.Concat(m.lines...)) }

// process runs a copy that is killed in front of its operation number kill,
// never if that is negative.
func (m *machine) process(ctx context.Context, kill int, opts Options, fail func() error) (Record, error) {
	defer watched("a process on " + m.dir)()
	m.dead.Store(false)
	m.ops = nil
	n := 0
	disk := &durable.Disk{Before: func(op durable.Op) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.dead.Load() {
			return errKilled
		}
		m.ops = append(m.ops, op.String())
		if n == kill {
			m.dead.Store(true)
			return errKilled
		}
		n++
		if m.power != nil {
			err := m.power.Before(op)
			m.dead.Store(err != nil)
			return err
		}
		return nil
	}}
	src := &lineSource{lines: m.lines, split: m.split, rnd: rand.New(rand.NewPCG(m.rnd.Uint64(), 2)), lock: &m.lock,
		read: &m.reads, fail: fail, dead: m.dead.Load, work: m.work()}
	opts.Disk, opts.Memory, opts.Workers, opts.Uninitialized = disk, MinMemory, 3, true
	if opts.CheckpointInterval == 0 {
		opts.CheckpointInterval = 300 * time.Microsecond
		if m.put == nil { // else it is read once before there are any checkpoints
			src.ticks = make(chan time.Time)
			opts.ticks = src.ticks
		}
	}
	opts.tune = func(s *sorter) { s.limit, s.hold, s.fanIn = 400, m.rnd.IntN(4), 4 }
	var dst Sink = &dirSink{dir: m.dir, disk: disk}
	if m.put != nil {
		dst = putSink{&dirSink{dir: m.dir, disk: disk}, m.put}
	}
	return Copy(ctx, src, dst, opts)
}

// releasedUnnoticed reports whether a copy that was resumed could not be confirmed
// because a process was killed after it had given the source back, and before
// that was on record: it has to be made anew.
func (m *machine) releasedUnnoticed(err error) bool {
	return errors.Is(err, ErrUnconfirmed) && errors.Is(err, ErrMoved) && m.lock.owner == ""
}

// check compares the result with the source.
func (m *machine) check() error {
	r, err := (&dirSink{dir: m.dir}).result()
	if err != nil {
		return err
	}
	if d := differ(r.Entries, m.all()); d != "" {
		return errors.New(d)
	}
	if m.lock.owner != "" {
		return fmt.Errorf("the source is locked by %q", m.lock.owner)
	}
	if left, err := os.ReadDir(m.dir); err != nil || len(left) != 1 {
		return fmt.Errorf("left: %v, %v", left, err)
	}
	return nil
}

// harm damages one of the files that a killed process left.
func harm(rnd *rand.Rand, dir string) (string, error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	list = slices.DeleteFunc(list, func(f os.DirEntry) bool { return f.Name() == setupName || f.Name() == spansName })
	if len(list) == 0 {
		return "", nil
	}
	name := list[rnd.IntN(len(list))].Name()
	path := filepath.Join(dir, name)
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	switch {
	case len(data) == 0 || rnd.IntN(3) == 0:
		return "removed " + name, os.Remove(path)
	case rnd.IntN(2) == 0:
		return "truncated " + name, os.Truncate(path, int64(rnd.IntN(len(data))))
	default:
		data[rnd.IntN(len(data))] ^= 1 << rnd.IntN(8)
		return "changed " + name, os.WriteFile(path, data, 0o600)
	}
}

// TestCheckpointModel interleaves workers, checkpoints, kills in front of any
// operation on the disk, sources that fail, interruptions, damaged files and
// resumes. Whatever happens, the copy that completes holds each entry once.
func TestCheckpointModel(t *testing.T) {
	var killed, resumed, harmed, kept, complete int
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		m := newMachine(t.TempDir(), seed, rapid.IntRange(1, 5).Draw(rt, "segments"), rapid.IntRange(0, 300).Draw(rt, "entries"), rapid.Bool().Draw(rt, "split"))
		resume := false
		for process := 0; ; process++ {
			kill := -1
			ctx, cancel := context.WithCancel(t.Context())
			var fail func() error
			if process < 6 {
				switch rapid.SampledFrom([]string{"kill", "kill", "fail", "cancel", ""}).Draw(rt, "end") {
				case "kill":
					kill = rapid.IntRange(0, 150).Draw(rt, "operation")
				case "fail":
					pages := atomic.Int64{}
					at := int64(rapid.IntRange(1, 150).Draw(rt, "page"))
					fail = func() error {
						if pages.Add(1) >= at {
							return errFake
						}
						return nil
					}
				case "cancel":
					pages := atomic.Int64{}
					at := int64(rapid.IntRange(1, 150).Draw(rt, "page"))
					fail = func() error {
						if pages.Add(1) == at {
							cancel()
						}
						return nil
					}
				}
			}
			opts := Options{Resume: resume, RunID: fmt.Sprintf("run-%d", process)}
			res, err := m.process(ctx, kill, opts, fail)
			if m.releasedUnnoticed(err) && !m.dead.Load() { // else it may be in place still
				opts.Resume, opts.Restart = false, true
				res, err = m.process(ctx, kill, opts, fail)
			}
			cancel()
			if res.Resumed > 0 {
				resumed++
			}
			if err == nil && !m.dead.Load() {
				complete++
				break
			}
			if m.dead.Load() {
				killed++
			} else if kill >= 0 || errors.Is(err, ErrDuplicateKey) {
				rt.Fatalf("process %d: %v", process, err)
			} else if _, err := os.Lstat(filepath.Join(m.dir, "work")); (err == nil) != res.Resumable {
				rt.Fatalf("resumable: %v, work directory: %v", res.Resumable, err)
			} else if res.Resumable != (m.lock.owner != "") {
				rt.Fatalf("resumable: %v, locked by %q", res.Resumable, m.lock.owner)
			} else if res.Resumable {
				kept++
			}
			// A plain rerun is refused while there is something to resume.
			setup, err := readSetup(filepath.Join(m.dir, "work"))
			if err != nil {
				rt.Fatal(err)
			}
			if setup != nil {
				if _, err := m.process(t.Context(), -1, Options{}, nil); err == nil ||
					!errors.Is(err, ErrUnfinished) && !errors.Is(err, ErrInPlace) {
					rt.Fatalf("plain rerun: %v", err)
				}
				for range rapid.SampledFrom([]int{0, 0, 1, 2, 3}).Draw(rt, "harm") {
					what, err := harm(m.rnd, filepath.Join(m.dir, "work"))
					if err != nil {
						rt.Fatal(err)
					}
					rt.Log(what)
					if what != "" {
						harmed++
					}
				}
			}
			_, err = (&dirSink{dir: m.dir}).result()
			if err == nil { // it was killed behind its commit
				if there, err := durable.Exists(filepath.Join(m.dir, "work")); err == nil && !there {
					rt.Fatal("killed, and nothing was left to do")
				}
			}
			resume = setup != nil || err == nil || rapid.Bool().Draw(rt, "resume")
		}
		if err := m.check(); err != nil {
			rt.Fatal(err)
		}
	})
	t.Logf("%d killed, %d kept, %d resumed, %d harmed, %d complete", killed, kept, resumed, harmed, complete)
	if killed == 0 || kept == 0 || resumed == 0 || harmed == 0 {
		t.Error("some of that never happened")
	}
}

// TestKilledAtEveryOperation kills a copy in front of each of its operations on
// the disk, and resumes it.
func TestKilledAtEveryOperation(t *testing.T) {
	unnoticed := map[string]bool{} // the operations; two kills may meet the same one
	for kill := 0; ; kill++ {
		m := newMachine(t.TempDir(), 7, 3, 80, true)
		_, err := m.process(t.Context(), kill, Options{}, nil)
		if !m.dead.Load() {
			if err != nil {
				t.Fatal(err)
			}
			for _, op := range []string{"rename copy.json", "create run-000001", "write run-000001", "sync run-000001", "rename checkpoint-000001.json", "rename result", "remove work"} {
				if !slices.Contains(m.ops, op) {
					t.Errorf("there was no %q: %q", op, m.ops)
				}
			}
			if kill < 40 || len(unnoticed) > 4 { // those of one Mark
				t.Errorf("%d operations, %d of which have lost what was known", kill, len(unnoticed))
			}
			return
		}
		killedAt := m.ops[len(m.ops)-1]
		if _, err := m.process(t.Context(), -1, Options{Resume: true}, nil); err != nil {
			if strings.HasPrefix(err.Error(), "prepare: file already exists") && killedAt == "remove work" {
				continue
			}
			if released := strings.HasSuffix(killedAt, "result.tmp") || killedAt == "rename result"; !released || !m.releasedUnnoticed(err) {
				t.Fatalf("killed before operation %d (%s): %v", kill, killedAt, err)
			}
			unnoticed[killedAt] = true
			if _, err := m.process(t.Context(), -1, Options{Restart: true}, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.check(); err != nil {
			t.Fatalf("killed before operation %d (%s): %v", kill, killedAt, err)
		}
	}
}
