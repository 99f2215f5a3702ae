package copier

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"pgregory.net/rapid"
)

// A journal holds the names of the calls to all fakes, in their order.
type journal struct {
	mu    sync.Mutex
	calls []string
}

func (j *journal) add(name string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.calls = append(j.calls, name)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.calls, " ")
}

// A copyCase is one copy between fakes. fail holds the error of each call that
// fails, by the name it has in the journal.
type copyCase struct {
	journal
	t         *testing.T
	fail      map[string]error
	during    map[string]func() // run within a call
	entries   []Entry
	noLock    bool
	filesStay bool // what the case puts into the work directory
	opts      Options

	src    *fakeSource
	dst    *fakeSink
	lost   func(error)
	events []Event
}

func (c *copyCase) call(name string) error {
	c.add(name)
	if f := c.during[name]; f != nil {
		f()
	}
	return c.fail[name]
}

// run copies; every copy must leave the same things undone or done.
func (c *copyCase) run(ctx context.Context) (Result, error) {
	c.t.Helper()
	watch(c.t)
	if c.entries == nil {
		c.entries = randomEntries(rand.New(rand.NewPCG(1, 2)), 200)
	}
	c.src = newFakeSource(rand.New(rand.NewPCG(1, 2)), c.entries, 20, 4)
	c.src.log = func(name string) { _ = c.call(name) }
	c.src.prepareErr, c.src.segmentsErr = c.fail["src.Prepare"], c.fail["src.Segments"]
	var once sync.Once
	c.src.before = func(_ context.Context, id int) (err error) {
		once.Do(func() { err = c.call("src.ReadPage") })
		return err
	}
	c.dst = &fakeSink{c: c, dir: c.t.TempDir()}
	c.opts.Memory = MinMemory
	var mu sync.Mutex
	c.opts.Events = func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		c.events = append(c.events, e)
	}
	var src Source = &lockedSource{c.src, c}
	if c.noLock {
		src = c.src
	}
	result, err := Copy(ctx, src, c.dst, c.opts)

	if (err == nil) != result.Complete || result.Complete != c.dst.committed {
		c.t.Errorf("error %v, complete %v, committed %v", err, result.Complete, c.dst.committed)
	}
	if n := strings.Count(c.String(), "dst.Close"); n != 1 {
		c.t.Errorf("the sink was closed %d times", n)
	}
	want := 0
	if strings.Contains(c.String(), "src.Lock") && c.fail["src.Lock"] == nil {
		want = 1
	}
	if n := strings.Count(c.String(), "lease.Release"); n != want {
		c.t.Errorf("the lease was released %d times, want %d", n, want)
	}
	if want == 1 && !strings.Contains(c.String(), fmt.Sprintf("lease.Release(%v)", result.Complete)) {
		c.t.Errorf("complete is %v: %s", result.Complete, c.String())
	}
	if files := filesIn(c.t, c.dst.dir); len(files) > 0 && !c.filesStay {
		c.t.Errorf("left in the work directory: %v", files)
	}
	return result, err
}

func (c *copyCase) warnings() (out []string) {
	for _, e := range c.events {
		if w, ok := e.(Warning); ok {
			out = append(out, w.Message)
		}
	}
	return out
}

// A lockedSource is a fakeSource with a lock.
type lockedSource struct {
	*fakeSource
	c *copyCase
}

func (s *lockedSource) Lock(_ context.Context, runID string, lost func(error)) (Lease, error) {
	if runID == "" {
		s.c.t.Error("the run has no id")
	}
	s.c.lost = lost
	if err := s.c.call("src.Lock"); err != nil {
		return nil, err
	}
	return &fakeLease{s.c}, nil
}

type fakeLease struct{ c *copyCase }

func (l *fakeLease) Check(context.Context) error { return l.c.call("lease.Check") }

func (l *fakeLease) Release(ctx context.Context, done bool) error {
	if err := ctx.Err(); err != nil {
		l.c.t.Errorf("released with a context that has ended: %v", err)
	}
	if _, ok := ctx.Deadline(); !ok {
		l.c.t.Error("a release without a deadline")
	}
	l.c.add(fmt.Sprintf("lease.Release(%v)", done))
	return l.c.fail["lease.Release"]
}

type fakeSink struct {
	c         *copyCase
	dir       string
	got       []Entry
	skip      int   // entries that it leaves out
	shorter   int64 // bytes that its values lose
	committed bool
}

func (s *fakeSink) Prepare(_ context.Context, runID string) error {
	if runID == "" || s.c.opts.RunID != "" && runID != s.c.opts.RunID {
		s.c.t.Errorf("run id %q", runID)
	}
	return s.c.call("dst.Prepare")
}

func (s *fakeSink) WorkDir() string { return s.dir }

func (s *fakeSink) Load(ctx context.Context, in Stream) (LoadStats, error) {
	if err := s.c.call("dst.Load"); err != nil {
		return LoadStats{}, err
	}
	if err := ctx.Err(); err != nil {
		return LoadStats{}, err
	}
	got, err := drain(in)
	if err != nil {
		return LoadStats{}, err
	}
	s.got = got[:max(len(got)-s.skip, 0)]
	stats := LoadStats{Entries: int64(len(s.got)), Bytes: -s.shorter}
	for _, e := range s.got {
		stats.Bytes += int64(len(e.Key) + len(e.Value))
	}
	return stats, nil
}

func (s *fakeSink) Commit(context.Context) error {
	if err := s.c.call("dst.Commit"); err != nil {
		return err
	}
	s.committed = true
	return nil
}

func (s *fakeSink) Close() error { return s.c.call("dst.Close") }

func TestCopy(t *testing.T) {
	c := &copyCase{t: t, opts: Options{RunID: "run 1", Workers: 2}}
	result, err := c.run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if d := differ(c.dst.got, sortedCopy(c.entries)); d != "" {
		t.Error(d)
	}
	const want = "dst.Prepare src.Prepare src.Lock src.Segments src.ReadPage dst.Load lease.Check dst.Commit lease.Release(true) dst.Close"
	if c.String() != want {
		t.Errorf("got  %s\nwant %s", c.String(), want)
	}
	if result.RunID != "run 1" || result.Start.IsZero() || result.Duration <= 0 || result.Source.ID != "fake:1" || result.Partial ||
		result.Scan.Entries != 200 || result.Scan.Workers < 1 || result.Scan.Workers > 2 || result.Load.Entries != 200 {
		t.Errorf("%+v", result)
	}
	var phases []Phase
	for _, e := range c.events {
		if e, ok := e.(PhaseStarted); ok {
			phases = append(phases, e.Phase)
			if _, ok := result.Phases[e.Phase]; !ok {
				t.Errorf("phase %s took no time", e.Phase)
			}
			if e.Phase != PhasePrepare && e.Source.ID != "fake:1" {
				t.Errorf("phase %s: source %+v", e.Phase, e.Source)
			}
		}
	}
	if !slices.Equal(phases, []Phase{PhasePrepare, PhaseLock, PhaseScan, PhaseLoad, PhaseCommit}) || len(result.Phases) != 5 {
		t.Errorf("%v, %v", phases, result.Phases)
	}
	if w := c.warnings(); len(w) > 0 {
		t.Error(w)
	}
}

func TestCopyWithoutLock(t *testing.T) {
	c := &copyCase{t: t, noLock: true}
	result, err := c.run(context.Background())
	if err != nil || len(result.RunID) != 36 {
		t.Errorf("run id %q, %v", result.RunID, err)
	}
	if d := differ(c.dst.got, sortedCopy(c.entries)); d != "" {
		t.Error(d)
	}
	if _, ok := result.Phases[PhaseLock]; ok || strings.Contains(c.String(), "lease") {
		t.Error(c.String())
	}
}

func TestCopyNothing(t *testing.T) {
	c := &copyCase{t: t, entries: []Entry{}}
	if result, err := c.run(context.Background()); err != nil || result.Load.Entries != 0 {
		t.Errorf("%+v, %v", result.Load, err)
	}
}

func TestCopyRefusesOptions(t *testing.T) {
	c := &copyCase{t: t}
	src := &lockedSource{&fakeSource{log: c.add}, c}
	_, err := Copy(context.Background(), src, &fakeSink{c: c}, Options{Workers: -1})
	if !errors.Is(err, ErrConfig) || c.String() != "" {
		t.Errorf("%v after %q", err, c.String())
	}
}

func TestCopyEveryFailingCall(t *testing.T) {
	const before = "dst.Prepare src.Prepare src.Lock src.Segments src.ReadPage dst.Load lease.Check dst.Commit"
	for name, kind := range map[string]error{
		"dst.Prepare":  ErrDestination,
		"src.Prepare":  ErrSource,
		"src.Lock":     ErrLocked,
		"src.Segments": ErrConfig,
		"src.ReadPage": ErrSource,
		"dst.Load":     ErrDestination,
		"lease.Check":  ErrLocked,
		"dst.Commit":   ErrDestination,
	} {
		t.Run(name, func(t *testing.T) {
			c := &copyCase{t: t, fail: map[string]error{name: &Error{Kind: kind, Op: name, Hint: "hint of " + name}}}
			_, err := c.run(context.Background())
			if !errors.Is(err, c.fail[name]) || !errors.Is(err, kind) || Hint(err) != "hint of "+name {
				t.Errorf("got %v", err)
			}
			want := before[:strings.Index(before, name)+len(name)]
			if c.calls[0] != "dst.Prepare" || !strings.HasPrefix(c.String(), want+" ") {
				t.Errorf("got %s, want %s …", c.String(), want)
			}
			rest := strings.TrimPrefix(c.String(), want+" ")
			if rest != "dst.Close" && rest != "lease.Release(false) dst.Close" {
				t.Errorf("after %s: %s", name, rest)
			}
		})
	}
}

func TestCopyFailsTwice(t *testing.T) {
	load := &Error{Kind: ErrDestination, Op: "load", Err: errors.New("disk")}
	release := &Error{Kind: ErrSource, Op: "release", Err: errors.New("network")}
	closing := &Error{Kind: ErrDestination, Op: "close", Err: errors.New("busy"), Hint: "remove it yourself"}
	c := &copyCase{t: t, fail: map[string]error{"dst.Load": load, "lease.Release": release, "dst.Close": closing}}
	_, err := c.run(context.Background())
	for _, want := range []error{load, release, closing} {
		if !errors.Is(err, want) {
			t.Errorf("%v is hidden: %v", want, err)
		}
	}
	if Hint(err) != closing.Hint {
		t.Errorf("hint %q", Hint(err))
	}
}

func TestCopyFailsAfterSuccess(t *testing.T) {
	c := &copyCase{t: t, fail: map[string]error{"lease.Release": errors.New("network"), "dst.Close": errors.New("busy")}}
	if _, err := c.run(context.Background()); err != nil {
		t.Errorf("a complete copy returned %v", err)
	}
	w := c.warnings()
	if len(w) != 2 || !strings.Contains(w[0], "network") || !strings.Contains(w[1], "busy") {
		t.Errorf("warnings: %q", w)
	}
}

func TestCopyCancelledAfterCommit(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	c := &copyCase{t: t}
	c.during = map[string]func(){"dst.Commit": cancel}
	if _, err := c.run(ctx); err != nil {
		t.Errorf("a complete copy returned %v", err)
	}
}

func TestCopyCancelledDuringEveryCall(t *testing.T) {
	why := errors.New("interrupted by a signal")
	for _, name := range []string{"dst.Prepare", "src.Prepare", "src.Lock", "src.Segments", "src.ReadPage", "dst.Load", "lease.Check"} {
		for _, tells := range []error{nil, context.Canceled, &Error{Kind: ErrSource, Err: context.Canceled}} {
			t.Run(fmt.Sprintf("%s %v", name, tells), func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(context.Background())
				c := &copyCase{t: t, during: map[string]func(){name: func() { cancel(why) }}}
				if tells != nil {
					c.fail = map[string]error{name: tells}
				}
				if _, err := c.run(ctx); err != why {
					t.Errorf("got %v", err)
				}
			})
		}
	}
}

func TestCopyLosesItsLease(t *testing.T) {
	why := &Error{Kind: ErrLocked, Op: "renew lock", Err: errors.New("somebody else has it")}
	for _, name := range []string{"src.Lock", "src.Segments", "src.ReadPage", "dst.Load", "lease.Check"} {
		t.Run(name, func(t *testing.T) {
			c := &copyCase{t: t}
			c.during = map[string]func(){name: func() { c.lost(why) }}
			if _, err := c.run(context.Background()); err != error(why) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestCopyStartKey(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		entries := sortedCopy(randomEntries(rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0)), 30))
		start := string(entries[rapid.IntRange(0, 29).Draw(rt, "start")].Key) + rapid.SampledFrom([]string{"", "\x00"}).Draw(rt, "behind")
		var want []Entry
		for _, e := range entries {
			if string(e.Key) >= start {
				want = append(want, e)
			}
		}
		c := &copyCase{t: t, entries: entries, opts: Options{StartKey: start}}
		result, err := c.run(context.Background())
		if err != nil {
			rt.Fatal(err)
		}
		if d := differ(c.dst.got, want); d != "" {
			rt.Fatal(d)
		}
		if result.Partial != (start != "") || result.Scan.LeftOut != int64(30-len(want)) || result.Load.Entries != int64(len(want)) {
			rt.Fatalf("%+v", result)
		}
	})
}

func TestCopySinkThatLosesEntries(t *testing.T) {
	for _, skip := range []int{1, 200} {
		c := &copyCase{t: t}
		c.during = map[string]func(){"dst.Load": func() { c.dst.skip = skip }}
		result, err := c.run(context.Background())
		if !errors.Is(err, ErrDestination) || strings.Contains(c.String(), "dst.Commit") || result.Load.Entries != int64(200-skip) {
			t.Errorf("%d entries lost: %v", skip, err)
		}
	}
}

func TestCopySinkThatShortens(t *testing.T) {
	c := &copyCase{t: t}
	c.during = map[string]func(){"dst.Load": func() { c.dst.shorter = 1 }}
	if _, err := c.run(context.Background()); !errors.Is(err, ErrDestination) || strings.Contains(c.String(), "dst.Commit") {
		t.Errorf("a value lost a byte: %v", err)
	}
}

func TestCopyDuplicate(t *testing.T) {
	entries := randomEntries(rand.New(rand.NewPCG(1, 2)), 100)
	c := &copyCase{t: t, entries: append(entries, entries[7])}
	if _, err := c.run(context.Background()); !errors.Is(err, ErrDuplicateKey) || strings.Contains(c.String(), "dst.Commit") {
		t.Errorf("%v", err)
	}
}

func TestCopyWorkFilesThatStay(t *testing.T) {
	// More than five of eight buffers of 4 MiB make runs.
	value := make([]byte, 1<<20)
	var entries []Entry
	for i := range 26 {
		entries = append(entries, Entry{Key: fmt.Appendf(nil, "%02d", i), Value: value})
	}
	for _, fail := range []error{nil, errFake} {
		c := &copyCase{t: t, entries: entries, filesStay: true, fail: map[string]error{"dst.Load": fail}}
		c.during = map[string]func(){"dst.Load": func() {
			files := filesIn(t, c.dst.dir)
			if len(files) == 0 {
				t.Error("nothing was spilled")
			}
			for _, name := range files { // the files are open: only removing them fails
				path := c.dst.dir + "/" + name
				if err := errors.Join(os.Remove(path), os.MkdirAll(path+"/in the way", 0o700)); err != nil {
					t.Error(err)
				}
			}
		}}
		_, err := c.run(context.Background())
		if fail == nil {
			if w := c.warnings(); err != nil || len(w) != 1 || !strings.Contains(w[0], "not empty") {
				t.Errorf("complete: %v, warnings %q", err, w)
			}
		} else if !errors.Is(err, fail) || !errors.Is(err, syscall.ENOTEMPTY) || !errors.Is(err, ErrDestination) {
			t.Errorf("failed: %v", err)
		}
	}
}

var _ Sink = (*fakeSink)(nil)
var _ Locker = (*lockedSource)(nil)
