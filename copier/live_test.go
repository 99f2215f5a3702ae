package copier_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/copiertest"
	"github.com/dyn2raft/dyn2raft/copier/durable"
)

var errEnded = errors.New("killed")

// A life is that of a process: at one of its steps it ends, and nothing it does then has
// any effect.
type life struct {
	mu     sync.Mutex
	steps  []string
	killAt int    // the number of a step; none where it is negative
	killOn string // or the first of that name
	dead   bool
}

func (l *life) step(name string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.dead {
		l.dead = len(l.steps) == l.killAt || name == l.killOn
		l.steps = append(l.steps, name)
	}
	if l.dead {
		return errEnded
	}
	return nil
}

func (l *life) isDead() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dead
}

func (l *life) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.steps[len(l.steps)-1]
}

// A mortalTable is a table as a process has it.
type mortalTable struct {
	*copiertest.Table
	*life
}

func (t mortalTable) Read(ctx context.Context, span copier.Span, b *copier.Batch) (copier.Page, error) {
	if err := t.step("Read"); err != nil {
		return copier.Page{}, err
	}
	return t.Table.Read(ctx, span, b)
}

func (t mortalTable) Follow(ctx context.Context, runID string, from copier.Position) (copier.Following, error) {
	if err := t.step("Follow"); err != nil {
		return nil, err
	}
	f, err := t.Table.Follow(ctx, runID, from)
	return mortalFollowing{f, t.life}, err
}

func (t mortalTable) Unfollow(ctx context.Context, runID string, last copier.Position) error {
	if err := t.step("Unfollow"); err != nil {
		return err
	}
	return t.Table.Unfollow(ctx, runID, last)
}

func (t mortalTable) Unlock(ctx context.Context, runID string, end copier.End) error {
	if err := t.step("Unlock"); err != nil {
		return err
	}
	return t.Table.Unlock(ctx, runID, end)
}

func (t mortalTable) Lock(ctx context.Context, runID string, held bool, lost func(error)) (copier.Lease, error) {
	if err := t.step("Lock"); err != nil {
		return nil, err
	}
	l, err := t.Table.Lock(ctx, runID, held, lost)
	return mortalLease{l, t.life}, err
}

func (t mortalTable) Take(ctx context.Context, runID string, waiting func(copier.Turn), lost func(error)) (copier.Lease, error) {
	if err := t.step("Take"); err != nil {
		return nil, err
	}
	l, err := t.Table.Take(ctx, runID, waiting, lost)
	return mortalLease{l, t.life}, err
}

type mortalLease struct {
	copier.Lease
	*life
}

func (l mortalLease) Check(ctx context.Context) error {
	if err := l.step("Check"); err != nil {
		return err
	}
	return l.Lease.Check(ctx)
}

func (l mortalLease) Release(ctx context.Context, end copier.End) error {
	if err := l.step("Release"); err != nil {
		return err
	}
	return l.Lease.Release(ctx, end)
}

type mortalFollowing struct {
	copier.Following
	*life
}

func (f mortalFollowing) Next(ctx context.Context) (copier.Hints, error) {
	if err := f.step("Next"); err != nil {
		return copier.Hints{}, err
	}
	return f.Following.Next(ctx)
}

func (f mortalFollowing) Poll(ctx context.Context) (copier.Hints, error) {
	if err := f.step("Poll"); err != nil {
		return copier.Hints{}, err
	}
	return f.Following.Poll(ctx)
}

func (f mortalFollowing) Reread(ctx context.Context, keys [][]byte, b *copier.Batch) error {
	if err := f.step("Reread"); err != nil {
		return err
	}
	return f.Following.Reread(ctx, keys, b)
}

func (f mortalFollowing) List(ctx context.Context, folder, after []byte, b *copier.Batch) ([]byte, error) {
	if err := f.step("List"); err != nil {
		return nil, err
	}
	return f.Following.List(ctx, folder, after, b)
}

func (f mortalFollowing) Drain(ctx context.Context) error {
	if err := f.step("Drain"); err != nil {
		return err
	}
	return f.Following.Drain(ctx)
}

// A mortalSink is a sink as a process has it.
type mortalSink struct {
	*copiertest.Sink
	*life
	broken func(*mortalStage)
}

func (s mortalSink) Stage(ctx context.Context, runID string) (copier.Stage, error) {
	if err := s.step("Stage"); err != nil {
		return nil, err
	}
	stage, err := s.Sink.Stage(ctx, runID)
	out := &mortalStage{applier: stage.(applier), life: s.life} //nolint:errcheck // it is one
	if s.broken != nil {
		s.broken(out)
	}
	return out, err
}

type applier interface {
	copier.Applier
	Load(ctx context.Context, entries copier.Stream) (copier.LoadStats, error)
}

type mortalStage struct {
	applier
	*life
	prepared func()                  // where set, is called behind Prepare
	misses   func(copier.Entry) bool // where set, says what Delta leaves out
	unpin    func() bool             // where set, says which Apply lets go of the pin
	pinned   bool
}

func (s *mortalStage) Pinned() bool { return s.applier.Pinned() && s.pinned }

func (s *mortalStage) Load(ctx context.Context, in copier.Stream) (copier.LoadStats, error) {
	if err := s.step("Load"); err != nil {
		return copier.LoadStats{}, err
	}
	return s.applier.Load(ctx, in)
}

func (s *mortalStage) Apply(ctx context.Context, changes []copier.Change, update func([]copier.Entry) ([]byte, error)) error {
	if err := s.step("Apply"); err != nil {
		return err
	}
	s.pinned = s.pinned && (s.unpin == nil || !s.unpin())
	return s.applier.Apply(ctx, changes, update)
}

func (s *mortalStage) Pin(ctx context.Context) error {
	if err := s.step("Pin"); err != nil {
		return err
	}
	s.pinned = true
	return s.applier.Pin(ctx)
}

func (s *mortalStage) Delta(ctx context.Context, gone, there func(copier.Entry) error) error {
	if err := s.step("Delta"); err != nil {
		return err
	}
	if s.misses == nil {
		return s.applier.Delta(ctx, gone, there)
	}
	return s.applier.Delta(ctx, gone, func(e copier.Entry) error {
		if s.misses(e) {
			return nil
		}
		return there(e)
	})
}

func (s *mortalStage) Finish(ctx context.Context) error {
	if err := s.step("Finish"); err != nil {
		return err
	}
	return s.applier.Finish(ctx)
}

func (s *mortalStage) Prepare(ctx context.Context, r copier.Record) error {
	if err := s.step("Prepare"); err != nil {
		return err
	}
	err := s.applier.Prepare(ctx, r)
	if s.prepared != nil {
		s.prepared()
	}
	return err
}

func (s *mortalStage) Commit(ctx context.Context) error {
	if err := s.step("Commit"); err != nil {
		return err
	}
	return s.applier.Commit(ctx)
}

func (s *mortalStage) Amend(r copier.Record) error {
	if err := s.step("Amend"); err != nil {
		return err
	}
	return s.applier.Amend(r)
}

func (s *mortalStage) Rollback() error {
	if err := s.step("Rollback"); err != nil {
		return err
	}
	return s.applier.Rollback()
}

func (s *mortalStage) Close(keep bool) error {
	if err := s.step("Close"); err != nil {
		return err
	}
	return s.applier.Close(keep)
}

// A world is a table that Vaults serve, and a place to copy it to.
type world struct {
	dir   string // of the work files
	t     *testing.T
	rnd   *rand.Rand
	table *copiertest.Table
	store *copiertest.Store

	late  atomic.Int64 // how long records are on their way at most
	mu    sync.Mutex
	acked map[string][]byte // by the writers; nil is deleted
	stop  chan struct{}
	done  sync.WaitGroup
}

// newWorld returns a world with so many entries, to which so many clients write all the
// time.
func newWorld(t *testing.T, seed uint64, entries, clients int) *world {
	dir := t.TempDir()
	w := &world{t: t, rnd: rand.New(rand.NewPCG(seed, 3)), dir: dir, store: copiertest.NewStore(dir), acked: map[string][]byte{}, stop: make(chan struct{})}
	var all []copier.Entry
	for i := range entries {
		all = append(all, copier.Entry{Key: fmt.Appendf(nil, "logical/%d/%04d", i%clients, i), Value: fmt.Appendf(nil, "base %d", i)})
	}
	late := rand.New(rand.NewPCG(seed, 4))
	w.setLate(200 * time.Millisecond)
	w.table = copiertest.NewTable(all...)
	w.table.PageEntries = 20
	w.table.Late = func() time.Duration { return time.Duration(late.Int64N(w.late.Load())) } // under the table's lock
	w.table.Before = func(context.Context) error { time.Sleep(20 * time.Millisecond); return nil }
	if err := w.table.Serve("vault-1"); err != nil {
		t.Fatal(err)
	}
	for i := range clients {
		rnd := rand.New(rand.NewPCG(seed, uint64(10+i)))
		w.done.Go(func() { w.client(i, rnd, entries/clients+20) })
	}
	t.Cleanup(w.end)
	return w
}

func (w *world) setLate(most time.Duration) { w.late.Store(int64(most)) }

// client writes to keys that nobody else writes to.
func (w *world) client(i int, rnd *rand.Rand, keys int) {
	for n := 0; ; n++ {
		select {
		case <-w.stop:
			return
		case <-time.After(time.Duration(rnd.IntN(int(20 * time.Millisecond)))):
		}
		key := fmt.Appendf(nil, "logical/%d/%04d", i, rnd.IntN(keys)*4+i)
		var value []byte
		var err error
		if rnd.IntN(3) == 0 {
			err = w.table.Delete(key)
		} else {
			value = fmt.Appendf(nil, "write %d of %d", n, i)
			err = w.table.Put(copier.Entry{Key: key, Value: value})
		}
		if err == nil {
			w.mu.Lock()
			w.acked[string(key)] = value
			w.mu.Unlock()
		}
	}
}

func (w *world) end() {
	select {
	case <-w.stop:
	default:
		close(w.stop)
	}
	w.done.Wait()
}

// A run is a process that copies, and what it has told.
type run struct {
	*life
	ctx                         context.Context // of its caller; nil is the test's
	rehearsed, givenBack, ready int
	late                        bool // the feed is slow until the table is given back
	res                         copier.Record
	buckets                     *copier.Buckets
	wrap                        func(mortalTable) copier.Source
	broken                      func(*mortalStage)
}

// copy runs a process. Its operator arms it once it is ready, and then has the Vault step
// down; one that is given back its table serves again.
func (w *world) copy(r *run, arms []copier.Arm, opts copier.Options) error {
	var mu sync.Mutex
	arm := copier.NotArmed
	left := slices.Clone(arms)
	serve := func() { _ = w.table.Serve("vault-1") } // where nobody holds it
	live := &copier.Live{DrainTimeout: 5 * time.Second, Beyond: time.Second,
		Armed:   func() copier.Arm { mu.Lock(); defer mu.Unlock(); return arm },
		Buckets: func(_ context.Context, _ copier.Record, b *copier.Buckets) error { r.buckets = b; return nil }}
	if opts.Live == nil {
		opts.Live = live
	}
	disarm := func() {
		mu.Lock()
		defer mu.Unlock()
		arm = copier.NotArmed
		serve()
	}
	stopped := make(chan struct{})
	var operator sync.WaitGroup
	operator.Go(func() { // has it go from one arm to the next
		for {
			select {
			case <-stopped:
				return
			case <-time.After(300 * time.Millisecond):
			}
			mu.Lock()
			if arm == copier.NotArmed && len(left) > 0 && r.ready > 0 {
				arm, left = left[0], left[1:]
			}
			down := arm != copier.NotArmed
			mu.Unlock()
			if down {
				w.table.StepDown()
			}
		}
	})
	events := opts.Events
	opts.Events = func(e copier.Event) {
		if events != nil {
			events(e)
		}
		switch e.(type) {
		case copier.ReadyToCutOver:
			mu.Lock()
			r.ready++
			mu.Unlock()
		case copier.Rehearsed:
			r.rehearsed++
			disarm()
		case copier.GivenBack:
			r.givenBack++
			if r.late {
				w.setLate(200 * time.Millisecond)
			}
			disarm()
		}
	}
	opts.Memory, opts.Workers, opts.Uninitialized = copier.MinMemory, 2, true
	if opts.RunID == "" {
		opts.RunID = "run-1"
	}
	opts.Disk = &durable.Disk{Before: func(op durable.Op) error { return r.step(op.String()) }}
	if opts.CheckpointInterval == 0 {
		opts.CheckpointInterval = 50 * time.Millisecond
	}
	var src copier.Source = mortalTable{Table: w.table, life: r.life}
	if r.wrap != nil {
		src = r.wrap(mortalTable{Table: w.table, life: r.life})
	}
	var err error
	ctx := r.ctx
	if ctx == nil {
		ctx = w.t.Context()
	}
	r.res, err = copier.Copy(ctx, src, mortalSink{w.store.Open(), r.life, r.broken}, opts)
	close(stopped)
	operator.Wait()
	return err
}

// same fails the test unless what is in place is the table, and has all that was
// acknowledged.
func (w *world) same() {
	w.t.Helper()
	w.end()
	got, there, err := w.store.Read()
	if err != nil || !there {
		w.t.Fatalf("in place: %v, %v", there, err)
	}
	want := w.table.Entries()
	if !slices.EqualFunc(got, want, func(a, b copier.Entry) bool {
		return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value)
	}) {
		w.t.Errorf("%d entries are in place, and are not the %d of the table", len(got), len(want))
	}
	have := map[string][]byte{}
	for _, e := range got {
		have[string(e.Key)] = e.Value
	}
	for _, key := range slices.Sorted(maps.Keys(w.acked)) {
		value, there := have[key]
		if want := w.acked[key]; there != (want != nil) || !bytes.Equal(value, want) {
			w.t.Errorf("%q is %q in place, there %v, and %q was acknowledged", key, value, there, want)
			return
		}
	}
	if len(w.acked) == 0 {
		w.t.Error("nothing was written")
	}
	if by := w.table.Followed(); by != "" {
		w.t.Errorf("it is still followed by %q", by)
	}
	if h := w.table.Holder(); h != "" {
		w.t.Errorf("it is still held by %q", h)
	}
}

// A table that is written to all the time is copied whole, with a rehearsal before.
func TestLive(t *testing.T) {
	for seed := range uint64(5) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, seed, 400, 4)
			r := &run{life: &life{killAt: -1}}
			if err := w.copy(r, []copier.Arm{copier.Rehearse, copier.Armed}, copier.Options{}); err != nil {
				t.Fatal(err)
			}
			w.same()
			l := r.res.Live
			if !r.res.Complete || r.rehearsed != 1 || l == nil || l.Rehearsals != 1 || l.Outage <= 0 || l.Drain <= 0 || l.Applied == 0 || l.Noted == 0 {
				t.Errorf("complete %v, rehearsed %d, %+v", r.res.Complete, r.rehearsed, l)
			}
			if r.buckets == nil || r.buckets.Total() != r.res.Total || r.res.Total.Entries != int64(len(w.table.Entries())) {
				t.Errorf("the buckets are not of the result: %+v", r.res.Total)
			}
		})
	}
}

// What the feed does not deliver of a folder is found once the source is held, also by
// a process behind one that was killed there.
func TestLiveUnsure(t *testing.T) {
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, seed, 400, 4)
			hide := func(e copier.Event) {
				if _, ok := e.(copier.ReadyToCutOver); ok {
					w.table.Hide("logical/1/")
					time.Sleep(time.Second) // much is written
				}
			}
			r := &run{life: &life{killAt: -1, killOn: "List"}}
			if err := w.copy(r, []copier.Arm{copier.Armed}, copier.Options{Events: hide}); !r.isDead() {
				t.Fatalf("not killed in List: %v", err)
			}
			_ = w.table.Serve("vault-1")
			r = &run{life: &life{killAt: -1}}
			if err := w.copy(r, []copier.Arm{copier.Rehearse, copier.Armed}, copier.Options{Resume: true}); err != nil {
				t.Fatal(err)
			}
			w.same()
		})
	}
}

var liveSeeds = flag.Int("live-seeds", 40, "how many seeds TestLiveKilled tries")

// TestLiveKilled kills live copies at a step, resumes them, kills them again, and so on.
func TestLiveKilled(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(*liveSeeds) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 9))
			w := newWorld(t, seed, 200, 4)
			var story []string
			killedAt := ""
			for process := 0; ; process++ {
				r := &run{life: &life{killAt: -1}}
				if process < 4 {
					r.killAt = rnd.IntN(60 + rnd.IntN(600))
				}
				arms := []copier.Arm{copier.Armed}
				if rnd.IntN(2) == 0 {
					arms = []copier.Arm{copier.Rehearse, copier.Armed}
				}
				err := w.copy(r, append(arms, copier.Armed, copier.Armed), copier.Options{Resume: process > 0})
				story = append(story, fmt.Sprintf("process %d: %q: %v", process, r.steps[max(0, len(r.steps)-12):], err))
				if err == nil && !r.isDead() {
					break
				}
				if r.isDead() {
					killedAt = r.last()
					seen[killedAt]++
					if _, there, _ := w.store.Read(); !there && w.table.Holder() == "" {
						_ = w.table.Serve("vault-1")
					}
					continue
				}
				if killedAt == "Amend" && errors.Is(err, copier.ErrUnconfirmed) && errors.Is(err, copier.ErrMoved) {
					// The table was given back, and that is not on record: the result is taken back.
					if _, there, _ := w.store.Read(); there {
						t.Errorf("seed %d: it is still in place", seed)
					}
					_ = w.table.Serve("vault-1")
					continue
				}
				if there := errors.Is(err, copier.ErrDestination) && r.last() == "Stage"; there {
					break
				}
				t.Fatalf("seed %d, process %d: %v", seed, process, err)
			}
			if by := w.table.Followed(); by != "" {
				t.Errorf("seed %d: it is followed by %q", seed, by)
			}
			w.same()
			if t.Failed() {
				t.Logf("seed %d: %s", seed, strings.Join(story, "\n"))
			}
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Logf("killed at %v", seen)
}

// A cut-over that can't be made gives the table back: the Vault serves on, and the next
// one is made.
func TestLiveGivenBack(t *testing.T) {
	foreign := copier.Entry{Key: []byte("foreign"), Value: []byte("v")}
	for name, c := range map[string]struct {
		late   bool
		broken func(w *world, once *sync.Once) func(*mortalStage)
	}{
		"it takes too long": {late: true},
		"somebody writes": {broken: func(w *world, once *sync.Once) func(*mortalStage) {
			return func(s *mortalStage) {
				s.prepared = func() {
					once.Do(func() { w.table.Force(foreign); time.Sleep(time.Second) })
				}
			}
		}},
		"the lock is lost": {broken: func(w *world, once *sync.Once) func(*mortalStage) {
			return func(s *mortalStage) {
				s.prepared = func() {
					once.Do(func() { _ = w.table.Unlock(w.t.Context(), "run-1", copier.EndFailed) })
				}
			}
		}},
		"the pin is lost": {broken: func(*world, *sync.Once) func(*mortalStage) {
			applies := 0
			return func(s *mortalStage) {
				s.unpin = func() bool { applies++; return applies%7 == 0 }
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, 300, 4)
				r := &run{life: &life{killAt: -1}, late: c.late}
				if c.late {
					w.setLate(20 * time.Second)
				}
				if c.broken != nil {
					r.broken = c.broken(w, new(sync.Once))
				}
				arms := slices.Repeat([]copier.Arm{copier.Armed}, 100)
				if err := w.copy(r, arms, copier.Options{}); err != nil {
					t.Fatal(err)
				}
				w.same()
				if want := name != "the pin is lost"; want && (r.givenBack == 0 || r.res.Live.GivenBack != r.givenBack) {
					t.Errorf("given back %d times, and on record %d", r.givenBack, r.res.Live.GivenBack)
				}
				pins := 0
				for _, step := range r.steps {
					if step == "Pin" {
						pins++
					}
				}
				if name == "the pin is lost" && pins < 2 {
					t.Errorf("pinned %d times", pins)
				}
			})
		})
	}
}

// What can't be known to be whole is not put in place, and nothing is left of it.
func TestLiveRefused(t *testing.T) {
	for name, c := range map[string]struct {
		broken func(*mortalStage)
		want   error
		code   copier.Code
	}{
		"what has changed is not all there": {want: copier.ErrReadBack, code: copier.NotAsRead, broken: func(s *mortalStage) {
			n := 0
			s.misses = func(copier.Entry) bool { n++; return n == 3 }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 2, 300, 4)
				r := &run{life: &life{killAt: -1}, broken: c.broken}
				err := w.copy(r, []copier.Arm{copier.Armed}, copier.Options{})
				if code, _ := copier.CodeOf(err); !errors.Is(err, c.want) || code != c.code || r.res.Resumable || r.res.Complete {
					t.Errorf("code %q, resumable %v: %v", code, r.res.Resumable, err)
				}
				if _, there, _ := w.store.Read(); there || w.table.Followed() == "run-1" || w.table.Holder() == "run-1" {
					t.Errorf("in place %v, followed by %q, held by %q", there, w.table.Followed(), w.table.Holder())
				}
				// It leaves nothing behind: another one is made without a word.
				_ = w.table.Serve("vault-1")
				if err := w.copy(&run{life: &life{killAt: -1}}, []copier.Arm{copier.Armed}, copier.Options{}); err != nil {
					t.Fatal(err)
				}
				w.same()
			})
		})
	}
}

// A copy whose feed has a gap reads all again once it is resumed, also where that process is
// killed, and by itself where a process that resumes finds the gap.
func TestLiveGap(t *testing.T) {
	replace := func(w *world) { w.table.Replace() }
	for name, c := range map[string]struct {
		when func(e copier.Event) bool
		gap  func(w *world)
		dies bool // the first process is killed there
	}{
		"ready":                          {gap: replace, when: func(e copier.Event) bool { _, ok := e.(copier.ReadyToCutOver); return ok }},
		"while the base is read":         {gap: replace, when: func(e copier.Event) bool { _, ok := e.(copier.Checkpointed); return ok }},
		"between processes, ready":       {gap: func(w *world) { w.table.Trim() }, dies: true, when: func(e copier.Event) bool { _, ok := e.(copier.ReadyToCutOver); return ok }},
		"between processes, of the base": {gap: func(w *world) { w.table.Trim() }, dies: true, when: func(e copier.Event) bool { _, ok := e.(copier.Checkpointed); return ok }},
	} {
		for kill := -1; kill < 60; kill += 7 { // the second process, in what it does to begin anew
			t.Run(fmt.Sprint(name, " ", kill), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, 2, 300, 4)
					r := &run{life: &life{killAt: -1}}
					var once sync.Once
					err := w.copy(r, []copier.Arm{copier.Armed}, copier.Options{Events: func(e copier.Event) {
						if !c.when(e) {
							return
						}
						once.Do(func() {
							if c.dies {
								r.mu.Lock()
								r.dead = true
								r.mu.Unlock()
								return
							}
							c.gap(w)
						})
					}})
					if c.dies {
						time.Sleep(time.Second) // much is written
						c.gap(w)
					} else if code, _ := copier.CodeOf(err); !errors.Is(err, copier.ErrGap) || code != copier.FeedGap || !r.res.Resumable {
						t.Fatalf("code %q, resumable %v: %v", code, r.res.Resumable, err)
					}
					said := 0
					events := func(e copier.Event) {
						if warn, ok := e.(copier.Warning); ok && strings.Contains(warn.Message, "all is read again: ") {
							said++
						}
					}
					_ = w.table.Serve("vault-1")
					r = &run{life: &life{killAt: kill}}
					arms := []copier.Arm{copier.Armed}
					if err := w.copy(r, arms, copier.Options{Resume: true, Events: events}); r.isDead() {
						_ = w.table.Serve("vault-1")
						r = &run{life: &life{killAt: -1}}
						if err := w.copy(r, arms, copier.Options{Resume: true, Events: events}); err != nil {
							t.Fatal(err)
						}
					} else if err != nil {
						t.Fatal(err)
					}
					if said == 0 || r.res.Live.Repeated != 1 || r.res.Live.Gap != "" {
						t.Errorf("said %d times, %+v", said, r.res.Live)
					}
					_ = w.table.Unfollow(t.Context(), "somebody else", nil)
					w.same()
				})
			})
		}
	}
}

// What is written behind the commit is named, though the copy is complete.
func TestLiveWrittenAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, 100, 2)
		r := &run{life: &life{killAt: -1}}
		err := w.copy(r, []copier.Arm{copier.Armed}, copier.Options{Events: func(e copier.Event) {
			if _, ok := e.(copier.CutOver); ok {
				w.table.Force(copier.Entry{Key: []byte("late/write")})
			}
		}})
		code, facts := copier.CodeOf(err)
		if code != copier.WrittenAfter || facts["keys"] != `"late/write"` || !r.res.Complete || r.res.State != copier.Released {
			t.Errorf("%q, %v, complete %v: %v", code, facts, r.res.Complete, err)
		}
		if w.table.Followed() != "" {
			t.Error("it is still followed")
		}
	})
}

// What is written while nothing runs, behind a result that is in place and not confirmed, is
// named by the process that confirms it.
func TestLiveWrittenWhileUnconfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, 100, 2)
		r := &run{life: &life{killAt: -1, killOn: "Amend"}}
		if err := w.copy(r, []copier.Arm{copier.Armed}, copier.Options{}); !r.isDead() || w.table.Holder() != "run-1" {
			t.Fatalf("held by %q: %v", w.table.Holder(), err)
		}
		w.table.Force(copier.Entry{Key: []byte("late/write")})
		r = &run{life: &life{killAt: -1}}
		err := w.copy(r, nil, copier.Options{Resume: true})
		code, facts := copier.CodeOf(err)
		if code != copier.WrittenAfter || facts["keys"] != `"late/write"` || !r.res.Complete || r.res.State != copier.Released {
			t.Errorf("%q, %v, complete %v: %v", code, facts, r.res.Complete, err)
		}
		if w.table.Followed() != "" {
			t.Error("it is still followed")
		}
	})
}

// A resumed copy that was complete says so before it watches its source. Where that was
// interrupted, the next process watches on.
func TestLiveWatchInterrupted(t *testing.T) {
	for name, killOn := range map[string]string{"the first process": "", "a resumed one": "Release"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 3, 100, 2)
				stopped := errors.New("stopped by hand")
				ctx, stop := context.WithCancelCause(t.Context())
				said := 0
				once := func(e copier.Event) {
					if _, ok := e.(copier.CutOver); ok {
						said++
						stop(stopped)
					}
				}
				r := &run{life: &life{killAt: -1, killOn: killOn}, ctx: ctx}
				err := w.copy(r, []copier.Arm{copier.Armed}, copier.Options{Events: once})
				if killOn != "" {
					if said > 0 || !r.isDead() {
						t.Fatalf("it was not killed: %v", err)
					}
					r = &run{life: &life{killAt: -1}, ctx: ctx}
					err = w.copy(r, nil, copier.Options{Resume: true, Events: once})
				}
				if !errors.Is(err, stopped) || said != 1 || !r.res.Complete || r.res.State != copier.Released {
					t.Fatalf("said %d times, complete %v, %s: %v", said, r.res.Complete, r.res.State, err)
				}
				if w.table.Followed() != "run-1" {
					t.Errorf("it is followed by %q", w.table.Followed())
				}
				w.table.Force(copier.Entry{Key: []byte("late/write")})
				r = &run{life: &life{killAt: -1}}
				err = w.copy(r, nil, copier.Options{Resume: true})
				code, facts := copier.CodeOf(err)
				if code != copier.WrittenAfter || facts["keys"] != `"late/write"` || !r.res.Complete {
					t.Errorf("%q, %v, complete %v: %v", code, facts, r.res.Complete, err)
				}
				if w.table.Followed() != "" {
					t.Error("it is still followed")
				}
			})
		})
	}
}

// Without its position nobody can watch the source behind the commit, which is said.
func TestLiveUnwatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, 100, 2)
		r := &run{life: &life{killAt: -1, killOn: "Release"}}
		if err := w.copy(r, []copier.Arm{copier.Armed}, copier.Options{}); !r.isDead() {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(w.dir, "work", "position.json")); err != nil {
			t.Fatal(err)
		}
		var said []string
		r = &run{life: &life{killAt: -1}}
		if err := w.copy(r, nil, copier.Options{Resume: true, Events: func(e copier.Event) {
			if e, ok := e.(copier.Warning); ok {
				said = append(said, e.Message)
			}
		}}); err != nil {
			t.Fatal(err)
		}
		if all := strings.Join(said, "\n"); !strings.Contains(all, "nobody could look any longer") || !strings.Contains(all, "position.json") {
			t.Errorf("it has said %q", said)
		}
		w.same()
	})
}

// A position that is gone is a gap, wherever the copy was: all is read again.
func TestLivePositionGone(t *testing.T) {
	for _, interval := range []time.Duration{time.Hour, 50 * time.Millisecond} { // between checkpoints
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 2, 300, 4)
			r := &run{life: &life{killAt: -1}}
			if err := w.copy(r, nil, copier.Options{CheckpointInterval: interval, Events: func(e copier.Event) {
				if _, ok := e.(copier.ReadyToCutOver); ok {
					r.mu.Lock()
					r.dead = true
					r.mu.Unlock()
				}
			}}); !r.isDead() {
				t.Fatal(err)
			}
			there, err := filepath.Glob(filepath.Join(w.dir, "*", "position.json"))
			if err != nil || len(there) != 1 {
				t.Fatalf("positions %q: %v", there, err)
			}
			if err := os.Remove(there[0]); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second) // much is written
			r = &run{life: &life{killAt: -1}}
			if err := w.copy(r, []copier.Arm{copier.Armed}, copier.Options{Resume: true}); err != nil {
				t.Fatal(err)
			}
			if r.res.Live.Repeated != 1 {
				t.Errorf("repeated %d times", r.res.Live.Repeated)
			}
			w.same()
		})
	}
}

// A live copy is thrown away by one that locks the table, and the other way round. Neither
// is resumed as the other.
func TestLiveRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 4, 300, 4)
		r := &run{life: &life{killAt: 150}}
		if err := w.copy(r, nil, copier.Options{}); !r.isDead() {
			t.Fatal(err)
		}
		if w.table.Followed() != "run-1" {
			t.Fatalf("followed by %q", w.table.Followed())
		}
		offline := func(opts copier.Options) (copier.Record, error) {
			opts.Memory, opts.Workers, opts.Uninitialized, opts.CheckpointInterval = copier.MinMemory, 2, true, 50*time.Millisecond
			return copier.Copy(t.Context(), w.table, w.store.Open(), opts)
		}
		if _, err := offline(copier.Options{Resume: true}); !errors.Is(err, copier.ErrOtherCopy) {
			t.Errorf("resumed with the table locked: %v", err)
		}
		w.table.StepDown()
		w.end()
		broken := errors.New("broken")
		var reads atomic.Int64
		w.table.Before = func(context.Context) error {
			time.Sleep(20 * time.Millisecond)
			if reads.Add(1) > 12 {
				return broken
			}
			return nil
		}
		res, err := offline(copier.Options{Restart: true})
		if !errors.Is(err, broken) || !res.Resumable {
			t.Fatalf("resumable %v: %v", res.Resumable, err)
		}
		if w.table.Followed() != "" || w.table.Holder() != "run-1" {
			t.Errorf("followed by %q, held by %q", w.table.Followed(), w.table.Holder())
		}
		w.table.Before = nil
		r = &run{life: &life{killAt: -1}}
		if err := w.copy(r, nil, copier.Options{Resume: true}); !errors.Is(err, copier.ErrOtherCopy) {
			t.Errorf("resumed live: %v", err)
		}
		w.acked["logical/0/0000"] = []byte("now")
		if err := w.copy(r, []copier.Arm{copier.Armed}, copier.Options{Restart: true, Events: func(e copier.Event) {
			if p, ok := e.(copier.PhaseStarted); !ok || p.Phase != copier.PhaseScan {
				return
			}
			if err := w.table.Serve("vault-1"); err != nil {
				t.Errorf("a Vault can't serve: %v", err)
			} else if err := w.table.Put(copier.Entry{Key: []byte("logical/0/0000"), Value: []byte("now")}); err != nil {
				t.Error(err)
			}
		}}); err != nil {
			t.Fatal(err)
		}
		w.same()
	})
}

// What a process held that was killed is free once the next one follows: a Vault serves.
func TestLiveKilledWhileHeld(t *testing.T) {
	for _, step := range []string{"Drain", "Finish", "Prepare", "Check", "Commit"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 7, 200, 4)
			r := &run{life: &life{killAt: -1, killOn: step}}
			if err := w.copy(r, []copier.Arm{copier.Armed}, copier.Options{}); !r.isDead() || w.table.Holder() != "run-1" {
				t.Fatalf("%s: held by %q: %v", step, w.table.Holder(), err)
			}
			serves := false
			err := w.copy(&run{life: &life{killAt: -1}}, []copier.Arm{copier.Armed}, copier.Options{Resume: true, Events: func(e copier.Event) {
				if _, ok := e.(copier.ReadyToCutOver); ok && !serves {
					serves = true
					if err := w.table.Serve("vault-2"); err != nil {
						t.Errorf("%s: %v", step, err)
					}
				}
			}})
			if err != nil || !serves {
				t.Fatalf("%s: %v, %v", step, serves, err)
			}
			w.same()
		})
	}
}

// A tableTwice yields an entry of each page once more, as it was.
type tableTwice struct{ mortalTable }

func (t tableTwice) Read(ctx context.Context, span copier.Span, b *copier.Batch) (copier.Page, error) {
	p, err := t.mortalTable.Read(ctx, span, b)
	if err == nil && b.Len() > 0 {
		b.Append(bytes.Clone(b.Entry(0).Key), []byte("as it was"))
	}
	return p, err
}

// A key that is read twice is read once more.
func TestLiveTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5, 300, 4)
		r := &run{life: &life{killAt: -1}, wrap: func(t mortalTable) copier.Source { return tableTwice{t} }}
		if err := w.copy(r, []copier.Arm{copier.Armed}, copier.Options{}); err != nil {
			t.Fatal(err)
		}
		w.same()
		if r.res.Live.Twice < 10 {
			t.Errorf("%d keys were read twice", r.res.Live.Twice)
		}
	})
}

// A fickleTable has the word changed while it is taken.
type fickleTable struct {
	mortalTable
	change func()
}

func (t fickleTable) Take(ctx context.Context, runID string, waiting func(copier.Turn), lost func(error)) (copier.Lease, error) {
	l, err := t.mortalTable.Take(ctx, runID, waiting, lost)
	t.change()
	return l, err
}

// Whoever takes the word back before the source is taken has it back, and no outage.
func TestLiveWordTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 8, 300, 2)
		w.table.StepDown()
		var arm atomic.Int64
		arm.Store(int64(copier.Armed))
		changed := make(chan struct{})
		r := &run{life: &life{killAt: -1}, wrap: func(t mortalTable) copier.Source {
			return fickleTable{t, sync.OnceFunc(func() { arm.Store(int64(copier.NotArmed)); close(changed) })}
		}}
		var again sync.WaitGroup
		again.Go(func() {
			<-changed
			time.Sleep(time.Second)
			if err := w.table.Serve("vault-1"); err != nil {
				t.Errorf("a Vault does not get the table back: %v", err)
			}
			time.Sleep(time.Second)
			arm.Store(int64(copier.Armed))
			w.table.StepDown()
		})
		err := w.copy(r, nil, copier.Options{
			Live: &copier.Live{Beyond: time.Second, Armed: func() copier.Arm { return copier.Arm(arm.Load()) }},
			Events: func(e copier.Event) {
				if _, ok := e.(copier.Taken); ok && copier.Arm(arm.Load()) == copier.NotArmed {
					t.Error("the table is taken for a word that was taken back")
				}
			}})
		again.Wait()
		if err != nil || !r.res.Complete {
			t.Fatal(err)
		}
		w.same()
	})
}

// A lossyTable loses what it should hint at.
type lossyTable struct{ mortalTable }

func (t lossyTable) Follow(ctx context.Context, runID string, from copier.Position) (copier.Following, error) {
	f, err := t.mortalTable.Follow(ctx, runID, from)
	return lossyFollowing{f}, err
}

type lossyFollowing struct{ copier.Following }

func (f lossyFollowing) Next(ctx context.Context) (copier.Hints, error) {
	h, err := f.Following.Next(ctx)
	h.Keys = slices.DeleteFunc(h.Keys, func(key []byte) bool { return bytes.HasPrefix(key, []byte("logical/0/")) })
	return h, err
}

// The tests above can fail: what a feed loses is missing.
func TestLiveLosesHints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 6, 300, 2)
		r := &run{life: &life{killAt: -1}, wrap: func(t mortalTable) copier.Source { return lossyTable{t} }}
		if err := w.copy(r, []copier.Arm{copier.Armed}, copier.Options{}); err != nil {
			t.Fatal(err)
		}
		w.end()
		if got, _, _ := w.store.Read(); slices.EqualFunc(got, w.table.Entries(), func(a, b copier.Entry) bool {
			return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value)
		}) {
			t.Error("nothing is missing")
		}
	})
}

// What can't be followed, or changed, is refused before anything is set up.
func TestLiveNeeds(t *testing.T) {
	armed := func() copier.Arm { return copier.Armed }
	table := copiertest.NewTable()
	for name, c := range map[string]struct {
		src  copier.Source
		sink copier.Sink
		opts copier.Options
	}{
		"nobody arms":    {table, copiertest.NewStore(t.TempDir()).Open(), copier.Options{Live: &copier.Live{}}},
		"no proof":       {table, copiertest.NewStore(t.TempDir()).Open(), copier.Options{Live: &copier.Live{Armed: armed}, NoProof: true}},
		"negative":       {table, copiertest.NewStore(t.TempDir()).Open(), copier.Options{Live: &copier.Live{Armed: armed, Beyond: -1}}},
		"no feed":        {copiertest.NewSource(), copiertest.NewStore(t.TempDir()).Open(), copier.Options{Live: &copier.Live{Armed: armed}}},
		"not changeable": {table, copiertest.NewStore(t.TempDir()).OpenUnordered(), copier.Options{Live: &copier.Live{Armed: armed}}},
	} {
		c.opts.Uninitialized = true
		if res, err := copier.Copy(t.Context(), c.src, c.sink, c.opts); !errors.Is(err, copier.ErrConfig) || res.Resumable || table.Followed() != "" {
			t.Errorf("%s: resumable %v, followed by %q: %v", name, res.Resumable, table.Followed(), err)
		}
	}
}
