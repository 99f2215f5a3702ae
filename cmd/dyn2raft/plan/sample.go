package plan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/processors"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
)

// What bounds a sample.
const (
	defaultSample = 4 * time.Second
	sampleBytes   = 48 << 20 // of entries
	keptShare     = 4        // a page's first entries are kept for the trial, one in so many
	manyPlaces    = 10       // pages, each of another segment, before any segment's next one
	sampleStep    = 500 * time.Millisecond
	stretchPages  = 4 // whose processor time is measured, and of how many that is
	// worth more than the time of all together
	enoughStretches = 5
	fullWorkers     = 8     // read the whole table, where its capacity is what bounds it
	mostRefused     = 10000 // items are named in a report
	// sampleShare is how much of a table's provisioned capacity the sample may
	// consume: a Vault may be at work on it.
	sampleShare = 0.1
)

// A sample is what a short scan has read, and how fast.
type sample struct {
	entries, bytes int64 // of keys and values
	items          int64 // with markers and locks
	units          float64
	wire           int64
	pages          int64
	sizes          [len(sizeClasses) + 1]int64
	largest        int64
	throttled      bool
	capped         bool  // it was not allowed to read as fast as it could
	complete       bool  // the whole table was read
	segments, done int   // for tables that don't tell how large they are
	first, seen    int64 // bytes of the segments' first pages, and of how many
	took           time.Duration
	// refused says of items that a copy refuses why, and more counts those beyond
	// mostRefused.
	refused []error
	more    int64
	// warnings are what the source found in what it read.
	warnings []string

	workers int // at the most
	// perWorker is how fast one worker read, in bytes of entries a second.
	perWorker float64
	// most is the best rate of all workers together, in bytes of entries a
	// second, and saturated tells that more workers brought no more.
	most      float64
	saturated bool
	cpu       float64      // processor seconds a byte
	batch     copier.Batch // some of the entries
}

// atLeast is what the table holds at least, in bytes of keys and values: chance
// chose the segments that were read, so that the others hold as much as the
// first pages of these.
func (s *sample) atLeast() int64 {
	if s.seen == 0 {
		return s.bytes
	}
	return max(s.bytes, s.first/s.seen*int64(s.segments))
}

// sizeClasses are the upper bounds of the size mix, in bytes of key and value.
var sizeClasses = [...]int64{1 << 10, 4 << 10, 16 << 10, 64 << 10}

// take reads a sample, or the whole table. An error that is not the context's is
// the source's; what was read until then is returned with it.
func (p *planner) take(ctx context.Context) (*sample, error) {
	s := &sampler{limit: p.workers(), full: p.Full, events: func(copier.Event) {}}
	if p.Full && p.Events != nil {
		s.events = p.Events
	}
	capacity := 0.0
	if !p.table.Survey.OnDemand && p.table.Survey.ReadUnits > 0 {
		capacity = float64(p.table.Survey.ReadUnits) * sampleShare
	}
	if p.ReadCapacity > 0 && (capacity == 0 || p.ReadCapacity < capacity) {
		capacity = p.ReadCapacity
	}
	s.capped = capacity > 0
	if !p.Full {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, p.SampleTime, errSampleOver)
		defer cancel()
	}
	ctx, s.end = context.WithCancelCause(ctx)
	defer s.end(nil)
	src, err := p.Source.Sampler(ctx, capacity, func(e copier.Event) {
		if r, ok := e.(copier.Retried); ok && r.Throttled {
			s.mu.Lock()
			s.throttled = true
			s.mu.Unlock()
			if !s.full {
				s.end(errSampleOver)
			}
		}
		if w, ok := e.(copier.Warning); ok {
			s.mu.Lock()
			s.warnings = append(s.warnings, w.Message)
			s.mu.Unlock()
		}
		s.events(e)
	})
	if err != nil {
		return &s.sample, err
	}
	segs, err := src.Split(ctx, 0)
	if errors.Is(err, errSampleOver) {
		s.took = p.SampleTime // with next to no capacity, even that takes longer
		return &s.sample, nil
	}
	if err != nil {
		return &s.sample, err
	}
	s.src, s.segments = src, len(segs)
	s.events(copier.PhaseStarted{Phase: copier.PhaseScan, Source: p.table.Survey.Info, Segments: len(segs), Workers: s.limit})
	rand.Shuffle(len(segs), func(i, j int) { segs[i], segs[j] = segs[j], segs[i] })
	s.queue = segs
	if err := s.run(ctx); err != nil && !errors.Is(err, errSampleOver) {
		return &s.sample, err
	}
	return &s.sample, nil
}

// errSampleOver ends a sample.
var errSampleOver = errors.New("the sample is over")

// A sampler reads a sample with more and more workers.
type sampler struct {
	sample
	src    copier.Source
	limit  int
	end    context.CancelCauseFunc
	full   bool // to the end of the table
	events func(copier.Event)

	mu sync.Mutex
	// queue is the segments of which nothing was read, and begun what is left of the
	// others. They take turns, once there are some pages from different places: a Path
	// that fills many pages is in one segment, most of which is behind its first page,
	// and in a sample of first pages would hardly be.
	queue   []copier.Span
	begun   []copier.Span
	turn    bool // of what was begun
	busy    int
	reading time.Duration // of all workers, in this step
	step    int64         // bytes of this step
	count   int64         // pages of this step
	all     time.Duration // of all workers, in the steps before

	// stretches are the processor seconds a byte of some pages each. Their median
	// tells what a copy takes: what connections and memory cost that were not there
	// yet a copy pays once, however large it is.
	stretches []float64
	from      int64 // bytes that were read before the last
	fromCPU   time.Duration
}

func (s *sampler) run(ctx context.Context) error {
	s.batch.Grow(sampleBytes/keptShare + copier.PageRoom) // ahead of what is measured
	began, cpu := time.Now(), processors.Time()
	var failed error
	live, over := 0, make(chan struct{}) // closed when the last worker has ended
	start := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.workers > 0 && live == 0 {
			return // all have ended already
		}
		s.workers++
		live++
		go func() {
			err := s.work(ctx)
			s.mu.Lock()
			defer s.mu.Unlock()
			if err != nil {
				if failed == nil && !errors.Is(err, errSampleOver) && context.Cause(ctx) == nil {
					failed = err
				}
				s.end(err)
			}
			if live--; live == 0 {
				close(over)
			}
		}()
	}
	first := 2
	if s.full {
		first = fullWorkers
	}
	for range min(first, s.limit) {
		start()
	}
	last := time.Now()
	growing := true
steps:
	for {
		select {
		case <-over:
			break steps
		case <-time.After(sampleStep):
		}
		done, grow := s.measure(time.Since(last), false)
		if !done {
			continue
		}
		last = time.Now()
		growing = growing && grow
		if growing && !s.capped {
			for range min(s.workers, s.limit-s.workers) {
				start()
			}
		}
	}
	s.measure(time.Since(last), true)
	s.took = time.Since(began)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bytes > 0 {
		s.cpu = (processors.Time() - cpu).Seconds() / float64(s.bytes)
	}
	if n := len(s.stretches); n >= enoughStretches {
		slices.Sort(s.stretches)
		s.cpu = s.stretches[n/2]
	}
	left := len(s.queue) + len(s.begun)
	s.complete = s.busy == 0 && left == 0
	s.done = s.segments - left - s.busy
	if s.pages == 0 && failed == nil && !s.throttled && !s.complete {
		failed = context.Cause(ctx)
	}
	return failed
}

// measure ends a step that took so long, once each worker has read two pages or
// so: fewer come in bunches, and tell nothing of how fast they come. It tells
// whether more workers are worth a try. The last step ends as it is.
func (s *sampler) measure(took time.Duration, last bool) (done, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	enough := took >= sampleStep && s.count >= 2*int64(s.workers)
	if s.count == 0 || !enough && !last {
		return false, true
	}
	rate := float64(s.step) / took.Seconds()
	s.all += s.reading
	s.perWorker = float64(s.bytes) / s.all.Seconds()
	if enough {
		more = rate > s.most*1.2
		s.saturated = s.saturated || !more && !s.capped
		s.most = max(s.most, rate)
	}
	s.step, s.count, s.reading = 0, 0, 0
	return true, more
}

// work reads a page of a segment after the other, so that the sample comes
// from many places.
func (s *sampler) work(ctx context.Context) error {
	var page copier.Batch
	page.Grow(copier.PageRoom)
	for {
		s.mu.Lock()
		from := &s.queue
		if s.turn && s.pages >= manyPlaces && len(s.begun) > 0 || len(s.queue) == 0 {
			from = &s.begun
		}
		if len(*from) == 0 {
			s.mu.Unlock()
			return nil // what others split is theirs to read
		}
		seg := (*from)[0]
		*from = (*from)[1:]
		s.turn = !s.turn
		s.busy++
		s.mu.Unlock()
		page.Reset()
		asked := time.Now()
		info, err := s.src.Read(ctx, seg, &page)
		took := time.Since(asked)
		s.mu.Lock()
		if err == nil {
			s.busy--
			s.begun = append(s.begun, info.Next...)
			if s.add(&page, info, took); len(seg.From) == 0 {
				s.first += page.Bytes()
				s.seen++
			}
		}
		full := s.bytes >= sampleBytes && !s.full
		s.mu.Unlock()
		if err == nil {
			for _, r := range info.Refused {
				s.events(copier.ItemRefused{Err: r})
			}
			s.events(copier.PageRead{Entries: int64(page.Len()), Bytes: page.Bytes(), Markers: info.Markers, WireBytes: info.WireBytes,
				Counts: info.Counts, SegmentDone: len(info.Next) == 0})
		}
		switch {
		case err != nil:
			return err
		case full:
			return errSampleOver
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
	}
}

func (s *sampler) add(page *copier.Batch, info copier.Page, took time.Duration) {
	s.pages++
	s.units += info.Counts[dynamodb.ReadCapacityUnits]
	s.wire += info.WireBytes
	s.entries += int64(page.Len())
	s.bytes += page.Bytes()
	s.items += int64(page.Len()+len(info.Locks)+len(info.Refused)) + info.Markers
	room := min(mostRefused-len(s.refused), len(info.Refused))
	s.refused = append(s.refused, info.Refused[:room]...)
	s.more += int64(len(info.Refused) - room)
	s.reading += took
	s.step += page.Bytes()
	s.count++
	if s.pages%stretchPages == 0 {
		cpu := processors.Time()
		if s.fromCPU > 0 && s.bytes > s.from {
			s.stretches = append(s.stretches, (cpu-s.fromCPU).Seconds()/float64(s.bytes-s.from))
		}
		s.from, s.fromCPU = s.bytes, cpu
	}
	for i := range page.Len() {
		e := page.Entry(i)
		n := int64(len(e.Key) + len(e.Value))
		class, _ := slices.BinarySearch(sizeClasses[:], n)
		s.sizes[class]++
		s.largest = max(s.largest, n)
		if i*keptShare < page.Len() && (!s.full || s.batch.Bytes() < sampleBytes/keptShare) {
			s.batch.Append(e.Key, e.Value)
		}
	}
}

// local is how long this machine takes for what is done with the entries once
// they are read: a fixed time, and seconds a byte.
type local struct {
	fixed      time.Duration
	sort       float64 // processor seconds a byte, while reading goes on
	after      float64 // seconds a byte: to write vault.db and to read it back
	fileFactor float64 // vault.db's size as a multiple of keys and values
}

// trialBytes is how much data the trial has, made from the sample.
const trialBytes = 32 << 20

// try copies entries like those of the sample, from memory into a directory
// that is removed again, with the code of a copy.
func (p *planner) try(ctx context.Context, s *sample) (local, error) {
	small, smallSort, smallAfter, err := p.trial(ctx, s, 1)
	if err != nil {
		return local{}, err
	}
	out := local{fixed: small.Duration, sort: math.Inf(1), after: math.Inf(1)}
	for range 3 { // the first one finds memory and files cold
		large, sort, after, err := p.trial(ctx, s, trialBytes)
		if err != nil {
			return local{}, err
		}
		more := float64(max(large.Load.Bytes-small.Load.Bytes, 1))
		out.after = min(out.after, max(after-smallAfter, 0).Seconds()/more)
		out.sort = min(out.sort, max(sort-smallSort, 0).Seconds()/more)
		out.fileFactor = max(float64(large.Load.FileBytes)/float64(max(large.Load.Bytes, 1)), 1)
	}
	return out, nil
}

// trial also returns how long the copy took to sort, and to write.
func (p *planner) trial(ctx context.Context, s *sample, bytes int64) (res copier.Result, sort, after time.Duration, err error) {
	dir, err := os.MkdirTemp(p.TempDir, "dyn2raft-plan-")
	if err != nil {
		return res, 0, 0, fmt.Errorf("write a sample: %w", err)
	}
	defer os.RemoveAll(dir)
	dst, err := sink.New(sink.Options{Path: dir, NodeID: "plan", Address: "127.0.0.1:8201"})
	if err != nil {
		return res, 0, 0, err
	}
	src, workers := newAgain(&s.batch, bytes), processors.Count()
	res, err = copier.Copy(ctx, src, dst, copier.Options{Workers: workers, Memory: p.Memory})
	if err != nil {
		return res, 0, 0, fmt.Errorf("copy a sample to %s: %w", dir, err)
	}
	scan := res.Phases[copier.PhaseScan]
	return res, scan - time.Duration(src.spent.Load())/time.Duration(workers), res.Duration - scan, nil
}

// again yields the entries of a batch again and again, until they are so many bytes,
// each turn under other Paths: a table has a Path in one place too, and that its
// entries come in order is most of what makes sorting cheap.
type again struct {
	batch *copier.Batch
	pages []againPage
	spent atomic.Int64 // nanoseconds of all workers, on what a copy spends in its source
}

// An againPage is the entries from one up to another, in one of the turns.
type againPage struct{ from, to, turn int }

// mostPages bounds the pages that are made of a sample of a few entries.
const mostPages = 100_000

// newAgain makes pages of about 1 MiB, and an empty one of no entries.
func newAgain(batch *copier.Batch, size int64) *again {
	a := &again{batch: batch}
	var all int64
	for turn := 0; batch.Len() > 0 && all < size && len(a.pages) < mostPages; turn++ {
		for p := (againPage{turn: turn}); p.from < batch.Len() && all < size; p.from = p.to {
			for end := min(all+1<<20, size); p.to < batch.Len() && all < end; p.to++ {
				e := batch.Entry(p.to)
				all += int64(len(e.Key) + len(e.Value))
			}
			a.pages = append(a.pages, p)
		}
	}
	if len(a.pages) == 0 {
		a.pages = []againPage{{}}
	}
	return a
}

func (a *again) Open(context.Context) (copier.Info, error) {
	return copier.Info{Name: "sample", ID: "sample"}, nil
}

func (a *again) Split(context.Context, int) ([]copier.Span, error) {
	out := make([]copier.Span, len(a.pages))
	for i := range out {
		out[i] = copier.Span{Index: i}
	}
	return out, nil
}

// Read gives the whole segment, which is one page.
func (a *again) Read(ctx context.Context, seg copier.Span, b *copier.Batch) (copier.Page, error) {
	if err := ctx.Err(); err != nil {
		return copier.Page{}, err
	}
	began := time.Now()
	defer func() { a.spent.Add(int64(time.Since(began))) }()
	p := a.pages[seg.Index]
	suffix := fmt.Appendf(nil, ".%d", p.turn)
	var key []byte
	for i := p.from; i < p.to; i++ {
		e := a.batch.Entry(i)
		if key = append(key[:0], e.Key...); p.turn > 0 {
			path := bytes.LastIndexByte(key, '/')
			if path < 0 {
				path = len(key)
			}
			key = slices.Insert(key, path, suffix...)
		}
		b.Append(key, e.Value)
	}
	return copier.Page{}, nil
}
