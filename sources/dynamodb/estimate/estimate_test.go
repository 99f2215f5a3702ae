package estimate

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/check"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/copiertest"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
)

// hot is a source of which one segment has many pages, as that of a Path with all
// tokens has, and each of the others one.
type hot struct {
	pages int // of segment 0
	value []byte
}

func (h hot) Close() error { return nil }

func (h hot) Open(context.Context) (copier.Info, error) { return copier.Info{}, nil }

func (h hot) Split(context.Context, int) ([]copier.Span, error) { return nil, nil }

func (h hot) Read(_ context.Context, seg copier.Span, b *copier.Batch) (copier.Page, error) {
	n := len(seg.From)
	b.Append(fmt.Appendf(nil, "logical/%03d/%06d", seg.Index, n), h.value)
	if seg.Index == 0 && n+1 < h.pages {
		seg.From = bytes.Repeat([]byte{'x'}, n+1)
		return copier.Page{Next: []copier.Span{seg}}, nil
	}
	return copier.Page{}, nil
}

// What was sampled is copied again, as an estimate: it is a source like any other.
func TestAgainKeepsContract(t *testing.T) {
	t.Parallel()
	var batch copier.Batch
	var want []copier.Entry
	for i := range 40 {
		e := copier.Entry{Key: fmt.Appendf(nil, "logical/%03d", i*7%40), Value: make([]byte, 100<<10)}
		batch.Append(e.Key, e.Value)
		want = append(want, e)
	}
	copiertest.TestSource(t, func() copier.Source { return newAgain(&batch, batch.Bytes()) }, want)
}

// A sample of a table, most of which is in one segment, is not of first pages only.
func TestSampleOfHotPath(t *testing.T) {
	t.Parallel()
	s := &sample{places: 1, src: hot{pages: 200, value: make([]byte, 1<<20)}, spans: 64}
	s.ctx, s.end = context.WithCancel(t.Context())
	defer s.end()
	for i := range 64 {
		s.fresh = append(s.fresh, copier.Span{Index: i})
	}
	if err := s.scan(t.Context(), copier.ScanOptions{Workers: 1, WorkDir: t.TempDir(), Events: s.event}); err != nil {
		t.Fatal(err)
	}
	var begun int64
	for i := range s.batch.Len() {
		if bytes.HasPrefix(s.batch.Entry(i).Key, []byte("logical/000/")) {
			begun++
		}
	}
	if s.Complete || s.Entries < 40 || begun < s.Entries*4/10 || begun > s.Entries*6/10 {
		t.Errorf("%d of %d entries are of the segment that has most, complete %v", begun, s.Entries, s.Complete)
	}
}

// What is made of a sample is as large as it is asked for, has no key twice, and has
// the order within a Path that a table has.
func TestAgain(t *testing.T) {
	t.Parallel()
	var sample copier.Batch
	for path := range 50 {
		for i := range 20 {
			sample.Append(fmt.Appendf(nil, "logical/%d/%03d", path*7%50, i), make([]byte, 1000))
		}
	}
	sample.Append([]byte("root"), []byte("x"))
	for _, size := range []int64{1, 100_000, 1 << 20, 10 << 20} {
		a := newAgain(&sample, size)
		segs, err := a.Split(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		var all copier.Batch
		var keys [][]byte
		turns := map[string]int{} // of each Path
		breaks := 0
		for _, seg := range segs {
			var b copier.Batch
			page, err := a.Read(t.Context(), seg, &b)
			if err != nil || len(page.Next) > 0 || b.Len() == 0 || b.Bytes() > 1<<20+2000 {
				t.Fatalf("%d entries of %d bytes, %+v, %v", b.Len(), b.Bytes(), page, err)
			}
			var before []byte
			for i := range b.Len() {
				key := b.Entry(i).Key
				dir := key[:bytes.LastIndexByte(key, '/')+1]
				if !bytes.HasPrefix(before, dir) || bytes.Compare(before, key) >= 0 {
					breaks++
				}
				before = key
				turn := a.pages[seg.Index].turn
				if was, ok := turns[string(dir)]; ok && was != turn && len(dir) > 0 {
					t.Fatalf("%s is in the turns %d and %d", key, was, turn)
				}
				turns[string(dir)] = turn
				keys = append(keys, slices.Clone(key))
				all.Append(key, b.Entry(i).Value)
			}
		}
		if all.Bytes() < size || all.Bytes() > size+size/100+2000 {
			t.Errorf("%d bytes, expected %d", all.Bytes(), size)
		}
		if most := len(keys)/20 + 2*len(segs) + int(size/sample.Bytes()) + 1; breaks > most {
			t.Errorf("the order of Paths is broken %d times in %d entries, expected at most %d", breaks, len(keys), most)
		}
		slices.SortFunc(keys, bytes.Compare)
		if n := len(slices.CompactFunc(slices.Clone(keys), bytes.Equal)); n != len(keys) {
			t.Errorf("%d keys of %d are there twice", len(keys)-n, len(keys))
		}
	}
}

// A table of markers has a sample without entries.
func TestAgainWithoutEntries(t *testing.T) {
	t.Parallel()
	a := newAgain(new(copier.Batch), 1<<20)
	segs, err := a.Split(t.Context(), 0)
	if err != nil || len(segs) != 1 {
		t.Fatalf("%v, %v", segs, err)
	}
	var b copier.Batch
	if page, err := a.Read(t.Context(), segs[0], &b); err != nil || b.Len() != 0 || len(page.Next) != 0 {
		t.Errorf("%d entries, %+v, %v", b.Len(), page, err)
	}
}

// TestPredict: what a model of given figures says, by hand. How good its figures
// are on a real machine is a row of bench/RESULTS.md.
func TestPredict(t *testing.T) {
	t.Parallel()
	// 1 GB, of which a worker reads 10 MB a second, in 1 ns for each byte on all
	// processors, and half of that behind the reading; 2 s of what is always there.
	m := model{bytes: 1e9, items: 1.024e9, segments: 64, perWorker: 10e6, cpu: 1e-9,
		local: local{fixed: 2 * time.Second, after: 0.5e-9}}
	start := float64(copier.FirstWorkers())
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

// gigabyte is of a table with 1 GiB in a million items.
func gigabyte(readUnits int64) Options {
	return Options{NoSample: true, Survey: &dynamodb.Survey{Info: copier.Info{Name: "vault", Items: 1_000_000, Bytes: 1 << 30},
		OnDemand: readUnits == 0, ReadUnits: readUnits}}
}

// find returns what a check has found, with the command's words for it, and fails
// where there is not just one.
func find(t *testing.T, fs copier.Findings, name string) check.Result {
	t.Helper()
	var found []check.Result
	for _, r := range check.Plan.Results(fs) {
		if r.Check == name {
			found = append(found, r)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d results of check %q in %+v", len(found), name, fs)
	}
	return found[0]
}

// Vault creates tables with 5 read units: 1 GiB takes 14 hours and a half, by
// 262,144 units of 4 KiB.
func TestVaultsDefaultCapacity(t *testing.T) {
	t.Parallel()
	e, found := Make(t.Context(), gigabyte(5))
	if hours := e.Seconds / 3600; hours < 14 || hours > 15 || e.Limit != copier.LimitTable || e.Units < 262144 || e.Units > 263000 {
		t.Errorf("%+v", e)
	}
	got := find(t, found, "duration")
	if got.Status != copier.Warned || !strings.Contains(got.Message, "14.6 h") || !strings.Contains(got.Hint, "500 read units") || !strings.Contains(got.Hint, "PAY_PER_REQUEST") {
		t.Errorf("%+v", got)
	}
	var others []string
	for _, o := range e.Others {
		others = append(others, fmt.Sprintf("%+v", o))
	}
	if len(e.Others) != 3 || e.Others[0] != (Other{ReadUnits, 10, e.Others[0].Seconds}) || math.Abs(e.Others[0].Seconds*2/e.Seconds-1) > 0.05 || e.Others[2].Seconds > 120 {
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
		"the flag":        {read: 40_000, cap: 20, limit: copier.LimitTable, status: copier.Warned, want: "a cap of 20 read units"},
		"flag, on demand": {cap: 20, limit: copier.LimitTable, status: copier.Warned, want: "leave -read-capacity out"},
	} {
		p := gigabyte(c.read)
		p.ReadCapacity = c.cap
		e, found := Make(t.Context(), p)
		got := find(t, found, "duration")
		if e.Limit != c.limit || got.Status != c.status || !strings.Contains(got.Message+got.Hint, c.want) {
			t.Errorf("%s: %+v, %+v", name, got, e)
		}
	}
	p := gigabyte(0)
	p.Workers, p.Survey.Bytes = 1, 64<<30
	e, _ := Make(t.Context(), p)
	if e.Limit != copier.LimitNetwork || len(e.Others) != 1 || e.Others[0] != (Other{Workers, 2, e.Others[0].Seconds}) || e.Others[0].Seconds > e.Seconds*0.7 {
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
	p.Survey.Items, p.Survey.Bytes = 0, 0
	e, found := Make(t.Context(), p)
	if e != nil {
		t.Errorf("%+v", e)
	}
	if got := find(t, found, "estimate"); got.Status != copier.Warned {
		t.Errorf("%+v", got)
	}
}

// The time that a copy watches a lock which somebody left counts.
func TestLeftLockTakesTime(t *testing.T) {
	t.Parallel()
	p, locked := gigabyte(200), gigabyte(200)
	locked.Waits = 41 * time.Second
	// It is known, and makes the range no wider.
	was, _ := Make(t.Context(), p)
	now, _ := Make(t.Context(), locked)
	for _, more := range []float64{now.Seconds - was.Seconds, now.Low - was.Low, now.High - was.High} {
		if math.Abs(more-41) > 0.1 {
			t.Errorf("%f s more: %+v, %+v", more, was, now)
		}
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

// TestDowntime: which copy is recommended, and by what an offline one is judged.
func TestDowntime(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change  func(*Options)
		read    int64
		offline []Capacity
		way     Way
		because Reason
	}{
		"Vault's default":    {read: 5, offline: []Capacity{AtPresent, AtWarm, AtQuota}, way: LiveCopy, because: Slow},
		"provisioned well":   {read: 2000, offline: []Capacity{AtPresent, AtWarm, AtQuota}, way: OfflineCopy, because: Short},
		"as warm as it has":  {read: 12_000, offline: []Capacity{AtPresent, AtQuota}, way: OfflineCopy, because: Short},
		"above the quota":    {read: 50_000, offline: []Capacity{AtPresent}, way: OfflineCopy, because: Short},
		"on demand":          {offline: []Capacity{AtPresent, AtWarm, AtQuota}, way: OfflineCopy, because: Short},
		"nothing said":       {change: func(o *Options) { o.Survey.WarmReadUnits = 0 }, offline: []Capacity{AtPresent, AtQuota}, way: OfflineCopy, because: Short},
		"many entries":       {change: func(o *Options) { o.Survey.Items = manyEntries + 1 }, offline: []Capacity{AtPresent, AtWarm, AtQuota}, way: LiveCopy, because: Large},
		"a cap, and no more": {change: func(o *Options) { o.ReadCapacity = 20 }, offline: []Capacity{AtPresent, AtWarm, AtQuota}, way: OfflineCopy, because: Short},
		"several regions":    {change: func(o *Options) { o.Survey.Replicas = []string{"eu-west-1"} }, read: 5, offline: []Capacity{AtPresent, AtWarm, AtQuota}, way: OfflineCopy, because: Replicated},
		"beyond the quota":   {change: func(o *Options) { o.Survey.WarmReadUnits = 90_000 }, read: 5, offline: []Capacity{AtPresent, AtWarm}, way: LiveCopy, because: Slow},
	} {
		o := gigabyte(c.read)
		o.Survey.WarmReadUnits = 12_000
		if c.change != nil {
			c.change(&o)
		}
		e, _ := Make(t.Context(), o)
		d := e.Downtime
		var offline []Capacity
		for i, at := range d.Offline {
			offline = append(offline, at.Capacity)
			if c.read == 5 && i > 0 && at.Seconds >= d.Offline[i-1].Seconds {
				t.Errorf("%s: more capacity makes it no shorter: %+v", name, d.Offline)
			}
		}
		if !slices.Equal(offline, c.offline) || d.Offline[0].Seconds != e.Seconds || d.Recommended != c.way || d.Because != c.because || d.Live != 1 {
			t.Errorf("%s: %+v", name, d)
		}
	}
	// 262,144 units and some, less what is there at the start: see TestPredict.
	o := gigabyte(5)
	o.Survey.WarmReadUnits = 1000
	e, _ := Make(t.Context(), o)
	if s := e.Downtime.Offline[1].Seconds; s < 260 || s > 280 || e.Downtime.Offline[1].Units != 1000 {
		t.Errorf("%+v", e.Downtime)
	}
}
