package copier

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize/english"
	"golang.org/x/sync/errgroup"

	"github.com/dyn2raft/dyn2raft/copier/processors"
)

// ScanOptions say how a source is read. The zero value is fit for use but for
// WorkDir.
type ScanOptions struct {
	// Workers is the most pages that are read at the same time. A few are
	// read at first, more while that makes the source deliver more, and half
	// as many when it throttles. 0 means 64. Memory bounds it too: one for
	// each 16 MiB.
	Workers int
	// Segments is how many spans the source is asked for; 0 leaves it to the
	// source, and more than [MaxSpans] are refused. A scan that is resumed has
	// those that it was begun with.
	Segments int
	// Memory is what a scan may use, in bytes: half for sorting, a quarter for
	// pages in flight, the rest for what else a Go program needs. 0 means
	// [DefaultMemory]; less than [MinMemory] or more than [MaxMemory] is refused. The garbage
	// collector obeys only whoever calls debug.SetMemoryLimit, as the command
	// does.
	Memory int64
	// WorkDir is an existing directory for what exceeds Memory.
	WorkDir string
	// Map, where set, is called for each entry read. It adds to out what is sorted
	// in its place: the entry, another one, or nothing. It is called from all
	// workers at once, and keeps neither argument.
	Map func(e Entry, out *Batch)
	// Journal, where set, saves what was read: every few seconds, and before a scan
	// that fails or is cancelled returns. The scan reads only what the journal does
	// not have yet. Map must be the same in each process. The journal's directory
	// takes the place of WorkDir, and its files stay until Journal.Remove.
	Journal *Journal
	// Events, where set, is called with the scan's events.
	Events func(Event)

	// goroutines read, at most Workers of them at the same time. Where memory
	// allows more, the others deal with what they have read.
	goroutines int
	// digest computes the digests of what is sorted.
	digest bool
	// unordered, where set, is given what is read, and nothing is sorted. There is a
	// journal then, and no Map.
	unordered Unordered
	twice     func(key []byte) error // is told of keys that are read twice, which are no error then
	journal   *journal               // where it is saved
	every     time.Duration          // how often; 0 means checkpointInterval
	source    Info                   // for the event
	tune      func(*sorter)          // tests make buffers tiny, and files that fail
	ticks     <-chan time.Time       // where set, in place of the clock that every is for
}

// checkpointInterval is how often what was read is saved. With the time that
// saving takes, no more than 5 s of reading are lost.
const checkpointInterval = 4 * time.Second

// saveTime is how long an interrupted scan may take to save what it has read. A
// process must end within 2 s of an interrupt. That includes a disk that takes 0.4 s
// for the writes under way, and 0.4 s for those that follow.
const saveTime = time.Second

const (
	// DefaultMemory is the budget where ScanOptions.Memory is 0: 512 MiB.
	DefaultMemory = 512 << 20
	// MinMemory is the least budget that is accepted: 64 MiB.
	MinMemory = 64 << 20
	// MaxMemory is the largest budget that is accepted: 1 TiB.
	MaxMemory = 1 << 40

	defaultWorkers = 64
	maxWorkers     = 4096
	// pageMemory is what a worker holds: a response of usually up to 1.4 MB, and
	// the entries decoded from it. A source bounds what is larger.
	pageMemory = 4 << 20
	sortShare  = 2 // of the budget, as its divisor
	pageShare  = 4
)

// FirstWorkers is how many workers a scan begins with: four for each processor that
// it may use, since a worker mostly waits for its next page, but at least 8.
func FirstWorkers() int { return max(4*processors.Count(), 8) }

// MaxWorkers is the most pages that are read at the same time: Workers, or its
// default, as far as the memory allows.
func (o ScanOptions) MaxWorkers() int {
	return max(min(cmp.Or(o.Workers, defaultWorkers), o.allowed()), 1)
}

// allowed is how many goroutines may have a page in the memory.
func (o ScanOptions) allowed() int {
	return int(min(cmp.Or(o.Memory, DefaultMemory)/pageShare/pageMemory, maxWorkers))
}

func (o *ScanOptions) validate() error {
	switch {
	case o.Workers < 0:
		return &Error{Kind: ErrConfig, Err: errors.New("the number of workers is negative")}
	case o.Segments < 0:
		return &Error{Kind: ErrConfig, Err: errors.New("the number of segments is negative")}
	case o.Segments > MaxSpans:
		return &Error{Kind: ErrConfig, Err: fmt.Errorf("%d segments: a source is split into %d at the most", o.Segments, MaxSpans)}
	case o.Memory != 0 && o.Memory < MinMemory:
		return &Error{Kind: ErrConfig, Err: errors.New("the memory budget is below 64 MiB")}
	case o.Memory > MaxMemory:
		return &Error{Kind: ErrConfig, Err: errors.New("the memory budget is above 1 TiB")}
	}
	o.Workers, o.Memory = o.MaxWorkers(), cmp.Or(o.Memory, DefaultMemory)
	o.goroutines = min(o.Workers+processors.Count(), o.allowed())
	if o.Events == nil {
		o.Events = func(Event) {}
	}
	return nil
}

// ScanStats says what was read from a source.
type ScanStats struct {
	// Entries is the number of entries read, and Bytes the size of their keys
	// and values together.
	Entries int64 `json:"entries"`
	Bytes   int64 `json:"bytes"`
	// Markers counts directory markers, and Locks names the locks, neither of
	// which are entries.
	Markers int64    `json:"markers"`
	Locks   []string `json:"locks"`
	// Pages and WireBytes count the responses and their size in bytes.
	Pages     int64 `json:"pages"`
	WireBytes int64 `json:"wire_bytes"`
	// Counts are the source's own counters.
	Counts Counts `json:"counts,omitempty"`
	// Retries counts requests that failed and were tried again, Throttles
	// those among them in which the source asked for fewer requests.
	Retries   int64 `json:"retries"`
	Throttles int64 `json:"throttles"`
	// Segments is how many spans the source was split into, and Workers the most pages
	// that were read at the same time.
	Segments int `json:"segments"`
	Workers  int `json:"workers"`
	// Runs counts the sorted runs that went to the work directory, and
	// RunBytes is their size.
	Runs     int   `json:"runs"`
	RunBytes int64 `json:"run_bytes"`
	// Limit is what bounded the reading, as far as that can be told.
	Limit Limit `json:"limit"`
	// Checkpoints counts how often what was read was saved.
	Checkpoints int `json:"checkpoints"`
}

// A Limit is what bounds how fast a source is read.
type Limit string

// The limits.
const (
	LimitTable     Limit = "table"     // it throttles
	LimitCap       Limit = "cap"       // on what is asked of the source
	LimitNetwork   Limit = "network"   // or how long the source takes to answer
	LimitProcessor Limit = "processor" // of this machine
	LimitDisk      Limit = "disk"      // with the work files

	LimitDestination Limit = "destination" // that takes entries while they are read
)

// add adds what another part of a scan has read.
func (s *ScanStats) add(o ScanStats) {
	s.Entries += o.Entries
	s.Bytes += o.Bytes
	s.Markers += o.Markers
	s.Locks = append(s.Locks, o.Locks...)
	s.Pages += o.Pages
	s.WireBytes += o.WireBytes
	s.Counts.add(o.Counts)
	s.Retries += o.Retries
	s.Throttles += o.Throttles
}

// countTolerance is by how much, in percent, the number of items read may differ
// from a source's estimate before anybody is told.
const countTolerance = 5

// CheckCount compares how many items were read of a whole source with how many the
// source reported: a digest can't see what a scan did not return. Where an estimate
// is far off, it sends a [CountDiffers]. Where an exact count differs, the error wraps
// [ErrSource].
func (s *ScanStats) CheckCount(info Info, events func(Event)) error {
	locks := int64(len(s.Locks))
	reported, read := info.Items, s.Entries+s.Markers
	if info.Exact {
		if read += locks; read != reported {
			return &Error{Kind: ErrSource, Op: "read " + info.Name, Err: fmt.Errorf("it has %d items, and %d were read: this is a defect of the source", reported, read)}
		}
		return nil
	}
	if reported == 0 && info.Bytes > 0 {
		return nil // it knows its size, and does not count
	}
	// Locks come and go, and this run has put some of them there itself: a source may
	// have counted them or not.
	read = min(max(reported, read), read+locks)
	if off := max(reported-read, read-reported); off > 0 && (reported == 0 || off*100 > reported*countTolerance) {
		events(CountDiffers{Reported: reported, Read: read})
	}
	return nil
}

// Scan reads all spans of an open source and returns their entries in
// ascending key order. The caller closes the result, whose work files are in
// opts.WorkDir. The statistics are valid as far as the scan came, also when it
// failed.
func Scan(ctx context.Context, src Source, opts ScanOptions) (*Sorted, ScanStats, error) {
	if opts.Journal != nil {
		opts.journal, opts.WorkDir = opts.Journal.j, opts.Journal.j.work
		opts.source = opts.journal.setup.Source
	}
	sorted, stats, _, err := runScan(ctx, src, opts)
	if r, ok := src.(Rechecker); ok && err == nil {
		if err = r.Recheck(ctx); err != nil {
			return nil, stats, errors.Join(cause(ctx, err), sorted.Close())
		}
	}
	return sorted, stats, err
}

// runScan is Scan, and also returns the digests of what it has read. Where the
// options have a journal, it resumes from that. Where they have an [Unordered], the
// entries go there, and nothing is returned as sorted.
func runScan(ctx context.Context, src Source, opts ScanOptions) (*Sorted, ScanStats, Digests, error) {
	fail := func(stats ScanStats, err error) (*Sorted, ScanStats, Digests, error) {
		return nil, stats, nil, cause(ctx, err)
	}
	if err := opts.validate(); err != nil {
		return fail(ScanStats{}, err)
	}
	spans, err := split(ctx, src, opts)
	if err != nil {
		return fail(ScanStats{}, err)
	}
	s := &scan{src: src, opts: opts, digests: Digests{}}
	s.pace = newPace(FirstWorkers(), opts.Workers, s.paced)
	if opts.unordered != nil {
		s.keeper = &putter{put: opts.unordered.Put, journal: opts.journal, events: s.event}
	} else {
		s.sorter = newSorter(opts.WorkDir, opts.Memory/sortShare, opts.journal, s.event)
		s.keeper, s.sorter.twice = s.sorter, opts.twice
		if opts.tune != nil {
			opts.tune(s.sorter)
		}
	}
	s.stats.Segments, s.stats.Locks = len(spans), []string{}
	left := spans
	if opts.journal != nil {
		if left, err = s.restore(ctx, spans); err != nil {
			return fail(s.stats, err)
		}
	}
	if u := opts.unordered; u != nil && !opts.journal.saved {
		if err = s.vet(ctx, left); err == nil {
			err = u.Clear(ctx)
		}
		if err != nil {
			return fail(s.stats, err)
		}
	}
	s.queue = newQueue(left)
	s.open = pieces(left)
	opts.Events(PhaseStarted{Phase: PhaseScan, Source: opts.source, Segments: len(spans), Done: len(spans) - len(s.open), Workers: opts.Workers})

	began, cpu := time.Now(), processors.Time()
	err = s.run(ctx)
	s.stats.Workers = s.pace.peak
	s.stats.Limit = s.limit(time.Since(began), processors.Time()-cpu)
	slices.Sort(s.stats.Locks)
	if s.sorter == nil {
		if err != nil {
			return fail(s.stats, err)
		}
		return nil, s.stats, s.digests, nil
	}
	for _, r := range s.sorter.runs {
		s.stats.Runs++
		s.stats.RunBytes += r.size
	}
	var sorted *Sorted
	if err == nil {
		sorted, err = s.sorter.sorted(ctx)
	}
	if err != nil {
		if rerr := s.sorter.remove(); rerr != nil {
			err = errors.Join(err, rerr)
		}
		return fail(s.stats, err)
	}
	return sorted, s.stats, s.digests, nil
}

// split returns the spans that the source was split into, by an earlier process of
// a scan that has a journal, or else now.
func split(ctx context.Context, src Source, opts ScanOptions) ([]Span, error) {
	if j := opts.journal; j != nil && j.spans != nil {
		return j.spans, nil
	}
	spans, err := src.Split(ctx, opts.Segments)
	if err != nil {
		return nil, err
	}
	for i, s := range spans {
		if s.Index != i || s.Until != nil || i >= MaxSpans {
			return nil, &Error{Kind: ErrSource, Op: "split the source",
				Err: fmt.Errorf("span %d of %d has the index %d: this is a defect of the source", i, len(spans), s.Index)}
		}
	}
	return spans, nil
}

// restore takes over what the journal holds, and returns what is left to read. A
// new journal first takes over what the source was split into.
func (s *scan) restore(ctx context.Context, spans []Span) ([]Span, error) {
	j := s.opts.journal
	if j.spans == nil {
		return spans, j.saveSpans(spans)
	}
	was, err := j.restore(ctx, func(what string) { s.opts.Events(Warning{Message: what}) })
	if err != nil {
		return nil, err
	}
	if err := s.keeper.resume(was); err != nil {
		return nil, err
	}
	s.stats.add(was.total.Stats)
	s.digests.Add(was.total.Digests)
	j.saved = len(was.runs) > 0
	if was.workers > 0 {
		s.pace.control.limit = min(was.workers, s.opts.Workers)
	}
	s.opts.Events(Resuming{Entries: was.total.Stats.Entries, Bytes: was.total.Stats.Bytes, Markers: was.total.Stats.Markers, Pending: len(pieces(was.pending)), Saved: was.saved})
	return was.pending, nil
}

// run reads what is in the queue.
func (s *scan) run(ctx context.Context) error {
	// Sorting and saving outlive reading: what was read until an error is kept.
	sctx, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	sorting, sctx := errgroup.WithContext(sctx)
	for range sortWorkers {
		sorting.Go(func() error { return s.keeper.work(sctx) })
	}
	if s.opts.journal == nil {
		defer context.AfterFunc(ctx, func() { stop(context.Cause(ctx)) })()
	} else {
		defer context.AfterFunc(ctx, func() { time.AfterFunc(saveTime, func() { stop(context.Cause(ctx)) }) })()
	}

	err := s.read(ctx, sctx)
	switch {
	case err == nil:
	case s.opts.journal == nil:
		stop(err)
	default:
		s.rescue(sctx)
	}
	s.keeper.finish()
	if serr := sorting.Wait(); serr != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = serr // what ended the reading
	}
	if err != nil && s.opts.journal != nil {
		// Whatever was written and is not on record yet.
		rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTime/4)
		defer cancel()
		if rerr := s.keeper.record(rctx); rerr != nil {
			s.notSaved(rerr)
		}
	}
	if err == nil {
		err = context.Cause(ctx)
	}
	return err
}

// rescue saves what was read before an error ended the reading.
func (s *scan) rescue(ctx context.Context) {
	if err := s.keeper.save(ctx); err != nil && ctx.Err() == nil {
		s.notSaved(err)
	}
}

// notSaved reports that what was read last could not be saved.
func (s *scan) notSaved(err error) {
	message := "what was read could not be saved: "
	if s.opts.journal.saved {
		message = "what was read last could not be saved, the checkpoint before stands: "
	}
	s.opts.Events(Warning{Message: message + err.Error()})
}

// read runs the workers until all is read and, where it is to be saved, saved.
func (s *scan) read(ctx, sctx context.Context) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	// A sorter that fails ends the reading too.
	defer context.AfterFunc(sctx, func() { end(context.Cause(sctx)) })()
	readers, rctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(rctx, s.queue.stop)()
	defer context.AfterFunc(rctx, s.pace.stop)()

	beside, stop := context.WithCancel(rctx)
	var others sync.WaitGroup
	others.Go(func() { s.pace.run(beside) })
	if s.opts.journal != nil {
		others.Go(func() {
			if err := s.checkpoints(beside, sctx); err != nil {
				end(err)
			}
		})
	}
	for range s.opts.goroutines {
		readers.Go(func() error { return s.work(rctx) })
	}
	err := readers.Wait()
	if err != nil {
		err = cause(ctx, err) // what a worker meets first may be the end of ctx
	}
	if err == nil {
		err = s.refusedError()
	}
	stop()
	others.Wait()
	if err == nil && s.opts.journal != nil && s.keeper.isSaving() {
		// What comes now can be repeated alone.
		err = s.keeper.save(sctx)
		s.stats.Checkpoints++
	}
	return err
}

// checkpoints saves what was read, again and again, until ctx ends. The disk
// begins some time before the first checkpoint with what that will sync; of a
// scan that will be over by then it is spared what is written.
func (s *scan) checkpoints(ctx, sctx context.Context) error {
	every := s.opts.every
	if every == 0 {
		every = checkpointInterval
	}
	t := time.NewTicker(every)
	defer t.Stop()
	look := time.NewTicker(max(every/4, 1))
	defer look.Stop()
	began, before := time.Now(), s.items()
	ticks := t.C
	if s.opts.ticks != nil {
		ticks = s.opts.ticks
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
			now, took := s.items(), time.Since(began)
			if !endsWithin(every-took, s.opts.source.Items-now, now-before, took) {
				s.keeper.startWriteback()
				look.Stop()
			}
			continue
		case <-ticks:
		}
		if err := s.keeper.save(sctx); err != nil {
			return err
		}
		s.mu.Lock()
		s.stats.Checkpoints++
		s.mu.Unlock()
	}
}

// items is how many items were read.
func (s *scan) items() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats.Entries + s.stats.Markers + int64(len(s.stats.Locks))
}

// endsWithin reports whether a scan that has so many items left, by the source's
// estimate, ends within a time, when it took so long for those read. Where the
// estimate can't be right, and before there is anything to go by, it says no.
func endsWithin(within time.Duration, left, read int64, took time.Duration) bool {
	return left > 0 && read > 0 && float64(took)*float64(left)/float64(read) < float64(within)
}

type scan struct {
	src    Source
	opts   ScanOptions
	queue  *queue
	pace   *pace
	keeper keeper
	sorter *sorter // the same, where it is one

	pages pages

	reading, adding atomic.Int64 // nanoseconds that workers spent on pages, and waiting for buffers

	mu      sync.Mutex
	stats   ScanStats
	digests Digests
	open    map[int]int // pieces of each span that are left to read
	refused []error     // what keeps items from being copied, mostRefused of them at the most
}

// mostRefused is how many items that can't be copied a scan names before it ends.
const mostRefused = 100

// refuse reports items that can't be copied. It returns false once it has reported enough.
func (s *scan) refuse(items []error) bool {
	s.mu.Lock()
	items = items[:min(len(items), mostRefused-len(s.refused))]
	s.refused = append(s.refused, items...)
	enough := len(s.refused) >= mostRefused
	s.mu.Unlock()
	for _, err := range items {
		s.opts.Events(ItemRefused{Err: err})
	}
	return !enough
}

// refusedError is the error of a scan that met items that can't be copied, nil
// where it met none.
func (s *scan) refusedError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch n := len(s.refused); n {
	case 0:
		return nil
	case 1:
		return s.refused[0]
	default:
		return &refusedError{slices.Clone(s.refused)}
	}
}

// A refusedError is more than one item that can't be copied. Its text has the
// first; each was told of by an [ItemRefused].
type refusedError struct{ items []error }

func (e *refusedError) Error() string {
	more := english.Plural(len(e.items)-1, "more such item", "")
	if len(e.items) == mostRefused {
		return fmt.Sprintf("%v (and at least %s: reading ended there)", e.items[0], more)
	}
	return fmt.Sprintf("%v (and %s)", e.items[0], more)
}

func (e *refusedError) Unwrap() []error { return e.items }

// limit returns what bounded a scan, from the time that it took on the clock and on
// the processors.
func (s *scan) limit(took, cpu time.Duration) Limit {
	var waited time.Duration
	if w, ok := s.src.(Throttled); ok {
		waited = w.Waited()
	}
	reading, adding := time.Duration(s.reading.Load()), time.Duration(s.adding.Load())
	switch {
	case s.stats.Throttles*20 > s.stats.Pages:
		return LimitTable
	case waited*5 > reading:
		return LimitCap
	case cpu*4 > took*time.Duration(processors.Count())*3:
		return LimitProcessor
	case adding*4 > reading+adding && s.sorter == nil:
		return LimitDestination
	case adding*4 > reading+adding && len(s.sorter.runs) == 0 && s.stats.Checkpoints == 0:
		return LimitProcessor // nothing went to disk: workers waited for each other
	case adding*4 > reading+adding:
		return LimitDisk
	default:
		return LimitNetwork
	}
}

func (s *scan) event(e Event) { s.opts.Events(e) }

// paced is told how many workers read now.
func (s *scan) paced(workers int) {
	if j := s.opts.journal; j != nil {
		j.workers.Store(int64(workers))
	}
	s.opts.Events(WorkersChanged{Workers: workers})
}

// work is one worker: it takes spans from the queue until none is left.
func (s *scan) work(ctx context.Context) error {
	page := Batch{pages: &s.pages}
	var mapped Batch
	var digester Digester
	for {
		next, ok := s.queue.take()
		if !ok {
			return context.Cause(ctx)
		}
		for {
			seg := next.Span
			if !s.pace.enter() {
				return context.Cause(ctx)
			}
			asked := time.Now()
			info, err := s.src.Read(ctx, seg, &page)
			s.reading.Add(int64(time.Since(asked)))
			s.pace.leave(info, asked)
			if err != nil {
				return err
			}
			if len(info.Refused) > 0 {
				next.lookOnly = true
				if !s.refuse(info.Refused) {
					return s.refusedError()
				}
			}
			if next.lookOnly {
				// Were what follows on record, it would lead from a page that is not.
				s.pages.give(&page)
				s.pace.done()
				if len(info.Next) == 0 {
					break
				}
				next.Span = info.Next[0]
				s.queue.put(info.Next[1:], true)
				continue
			}
			if err := page.checkSize(); err != nil {
				return err
			}
			out := &page
			if s.opts.Map != nil {
				mapped.Reset()
				for i := range page.Len() {
					s.opts.Map(page.Entry(i), &mapped)
				}
				out = &mapped
			}
			read := coverage{Pages: []pageRead{{From: seg, Next: info.Next}}, Stats: statsOf(&page, info)}
			if s.opts.digest {
				for i := range out.Len() {
					digester.Add(out.Entry(i))
				}
				read.Digests = digester.Take()
			}
			if out.Len() > 0 || s.opts.journal != nil {
				full := time.Now()
				if err := s.keeper.add(ctx, out, read); err != nil {
					return err
				}
				s.adding.Add(int64(time.Since(full)))
			}
			s.pages.give(&page)
			s.pace.done()
			s.count(seg.Index, read, info)
			if len(info.Next) == 0 {
				break
			}
			next.Span = info.Next[0]
			s.queue.put(info.Next[1:], false)
		}
		s.queue.done()
	}
}

// pages is a pool of memory for the entries of pages. A batch takes memory with its
// first entry, when a page was received, and gives it back when its entries have been
// taken over. So a few pieces are enough, however many workers wait for a response.
// The piece used last is used next: the processor has it in its cache. It is safe for
// concurrent use.
type pages struct {
	mu   sync.Mutex
	free []Batch
}

// take gives memory to an empty batch that has none.
func (p *pages) take(b *Batch) {
	p.mu.Lock()
	last := len(p.free) - 1
	if last >= 0 {
		b.arena, b.refs, b.stretches = p.free[last].arena, p.free[last].refs, p.free[last].stretches
		p.free = p.free[:last]
	}
	p.mu.Unlock()
	if last < 0 {
		b.Grow(PageRoom)
	}
}

// give takes the memory of a batch back, and leaves it empty. What is much larger
// than a page is not kept.
func (p *pages) give(b *Batch) {
	b.Reset()
	if cap(b.arena) > 4*PageRoom {
		b.arena, b.refs, b.stretches = nil, nil, nil
	}
	if b.arena == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, Batch{arena: b.arena, refs: b.refs, stretches: b.stretches})
	b.arena, b.refs, b.stretches = nil, nil, nil
}

func statsOf(read *Batch, p Page) ScanStats {
	return ScanStats{
		Entries:   int64(read.Len()),
		Bytes:     read.Bytes(),
		Markers:   p.Markers,
		Locks:     p.Locks,
		Pages:     1,
		WireBytes: p.WireBytes,
		Counts:    p.Counts,
		Retries:   p.Retries,
		Throttles: p.Throttles,
	}
}

// pieces is how many pieces of each of the source's spans are left to read, by its
// index: a span is split while it is read.
func pieces(left []Span) map[int]int {
	open := map[int]int{}
	for _, seg := range left {
		open[seg.Index]++
	}
	return open
}

func (s *scan) count(segment int, read coverage, p Page) {
	s.mu.Lock()
	s.stats.add(read.Stats)
	s.digests.Add(read.Digests)
	s.open[segment] += len(p.Next) - 1
	done := s.open[segment] == 0
	s.mu.Unlock()
	s.opts.Events(PageRead{
		Entries:     read.Stats.Entries,
		Bytes:       read.Stats.Bytes,
		Markers:     p.Markers,
		WireBytes:   p.WireBytes,
		Counts:      p.Counts,
		SegmentDone: done,
	})
}

// A queued span is one that is to be read.
type queued struct {
	Span
	// lookOnly is set of what follows on a page with items that can't be copied:
	// it is read to name others, and nothing of it is kept, so that who resumes
	// reads from that page on.
	lookOnly bool
}

// A queue holds the spans that nobody reads yet.
type queue struct {
	mu      sync.Mutex
	changed sync.Cond
	waiting []queued
	open    int // spans waiting or being read
	stopped bool
}

func newQueue(segs []Span) *queue {
	q := &queue{open: len(segs)}
	for _, seg := range slices.Backward(segs) { // taken from the end
		q.waiting = append(q.waiting, queued{Span: seg})
	}
	q.changed.L = &q.mu
	return q
}

// take waits for a span and returns false when all are read, or when the
// queue was stopped.
func (q *queue) take() (queued, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.waiting) == 0 && q.open > 0 && !q.stopped {
		q.changed.Wait()
	}
	if len(q.waiting) == 0 || q.stopped {
		return queued{}, false
	}
	last := len(q.waiting) - 1
	seg := q.waiting[last]
	q.waiting = q.waiting[:last]
	return seg, true
}

// put adds what a page left to read of a span.
func (q *queue) put(segs []Span, lookOnly bool) {
	if len(segs) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, seg := range segs {
		q.waiting = append(q.waiting, queued{seg, lookOnly})
	}
	q.open += len(segs)
	q.changed.Broadcast()
}

// done says that a span that was taken is read to its end.
func (q *queue) done() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.open--
	if q.open == 0 {
		q.changed.Broadcast()
	}
}

func (q *queue) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopped = true
	q.changed.Broadcast()
}
