package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sinks/raft/boltfile"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// BenchmarkProcess looks at the program from outside: its peak of anonymous
// memory against -memory ("x-memory", on Linux), the peak of its work files
// against the entries' bytes ("x-work"), and the size of vault.db against the
// best packing of its entries ("x-packing").
func BenchmarkProcess(b *testing.B) {
	s := startServer(b, derived(*entriesFlag))
	for _, memory := range []int64{512, 256, 128, 64} {
		b.Run(fmt.Sprintf("%dMiB", memory), func(b *testing.B) {
			process(b, b.Loop, s, memory).report(b)
		})
	}
}

// gnuTime tells what a program has used. Debian's package is "time".
const gnuTime = "/usr/bin/time"

// BenchmarkGrowth compares a large table with one of -entries, by time
// ("x-time", and "x-entries" is the ratio of the sizes) and by memory
// ("x-memory"), and has the large one's work files ("x-work").
func BenchmarkGrowth(b *testing.B) {
	if *growthFlag == 0 {
		b.Skip("NOT MEASURED: ask for it with -growth 10000000, which takes 10 GB of memory, 25 GB of disk, and some minutes")
	}
	growth(b, b.Loop, *entriesFlag, *growthFlag).report(b)
}

func TestProcess(t *testing.T) {
	m := process(t, once(), startServer(t, derived(3000)), 512)
	want(t, m, "x-packing", "copy-s")
	if runtime.GOOS == "linux" {
		want(t, m, "x-memory", "peak-MiB")
	}
	if m["x-packing"] < 1 {
		t.Errorf("vault.db is smaller than the best packing: %v", m)
	}
}

func TestGrowth(t *testing.T) {
	m := growth(t, once(), 1000, 4000)
	want(t, m, "x-time", "x-entries")
	if runtime.GOOS == "linux" {
		want(t, m, "x-memory")
	}
}

func derived(entries int) tableSpec {
	return tableSpec{Shape: dynamotest.VaultShape{Entries: entries, Seed: 1, Derived: true}}
}

func process(tb testing.TB, loop func() bool, s server, memory int64) metrics {
	var times []time.Duration
	var peak, work, file, best int64
	for loop() {
		o := observe(tb, s, fmt.Sprintf("%dMiB", memory))
		times = append(times, o.took)
		peak, work = max(peak, o.memory), max(work, o.work)
		if best == 0 { // the same each time
			file, best = o.file, bestPacking(tb, o.vaultDB)
		}
		o.remove(tb)
	}
	return metrics{
		"entries":   float64(s.Loaded.Entries),
		"copy-s":    median(times).Seconds(),
		"spread":    spread(times),
		"peak-MiB":  float64(peak) / (1 << 20),
		"x-memory":  float64(peak) / float64(memory<<20),
		"x-work":    float64(work) / float64(s.Loaded.Bytes),
		"x-packing": float64(file) / float64(best),
	}
}

func growth(tb testing.TB, loop func() bool, small, large int) metrics {
	work := 0.0 // of the table that run has copied last
	var memory *filler
	run := func(entries int) (times []time.Duration, peak int64) {
		s := startServer(tb, derived(entries))
		defer s.stop() // it holds memory that the next one's files are to be kept in
		for range 3 {
			var wrap []string
			usage := filepath.Join(tb.TempDir(), "usage")
			if _, err := os.Stat(gnuTime); err == nil && runtime.GOOS == "linux" {
				wrap = []string{gnuTime, "-v", "-o", usage}
			}
			memory.settle(tb)
			o := observe(tb, s, "512MiB", wrap...)
			o.remove(tb)
			times, peak = append(times, o.took), max(peak, o.memory)
			work = float64(o.work) / float64(s.Loaded.Bytes)
			text, _ := os.ReadFile(usage) // nothing where it can't be had
			tb.Logf("%d entries: %.1f s, %d MiB, %d MB of work files, %d MB of vault.db, phases %v\n%s",
				entries, o.took.Seconds(), o.memory>>20, o.work/1e6, o.file/1e6, o.result.Phases, text)
		}
		return times, peak
	}
	var m metrics
	for loop() {
		if m != nil {
			continue // long enough to need no repetition
		}
		if large > 2_000_000 { // more than a few runs give up
			memory = newFiller(tb)
		}
		// A machine is faster in one quarter of an hour than in the next: the
		// small ones are copied before and after.
		t1, m1 := run(small)
		t2, m2 := run(large)
		largeWork := work
		after, m3 := run(small)
		t1, m1 = append(t1, after...), max(m1, m3)
		m = metrics{
			"x-time": median(t2).Seconds() / median(t1).Seconds(), "x-entries": float64(large) / float64(small), "entries": float64(large),
			"small-s": median(t1).Seconds(), "large-s": median(t2).Seconds(),
			"x-work":    largeWork,
			"small-MiB": float64(m1) / (1 << 20), "large-MiB": float64(m2) / (1 << 20),
		}
		if m1 > 0 {
			m["x-memory"] = float64(m2) / float64(m1)
		}
	}
	return m
}

// An observation is what a run of the program has taken.
type observation struct {
	took    time.Duration
	memory  int64 // peak of anonymous memory in bytes; 0 where that isn't known
	work    int64 // peak of the work files in bytes
	file    int64 // size of vault.db in bytes
	vaultDB string
	result  struct {
		Phases map[copier.Phase]time.Duration `json:"phases_ns"`
		Load   copier.LoadStats               `json:"load"`
	}
}

func (o observation) remove(tb testing.TB) {
	if err := os.RemoveAll(filepath.Dir(o.vaultDB)); err != nil {
		tb.Fatal(err)
	}
}

// observe runs a copy in a process of its own, by way of the program wrap where
// that is given, and watches it.
func observe(tb testing.TB, s server, memory string, wrap ...string) observation {
	tb.Helper()
	dir := mkdir(tb)
	args := append(wrap, program(tb), "copy", "-config", writeConfig(tb, s, dir), "-source-stopped", "-memory", memory, "-format", "json")
	cmd := exec.Command(args[0], args[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = childEnvironment(), &stdout, &stderr
	start := time.Now()
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	o := observation{vaultDB: filepath.Join(dir, "vault.db")}
	var err error
	for running := true; running; {
		select {
		case err = <-done:
			o.took = time.Since(start)
			running = false
		case <-time.After(20 * time.Millisecond):
			o.memory = max(o.memory, anonymousMemory(cmd.Process.Pid))
			o.work = max(o.work, sizeOf(filepath.Join(dir, ".dyn2raft", "work")))
		}
	}
	if err != nil {
		tb.Fatalf("dyn2raft copy: %v\n%s", err, stderr.String())
	}
	if err := json.Unmarshal(stdout.Bytes(), &o.result); err != nil {
		tb.Fatal(err)
	}
	if o.result.Load.Entries != int64(s.Loaded.Entries) || o.result.Load.Bytes != s.Loaded.Bytes {
		tb.Fatalf("%d entries of %d bytes copied, expected %d of %d", o.result.Load.Entries, o.result.Load.Bytes, s.Loaded.Entries, s.Loaded.Bytes)
	}
	info, err := os.Stat(o.vaultDB)
	if err != nil {
		tb.Fatal(err)
	}
	o.file = info.Size()
	// What is gone afterwards: everything but what Vault needs.
	if _, err := os.Stat(filepath.Join(dir, ".dyn2raft", "work")); !errors.Is(err, fs.ErrNotExist) {
		tb.Errorf("the work files are still there: %v", err)
	}
	return o
}

// anonymousMemory is RssAnon of a process and of its children, in bytes; 0
// where it can't be read.
func anonymousMemory(pid int) (n int64) {
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
	for child := range strings.FieldsSeq(string(children)) {
		if id, err := strconv.Atoi(child); err == nil {
			n += anonymousMemory(id)
		}
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return n
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kb, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return n + kb<<10
		}
	}
	return n
}

// sizeOf is the size of all files below a directory, in bytes; 0 if there is none.
func sizeOf(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if info, err := e.Info(); err == nil { // else it is gone already
				n += info.Size()
			}
		}
		return nil
	})
	return n
}

// Sizes of bbolt's page format.
const (
	pageHeader   = 16
	pageElement  = 16
	otherPages   = 4 // two metas, the root bucket's leaf and that of the bucket config
	mostShared   = 4 // pages that entries share; boltfile's rule
	branchFanout = 2 // the fewest children
)

// bestPacking is the least size in bytes of a bbolt file with the entries of
// the bucket data of this one, in pages filled as boltfile fills them. Within
// these rules: entries are in their order; a leaf of several entries leaves
// the slack; it takes more than one page only where one of its entries does,
// and at most 4. All ways of cutting the entries into leaves are weighed.
func bestPacking(tb testing.TB, path string) int64 {
	tb.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		tb.Fatal(err)
	}
	defer db.Close()
	var keys, needs []int
	if err := db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("data")).ForEach(func(k, v []byte) error {
			keys, needs = append(keys, len(k)), append(needs, pageElement+len(k)+len(v))
			return nil
		})
	}); err != nil {
		tb.Fatal(err)
	}
	return packing(keys, needs, os.Getpagesize(), boltfile.DefaultFill)
}

// packing is bestPacking for entries with these sizes of keys, and of keys,
// values and elements together.
func packing(keys, needs []int, page int, fill float64) int64 {
	slack := page - int(float64(page)*fill)
	ceil := func(n int) int { return (n + page - 1) / page }
	// least[i] is the fewest pages for the first i entries, the last leaf of
	// which begins at from[i].
	least, from := make([]int, len(needs)+1), make([]int, len(needs)+1)
	for i := 1; i <= len(needs); i++ {
		size, large := pageHeader, false
		for j := i - 1; j >= 0; j-- {
			size += needs[j]
			large = large || pageHeader+needs[j] > page-slack
			pages := ceil(size)
			if i-j > 1 {
				pages = ceil(size + slack)
				if pages > mostShared {
					break
				}
				if pages > 1 && !large {
					continue // a large one before these may still make it worthwhile
				}
			}
			if n := least[j] + pages; j == i-1 || n < least[i] {
				least[i], from[i] = n, j
			}
		}
	}
	var level []int // sizes of the first keys, of the leaves, then of the branches
	for i := len(needs); i > 0; i = from[i] {
		level = append(level, keys[from[i]])
	}
	slices.Reverse(level)
	total := least[len(needs)]
	for len(level) > 1 {
		var above []int
		size, count := 0, 0
		for _, key := range level {
			if count == 0 || count >= branchFanout && size+pageElement+key > page-slack {
				above = append(above, key)
				size, count = pageHeader, 0
			}
			size += pageElement + key
			count++
		}
		total += len(above)
		level = above
	}
	return int64(max(total, 1)+otherPages) * int64(page)
}

// TestPacking checks the packing on small cases that can be done by hand: pages
// of 1,000 bytes at a fill of 0.9 have room for 884 beside their header.
func TestPacking(t *testing.T) {
	for _, c := range []struct {
		name  string
		needs []int
		pages int64
	}{
		{"nothing", nil, 1},
		{"one page", []int{442, 442}, 1},
		{"one byte more: two leaves and a branch", []int{442, 443}, 3},
		{"in their order, not best fit", []int{600, 600, 200, 200}, 4},
		{"a large one alone may fill its pages", []int{1984}, 2},
		{"and shares its last page", []int{1200, 600}, 2},
		{"the page after the small ones that fit", []int{500, 1200, 100}, 2},
		{"one between pages goes where there is room", []int{1500, 300, 800}, 4},
		{"no leaf of five pages but for one entry", []int{4500, 100}, 7},
	} {
		keys := slices.Repeat([]int{10}, len(c.needs))
		if got := packing(keys, c.needs, 1000, 0.9); got != (c.pages+otherPages)*1000 {
			t.Errorf("%s: %v takes %d pages, expected %d", c.name, c.needs, got/1000-otherPages, c.pages)
		}
	}
	// Three levels: each of the leaves has one entry, and a branch page has
	// room for 34 children of 26 bytes.
	n := 35
	if got := packing(slices.Repeat([]int{10}, n), slices.Repeat([]int{800}, n), 1000, 0.9); got != int64(n+2+1+otherPages)*1000 {
		t.Errorf("%d leaves take %d pages", n, got/1000)
	}
}
