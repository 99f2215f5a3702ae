package estimate

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/processors"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
)

// What bounds a sample.
const (
	defaultSample = 4 * time.Second
	sampleBytes   = 48 << 20 // of entries
	keptShare     = 4        // a page's first entries are kept for the trial, one in so many
	manyPlaces    = 10       // pages, each of another span, before any span's next one
	stretchPages  = 4        // whose processor time is measured, and of how many that is
	// worth more than the time of all together
	enoughStretches = 5
	fullWorkers     = 8     // read the whole table
	mostRefused     = 10000 // items are named in a report
	// sampleShare is how much of a table's provisioned capacity the sample may
	// consume: a Vault may be at work on it.
	sampleShare = 0.1
)

// sizeClasses are the upper bounds of the size mix, in bytes of key and value.
var sizeClasses = [...]int64{1 << 10, 4 << 10, 16 << 10, 64 << 10}

// A sample is a source that ends early. It measures what a scan reads of it. A Path
// that fills many pages is in one span, most of which is behind its first page, and
// in a sample of first pages would hardly be: so the scan reads places that take
// turns, and each turn is the next page of a span that was begun, or of one that was
// not. A sample of the whole table has the table's own spans.
type sample struct {
	Sample
	src    copier.Source
	full   bool
	tell   func(copier.Event) // of what a whole table has
	places int                // that are read at the same time
	ctx    context.Context    // of the sample
	end    context.CancelFunc // ends the sample, and is no error
	mu     sync.Mutex
	fresh  []copier.Span // of which nothing was read
	begun  []copier.Span // what is left of others
	turn   bool          // of what was begun

	spans, done int   // for tables that don't tell how large they are
	items       int64 // with markers and locks
	pages       int64
	sizes       [len(sizeClasses) + 1]int64
	largest     int64
	capped      bool  // it was not allowed to read as fast as it could
	first, seen int64 // bytes of the spans' first pages, and of how many
	reading     time.Duration
	refused     []error // why a copy refuses items
	more        int64   // such items beyond mostRefused
	warnings    []string
	hidden      copier.HiddenLeases
	batch       copier.Batch // some of the entries

	// most is the best rate of all workers together, in bytes of entries a second,
	// and saturated says that more workers brought no more.
	most      float64
	saturated bool
	processor bool     // it was busy all the time: how fast a worker could read is not known
	step      struct { // since the number of workers changed
		workers int
		began   time.Time
		bytes   int64
	}

	// stretches are the processor seconds a byte of some pages each. Their median
	// tells what a copy takes: what connections and memory cost that were not there
	// yet a copy pays once, however large it is.
	stretches []float64
	from      int64 // bytes that were read before the last
	fromCPU   time.Duration
	cpu       float64 // processor seconds a byte
}

// atLeast is what the table holds at least, in bytes of keys and values: chance
// chose the spans that were read, so that the others hold as much as the first pages
// of these.
func (s *sample) atLeast() int64 {
	if s.seen == 0 {
		return s.Bytes
	}
	return max(s.Bytes, s.first/s.seen*int64(s.spans))
}

// perWorker is how fast one worker read, in bytes of entries a second.
func (s *sample) perWorker() float64 { return float64(s.Bytes) / max(s.reading.Seconds(), 1e-9) }

// take reads a sample, or the whole table. An error that is not the context's is
// the source's; what was read until then is returned with it.
func (p *estimator) take(ctx context.Context) (*sample, error) {
	s := &sample{full: p.Full, tell: p.Events}
	capacity := 0.0
	if !p.Survey.OnDemand && p.Survey.ReadUnits > 0 {
		capacity = float64(p.Survey.ReadUnits) * sampleShare
	}
	if p.ReadCapacity > 0 && (capacity == 0 || p.ReadCapacity < capacity) {
		capacity = p.ReadCapacity
	}
	s.capped = capacity > 0
	s.ctx, s.end = context.WithCancel(ctx)
	if !p.Full {
		s.ctx, s.end = context.WithTimeout(ctx, p.SampleTime)
	}
	defer s.end()
	src, err := p.Source.Sampler(ctx, capacity, func(e copier.Event) {
		s.event(e)
		if p.Full {
			p.Events(e)
		}
	})
	if err != nil {
		return s, err
	}
	s.src = src
	if s.fresh, err = src.Split(s.ctx, 0); err != nil {
		if s.ctx.Err() != nil && ctx.Err() == nil {
			s.Seconds = p.SampleTime.Seconds() // with next to no capacity, even that takes longer
			return s, nil
		}
		return s, err
	}
	s.spans = len(s.fresh)
	rand.Shuffle(s.spans, func(i, j int) { s.fresh[i], s.fresh[j] = s.fresh[j], s.fresh[i] })
	dir, err := os.MkdirTemp(p.TempDir, "dyn2raft-estimate-")
	if err != nil {
		return s, fmt.Errorf("read a sample: %w", err)
	}
	defer os.RemoveAll(dir)
	opts := copier.ScanOptions{Workers: p.Workers, Memory: p.Memory, WorkDir: dir, Events: s.event}
	s.places = opts.MaxWorkers()
	if p.Full {
		opts.Workers = min(s.places, fullWorkers)
		opts.Events = func(e copier.Event) {
			if e, ok := e.(copier.PhaseStarted); ok {
				e.Source = p.Survey.Info
				p.Events(e)
				return
			}
			p.Events(e)
		}
		opts.Map = func(e copier.Entry, out *copier.Batch) {} // nothing is sorted
	}
	return s, s.scan(ctx, opts)
}

// scan reads the sample as a copy does.
func (s *sample) scan(ctx context.Context, opts copier.ScanOptions) error {
	s.batch.Grow(sampleBytes/keptShare + copier.PageRoom) // ahead of what is measured
	began, cpu := time.Now(), processors.Time()
	sorted, stats, err := copier.Scan(ctx, s, opts)
	if err == nil {
		err = sorted.Close()
	}
	s.Seconds, s.Workers = time.Since(began).Seconds(), stats.Workers
	s.event(copier.WorkersChanged{Workers: s.step.workers}) // ends the last step
	s.processor = stats.Limit == copier.LimitProcessor
	if s.Bytes > 0 {
		s.cpu = (processors.Time() - cpu).Seconds() / float64(s.Bytes)
	}
	if n := len(s.stretches); n >= enoughStretches {
		slices.Sort(s.stretches)
		s.cpu = s.stretches[n/2]
	}
	left := len(s.fresh) + len(s.begun)
	s.Complete, s.done = left == 0 && err == nil, s.spans-left
	return err
}

// event takes what the source and the scan tell.
func (s *sample) event(e copier.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch e := e.(type) {
	case copier.Retried:
		if s.Throttled = s.Throttled || e.Throttled; e.Throttled && !s.full {
			s.end()
		}
	case copier.Warning:
		s.warnings = append(s.warnings, e.Message)
	case copier.WorkersChanged:
		if took := time.Since(s.step.began); s.step.workers > 0 && took > 0 {
			s.most = max(s.most, float64(s.step.bytes)/took.Seconds())
			s.saturated = s.saturated || e.Workers < s.step.workers && !s.Throttled && !s.capped
		}
		s.step.workers, s.step.began, s.step.bytes = e.Workers, time.Now(), 0
	}
}

// Open is not called: the source is open.
func (s *sample) Open(context.Context) (copier.Info, error) { return copier.Info{}, nil }

// Close leaves the source open.
func (s *sample) Close() error { return nil }

// Split returns the places, or the spans of the whole table.
func (s *sample) Split(context.Context, int) ([]copier.Span, error) {
	if s.full {
		spans := slices.Clone(s.fresh)
		slices.SortFunc(spans, func(a, b copier.Span) int { return a.Index - b.Index })
		s.fresh = nil
		return spans, nil
	}
	out := make([]copier.Span, s.places)
	for i := range out {
		out[i].Index = i
	}
	return out, nil
}

// next is the span whose next page is read in a place.
func (s *sample) next(place copier.Span) (span copier.Span, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full {
		return place, true
	}
	from := &s.fresh
	if s.turn && s.pages >= manyPlaces && len(s.begun) > 0 || len(s.fresh) == 0 {
		from = &s.begun
	}
	if len(*from) == 0 || s.ctx.Err() != nil || s.Bytes >= sampleBytes {
		return copier.Span{}, false // what others have begun is theirs to read
	}
	span, *from, s.turn = (*from)[0], (*from)[1:], !s.turn
	return span, true
}

// Read reads a page of the span whose turn it is. What keeps items from being copied
// does not end a sample: the page has none such for whoever reads it.
func (s *sample) Read(ctx context.Context, place copier.Span, b *copier.Batch) (copier.Page, error) {
	span, ok := s.next(place)
	if !ok {
		return copier.Page{}, nil
	}
	before, asked := b.Len(), time.Now()
	page, err := s.src.Read(s.ctx, span, b)
	took := time.Since(asked)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.begun = append(s.begun, span) // it is not read to its end
		if s.ctx.Err() != nil && ctx.Err() == nil {
			return copier.Page{}, nil
		}
		return copier.Page{}, err
	}
	s.add(b, before, page, len(span.From) == 0, took)
	page.Refused = nil
	if !s.full {
		s.begun = append(s.begun, page.Next...)
		page.Next = []copier.Span{place}
	}
	return page, nil
}

// add measures a page, whose entries are those behind before. The caller holds s.mu.
func (s *sample) add(b *copier.Batch, before int, page copier.Page, first bool, took time.Duration) {
	was, n := s.Bytes, b.Len()-before
	for i := range n {
		e := b.Entry(before + i)
		size := int64(len(e.Key) + len(e.Value))
		class, _ := slices.BinarySearch(sizeClasses[:], size)
		s.sizes[class]++
		s.largest = max(s.largest, size)
		s.hidden.Add(e.Key)
		s.Bytes += size
		if i*keptShare < n && (!s.full || s.batch.Bytes() < sampleBytes/keptShare) {
			s.batch.Append(e.Key, e.Value)
		}
	}
	s.pages++
	s.Units += page.Counts[dynamodb.ReadCapacityUnits]
	s.Entries += int64(n)
	s.items += int64(n+len(page.Locks)+len(page.Refused)) + page.Markers
	s.reading += took
	s.step.bytes += s.Bytes - was
	if first {
		s.first += s.Bytes - was
		s.seen++
	}
	for _, r := range page.Refused {
		if s.full {
			s.tell(copier.ItemRefused{Err: r})
		}
		if len(s.refused) == mostRefused {
			s.more++
			continue
		}
		s.refused = append(s.refused, r)
	}
	if s.pages%stretchPages == 0 {
		cpu := processors.Time()
		if s.fromCPU > 0 && s.Bytes > s.from {
			s.stretches = append(s.stretches, (cpu-s.fromCPU).Seconds()/float64(s.Bytes-s.from))
		}
		s.from, s.fromCPU = s.Bytes, cpu
	}
}
