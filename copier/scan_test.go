package copier

import (
	"context"
	"errors"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/dyn2raft/dyn2raft/copier/processors"
)

func TestScanStatistics(t *testing.T) {
	watch(t)
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
		entries := randomEntries(rnd, rapid.IntRange(0, 200).Draw(rt, "entries"))
		pages := rapid.IntRange(1, 40).Draw(rt, "pages")
		src := newFakeSource(rnd, entries, pages, rapid.IntRange(0, 10).Draw(rt, "roots"))
		workers := rapid.IntRange(1, 8).Draw(rt, "workers")

		var want ScanStats
		for _, p := range src.pages {
			want.Pages++
			want.Markers += p.markers
			want.Locks = append(want.Locks, p.locks...)
			for _, e := range p.entries {
				want.Entries++
				want.Bytes += int64(len(e.Key) + len(e.Value))
			}
		}
		slices.Sort(want.Locks)

		var mu sync.Mutex
		var started []PhaseStarted
		var told PageRead
		ended := 0
		sorted, got, err := Scan(context.Background(), src, ScanOptions{WorkDir: dir, Workers: workers, tune: tuning{}.apply, Events: func(e Event) {
			mu.Lock()
			defer mu.Unlock()
			switch e := e.(type) {
			case PhaseStarted:
				started = append(started, e)
			case PageRead:
				told.Entries += e.Entries
				told.Bytes += e.Bytes
				told.Counts.add(e.Counts)
				if e.SegmentDone {
					ended++
				}
			}
		}})
		if err != nil {
			rt.Fatal(err)
		}
		if err := sorted.Close(); err != nil {
			rt.Fatal(err)
		}
		for id := range src.pages {
			if src.reads[id] != 1 {
				rt.Fatalf("page %d was read %d times", id, src.reads[id])
			}
		}
		if got.Entries != want.Entries || got.Bytes != want.Bytes || got.Markers != want.Markers ||
			got.Pages != want.Pages || got.WireBytes != 10*want.Pages || got.Counts["units"] != 0.5*float64(want.Pages) ||
			!slices.Equal(got.Locks, want.Locks) || got.Segments != len(src.roots) ||
			got.Workers > max(workers, 1) || got.Runs != 0 || got.RunBytes != 0 {
			rt.Fatalf("got %+v, want %+v", got, want)
		}
		if told.Entries != got.Entries || told.Bytes != got.Bytes || !maps.Equal(told.Counts, got.Counts) || ended != len(src.roots) {
			rt.Fatalf("events %+v and %d ends, statistics %+v", told, ended, got)
		}
		if len(started) != 1 || started[0].Phase != PhaseScan || started[0].Segments != got.Segments || started[0].Workers != workers {
			rt.Fatalf("%+v", started)
		}
	})
}

func TestScanMap(t *testing.T) {
	watch(t)
	entries := randomEntries(rand.New(rand.NewPCG(1, 2)), 300)
	src := newFakeSource(rand.New(rand.NewPCG(3, 4)), entries, 20, 4)
	var want []Entry
	for _, e := range entries {
		if len(e.Value)%2 == 0 {
			want = append(want, Entry{Key: e.Key, Value: []byte{byte(len(e.Value))}})
		}
	}
	sorted, stats, err := Scan(context.Background(), src, ScanOptions{WorkDir: t.TempDir(), Map: func(e Entry, out *Batch) {
		if len(e.Value)%2 == 0 {
			out.Append(e.Key, []byte{byte(len(e.Value))})
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer sorted.Close()
	got, err := drain(sorted)
	if err != nil || differ(got, sortedCopy(want)) != "" {
		t.Errorf("%v %s", err, differ(got, sortedCopy(want)))
	}
	if stats.Entries != 300 {
		t.Errorf("%+v", stats)
	}
}

func TestScanRejectsOptions(t *testing.T) {
	for name, o := range map[string]ScanOptions{
		"workers":  {Workers: -1},
		"segments": {Segments: -1},
		"memory":   {Memory: MinMemory - 1},
		"negative": {Memory: -1},
		"too much": {Memory: MaxMemory + 1},
		"overflow": {Memory: math.MaxInt64},
	} {
		src := &fakeSource{log: func(call string) { t.Errorf("%s: %s was called", name, call) }}
		if _, _, err := Scan(context.Background(), src, o); !errors.Is(err, ErrConfig) || err.Error() == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	o := ScanOptions{}
	if err := o.validate(); err != nil || o.Workers != 32 || o.Memory != DefaultMemory || o.Events == nil {
		t.Errorf("%+v, %v", o, err)
	}
	// Pages in flight are a part of the budget, and never above 64.
	for memory, want := range map[int64]int{MinMemory: 4, 128 << 20: 8, 1 << 30: 64, 1 << 40: 64} {
		o := ScanOptions{Memory: memory}
		if err := o.validate(); err != nil || o.Workers != want {
			t.Errorf("memory %d: %d workers, expected %d, %v", memory, o.Workers, want, err)
		}
	}
}

func TestScanRefusesHugePage(t *testing.T) {
	src := &hugeSource{}
	for _, m := range []func(Entry, *Batch){nil, func(e Entry, out *Batch) { out.Append(e.Key, nil) }} {
		if _, _, err := Scan(context.Background(), src, ScanOptions{WorkDir: t.TempDir(), Map: m}); !errors.Is(err, ErrSource) {
			t.Errorf("map %v: %v", m != nil, err)
		}
	}
}

// A hugeSource pretends to a page of more bytes than fit.
type hugeSource struct{ fakeSource }

func (s *hugeSource) Split(context.Context, int) ([]Span, error) {
	return make([]Span, 1), nil
}

func (s *hugeSource) Read(_ context.Context, _ Span, b *Batch) (Page, error) {
	b.Append([]byte("k"), []byte("v"))
	b.bytes = maxBatch + 1
	return Page{}, nil
}

func TestScanSegmentsFails(t *testing.T) {
	if _, _, err := Scan(context.Background(), &fakeSource{segmentsErr: errFake}, ScanOptions{}); !errors.Is(err, errFake) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("why")
	cancel(why)
	if _, _, err := Scan(ctx, &fakeSource{segmentsErr: ctx.Err()}, ScanOptions{}); err != why {
		t.Error(err)
	}
	if _, _, err := Scan(ctx, &fakeSource{}, ScanOptions{WorkDir: t.TempDir()}); err != why {
		t.Errorf("no segments: %v", err)
	}
}

func TestScanErrorAtRandomPage(t *testing.T) {
	for name, tune := range tunings {
		t.Run(name, func(t *testing.T) {
			watch(t)
			dir := t.TempDir()
			rapid.Check(t, func(rt *rapid.T) {
				rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
				entries := randomEntries(rnd, rapid.IntRange(0, 300).Draw(rt, "entries"))
				pages := rapid.IntRange(1, 40).Draw(rt, "pages")
				src := newFakeSource(rnd, entries, pages, rapid.IntRange(0, pages).Draw(rt, "roots"))
				bad := rapid.IntRange(0, pages-1).Draw(rt, "bad")
				src.before = func(_ context.Context, id int) error {
					if id == bad {
						return errFake
					}
					return nil
				}
				sorted, stats, err := Scan(context.Background(), src, ScanOptions{WorkDir: dir, Workers: rapid.IntRange(1, 8).Draw(rt, "workers"), tune: tune.apply})
				if err != error(errFake) || sorted != nil {
					rt.Fatalf("got %v, %v", sorted, err)
				}
				if stats.Pages >= int64(pages) || stats.Entries > int64(len(entries)) {
					rt.Fatalf("%+v of %d pages", stats, pages)
				}
				if files := filesIn(t, dir); len(files) > 0 {
					rt.Fatalf("left behind: %v", files)
				}
			})
		})
	}
}

func TestScanCancelledAtRandomMoment(t *testing.T) {
	why := errors.New("the operator pressed Ctrl-C")
	for name, tune := range tunings {
		t.Run(name, func(t *testing.T) {
			watch(t)
			dir := t.TempDir()
			rapid.Check(t, func(rt *rapid.T) {
				rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
				entries := randomEntries(rnd, 300)
				pages := rapid.IntRange(1, 40).Draw(rt, "pages")
				src := newFakeSource(rnd, entries, pages, rapid.IntRange(0, pages).Draw(rt, "roots"))
				ctx, cancel := context.WithCancelCause(context.Background())
				defer cancel(nil)
				// The moment: some page's read, or some run's creation.
				var moment atomic.Int64
				moment.Store(rapid.Int64Range(0, int64(pages)).Draw(rt, "moment"))
				wait := rapid.Bool().Draw(rt, "wait")
				cancelled := atomic.Bool{}
				tick := func() {
					if moment.Add(-1) == -1 {
						cancelled.Store(true)
						cancel(why)
					}
				}
				src.before = func(ctx context.Context, _ int) error {
					tick()
					if wait && cancelled.Load() {
						<-ctx.Done()
					}
					return ctx.Err()
				}
				sorted, _, err := Scan(ctx, src, ScanOptions{WorkDir: dir, Workers: rapid.IntRange(1, 8).Draw(rt, "workers"),
					tune: func(s *sorter) {
						tune.apply(s)
						create := s.create
						s.create = func() (runFile, error) { tick(); return create() }
					}})
				if cancelled.Load() != (err != nil) {
					rt.Fatalf("cancelled %v, error %v", cancelled.Load(), err)
				}
				if err == nil {
					if got, err := drain(sorted); err != nil || differ(got, sortedCopy(entries)) != "" {
						rt.Fatalf("%v %s", err, differ(got, sortedCopy(entries)))
					}
					if err := sorted.Close(); err != nil {
						rt.Fatal(err)
					}
				} else if err != why || sorted != nil {
					rt.Fatalf("got %v, %v", sorted, err)
				}
				if files := filesIn(t, dir); len(files) > 0 {
					rt.Fatalf("left behind: %v", files)
				}
			})
		})
	}
}

// TestScanSplitIsReadAtTheSameTime has a page that is split into two segments,
// which wait for each other.
func TestScanSplitIsReadAtTheSameTime(t *testing.T) {
	watch(t)
	src := &fakeSource{roots: []int{0, 1}, pages: []fakePage{{next: []int{2, 3}}, {}, {}, {}}}
	var both sync.WaitGroup
	both.Add(2)
	src.before = func(_ context.Context, id int) error {
		if id >= 2 {
			both.Done()
			both.Wait()
		}
		return nil
	}
	sorted, stats, err := Scan(context.Background(), src, ScanOptions{WorkDir: t.TempDir(), Workers: 2})
	if err != nil || stats.Pages != 4 {
		t.Fatalf("%+v, %v", stats, err)
	}
	if err := sorted.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestAddStopsWaiting cancels while all buffers are in use and nobody writes.
func TestAddStopsWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSorter(t.TempDir(), MinMemory, nil, func(Event) {})
		s.limit = 10
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("why")
		var added int
		done := make(chan error)
		go func() {
			for {
				if err := s.add(ctx, batchOf(Entry{Key: []byte("0123456789")}), coverage{}); err != nil {
					done <- err
					return
				}
				added++
			}
		}()
		synctest.Wait()
		if added != sortBuffers || len(s.full) != sortBuffers {
			t.Errorf("%d buffers were filled, %d wait", added, len(s.full))
		}
		time.Sleep(time.Hour)
		cancel(why)
		if err := <-done; err != why {
			t.Error(err)
		}
	})
}

func TestCause(t *testing.T) {
	why, other := errors.New("why"), &Error{Kind: ErrDestination, Err: errors.New("disk")}
	live := context.Background()
	ended, cancel := context.WithCancelCause(live)
	cancel(why)
	late, stop := context.WithTimeout(live, -1)
	defer stop()
	for name, c := range map[string]struct {
		ctx  context.Context
		err  error
		want []error
	}{
		"not cancelled":             {live, other, []error{other}},
		"the caller's own":          {live, context.Canceled, []error{context.Canceled}},
		"a consequence":             {ended, &Error{Kind: ErrSource, Err: context.Canceled}, []error{why}},
		"the cause itself":          {ended, &Error{Kind: ErrSource, Err: why}, []error{why}},
		"an error of its own":       {ended, other, []error{why, other}},
		"deadline":                  {late, &Error{Kind: ErrSource, Err: context.DeadlineExceeded}, []error{context.DeadlineExceeded}},
		"deadline, error of itself": {late, other, []error{context.DeadlineExceeded, other}},
	} {
		got := cause(c.ctx, c.err)
		for _, want := range c.want {
			if !errors.Is(got, want) {
				t.Errorf("%s: %v is not %v", name, got, want)
			}
		}
		if len(c.want) == 1 && got != c.want[0] {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

// TestRunsGoToDiskEarly: the disk begins with each run once, from when it is likely
// that a checkpoint will come, and is spared those of a scan that is over before.
func TestRunsGoToDiskEarly(t *testing.T) {
	const pages = 100 * 20 // one entry each
	for name, c := range map[string]struct {
		items int64         // by the source's estimate
		page  time.Duration // how long one takes, of 8 at the same time
		from  time.Duration // when the disk begins, 0 for never
	}{
		"over before the first checkpoint":    {pages, 12 * time.Millisecond, 0},
		"the same, of an unknown size":        {0, 12 * time.Millisecond, time.Second},
		"the same, of more than is estimated": {pages / 10, 12 * time.Millisecond, time.Second},
		"longer":                              {pages, 24 * time.Millisecond, time.Second},
		"longer than it seemed":               {pages * 3 / 8, 30 * time.Millisecond, 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j, err := OpenJournal(t.TempDir(), Record{Source: Info{Name: "fake", Items: c.items}}, false)
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				var mu sync.Mutex
				times := map[string][]time.Duration{}
				sorted, stats, err := Scan(t.Context(), &serviceSource{pages: pages / 100, takes: func(Span) time.Duration { return c.page }},
					ScanOptions{Workers: 8, Journal: j, tune: func(s *sorter) {
						s.limit, s.hold = 400, 0
						s.toDisk = func(path string) {
							toDisk(path)
							mu.Lock()
							defer mu.Unlock()
							times[path] = append(times[path], time.Since(began))
						}
					}})
				if err != nil {
					t.Fatal(err)
				}
				defer func() {
					if err := errors.Join(sorted.Close(), j.Remove()); err != nil {
						t.Error(err)
					}
				}()
				if stats.Runs < 100 {
					t.Fatalf("%d runs", stats.Runs)
				}
				if c.from == 0 {
					if len(times) > 0 || stats.Checkpoints > 0 {
						t.Errorf("%d runs went to disk in %d checkpoints, of a scan of %v", len(times), stats.Checkpoints, time.Since(began))
					}
					return
				}
				if len(times) != stats.Runs {
					t.Errorf("%d of %d runs went to disk early", len(times), stats.Runs)
				}
				first := time.Hour
				for path, at := range times {
					first = min(first, at[0])
					if len(at) > 1 {
						t.Errorf("%s went to disk at %v", path, at)
					}
				}
				if first != c.from {
					t.Errorf("the disk began after %v, not %v", first, c.from)
				}
			})
		})
	}
}

// A capped source has waited because of its cap.
type capped time.Duration

func (c capped) Waited() time.Duration                          { return time.Duration(c) }
func (capped) Close() error                                     { return nil }
func (capped) Open(context.Context) (Info, error)               { return Info{}, nil }
func (capped) Split(context.Context, int) ([]Span, error)       { return nil, nil }
func (capped) Read(context.Context, Span, *Batch) (Page, error) { return Page{}, nil }

// TestLimit has what bounded a scan, by how its workers spent their time.
func TestLimit(t *testing.T) {
	took := 10 * time.Second
	all := took * time.Duration(processors.Count())
	for name, c := range map[string]struct {
		cpu, reading, adding time.Duration
		runs                 int
		checkpoints          int
		throttles            int64
		waited               capped
		want                 Limit
	}{
		"a quick table":                 {all * 8 / 10, 10, 1, 3, 1, 0, 0, LimitProcessor},
		"a slow answer":                 {all / 10, 100, 1, 3, 1, 0, 0, LimitNetwork},
		"throttled":                     {all / 10, 100, 1, 0, 0, 10, 0, LimitTable},
		"a cap":                         {all / 10, 100, 1, 0, 0, 0, 90, LimitCap},
		"a cap above what is there":     {all / 10, 100, 1, 0, 0, 10, 90, LimitTable},
		"a slow disk":                   {all / 10, 10, 10, 3, 0, 0, 0, LimitDisk},
		"a slow disk, all held":         {all / 10, 10, 10, 0, 1, 0, 0, LimitDisk},
		"nothing went to disk at all":   {all / 10, 10, 10, 0, 0, 0, 0, LimitProcessor},
		"nothing did, and no one waits": {all / 10, 10, 1, 0, 0, 0, 0, LimitNetwork},
	} {
		s := &scan{src: c.waited, sorter: &sorter{runs: make([]sortedRun, c.runs)}}
		s.stats.Pages, s.stats.Checkpoints, s.stats.Throttles = 100, c.checkpoints, c.throttles
		s.reading.Store(int64(c.reading))
		s.adding.Store(int64(c.adding))
		if got := s.limit(took, c.cpu); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
