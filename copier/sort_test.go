package copier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"syscall"
	"testing"

	"pgregory.net/rapid"
)

// A tuning makes the sorter's memory tiny. With the zero value nothing is spilled.
type tuning struct {
	limit, mergeMemory int64
	hold, fanIn        int
}

func (u tuning) apply(s *sorter) {
	s.limit = 64 << 10 // enough for all, and quickly allocated
	if u.limit > 0 {
		s.limit, s.mergeMemory, s.hold, s.fanIn = u.limit, u.mergeMemory, u.hold, u.fanIn
	}
}

// The ways in which entries can lie: all in memory, all in runs, some in each,
// and runs that must be merged in passes.
var tunings = map[string]tuning{
	"held":    {},
	"spilled": {limit: 300, mergeMemory: 1 << 30, hold: 0, fanIn: 1000},
	"mixed":   {limit: 300, mergeMemory: 1 << 30, hold: 3, fanIn: 1000},
	"passes":  {limit: 200, mergeMemory: 1 << 30, hold: 1, fanIn: 3},
	"memory":  {limit: 200, mergeMemory: 1, hold: 2, fanIn: 1000},
}

func TestSortedCompleteExactlyOnce(t *testing.T) {
	for name, tune := range tunings {
		t.Run(name, func(t *testing.T) {
			watch(t)
			dir := t.TempDir()
			spilled := 0
			rapid.Check(t, func(rt *rapid.T) {
				rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
				entries := randomEntries(rnd, rapid.IntRange(0, 200).Draw(rt, "entries"))
				pages := rapid.IntRange(1, 30).Draw(rt, "pages")
				src := newFakeSource(rnd, entries, pages, rapid.IntRange(0, pages).Draw(rt, "roots"))
				var told atomic.Int64
				sorted, stats, err := Scan(context.Background(), src, ScanOptions{
					Workers: rapid.IntRange(1, 9).Draw(rt, "workers"),
					WorkDir: dir,
					tune:    tune.apply,
					Events: func(e Event) {
						if e, ok := e.(RunWritten); ok {
							told.Add(e.Entries)
						}
					},
				})
				if err != nil {
					rt.Fatal(err)
				}
				got, err := drain(sorted)
				if err != nil {
					rt.Fatal(err)
				}
				if d := differ(got, sortedCopy(entries)); d != "" {
					rt.Fatal(d)
				}
				if _, err := sorted.Next(); err != io.EOF {
					rt.Fatalf("after the end: %v", err)
				}
				if tune.limit == 0 && (stats.Runs > 0 || len(filesIn(t, dir)) > 0) {
					rt.Fatalf("%d runs of entries that fit into memory", stats.Runs)
				}
				if tune.fanIn > 0 && len(sorted.runs) > max(tune.fanIn, 2) || tune.mergeMemory == 1 && len(sorted.runs) > 2 {
					rt.Fatalf("%d runs are read at the same time", len(sorted.runs))
				}
				if stats.Runs == 0 && told.Load() > 0 || stats.Runs > 0 && (told.Load() == 0 || stats.RunBytes == 0) {
					rt.Fatalf("%d runs of %d bytes, and events of %d entries", stats.Runs, stats.RunBytes, told.Load())
				}
				spilled += stats.Runs
				if err := sorted.Close(); err != nil {
					rt.Fatal(err)
				}
				if files := filesIn(t, dir); len(files) > 0 {
					rt.Fatalf("left behind: %v", files)
				}
			})
			if tune.limit > 0 && spilled == 0 {
				t.Error("nothing was ever written to a run: the test proves nothing")
			}
		})
	}
}

func TestDuplicateIsFoundWhereverItLies(t *testing.T) {
	dir := t.TempDir()
	k := func(keys ...string) []Entry {
		var out []Entry
		for i, key := range keys {
			out = append(out, Entry{Key: []byte(key), Value: []byte{byte(i)}})
		}
		return out
	}
	for name, c := range map[string]struct{ memory, runs [][]Entry }{
		"same buffer":      {memory: [][]Entry{k("a", "x", "x", "z")}},
		"two buffers":      {memory: [][]Entry{k("a", "x"), k("b", "x", "z")}},
		"same run":         {runs: [][]Entry{k("a", "x", "x", "z")}},
		"two runs":         {runs: [][]Entry{k("a", "x", "z"), k("c"), k("x")}},
		"buffer and run":   {memory: [][]Entry{k("a", "x")}, runs: [][]Entry{k("w", "x", "y")}},
		"the first":        {memory: [][]Entry{k("x")}, runs: [][]Entry{k("x", "y")}},
		"the last":         {memory: [][]Entry{k("a", "x")}, runs: [][]Entry{k("b", "x")}},
		"the empty key":    {memory: [][]Entry{k("", "")}},
		"three times":      {memory: [][]Entry{k("x")}, runs: [][]Entry{k("x"), k("x")}},
		"equal in content": {memory: [][]Entry{{{Key: []byte("x"), Value: []byte("v")}}, {{Key: []byte("x"), Value: []byte("v")}}}},
	} {
		t.Run(name, func(t *testing.T) {
			var batches []*Batch
			for _, m := range c.memory {
				batches = append(batches, batchOf(m...))
			}
			var runs []sortedRun
			for _, r := range c.runs {
				runs = append(runs, writeEntries(t, dir, r))
			}
			s, err := merge(batches, runs, true)
			if err != nil {
				t.Fatal(err)
			}
			got, err := drain(s)
			if !errors.Is(err, ErrDuplicateKey) || !errors.Is(err, ErrSource) || coded(err) != "source-written map[]" {
				t.Errorf("%d entries, error %v", len(got), err)
			}
			for i := 1; i < len(got); i++ {
				if string(got[i-1].Key) >= string(got[i].Key) {
					t.Errorf("%q after %q", got[i].Key, got[i-1].Key)
				}
			}
			if _, again := s.Next(); again != err {
				t.Errorf("the stream goes on after its error: %v", again)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestDuplicateIsFoundInScan(t *testing.T) {
	for name, tune := range tunings {
		t.Run(name, func(t *testing.T) {
			watch(t)
			dir := t.TempDir()
			rapid.Check(t, func(rt *rapid.T) {
				rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
				entries := randomEntries(rnd, rapid.IntRange(1, 60).Draw(rt, "entries"))
				entries = append(entries, Entry{Key: entries[rnd.IntN(len(entries))].Key, Value: []byte("again")})
				src := newFakeSource(rnd, entries, 8, 3)
				sorted, _, err := Scan(context.Background(), src, ScanOptions{WorkDir: dir, Workers: 4, tune: tune.apply})
				if err == nil {
					_, err = drain(sorted)
					if err := sorted.Close(); err != nil {
						rt.Fatal(err)
					}
				}
				if !errors.Is(err, ErrDuplicateKey) || !errors.Is(err, ErrSource) || coded(err) != "source-written map[]" {
					rt.Fatalf("got %v", err)
				}
				if files := filesIn(t, dir); len(files) > 0 {
					rt.Fatalf("left behind: %v", files)
				}
			})
		})
	}
}

// TestBuffersAreReused has many more entries than buffers: a buffer that was
// written must be as good as a new one, neither smaller nor larger.
func TestBuffersAreReused(t *testing.T) {
	watch(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	entries := randomEntries(rnd, 20000)
	src := newFakeSource(rnd, entries, 2000, 8)
	var s *sorter
	sorted, stats, err := Scan(context.Background(), src, ScanOptions{
		WorkDir: t.TempDir(), Workers: 4,
		tune: func(sort *sorter) { s = sort; s.limit = 16 << 10 },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer sorted.Close()
	need := (stats.Bytes+stats.Entries*refBytes)/s.limit + 1
	if int64(stats.Runs) > need*5/4 {
		t.Errorf("%d runs of buffers that are filled %d times", stats.Runs, need)
	}
	for _, b := range s.held {
		if int64(cap(b.arena)) > s.limit {
			t.Errorf("a buffer of %d bytes grew to %d", s.limit, cap(b.arena))
		}
	}
	if got, err := drain(sorted); err != nil || differ(got, sortedCopy(entries)) != "" {
		t.Errorf("%v %s", err, differ(got, sortedCopy(entries)))
	}
}

// TestBufferShrinks has pages that are larger than a buffer.
func TestBufferShrinks(t *testing.T) {
	watch(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	src := newFakeSource(rnd, randomEntries(rnd, 5000), 30, 4)
	s := (*sorter)(nil)
	var free chan *buffer
	sorted, _, err := Scan(context.Background(), src, ScanOptions{
		WorkDir: t.TempDir(), Workers: 4,
		tune: func(sort *sorter) { s = sort; s.limit, s.hold, free = 512, 0, s.free },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer sorted.Close()
	if len(free) == 0 {
		t.Error("no buffer came back")
	}
	for len(free) > 0 {
		if b := <-free; b != nil && int64(cap(b.arena)) > s.limit {
			t.Errorf("a buffer kept %d bytes", cap(b.arena))
		}
	}
}

func TestFanInAndMergeMemory(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		runs, fanIn int
		memory      int64
		want        int // at most
	}{
		{runs: 0, fanIn: 4, memory: 1 << 30, want: 0},
		{runs: 4, fanIn: 4, memory: 1 << 30, want: 4},
		{runs: 5, fanIn: 4, memory: 1 << 30, want: 4},
		{runs: 40, fanIn: 3, memory: 1 << 30, want: 3},
		{runs: 40, fanIn: 100, memory: 5 * 100, want: 5}, // a block has nearly 100 bytes
		{runs: 9, fanIn: 100, memory: 0, want: 2},
	} {
		s := newSorter(dir, DefaultMemory, nil, func(Event) {})
		s.fanIn, s.mergeMemory = c.fanIn, c.memory
		var want []Entry
		for i := range c.runs {
			var run []Entry
			for j := range 7 {
				run = append(run, Entry{Key: fmt.Appendf(nil, "%02d-%02d", j, i), Value: []byte("value")})
			}
			want = append(want, run...)
			s.runs = append(s.runs, writeEntries(t, dir, run))
			if b := s.runs[i].block; b < 90 || b > 100 {
				t.Fatalf("a block has %d bytes", b)
			}
		}
		s.added = int64(len(want))
		sorted, err := s.sorted(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if len(sorted.runs) > c.want {
			t.Errorf("%+v: %d runs are left", c, len(sorted.runs))
		}
		if files := filesIn(t, dir); len(files) != len(sorted.runs) {
			t.Errorf("%+v: %d files for %d runs", c, len(files), len(sorted.runs))
		}
		got, err := drain(sorted)
		if err != nil || differ(got, sortedCopy(want)) != "" {
			t.Errorf("%+v: %v %s", c, err, differ(got, sortedCopy(want)))
		}
		if err := sorted.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestSortedChecksItself(t *testing.T) {
	a, b := Entry{Key: []byte("a")}, Entry{Key: []byte("b")}
	s, err := merge([]*Batch{batchOf(b, a)}, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := drain(s); !errors.Is(err, errRunDamaged) || !errors.Is(err, ErrDestination) {
		t.Errorf("wrong order: %v", err)
	}
	for _, want := range []int64{1, 3} {
		if s, err = merge([]*Batch{batchOf(a, b)}, nil, false); err != nil {
			t.Fatal(err)
		}
		s.want = want
		if _, err := drain(s); !errors.Is(err, ErrDestination) {
			t.Errorf("%d entries wanted of 2: %v", want, err)
		}
	}
}

func TestSortedAfterClose(t *testing.T) {
	dir := t.TempDir()
	run := writeEntries(t, dir, []Entry{{Key: []byte("a")}})
	s, err := merge([]*Batch{batchOf(Entry{Key: []byte("b")})}, []sortedRun{run}, false)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Next(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("a closed stream returned %v", err)
		}
	}
	if len(filesIn(t, dir)) > 0 {
		t.Error("the run is left")
	}
	s = &Sorted{runs: []sortedRun{run}}
	if err := s.Close(); err != nil {
		t.Errorf("a run that is gone, as after a sink's commit: %v", err)
	}
	if err := os.MkdirAll(run.path+"/in the way", 0o700); err != nil {
		t.Fatal(err)
	}
	s = &Sorted{runs: []sortedRun{run}}
	if err := s.Close(); !errors.Is(err, syscall.ENOTEMPTY) {
		t.Errorf("a run that can't be removed: %v", err)
	}
}

func TestRunThatVanishesOrIsDamaged(t *testing.T) {
	for name, harm := range map[string]func(path string) error{
		"vanished":  os.Remove,
		"truncated": func(p string) error { return os.Truncate(p, 9) },
		"emptied":   func(p string) error { return os.Truncate(p, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			rnd := rand.New(rand.NewPCG(1, 2))
			src := newFakeSource(rnd, randomEntries(rnd, 500), 20, 2)
			var s *sorter
			harmed := false
			src.before = func(context.Context, int) error {
				s.out.Lock()
				defer s.out.Unlock()
				if harmed || len(s.runs) == 0 {
					return nil
				}
				harmed = true
				return harm(s.runs[0].path)
			}
			sorted, _, err := Scan(context.Background(), src, ScanOptions{WorkDir: dir, Workers: 1,
				tune: func(sort *sorter) { s = sort; s.limit, s.hold = 300, 0 }})
			if err == nil {
				_, err = drain(sorted)
				_ = sorted.Close() // one file may be gone
			}
			if !harmed || !errors.Is(err, ErrDestination) {
				t.Errorf("harmed %v, error %v", harmed, err)
			}
			if files := filesIn(t, dir); len(files) > 0 {
				t.Errorf("left behind: %v", files)
			}
		})
	}
}

// A fullFile fails after some bytes, or at its end, as on a full disk.
type fullFile struct {
	*os.File
	room    *atomic.Int64
	atClose bool
}

func (f *fullFile) Write(b []byte) (int, error) {
	if f.room.Add(-int64(len(b))) < 0 {
		n, err := f.File.Write(b[:len(b)/2])
		if err != nil {
			return n, err
		}
		return n, &os.PathError{Op: "write", Path: f.Name(), Err: syscall.ENOSPC}
	}
	return f.File.Write(b)
}

func (f *fullFile) Close() error {
	if err := f.File.Close(); err != nil || !f.atClose {
		return err
	}
	return &os.PathError{Op: "close", Path: f.Name(), Err: syscall.EDQUOT}
}

func TestWorkDirFull(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	entries := randomEntries(rnd, 2000)
	failed := map[bool]int{} // whether it was in the scan
	for room := int64(0); ; room = room*3/2 + 1000 {
		for _, atClose := range []bool{false, true} {
			watch(t)
			dir := t.TempDir()
			left := atomic.Int64{}
			left.Store(room)
			scanned := atomic.Int64{}
			src := newFakeSource(rnd, entries, 100, 3)
			sorted, _, err := Scan(context.Background(), src, ScanOptions{WorkDir: dir, Workers: 3,
				Events: func(e Event) {
					if _, ok := e.(PageRead); ok {
						scanned.Add(1)
					}
				},
				tune: func(s *sorter) {
					s.limit, s.hold, s.fanIn = 2000, 2, 4
					s.create = func() (runFile, error) {
						f, err := os.CreateTemp(dir, "run-*")
						return &fullFile{File: f, room: &left, atClose: atClose}, err
					}
				}})
			if err == nil && !atClose { // there was room for all
				got, derr := drain(sorted)
				if derr != nil || differ(got, sortedCopy(entries)) != "" {
					t.Errorf("%v %s", derr, differ(got, sortedCopy(entries)))
				}
				if err := sorted.Close(); err != nil {
					t.Error(err)
				}
				if failed[true] == 0 || failed[false] == 0 {
					t.Errorf("failures in the scan and in the merge passes: %v", failed)
				}
				return
			}
			failed[scanned.Load() < 100]++
			if !errors.Is(err, ErrDestination) || coded(err) != "work-full map[]" {
				t.Errorf("room for %d: %v", room, err)
			}
			if files := filesIn(t, dir); len(files) > 0 {
				t.Errorf("left behind: %v", files)
			}
		}
	}
}

func TestWorkDirIsGone(t *testing.T) {
	watch(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	src := newFakeSource(rnd, randomEntries(rnd, 500), 20, 2)
	dir := t.TempDir()
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	_, _, err := Scan(context.Background(), src, ScanOptions{WorkDir: dir, tune: func(s *sorter) { s.limit, s.hold = 300, 0 }})
	if !errors.Is(err, ErrDestination) || !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestMemoryShares(t *testing.T) {
	// What is held, what is filled last and what reads runs must together
	// stay within the budget.
	for _, memory := range []int64{MinMemory, DefaultMemory, 1 << 40} {
		s := newSorter("", memory, nil, nil)
		if sum := int64(s.hold+1)*s.limit + s.mergeMemory; sum > memory || sum < memory*9/10 {
			t.Errorf("of %d bytes %d are used while merging", memory, sum)
		}
		if cap(s.free) != sortBuffers || int64(cap(s.free))*s.limit > memory {
			t.Errorf("%d buffers of %d bytes", cap(s.free), s.limit)
		}
	}
}
