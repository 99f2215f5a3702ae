package copier

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dyn2raft/dyn2raft/copier/processors"
)

func TestControl(t *testing.T) {
	type tick struct {
		bytes, throttles int64
		want             int
	}
	for name, c := range map[string]struct {
		control control
		ticks   []tick
	}{
		"grows while it pays": {control{limit: 8, most: 40, growing: true},
			[]tick{{100, 0, 12}, {150, 0, 18}, {200, 0, 27}, {205, 0, 18}, {400, 0, 18}, {800, 0, 18}}},
		"up to the most": {control{limit: 8, most: 10, growing: true},
			[]tick{{100, 0, 10}, {200, 0, 10}, {10, 0, 10}}},
		"a source that is quick at once": {control{limit: 8, most: 64, growing: true},
			[]tick{{100, 0, 12}, {100, 0, 8}, {100, 0, 8}}},
		"one bad second": {control{limit: 8, most: 64, growing: true},
			[]tick{{100, 0, 12}, {100, 0, 8}, {100, 0, 8}, {100, 0, 8}, {100, 0, 8}, {100, 0, 8}, {100, 0, 8},
				{100, 0, 8}, {100, 0, 8}, {100, 0, 8}, {100, 0, 8}, {100, 0, 12}, {150, 0, 18}}},
		"throttled": {control{limit: 8, most: 10, growing: true},
			[]tick{{100, 0, 10}, {100, 3, 5}, {50, 1, 2}, {50, 1, 1}, {50, 9, 1}, {50, 0, 2}, {40, 0, 3}, {90, 0, 4}, {90, 1, 2}}},
	} {
		for i, k := range c.ticks {
			if c.control.tick(k.bytes, k.throttles); c.control.limit != k.want {
				t.Errorf("%s, tick %d: %d may read, expected %d", name, i, c.control.limit, k.want)
			}
		}
	}
}

// A serviceSource takes 100 ms for a page, or as long as it says, and throttles those beyond a number.
type serviceSource struct {
	allowed int // at the same time, without being throttled; 0 is any number
	pages   int // of each segment
	takes   func(seg Span) time.Duration

	mu           sync.Mutex
	active, peak int
}

func (s *serviceSource) Open(context.Context) (Info, error) { return Info{}, nil }

func (s *serviceSource) Close() error { return nil }

func (s *serviceSource) Split(context.Context, int) ([]Span, error) {
	segs := make([]Span, 100)
	for i := range segs {
		segs[i] = Span{Index: i}
	}
	return segs, nil
}

func (s *serviceSource) Read(_ context.Context, seg Span, b *Batch) (Page, error) {
	page := Page{WireBytes: 1000}
	s.mu.Lock()
	s.active++
	s.peak = max(s.peak, s.active)
	if s.allowed > 0 && s.active > s.allowed {
		page.Throttles = 1
	}
	s.mu.Unlock()
	takes := 100 * time.Millisecond
	if s.takes != nil {
		takes = s.takes(seg)
	}
	time.Sleep(takes)
	s.mu.Lock()
	s.active--
	s.mu.Unlock()
	n := len(seg.From)
	b.Append(fmt.Appendf(nil, "%d/%d", seg.Index, n), nil)
	if n+1 < s.pages {
		page.Next = []Span{{Index: seg.Index, From: make([]byte, n+1)}}
	}
	return page, nil
}

// TestScanPace lets a scan find out how many workers a source bears.
func TestScanPace(t *testing.T) {
	scan := func(t *testing.T, src *serviceSource, workers int) (ScanStats, time.Duration) {
		t.Helper()
		start := time.Now()
		sorted, stats, err := Scan(t.Context(), src, ScanOptions{WorkDir: t.TempDir(), Workers: workers, Memory: 1 << 30})
		if err != nil {
			t.Fatal(err)
		}
		if err := sorted.Close(); err != nil {
			t.Fatal(err)
		}
		if want := int64(100 * src.pages); stats.Entries != want || stats.Pages != want {
			t.Errorf("%d entries in %d pages, expected %d", stats.Entries, stats.Pages, want)
		}
		return stats, time.Since(start)
	}
	synctest.Test(t, func(t *testing.T) {
		src := &serviceSource{pages: 50}
		stats, took := scan(t, src, 60)
		if src.peak != 60 || stats.Workers != 60 {
			t.Errorf("at most %d read at the same time (%d by the statistics), expected 60", src.peak, stats.Workers)
		}
		// 5,000 pages, 600 a second once it is at its most.
		if took > 15*time.Second {
			t.Errorf("took %s", took)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		// Pages that take seconds, and come in bunches: one second tells
		// nothing of them.
		src := &serviceSource{pages: 20, takes: func(seg Span) time.Duration {
			return 500*time.Millisecond + time.Duration((seg.Index*1379+len(seg.From)*811)%3000)*time.Millisecond
		}}
		if _, took := scan(t, src, 60); src.peak != 60 || took > 3*time.Minute {
			t.Errorf("at most %d read at the same time, expected 60; took %s", src.peak, took)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		src := &serviceSource{pages: 100, allowed: 20}
		stats, _ := scan(t, src, 60)
		if stats.Throttles == 0 || stats.Throttles > stats.Pages/5 {
			t.Errorf("%d of %d pages were throttled", stats.Throttles, stats.Pages)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		src := &serviceSource{pages: 2}
		if stats, _ := scan(t, src, 3); src.peak != 3 || stats.Workers != 3 {
			t.Errorf("at most %d read at the same time, expected 3", src.peak)
		}
	})
}

// Workers that can't get rid of their pages keep others from reading: beside as many
// as may read, only as many have a page as there are processors.
func TestPaceWaitsForWhatWasRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(4, 4, func(int) {})
		most := int64(4 + processors.Count() + 3)
		var entered atomic.Int64
		rid := make(chan struct{})
		var all sync.WaitGroup
		for range most {
			all.Go(func() {
				if !p.enter() {
					return
				}
				entered.Add(1)
				p.leave(Page{}, time.Now())
				<-rid
				p.done()
			})
		}
		synctest.Wait()
		if got, want := entered.Load(), int64(4+processors.Count()); got != want {
			t.Errorf("%d workers have read, expected %d", got, want)
		}
		before := entered.Load()
		rid <- struct{}{}
		synctest.Wait()
		if got := entered.Load(); got != before+1 {
			t.Errorf("%d workers have read with one page gone, expected %d", got, before+1)
		}
		close(rid)
		all.Wait()
		if entered.Load() != most {
			t.Errorf("%d of %d workers have read", entered.Load(), most)
		}
	})
}

// A scan whose runs can't be written, as on a disk that is busy, does not read what it
// would have to keep: a few pages, however many workers it may have.
func TestScanWaitsForTheDisk(t *testing.T) {
	watch(t)
	// With many processors each of the source's segments would have a worker.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	var read atomic.Int64
	src := &serviceSource{pages: 5, takes: func(Span) time.Duration { read.Add(1); return time.Millisecond }}
	dir, write, done := t.TempDir(), make(chan struct{}), make(chan error)
	go func() {
		sorted, _, err := Scan(t.Context(), src, ScanOptions{WorkDir: dir, Workers: 1000, Memory: 64 << 30, tune: func(s *sorter) {
			s.limit, s.hold = 1, 0 // a page for each
			create := s.create
			s.create = func() (runFile, error) { <-write; return create() }
		}})
		if err == nil {
			err = sorted.Close()
		}
		done <- err
	}()
	least := int64(sortBuffers + FirstWorkers() + processors.Count())
	for end := time.Now().Add(2 * time.Minute); read.Load() < least && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(100 * time.Millisecond) // for those that should not: if they come later, only less is shown
	// More may have been let in once, since the first pages came quickly.
	if got, most := read.Load(), least+int64(FirstWorkers()/2+1); got < least || got > most {
		t.Errorf("%d pages were read while %d wait to be written, expected %d to %d", got, sortBuffers, least, most)
	}
	close(write)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := read.Load(); got != 500 {
		t.Errorf("%d of 500 pages were read", got)
	}
}
