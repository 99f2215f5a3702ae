package plan

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// TestPredict: what a model of given figures says, by hand. How good its figures
// are on a real machine is a row of bench/RESULTS.md.
func TestPredict(t *testing.T) {
	t.Parallel()
	// 1 GB, of which a worker reads 10 MB a second, in 1 ns for each byte on all
	// processors, and half of that behind the reading; 2 s of what is always there.
	m := model{bytes: 1e9, items: 1.024e9, segments: 64, perWorker: 10e6, cpu: 1e-9,
		local: local{fixed: 2 * time.Second, after: 0.5e-9}}
	start := startWorkers()
	for name, c := range map[string]struct {
		s       settings
		waits   float64
		reading float64
		limit   copier.Limit
	}{
		// Two more pages of one worker: the last ones come one after the other.
		"one worker": {s: settings{workers: 1, cores: 1}, reading: 100 + 2*pageBytes/10e6, limit: copier.LimitNetwork},
		// 250,000 units, and half a page of 256 for each page and each segment.
		"the table":      {s: settings{workers: 1000, table: 1000, cores: 1}, reading: 250 + (250_000.0/256+64)/2/1000 - 1, limit: copier.LimitTable},
		"the flag":       {s: settings{workers: 1000, cap: 1000, cores: 1}, reading: 250 + (250_000.0/256+64)/2/1000 - 1, limit: copier.LimitTable},
		"flag and table": {s: settings{workers: 1000, cap: 500, table: 1000, cores: 1}, reading: 500 + (250_000.0/256+64)/2/500 - 1, limit: copier.LimitTable},
		"small pages":    {s: settings{workers: 1000, cap: 100, cores: 1}, reading: 2500 + (250_000.0/100+64)/2/100 - 1, limit: copier.LimitTable},
		"a lock":         {s: settings{workers: 1, cores: 1}, waits: 41, reading: 100 + 2*pageBytes/10e6, limit: copier.LimitNetwork},
		// So many workers read in a second more than a processor can take.
		"the processor":   {s: settings{workers: 1_000_000, cores: 0.01 * start}, reading: 100 / start, limit: copier.LimitProcessor},
		"half of it":      {s: settings{workers: 1_000_000, cores: 0.005 * start}, reading: 200 / start, limit: copier.LimitProcessor},
		"growing workers": {s: settings{workers: int(2 * start), cores: 1e6}, reading: grown(1e9, 10e6, start, 2*start) + 2*pageBytes/10e6, limit: copier.LimitNetwork},
	} {
		m.waits = c.waits
		total, reading, limit := m.predict(c.s)
		if want := c.waits + 2 + c.reading + 0.5/c.s.cores; math.Abs(reading/c.reading-1) > 1e-3 || math.Abs(total/want-1) > 1e-3 || limit != c.limit {
			t.Errorf("%s: %.3f s, of which %.3f s of reading, by the %s; expected %.3f, %.3f and the %s", name, total, reading, limit, want, c.reading, c.limit)
		}
	}
}

// grown is how long workers take for so many bytes that are half as many more
// each second, from some up to twice these.
func grown(bytes, perWorker, from, to float64) (seconds float64) {
	for _, workers := range []float64{from, math.Ceil(1.5 * from)} {
		if bytes <= workers*perWorker {
			return seconds + bytes/(workers*perWorker)
		}
		bytes -= workers * perWorker
		seconds++
	}
	return seconds + bytes/(to*perWorker)
}

// gigabyte is a planner of a table with 1 GiB in a million items.
func gigabyte(readUnits int64) *planner {
	return &planner{
		Options: Options{Config: &vaultconfig.Config{}, NoSample: true},
		report:  &Report{},
		table: &dynamodb.Inspection{Survey: &dynamodb.Survey{Info: copier.Info{Name: "vault", Items: 1_000_000, Bytes: 1 << 30},
			OnDemand: readUnits == 0, ReadUnits: readUnits}, Locks: &dynamodb.Locks{}},
	}
}

// Vault creates tables with 5 read units: 1 GiB takes 14 hours and a half, by
// 262,144 units of 4 KiB.
func TestVaultsDefaultCapacity(t *testing.T) {
	t.Parallel()
	p := gigabyte(5)
	p.estimate(t.Context())
	e := p.report.Estimate
	if hours := e.Seconds / 3600; hours < 14 || hours > 15 || e.Limit != copier.LimitTable || e.Units < 262144 || e.Units > 263000 {
		t.Errorf("%+v", e)
	}
	got := find(t, p.report, "duration")
	if got.Status != copier.Warned || !strings.Contains(got.Message, "14.6 h") || !strings.Contains(got.Hint, "500 read units") || !strings.Contains(got.Hint, "PAY_PER_REQUEST") {
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
		status copier.Outcome
		want   string
	}{
		"enough":          {read: 200, limit: copier.LimitTable, status: copier.Passed, want: "22 min"},
		"on demand":       {limit: copier.LimitProcessor, status: copier.Passed, want: "processor"},
		"the flag":        {read: 40_000, cap: 20, limit: copier.LimitTable, status: copier.Warned, want: "-read-capacity 20"},
		"flag, on demand": {cap: 20, limit: copier.LimitTable, status: copier.Warned, want: "leave -read-capacity out"},
	} {
		p := gigabyte(c.read)
		p.ReadCapacity = c.cap
		p.estimate(t.Context())
		got := find(t, p.report, "duration")
		if e := p.report.Estimate; e.Limit != c.limit || got.Status != c.status || !strings.Contains(got.Message+got.Hint, c.want) {
			t.Errorf("%s: %+v, %+v", name, got, e)
		}
	}
	p := gigabyte(0)
	p.Workers, p.table.Survey.Bytes = 1, 64<<30
	p.estimate(t.Context())
	if e := p.report.Estimate; e.Limit != copier.LimitNetwork || len(e.Others) != 1 || e.Others[0].Setting != "-max-parallel 2" || e.Others[0].Seconds > e.Seconds*0.7 {
		t.Errorf("one worker: %+v", e)
	}
}

// A worker that has read a handful of entries reads few bytes a second: the rest of a
// table that has no more is not as slow.
func TestTinyTable(t *testing.T) {
	t.Parallel()
	m := &model{bytes: 200, items: 200, segments: 64, perWorker: 3000, cpu: 1e-9, local: commonLocal}
	if total, _, limit := m.predict(settings{workers: 64, cores: 2}); total > 2 || limit != copier.LimitNetwork {
		t.Errorf("%f s, by %s", total, limit)
	}
}

func TestNothingTellsTheSize(t *testing.T) {
	t.Parallel()
	p := gigabyte(5)
	p.table.Survey.Items, p.table.Survey.Bytes = 0, 0
	if p.estimate(t.Context()); p.report.Estimate != nil {
		t.Errorf("%+v", p.report.Estimate)
	}
	if got := find(t, p.report, "estimate"); got.Status != copier.Warned {
		t.Errorf("%+v", got)
	}
}

// The time that a copy watches a lock which somebody left counts.
func TestLeftLockTakesTime(t *testing.T) {
	t.Parallel()
	p, locked := gigabyte(200), gigabyte(200)
	locked.table.Locks.Leader = &dynamodb.LockHolder{Expired: true}
	for _, p := range []*planner{p, locked} {
		p.estimate(t.Context())
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
	if most := units*sampleShare*(s.Seconds+1) + 10; s.Units > most || s.Units <= 0 || s.Throttled || s.Complete {
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
	opts.SampleTime = time.Hour
	rep, err := Run(t.Context(), opts)
	e.ok(err)
	if s := rep.Estimate.Sample; s == nil || !s.Throttled || s.Entries == 0 || throttle.Fired() > s.Workers {
		t.Errorf("%+v, throttled %d times", s, throttle.Fired())
	}
	if got := find(t, rep, "sample"); got.Status != copier.Warned {
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
