package copier

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A callLog holds the names of the calls to all fakes, in their order.
type callLog struct {
	mu    sync.Mutex
	calls []string
}

func (j *callLog) add(name string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.calls = append(j.calls, name)
}

func (j *callLog) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.calls, " ")
}

// A copyCase is one copy between fakes. fail holds the error of each call that
// fails, by the name it has in the log.
type copyCase struct {
	callLog
	t       *testing.T
	fail    map[string]error
	during  map[string]func() // run within a call
	entries []Entry
	there   []Entry // what is read back, if that is something else than what was loaded
	noLock  bool
	vault   bool                       // what is no Vault's is refused
	wrap    func(*lockedSource) Source // if the source is to be more
	opts    Options

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
func (c *copyCase) run(ctx context.Context) (Record, error) {
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
		once.Do(func() { err = c.call("src.Read") })
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
	switch {
	case c.noLock:
		src = c.src
	case c.wrap != nil:
		src = c.wrap(&lockedSource{c.src, c})
	}
	c.opts.Uninitialized = c.opts.Uninitialized || !c.vault
	result, err := Copy(ctx, src, c.dst, c.opts)

	if (err == nil) != result.Complete || (result.Complete || result.State == Confirmed) != c.dst.committed {
		c.t.Errorf("error %v, complete %v, committed %v", err, result.Complete, c.dst.committed)
	}
	if n := strings.Count(c.String(), "dst.Close"); n != 1 {
		c.t.Errorf("the sink was closed %d times", n)
	}
	opened := 0
	if strings.Contains(c.String(), "src.Prepare") && c.fail["src.Prepare"] == nil {
		opened = 1
	}
	if n := strings.Count(c.String(), "src.Close"); n != opened || strings.LastIndex(c.String(), "src.Close") < strings.LastIndex(c.String(), "lease.Release") {
		c.t.Errorf("the source was closed %d times, want %d: %s", n, opened, c)
	}
	want := 0
	if strings.Contains(c.String(), "src.Lock") && c.fail["src.Lock"] == nil {
		want = 1
	}
	if n := strings.Count(c.String(), "lease.Release"); n != want {
		c.t.Errorf("the lease was released %d times, want %d", n, want)
	}
	end := EndFailed
	switch {
	case result.Complete, result.State == Confirmed:
		end = EndComplete
	case result.Resumable && !errors.Is(err, ErrNotReleased): // that was tried
		end = EndUnfinished
	}
	if want == 1 && !strings.Contains(c.String(), fmt.Sprintf("lease.Release(%v)", end)) {
		c.t.Errorf("the end is %v: %s", end, c.String())
	}
	if files := filesIn(c.t, c.dst.dir); len(files) > 0 && !result.Resumable {
		c.t.Errorf("left in the work directory: %v", files)
	}
	return result, err
}

func (c *copyCase) warnings() (out []string) {
	for _, e := range c.events {
		if w, ok := e.(Warning); ok && w.Check != "initialized" { // the fakes hold no Vault
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

func (s *lockedSource) Unlock(_ context.Context, runID string, end End) error {
	return s.c.call(fmt.Sprintf("src.Unlock(%v)", end))
}

func (s *lockedSource) Lock(_ context.Context, runID string, held bool, lost func(error)) (Lease, error) {
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

func (l *fakeLease) Release(ctx context.Context, end End) error {
	if err := ctx.Err(); err != nil {
		l.c.t.Errorf("released with a context that has ended: %v", err)
	}
	if _, ok := ctx.Deadline(); !ok {
		l.c.t.Error("a release without a deadline")
	}
	l.c.add(fmt.Sprintf("lease.Release(%v)", end))
	return l.c.fail["lease.Release"]
}

type fakeSink struct {
	c         *copyCase
	dir       string
	found     State
	got       []Entry
	skip      int   // entries that it leaves out
	shorter   int64 // bytes that its values lose
	committed bool
	kept      bool
}

func (s *fakeSink) Identity() Identity { return Identity{"path": s.dir, "node_id": "n1"} }

func (s *fakeSink) Open(context.Context) (State, error) {
	return s.found, s.c.call("dst.Open")
}

func (s *fakeSink) WorkDir() string { return s.dir }

func (s *fakeSink) Stage(_ context.Context, runID string) (Stage, error) {
	if runID == "" || s.c.opts.RunID != "" && runID != s.c.opts.RunID {
		s.c.t.Errorf("run id %q", runID)
	}
	return &fakeStage{s}, s.c.call("dst.Stage")
}

func (s *fakeSink) Close() error { return s.c.call("dst.Close") }

// A fakeStage is its sink's.
type fakeStage struct{ *fakeSink }

func (s *fakeStage) Load(ctx context.Context, in Stream) (LoadStats, error) {
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

func (s *fakeStage) Reader(context.Context) (Source, error) {
	if s.c.there != nil {
		return entrySource(s.c.there), s.c.call("dst.Reader")
	}
	return entrySource(s.got), s.c.call("dst.Reader")
}

func (s *fakeStage) Prepare(context.Context, Record) error { return s.c.call("dst.Prepare") }

func (s *fakeStage) Commit(context.Context) error {
	if err := s.c.call("dst.Commit"); err != nil {
		return err
	}
	s.committed = true
	return nil
}

func (s *fakeStage) Amend(r Record) error {
	return s.c.call("dst.Amend(" + string(r.State) + ")")
}

func (s *fakeStage) Rollback() error {
	if err := s.c.call("dst.Rollback"); err != nil {
		return err
	}
	s.committed = false
	return nil
}

func (s *fakeStage) Close(keep bool) error {
	s.kept = keep
	return s.c.call("stage.Close")
}

func TestCopy(t *testing.T) {
	c := &copyCase{t: t, opts: Options{RunID: "run 1", Workers: 2}}
	result, err := c.run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if d := differ(c.dst.got, sortedCopy(c.entries)); d != "" {
		t.Error(d)
	}
	const want = "dst.Open src.Prepare src.Lock dst.Stage src.Segments src.Read dst.Load dst.Reader dst.Prepare lease.Check dst.Commit lease.Check dst.Amend(confirmed) lease.Release(2) dst.Amend(released) src.Close stage.Close dst.Close"
	if c.String() != want {
		t.Errorf("got  %s\nwant %s", c.String(), want)
	}
	if result.RunID != "run 1" || result.Start.IsZero() || result.Process().Took() <= 0 || result.Source.ID != "fake:1" ||
		result.Scan.Entries != 200 || result.Scan.Workers < 1 || result.Scan.Workers > 2 || result.Load.Entries != 200 {
		t.Errorf("%+v", result)
	}
	var phases []Phase
	for _, e := range c.events {
		if e, ok := e.(PhaseStarted); ok {
			phases = append(phases, e.Phase)
			if _, ok := result.Process().Phases[e.Phase]; !ok {
				t.Errorf("phase %s took no time", e.Phase)
			}
			if e.Phase != PhasePrepare && e.Source.ID != "fake:1" {
				t.Errorf("phase %s: source %+v", e.Phase, e.Source)
			}
		}
	}
	if !slices.Equal(phases, []Phase{PhasePrepare, PhaseLock, PhaseScan, PhaseLoad, PhaseCheck, PhaseCommit, PhaseCleanUp}) || len(result.Process().Phases) != 7 {
		t.Errorf("%v, %v", phases, result.Process().Phases)
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
	if _, ok := result.Process().Phases[PhaseLock]; ok || strings.Contains(c.String(), "lease.") {
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
	const before = "dst.Open src.Prepare src.Lock dst.Stage src.Segments src.Read dst.Load dst.Reader dst.Prepare lease.Check dst.Commit"
	for name, kind := range map[string]error{
		"dst.Open":     ErrDestination,
		"src.Prepare":  ErrSource,
		"src.Lock":     ErrLocked,
		"src.Segments": ErrConfig,
		"src.Read":     ErrSource,
		"dst.Load":     ErrDestination,
		"dst.Prepare":  ErrDestination,
		"lease.Check":  ErrLocked,
		"dst.Commit":   ErrDestination,
	} {
		t.Run(name, func(t *testing.T) {
			c := &copyCase{t: t, fail: map[string]error{name: &Error{Kind: kind, Op: name, Code: Code("of " + name)}}}
			result, err := c.run(context.Background())
			if !errors.Is(err, c.fail[name]) || !errors.Is(err, kind) || coded(err) != "of "+name+" map[]" {
				t.Errorf("got %v", err)
			}
			want := before[:strings.Index(before, name)+len(name)]
			if c.calls[0] != "dst.Open" || !strings.HasPrefix(c.String(), want+" ") {
				t.Errorf("got %s, want %s …", c.String(), want)
			}
			rest := strings.TrimPrefix(c.String(), want+" ")
			if name == "lease.Check" {
				rest = strings.TrimPrefix(rest, "dst.Rollback ")
			}
			// Another worker may have read a page before: then that is kept.
			kept := name == "src.Read" && result.Resumable && rest == "lease.Release(1) src.Close stage.Close dst.Close"
			last := "lease.Release(0) src.Close stage.Close dst.Close"
			switch name {
			case "dst.Open", "src.Prepare":
				last = "dst.Close"
			case "src.Lock":
				last = "src.Close dst.Close"
			}
			if rest != last && !kept {
				t.Errorf("after %s: %s", name, rest)
			}
		})
	}
}

func TestCopyFailsTwice(t *testing.T) {
	load := &Error{Kind: ErrDestination, Op: "load", Err: errors.New("disk")}
	release := &Error{Kind: ErrSource, Op: "release", Err: errors.New("network")}
	closing := &Error{Kind: ErrDestination, Op: "close", Err: errors.New("busy"), Code: "busy"}
	c := &copyCase{t: t, fail: map[string]error{"dst.Load": load, "lease.Release": release, "dst.Close": closing}}
	_, err := c.run(context.Background())
	for _, want := range []error{load, release, closing} {
		if !errors.Is(err, want) {
			t.Errorf("%v is hidden: %v", want, err)
		}
	}
	if coded(err) != "busy map[]" {
		t.Errorf("code %q", coded(err))
	}
}

func TestCopyFailsAfterSuccess(t *testing.T) {
	c := &copyCase{t: t, fail: map[string]error{"lease.Release": errors.New("network"), "dst.Close": errors.New("busy")}}
	result, err := c.run(context.Background())
	if !errors.Is(err, ErrNotReleased) || !strings.Contains(err.Error(), "network") || !strings.Contains(err.Error(), "busy") {
		t.Errorf("the source does not answer at the end: %v", err)
	}
	if result.Complete || result.State != Confirmed || !c.dst.kept || strings.Contains(c.String(), "Rollback") {
		t.Errorf("%+v after %s", result, c.String())
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
	for _, name := range []string{"dst.Open", "src.Prepare", "src.Lock", "src.Segments", "src.Read", "dst.Load", "lease.Check"} {
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
	for _, name := range []string{"src.Lock", "src.Segments", "src.Read", "dst.Load", "lease.Check"} {
		t.Run(name, func(t *testing.T) {
			c := &copyCase{t: t}
			c.during = map[string]func(){name: func() { c.lost(why) }}
			if _, err := c.run(context.Background()); err != error(why) {
				t.Errorf("got %v", err)
			}
		})
	}
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

var _ Sink = (*fakeSink)(nil)
var _ Locker = (*lockedSource)(nil)

// TestCopyReadsBack: what is read back must have the digests of what was read,
// by prefix, or nothing is put in place.
func TestCopyReadsBack(t *testing.T) {
	e := func(key, value string) Entry { return Entry{Key: []byte(key), Value: []byte(value)} }
	all := []Entry{e("a/1", "x"), e("a/2", ""), e("c", "y")}
	for name, there := range map[string][]Entry{
		"":         all,
		"lost":     {e("a/1", "x"), e("c", "y")},
		"altered":  {e("a/1", "z"), e("a/2", ""), e("c", "y")},
		"a prefix": {e("c", "y")},
		"another":  {e("a/1", "x"), e("a/2", ""), e("c", "y"), e("z/1", "")},
		"moved":    {e("b/1", "x"), e("a/2", ""), e("c", "y")},
		"twice":    {e("a/1", "x"), e("a/2", ""), e("c", "y"), e("c", "y")},
	} {
		t.Run(name, func(t *testing.T) {
			c := &copyCase{t: t, entries: all, there: there}
			result, err := c.run(t.Context())
			if name == "" {
				if err != nil || result.Proof == nil || result.Total.Entries != 3 || len(result.Prefixes) != 2 || result.Proof.Contents.Largest[0].Key != "a/1" {
					t.Errorf("%v, %+v", err, result)
				}
				return
			}
			if !errors.Is(err, ErrReadBack) || !errors.Is(err, ErrDestination) || c.dst.committed || result.Proof != nil {
				t.Errorf("%v, committed %v", err, c.dst.committed)
			}
		})
	}
	c := &copyCase{t: t, fail: map[string]error{"dst.Reader": errFake}}
	if _, err := c.run(t.Context()); !errors.Is(err, errFake) || c.dst.committed {
		t.Errorf("a read-back that fails: %v", err)
	}
	c = &copyCase{t: t, there: []Entry{}}
	c.opts.NoProof = true
	if result, err := c.run(t.Context()); err != nil || result.Proof != nil || len(result.Prefixes) > 0 {
		t.Errorf("without a proof: %v, %+v", err, result)
	}
}

// TestCopyCountsItems: a source that reports many more or fewer items than it
// yields may have hidden some.
func TestCopyCountsItems(t *testing.T) {
	for hides, want := range map[int64]int{0: 0, 10: 0, -10: 0, 30: 1, -30: 1, -1 << 40: 1} {
		c := &copyCase{t: t}
		c.during = map[string]func(){"src.Prepare": func() { c.src.hides = hides }}
		if _, err := c.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		var told []Event
		for _, e := range c.events {
			if _, ok := e.(CountDiffers); ok {
				told = append(told, e)
			}
		}
		if len(told) != want {
			t.Errorf("%d hidden: %v", hides, told)
		}
	}
}

// TestCopyCompleteWithoutRecord: of a complete copy whose record is gone, what
// is there is told, and that it is no proof.
func TestCopyCompleteWithoutRecord(t *testing.T) {
	var d Digester
	there := randomEntries(rand.New(rand.NewPCG(1, 2)), 7)
	for _, e := range there {
		d.Add(e)
	}
	digests := d.Take()
	for name, unsound := range map[string]error{"sound": nil, "unsound": errFake, "locked": nil} {
		t.Run(name, func(t *testing.T) {
			c := &copyCase{t: t, there: there, fail: map[string]error{"dst.Reader": unsound}}
			if name == "locked" {
				c.fail["src.Lock"] = errFake
			}
			c.src = newFakeSource(rand.New(rand.NewPCG(1, 2)), nil, 1, 1)
			c.dst = &fakeSink{c: c, dir: t.TempDir(), found: State{Record: &Record{RunID: "run 1", State: Unconfirmed}}}
			var finished []Record
			result, err := Copy(t.Context(), &lockedSource{c.src, c}, c.dst, Options{Uninitialized: true, Resume: true,
				Record: func(_ context.Context, r Record) error {
					finished = append(finished, r)
					return nil
				},
				Events: func(e Event) { c.events = append(c.events, e) }})
			_, cleaned := result.Process().Phases[PhaseCleanUp]
			if cleaned != (name == "sound") {
				t.Errorf("phases %v", result.Process().Phases)
			}
			if name == "locked" { // what is left to do has its record
				if !errors.Is(err, errFake) || result.Complete || result.State != Unconfirmed || !c.dst.kept {
					t.Errorf("%v, %+v after %s", err, result, c.String())
				}
				return
			}
			if unsound != nil {
				if !errors.Is(err, errFake) || result.Complete || len(finished) > 0 || !strings.Contains(c.String(), "lease.Release(1)") {
					t.Errorf("%v, %+v after %s", err, result, c.String())
				}
				return
			}
			if err != nil || !result.Complete || result.Proof != nil || result.RunID != "run 1" || result.Load.Entries != 7 || result.Load.Bytes != digests.Total().Bytes ||
				len(finished) != 3 || finished[0].State != Confirmed || finished[1].State != Released || !finished[1].Prefixes.Equal(digests) || !strings.Contains(c.String(), "src.Lock dst.Reader lease.Check dst.Amend(confirmed) lease.Release(2) dst.Amend(released)") {
				t.Errorf("%v, %+v after %s", err, result, c.String())
			}
			if w := c.warnings(); len(w) != 1 || !strings.Contains(w[0], "not for being all that was read") {
				t.Errorf("warnings %q", w)
			}
		})
	}
}

// A snapshotSource makes backups.
type snapshotSource struct {
	*lockedSource
	c *copyCase
}

func (s snapshotSource) Snapshot(_ context.Context, name string) (string, error) {
	return "ref of " + name, s.c.call("snapshot")
}

// A backup comes behind the checks and the lock, and before the first read.
func TestBackup(t *testing.T) {
	backedUp := func(fail map[string]error) *copyCase {
		c := &copyCase{t: t, fail: fail}
		c.opts.Backup = "x"
		c.wrap = func(s *lockedSource) Source { return snapshotSource{s, c} }
		return c
	}
	c := backedUp(nil)
	result, err := c.run(t.Context())
	if err != nil || result.Backup != "ref of x" {
		t.Errorf("backup %q, %v", result.Backup, err)
	}
	if want := "dst.Open src.Prepare src.Lock dst.Stage snapshot src.Segments"; !strings.HasPrefix(c.String(), want) {
		t.Errorf("got %s, want %s …", c.String(), want)
	}
	for _, fails := range []string{"dst.Open", "src.Prepare", "src.Lock"} {
		c := backedUp(map[string]error{fails: errors.New("no")})
		if _, err := c.run(t.Context()); err == nil || strings.Contains(c.String(), "snapshot") {
			t.Errorf("%s: %v after %s", fails, err, c.String())
		}
	}
	denied := errors.New("denied")
	c = backedUp(map[string]error{"snapshot": denied})
	if _, err = c.run(t.Context()); !errors.Is(err, denied) || !strings.HasSuffix(c.String(), " src.Lock dst.Stage snapshot lease.Release(0) src.Close stage.Close dst.Close") {
		t.Errorf("%v after %s", err, c.String())
	}
	c = &copyCase{t: t}
	c.opts.Backup = "x"
	if _, err = c.run(t.Context()); !errors.Is(err, ErrConfig) || strings.Contains(c.String(), "src.Lock") {
		t.Errorf("a source that makes none: %v after %s", err, c.String())
	}
}

// A source that can't be closed has been copied none the less.
func TestCopyWarnsOfCloseOfSource(t *testing.T) {
	c := &copyCase{t: t, wrap: func(s *lockedSource) Source { return &vaultSource{s, nil} }}
	c.during = map[string]func(){"src.Prepare": func() { c.src.closeErr = errFake }}
	if res, err := c.run(t.Context()); err != nil || !res.Complete {
		t.Fatal(err)
	}
	if w := c.warnings(); len(w) != 1 || !strings.Contains(w[0], "close the source: ") {
		t.Errorf("warnings %q", w)
	}
}

func TestCheckCount(t *testing.T) {
	differs := func(reported, read int64) []Event { return []Event{CountDiffers{Reported: reported, Read: read}} }
	for _, c := range []struct {
		reported, read, locks int64
		want                  []Event
	}{
		{0, 0, 0, nil}, {100, 100, 0, nil}, {100, 105, 0, nil}, {100, 94, 0, differs(100, 94)}, {100, 0, 0, differs(100, 0)},
		{0, 1, 0, differs(0, 1)}, {0, 1 << 40, 0, differs(0, 1<<40)},
		{3, 3, 2, nil}, {4, 3, 2, nil}, {5, 3, 2, nil}, {0, 0, 2, nil}, // locks, the run's own among them, make no difference
		{2, 3, 2, differs(2, 3)}, {6, 3, 2, differs(6, 5)}, {0, 3, 2, differs(0, 3)},
	} {
		var got []Event
		stats := ScanStats{Entries: c.read, Locks: make([]string, c.locks)}
		tell := func(e Event) { got = append(got, e) }
		if err := stats.CheckCount(Info{Items: c.reported}, tell); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%d reported, %d read and %d locks: %v, %v", c.reported, c.read, c.locks, got, err)
		}
		got = nil
		err := stats.CheckCount(Info{Items: c.reported, Exact: true}, tell)
		if exact := c.read+c.locks == c.reported; (err == nil) != exact || err != nil && !errors.Is(err, ErrSource) || got != nil {
			t.Errorf("exactly %d reported, %d read and %d locks: %v, %v", c.reported, c.read, c.locks, got, err)
		}
	}
}

// A source that knows what it holds, and yields something else, is not copied.
func TestCopyOfAnExactCount(t *testing.T) {
	for _, hides := range []int64{0, 1} {
		c := &copyCase{t: t}
		c.during = map[string]func(){"src.Prepare": func() { c.src.hides, c.src.exact = hides, true }}
		if res, err := c.run(t.Context()); res.Complete != (hides == 0) || hides > 0 && !errors.Is(err, ErrSource) {
			t.Errorf("%d hidden: complete %v, %v", hides, res.Complete, err)
		}
	}
}

// A recheckedSource is looked at again.
type recheckedSource struct {
	*lockedSource
}

func (s recheckedSource) Recheck(context.Context) error { return s.c.call("src.Recheck") }

// TestCopyOfReplacedSource: another source may hold the same locks. It is looked at
// behind them, since none that is gone comes back.
func TestCopyOfReplacedSource(t *testing.T) {
	c := &copyCase{t: t, entries: []Entry{}, fail: map[string]error{}}
	c.during = map[string]func(){"dst.Commit": func() { c.fail["src.Recheck"] = ErrMoved }}
	c.src = newFakeSource(rand.New(rand.NewPCG(1, 2)), nil, 1, 1)
	c.dst = &fakeSink{c: c, dir: t.TempDir()}
	result, err := Copy(t.Context(), recheckedSource{&lockedSource{c.src, c}}, c.dst, Options{Uninitialized: true, Memory: MinMemory})
	if !errors.Is(err, ErrUnconfirmed) || !errors.Is(err, ErrMoved) || result.Complete {
		t.Errorf("the error is %v", err)
	}
	if _, after, _ := strings.Cut(c.String(), "dst.Commit "); !strings.HasPrefix(after, "lease.Check src.Recheck dst.Rollback") {
		t.Errorf("after the commit: %s", after)
	}
}

// TestCopyUnconfirmed: what the source does not confirm, or finds lost as it is given
// back, is taken back, and the source stays as it is; what can't be taken back is said
// to be there.
func TestCopyUnconfirmed(t *testing.T) {
	lost := &Error{Kind: ErrLocked, Op: "hold", Err: ErrMoved}
	for name, c := range map[string]struct {
		why        error
		at, fails  string // what fails from which call on
		inUse      bool
		resumable  bool
		afterwards string
	}{
		"lost":           {why: lost, at: "dst.Commit", fails: "lease.Check", afterwards: "lease.Check dst.Rollback lease.Release(1) stage.Close dst.Close"},
		"no answer":      {why: errFake, at: "dst.Commit", fails: "lease.Check", resumable: true, afterwards: "lease.Check dst.Rollback lease.Release(1) stage.Close dst.Close"},
		"lost, in use":   {why: lost, at: "dst.Commit", fails: "lease.Check", inUse: true, afterwards: "lease.Check dst.Rollback lease.Release(1) stage.Close dst.Close"},
		"at the release": {why: lost, at: "dst.Commit", fails: "lease.Release", afterwards: "lease.Check dst.Amend(confirmed) lease.Release(2) dst.Amend(unconfirmed) dst.Rollback stage.Close dst.Close"},
	} {
		t.Run(name, func(t *testing.T) {
			k := &copyCase{t: t, entries: []Entry{}, fail: map[string]error{}}
			if c.inUse {
				k.fail["dst.Rollback"] = ErrInUse
			}
			k.during = map[string]func(){c.at: func() { k.fail[c.fails] = c.why }}
			k.src = newFakeSource(rand.New(rand.NewPCG(1, 2)), nil, 1, 1)
			k.dst = &fakeSink{c: k, dir: t.TempDir()}
			drafts, finished := 0, 0
			result, err := Copy(t.Context(), &lockedSource{k.src, k}, k.dst, Options{Uninitialized: true, Memory: MinMemory,
				Record: func(_ context.Context, r Record) error {
					if r.State == Unconfirmed {
						drafts++
					} else {
						finished++
					}
					return nil
				}})
			if !errors.Is(err, ErrUnconfirmed) || !errors.Is(err, c.why) || errors.Is(err, ErrInUse) != c.inUse {
				t.Errorf("the error is %v", err)
			}
			if _, after, _ := strings.Cut(k.String(), "dst.Commit "); after != c.afterwards {
				t.Errorf("after the commit: %s", after)
			}
			if result.Complete || (result.State == Unconfirmed) != c.inUse || result.Resumable != c.resumable || !k.dst.kept {
				t.Errorf("complete %v, %q, resumable %v, kept %v", result.Complete, result.State, result.Resumable, k.dst.kept)
			}
			if late := c.fails == "lease.Release"; finished > 0 != late || drafts != 1+finished {
				t.Errorf("%d drafts, finished %d times", drafts, finished)
			}
		})
	}
}
