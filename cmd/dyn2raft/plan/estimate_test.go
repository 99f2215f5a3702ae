package plan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/config"
	"github.com/dyn2raft/dyn2raft/copier"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// An accuracy is what is asked of estimates that are measurements themselves, on
// a machine that others use too: four of five come within 25% of the median of
// the copies.
const (
	tries     = 5
	goodTries = 4
	most      = 0.25
)

// accurate tells how many estimates are good, of copies that took so long.
func accurate(estimated, took []float64) (good int) {
	sorted := slices.Sorted(slices.Values(took))
	median := sorted[len(sorted)/2]
	for _, e := range estimated {
		if math.Abs(e/median-1) <= most {
			good++
		}
	}
	return good
}

// What is asked of estimates is too much for those that are off at random by up
// to 60%, and not for those that are off by a fifth.
func TestAccuracyCanFail(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	passes := func(spread float64) (n int) {
		for range 2000 {
			var estimated, took []float64
			for range tries {
				estimated = append(estimated, 10*(1+spread*(2*rnd.Float64()-1)))
				took = append(took, 10*(1+0.05*(2*rnd.Float64()-1)))
			}
			if accurate(estimated, took) >= goodTries {
				n++
			}
		}
		return n
	}
	if n := passes(0.6); n > 300 {
		t.Errorf("a model that is off by up to 60%% passes %d times of 2000", n)
	}
	if n := passes(0.2); n < 1990 {
		t.Errorf("a model that is off by up to a fifth passes %d times of 2000", n)
	}
}

// TestEstimateOfRealCopy compares the estimate with the copy itself, under
// three limits and two ways to be held back by the table. What the table bounds
// is arithmetic: one try, 25% at the most. For the others see accurate; they get
// a second chance, and are left to the run without the race detector, which has
// the machine to itself: "make test" runs both.
func TestEstimateOfRealCopy(t *testing.T) {
	for _, c := range []struct {
		name    string
		entries int
		server  dynamotest.Options
		read    int64 // provisioned units, 0 is on demand
		cap     float64
		workers int
		limit   copier.Limit
		one     bool // of the processors
	}{
		{name: "server", entries: 50_000, server: dynamotest.Options{Latency: 10 * time.Millisecond, Throughput: 2e6}, workers: 8, limit: copier.LimitNetwork},
		{name: "read capacity", entries: 30_000, read: 2500, cap: 2000, limit: copier.LimitTable},
		{name: "throttling", entries: 40_000, server: dynamotest.Options{Provisioned: true}, read: 2000, limit: copier.LimitTable},
		// One processor: the others of this machine are left to whoever uses it.
		{name: "processor", entries: 200_000, limit: copier.LimitProcessor, one: true},
	} {
		if c.limit != copier.LimitTable && raceDetector {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			if c.one {
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
			}
			srv := dynamotest.NewServer(c.server)
			defer srv.Close()
			e := &env{T: t, srv: srv}
			e.ok(srv.CreateVaultTable(dynamotest.VaultTable))
			if _, err := (dynamotest.VaultShape{Entries: c.entries, Seed: 7}).Load(srv, dynamotest.VaultTable); err != nil {
				t.Fatal(err)
			}
			if c.read > 0 {
				e.ok(srv.SetCapacity(dynamotest.VaultTable, c.read, 100))
			}
			n, need, chances := tries, goodTries, 2
			if c.limit == copier.LimitTable {
				n, need, chances = 1, 1, 1
			}
			var memory *filler
			if c.one {
				memory = newFiller(t)
				memory.fill(t)
				// The first copies of a process touch memory that the system, or the
				// host of a virtual machine, has yet to find.
				for range 3 {
					e.copy(c.workers, c.cap)
				}
			}
		again:
			var estimated, copied []float64
			named := 0
			for try := range n {
				opts := e.options()
				opts.Workers, opts.ReadCapacity = c.workers, c.cap
				opts.SampleTime = 1500 * time.Millisecond
				if memory != nil {
					memory.fill(t)
				}
				rep, err := Run(t.Context(), opts)
				e.ok(err)
				got := rep.Estimate
				if got == nil {
					t.Fatalf("no estimate: %+v", rep.Checks)
				}
				if got.Sample == nil || got.Sample.Complete || got.Sample.Bytes > got.Bytes/2 {
					t.Fatalf("the sample is most of the table: %+v of %+v", got.Sample, got)
				}
				if memory != nil {
					memory.fill(t)
				}
				took, entries, units := e.copy(c.workers, c.cap)
				t.Logf("try %d: estimated %.2f s (%.2f to %.2f, %s), took %.2f s: ratio %.2f; units %.0f of %.0f, entries %d of %d, sample %+v",
					try, got.Seconds, got.Low, got.High, got.Limit, took.Seconds(), got.Seconds/took.Seconds(), got.Units, units, got.Entries, entries, got.Sample)
				if off := got.Units/units - 1; math.Abs(off) > 0.1 {
					t.Errorf("estimated %.0f units, consumed %.0f", got.Units, units)
				}
				if off := float64(got.Entries)/float64(entries) - 1; math.Abs(off) > 0.4 { // sizes differ much, and the sample is small
					t.Errorf("estimated %d entries, there are %d", got.Entries, entries)
				}
				if got.Limit == c.limit {
					named++
				}
				estimated, copied = append(estimated, got.Seconds), append(copied, took.Seconds())
			}
			if good := accurate(estimated, copied); good < need || named < need {
				if chances--; chances > 0 {
					t.Logf("of %d estimates %d were good and %d named the limit %s: once more", n, good, named, c.limit)
					goto again
				}
				t.Errorf("of %d estimates %d were good and %d named the limit %s, expected %d", n, good, named, c.limit, need)
			}
		})
	}
}

// A filler keeps the memory that is free full of a file, as it is where a machine
// has run for some time. The host of a virtual machine takes back what is free for
// 2 s, and to get it again takes longer than to write there: a copy that has to took
// up to twice as long as the next one.
type filler struct {
	f  *os.File
	at int64
}

func newFiller(t *testing.T) *filler {
	f, err := os.Create(filepath.Join(t.TempDir(), "hole"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &filler{f: f}
}

// fill fills what has become free but for 256 MiB, for a minute at the most. Where
// the system does not tell what is free it does nothing.
func (l *filler) fill(t *testing.T) {
	t.Helper()
	free := int64(0)
	text, _ := os.ReadFile("/proc/meminfo") // Linux has it
	for line := range strings.Lines(string(text)) {
		if _, err := fmt.Sscanf(line, "MemFree: %d kB", &free); err == nil {
			break
		}
	}
	buf := make([]byte, 1<<20)
	end := l.at + max(free<<10-256<<20, 0)
	if err := l.f.Truncate(end); err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); l.at < end && time.Since(began) < time.Minute; l.at += int64(len(buf)) {
		// A hole takes memory when it is read, and nothing on disk.
		if _, err := l.f.ReadAt(buf, l.at); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
}

// copy makes the real copy, and returns how long it took.
func (e *env) copy(workers int, read float64) (time.Duration, int64, float64) {
	e.Helper()
	src, err := dynamodb.New(e.Context(), dynamodb.Options{Table: dynamotest.VaultTable, Endpoint: e.srv.URL,
		AccessKey: "a", SecretKey: "b", ReadCapacity: read,
		Stopped: func(context.Context, string) (bool, error) { return true, nil }})
	e.ok(err)
	dir := filepath.Join(e.TempDir(), "data")
	e.ok(os.Mkdir(dir, 0o700))
	defer os.RemoveAll(dir)
	dst, err := sink.New(sink.Options{Path: dir, NodeID: "n", Address: "127.0.0.1:8201"})
	e.ok(err)
	res, err := copier.Copy(e.Context(), src, dst, copier.Options{Workers: workers})
	e.ok(err)
	e.Logf("phases %v", res.Phases)
	return res.Duration, res.Load.Entries, res.Scan.Units
}

// gigabyte is a planner of a table with 1 GiB in a million items.
func gigabyte(readUnits int64) *planner {
	return &planner{
		Options: Options{Config: &config.Config{}, NoSample: true},
		report:  &Report{},
		survey: &dynamodb.Survey{SourceInfo: copier.SourceInfo{Name: "vault", Items: 1_000_000, Bytes: 1 << 30},
			OnDemand: readUnits == 0, ReadUnits: readUnits},
	}
}

// Vault creates tables with 5 read units: 1 GiB takes 14 hours and a half, by
// 262,144 units of 4 KiB.
func TestVaultsDefaultCapacity(t *testing.T) {
	t.Parallel()
	p := gigabyte(5)
	if err := p.estimate(t.Context()); err != nil {
		t.Fatal(err)
	}
	e := p.report.Estimate
	if hours := e.Seconds / 3600; hours < 14 || hours > 15 || e.Limit != copier.LimitTable || e.Units < 262144 || e.Units > 263000 {
		t.Errorf("%+v", e)
	}
	got := find(t, p.report, "duration")
	if got.Status != Warning || !strings.Contains(got.Message, "14.6 h") || !strings.Contains(got.Hint, "500 read units") || !strings.Contains(got.Hint, "PAY_PER_REQUEST") {
		t.Errorf("%+v", got)
	}
	var others []string
	for _, o := range e.Others {
		others = append(others, fmt.Sprintf("%s: %.0f", o.Setting, o.Seconds))
	}
	if len(e.Others) != 3 || e.Others[0].Setting != "10 read units" || math.Abs(e.Others[0].Seconds*2/e.Seconds-1) > 0.05 || e.Others[2].Seconds > 120 {
		t.Errorf("%q", others)
	}
	// What was not used before is served at once, at the best.
	if most := (e.Units - 5*300) / 5; e.Low > most*1.01 || e.Low < most*0.9 || e.High <= e.Seconds {
		t.Errorf("from %f to %f", e.Low, e.High)
	}
}

func TestCapacityInOtherWords(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		read   int64
		cap    float64
		limit  copier.Limit
		status Status
		want   string
	}{
		"enough":          {read: 200, limit: copier.LimitTable, status: Pass, want: "22 min"},
		"on demand":       {limit: copier.LimitProcessor, status: Pass, want: "processor"},
		"the flag":        {read: 40_000, cap: 20, limit: copier.LimitTable, status: Warning, want: "-read-capacity 20"},
		"flag, on demand": {cap: 20, limit: copier.LimitTable, status: Warning, want: "leave -read-capacity out"},
	} {
		p := gigabyte(c.read)
		p.ReadCapacity = c.cap
		if err := p.estimate(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := find(t, p.report, "duration")
		if e := p.report.Estimate; e.Limit != c.limit || got.Status != c.status || !strings.Contains(got.Message+got.Hint, c.want) {
			t.Errorf("%s: %+v, %+v", name, got, e)
		}
	}
	p := gigabyte(0)
	p.Workers, p.survey.Bytes = 1, 64<<30
	if err := p.estimate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e := p.report.Estimate; e.Limit != copier.LimitNetwork || len(e.Others) != 1 || e.Others[0].Setting != "-max-parallel 2" || e.Others[0].Seconds > e.Seconds*0.7 {
		t.Errorf("one worker: %+v", e)
	}
}

func TestNothingTellsTheSize(t *testing.T) {
	t.Parallel()
	p := gigabyte(5)
	p.survey.Items, p.survey.Bytes = 0, 0
	if err := p.estimate(t.Context()); err != nil || p.report.Estimate != nil {
		t.Errorf("%v, %+v", err, p.report.Estimate)
	}
	if got := find(t, p.report, "estimate"); got.Status != Warning {
		t.Errorf("%+v", got)
	}
}

// The time that a copy watches a lock which somebody left counts.
func TestLeftLockTakesTime(t *testing.T) {
	t.Parallel()
	p, locked := gigabyte(200), gigabyte(200)
	locked.locks.Leader = &dynamodb.LockHolder{Expired: true}
	for _, p := range []*planner{p, locked} {
		if err := p.estimate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	// It is known, and makes the range no wider.
	was, now := p.report.Estimate, locked.report.Estimate
	for _, more := range []float64{now.Seconds - was.Seconds, now.Low - was.Low, now.High - was.High} {
		if math.Abs(more-41) > 0.1 {
			t.Errorf("%f s more: %+v, %+v", more, was, now)
		}
	}
}

// A sample reads eventually consistent and takes a tenth of what is
// provisioned.
func TestSampleIsModest(t *testing.T) {
	t.Parallel()
	e := newEnv(t, dynamotest.Options{Provisioned: true})
	// All alike: what a page costs is known before. One with larger entries than
	// those before it costs more, and the next ones wait for that; see the
	// source's tests.
	for i := range 20_000 {
		e.ok(e.srv.PutVaultEntry(dynamotest.VaultTable, fmt.Sprintf("logical/%03d/%02d", i/100, i%100), make([]byte, 800)))
	}
	const units = 400
	e.ok(e.srv.SetCapacity(dynamotest.VaultTable, units, 10))
	var strong atomic.Int64
	e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.Delay, Delay: time.Nanosecond, Operation: "Scan", Match: func(r *dynamotest.Request) bool {
		if bytes.Contains(r.Body, []byte(`"ConsistentRead":true`)) {
			strong.Add(1)
		}
		return false
	}})
	opts := e.options()
	opts.SampleTime = 2 * time.Second
	rep, err := Run(t.Context(), opts)
	e.ok(err)
	s := rep.Estimate.Sample
	// One second's worth is there at the start. What the first pages cost, of an
	// item and of a few, is rounded up and learnt from.
	if most := units*sampleShare*(s.Seconds+1) + 10; s.Units > most || s.Units < units*sampleShare || s.Throttled || s.Complete {
		t.Errorf("%+v, expected at most %f units", s, most)
	}
	if strong.Load() != 0 {
		t.Errorf("%d requests were strongly consistent", strong.Load())
	}
}

// A sample of a few entries tells less than the table.
func TestTinySample(t *testing.T) {
	t.Parallel()
	e := newEnv(t, dynamotest.Options{})
	if _, err := (dynamotest.VaultShape{Entries: 20_000, Seed: 7}).Load(e.srv, dynamotest.VaultTable); err != nil {
		t.Fatal(err)
	}
	e.ok(e.srv.SetCapacity(dynamotest.VaultTable, 5, 5))
	opts := e.options()
	opts.SampleTime = time.Second
	rep, err := Run(t.Context(), opts)
	e.ok(err)
	est := rep.Estimate
	if est.Sample == nil || est.Sample.Units > 4 || est.Entries < 20_000 || est.Entries > 30_000 || len(est.Sizes) != 0 || est.Limit != copier.LimitTable {
		t.Errorf("%+v, sample %+v", est, est.Sample)
	}
}

// The first throttle ends it.
func TestSampleEndsWhenThrottled(t *testing.T) {
	t.Parallel()
	e := newEnv(t, dynamotest.Options{Latency: 20 * time.Millisecond})
	if _, err := (dynamotest.VaultShape{Entries: 20_000, Seed: 7}).Load(e.srv, dynamotest.VaultTable); err != nil {
		t.Fatal(err)
	}
	throttle := &dynamotest.Fault{Kind: dynamotest.ThroughputExceeded, Operation: "Scan", After: 12} // one is a probe
	e.srv.SetFaults(throttle)
	opts := e.options()
	opts.SampleTime = time.Minute
	began := time.Now()
	rep, err := Run(t.Context(), opts)
	e.ok(err)
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it went on for %v", took)
	}
	if s := rep.Estimate.Sample; s == nil || !s.Throttled || s.Entries == 0 || throttle.Fired() > s.Workers {
		t.Errorf("%+v, throttled %d times", s, throttle.Fired())
	}
	if got := find(t, rep, "sample"); got.Status != Warning {
		t.Errorf("%+v", got)
	}
}

func TestSizeMix(t *testing.T) {
	t.Parallel()
	e := newEnv(t, dynamotest.Options{})
	for i, n := range []int{10, 2000, 9000, 9001, 50_000, 200_000} {
		e.ok(e.srv.PutVaultEntry(dynamotest.VaultTable, fmt.Sprintf("x/%d", i), make([]byte, n)))
	}
	rep, err := Run(t.Context(), e.options())
	e.ok(err)
	var got []float64
	for _, c := range rep.Estimate.Sizes {
		got = append(got, math.Round(c.Share*11)) // 5 small ones of newEnv
	}
	if want := []float64{6, 1, 2, 1, 1}; !slices.Equal(got, want) || rep.Estimate.Largest != 200_003 {
		t.Errorf("%v of %+v, expected %v", got, rep.Estimate, want)
	}
}

func TestRoundUp(t *testing.T) {
	t.Parallel()
	for x, want := range map[float64]int64{0: 1, 0.4: 1, 1: 1, 7.2: 8, 437: 500, 122: 150, 1999: 2000, 3001: 4000} {
		if got := roundUp(x); got < int64(math.Ceil(x)) || got != want {
			t.Errorf("%f: %d, expected %d", x, got, want)
		}
	}
}
