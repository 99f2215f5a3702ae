package bench

import (
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
)

// liveBatch is how many changes are applied at a time, and liveBatches how often, between
// a Delta and another.
const liveBatch, liveBatches = 300, 10

// BenchmarkLiveEnd measures what is done with the staged vault.db while no Vault serves:
// the last changes, Finish, Delta. How that grows with the table must be next to nothing:
// "x-growth" is the time with 4 M entries without that with 10,000, of the 150 ms that it
// may take. "changes/s" is what 1 M entries are changed at, which Vaults write meanwhile.
func BenchmarkLiveEnd(b *testing.B) {
	liveEnd(b, b.Loop, map[string]int{"small": 10_000, "1M": 1_000_000, "4M": 4_000_000}).report(b)
}

func TestLiveEnd(t *testing.T) {
	m := liveEnd(t, once(), map[string]int{"small": 400, "1M": 2000, "4M": 4000})
	want(t, m, "small-ms", "1M-ms", "4M-ms", "4M-delta-ms", "changes/s", "x-needed", "4M-open-ms")
	if _, ok := m["x-growth"]; !ok {
		t.Error("x-growth is missing")
	}
}

func liveEnd(tb testing.TB, loop func() bool, entries map[string]int) metrics {
	stages := map[string]*liveStage{}
	for name, n := range entries {
		stages[name] = newLiveStage(tb, n)
	}
	names := []string{"small", "1M", "4M"}
	times := map[string][]time.Duration{}
	add := func(name string, d time.Duration) { times[name] = append(times[name], d) }
	for loop() {
		for range 2 { // and make bench has five rounds
			for _, name := range names {
				s := stages[name]
				runtime.GC()
				start := time.Now()
				s.apply(1) // opens the file
				add(name+"-open", time.Since(start))
				s.check(s.Pin(tb.Context()))
				start = time.Now()
				for range liveBatches {
					s.apply(liveBatch)
				}
				add(name+"-batches", time.Since(start))
				add(name+"-catchup", s.delta(liveBatches*liveBatch))
				s.check(s.Pin(tb.Context()))

				start = time.Now()
				s.apply(liveBatch)
				applied := time.Now()
				s.check(s.Finish(tb.Context()))
				finished := time.Now()
				delta := s.delta(liveBatch)
				add(name, time.Since(start))
				add(name+"-apply", applied.Sub(start))
				add(name+"-finish", finished.Sub(applied))
				add(name+"-delta", delta)
			}
		}
	}
	m := metrics{}
	for name, all := range times {
		m[name+"-ms"] = 1000 * median(all).Seconds()
	}
	m["x-growth"] = max(m["4M-ms"]-m["small-ms"], 0) / 150
	m["changes/s"] = 1000 * liveBatches * liveBatch / m["1M-batches-ms"]
	m["x-needed"] = m["changes/s"] / 100
	m["spread"] = spread(times["4M"])
	return m
}

// A liveStage is a staged vault.db that is being changed.
type liveStage struct {
	copier.Applier
	tb   testing.TB
	n    int
	rnd  *rand.Rand
	mark int
}

// newLiveStage loads n entries of 800 bytes on average.
func newLiveStage(tb testing.TB, n int) *liveStage {
	tb.Helper()
	s := &liveStage{tb: tb, n: n, rnd: rand.New(rand.NewPCG(1, uint64(n)))}
	dst, err := sink.New(sink.Options{Path: mkdir(tb), NodeID: "n", Address: "127.0.0.1:8201"})
	s.check(err)
	_, err = dst.Open(tb.Context())
	s.check(err)
	stage, err := dst.Stage(tb.Context(), "run")
	s.check(err)
	tb.Cleanup(func() {
		s.check(stage.Close(false))
		s.check(dst.Close())
	})
	_, err = stage.(copier.Loader).Load(tb.Context(), &numbered{n: n, rnd: rand.New(rand.NewPCG(2, uint64(n)))})
	s.check(err)
	s.Applier = stage.(copier.Applier)
	return s
}

func (s *liveStage) check(err error) {
	s.tb.Helper()
	if err != nil {
		s.tb.Fatal(err)
	}
}

// delta returns how long Delta takes, of n changes or a few more.
func (s *liveStage) delta(n int) time.Duration {
	s.tb.Helper()
	seen := 0
	count := func(copier.Entry) error { seen++; return nil }
	start := time.Now()
	s.check(s.Delta(s.tb.Context(), count, count))
	if seen < min(n, s.n) { // a small table has some of them twice
		s.tb.Fatalf("Delta yields %d entries of %d changes", seen, n)
	}
	return time.Since(start)
}

// apply makes changes at random places: most entries get another value, some go, and
// some are new.
func (s *liveStage) apply(n int) {
	s.tb.Helper()
	var changes []copier.Change
	seen := map[int]bool{}
	for len(changes) < n {
		at := s.rnd.IntN(2 * s.n)
		if at%2 == 1 && s.rnd.IntN(10) > 0 {
			at--
		}
		if seen[at] {
			continue
		}
		seen[at] = true
		c := copier.Change{Entry: copier.Entry{Key: numberedKey(at)}, Gone: s.rnd.IntN(10) == 0}
		if !c.Gone {
			c.Value = make([]byte, 300+s.rnd.IntN(900))
			c.Value[0] = byte(len(changes))
		}
		changes = append(changes, c)
	}
	s.mark++
	mark := slices.Repeat(fmt.Appendf(nil, "%8d", s.mark), 200) // positions of some shards, and digests
	s.check(s.Apply(s.tb.Context(), changes, func([]copier.Entry) ([]byte, error) { return mark, nil }))
}

// numberedKey is that of an entry: those that are loaded have even numbers.
func numberedKey(i int) []byte { return fmt.Appendf(nil, "sys/token/id/h%012d", i) }

// numbered yields n entries.
type numbered struct {
	n, next int
	rnd     *rand.Rand
	value   [1200]byte
}

// Next implements [copier.Stream].
func (s *numbered) Next() (copier.Entry, error) {
	if s.next == s.n {
		return copier.Entry{}, io.EOF
	}
	s.next++
	return copier.Entry{Key: numberedKey(2 * (s.next - 1)), Value: s.value[:300+s.rnd.IntN(900)]}, nil
}
