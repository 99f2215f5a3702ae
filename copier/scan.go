package copier

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
)

// ScanOptions say how a source is read. The zero value is fit for use but for
// WorkDir.
type ScanOptions struct {
	// Workers is the most pages that are read at the same time. A few are
	// read at first, more while that makes the source deliver more, and half
	// as many when it throttles. 0 means 64. Memory bounds it too: one for
	// each 16 MiB.
	Workers int
	// Segments is the number of segments the source is asked for; 0 leaves
	// it to the source.
	Segments int
	// Memory is what a scan may use, in bytes: half for sorting, a quarter for
	// pages in flight, the rest for what else a Go program needs. 0 means
	// [DefaultMemory], and less than [MinMemory] is refused. The garbage
	// collector obeys only whoever calls debug.SetMemoryLimit, as the command
	// does.
	Memory int64
	// WorkDir is an existing directory for what exceeds Memory.
	WorkDir string
	// Map, where set, is called for each entry read and adds to out what
	// shall be sorted in its place: the entry, another one, or nothing. It
	// is called from all workers at once, and keeps neither argument.
	Map func(e Entry, out *Batch)
	// Events, where set, is told what goes on.
	Events func(Event)

	source SourceInfo    // for the event
	tune   func(*sorter) // tests make buffers tiny, and files that fail
}

const (
	// DefaultMemory is the budget where ScanOptions.Memory is 0: 512 MiB.
	DefaultMemory = 512 << 20
	// MinMemory is the least budget that is accepted: 64 MiB.
	MinMemory = 64 << 20

	defaultWorkers = 64
	maxWorkers     = 4096
	// pageMemory is what a worker holds: a response of up to 1.4 MB, and the
	// entries decoded from it.
	pageMemory = 4 << 20
	// pageArena has room for the entries of a page of 1 MB and a bit more, so that
	// a worker's first page needs not grow into it.
	pageArena = 5 << 18
	sortShare = 2 // of the budget, as its divisor
	pageShare = 4
)

// startWorkers is how many workers read at first: four for each processor that
// Go uses, since a worker mostly waits for its next page, but at least 8.
func startWorkers() int { return max(4*runtime.GOMAXPROCS(0), 8) }

func (o *ScanOptions) validate() error {
	switch {
	case o.Workers < 0:
		return &Error{Kind: ErrConfig, Err: errors.New("the number of workers is negative")}
	case o.Segments < 0:
		return &Error{Kind: ErrConfig, Err: errors.New("the number of segments is negative")}
	case o.Memory != 0 && o.Memory < MinMemory:
		return &Error{Kind: ErrConfig, Err: errors.New("the memory budget is below 64 MiB")}
	}
	if o.Memory == 0 {
		o.Memory = DefaultMemory
	}
	allowed := int(min(o.Memory/pageShare/pageMemory, maxWorkers))
	if o.Workers == 0 {
		o.Workers = defaultWorkers
	}
	o.Workers = min(o.Workers, allowed)
	if o.Events == nil {
		o.Events = func(Event) {}
	}
	return nil
}

// ScanStats tells what was read from a source.
type ScanStats struct {
	// Entries is the number of entries read, and Bytes the size of their keys
	// and values together.
	Entries int64 `json:"entries"`
	Bytes   int64 `json:"bytes"`
	// LeftOut counts entries read that ScanOptions.Map did not take over.
	LeftOut int64 `json:"left_out"`
	// Markers counts directory markers, and Locks names the locks, neither of
	// which are entries.
	Markers int64    `json:"markers"`
	Locks   []string `json:"locks"`
	// Pages and WireBytes count the responses and their size in bytes.
	Pages     int64 `json:"pages"`
	WireBytes int64 `json:"wire_bytes"`
	// Units is the capacity consumed, in read capacity units.
	Units float64 `json:"read_capacity_units"`
	// Retries counts requests that failed and were tried again, Throttles
	// those among them in which the source asked for fewer requests.
	Retries   int64 `json:"retries"`
	Throttles int64 `json:"throttles"`
	// Segments is the number of segments at first, and Workers the most pages
	// that were read at the same time.
	Segments int `json:"segments"`
	Workers  int `json:"workers"`
	// Runs counts the sorted runs that went to the work directory, and
	// RunBytes is their size.
	Runs     int   `json:"runs"`
	RunBytes int64 `json:"run_bytes"`
}

// Scan reads all segments of a prepared source and returns their entries in
// ascending key order. The caller closes the result, whose work files are in
// opts.WorkDir. The statistics are valid as far as the scan came, also when it
// failed.
func Scan(ctx context.Context, src Source, opts ScanOptions) (*Sorted, ScanStats, error) {
	if err := opts.validate(); err != nil {
		return nil, ScanStats{}, err
	}
	segs, err := src.Segments(ctx, opts.Segments)
	if err != nil {
		return nil, ScanStats{}, cause(ctx, err)
	}
	opts.Events(PhaseStarted{Phase: PhaseScan, Source: opts.source, Segments: len(segs), Workers: opts.Workers})

	s := &scan{src: src, opts: opts, queue: newQueue(segs), pace: newPace(startWorkers(), opts.Workers)}
	s.stats.Segments, s.stats.Locks = len(segs), []string{}
	s.sorter = newSorter(opts.WorkDir, opts.Memory/sortShare, opts.Events)
	if opts.tune != nil {
		opts.tune(s.sorter)
	}

	group, gctx := errgroup.WithContext(ctx)
	for range sortWorkers {
		group.Go(func() error { return s.sorter.work(gctx) })
	}
	group.Go(func() error {
		readers, rctx := errgroup.WithContext(gctx)
		defer context.AfterFunc(rctx, s.queue.stop)()
		defer context.AfterFunc(rctx, s.pace.stop)()
		pacing, stop := context.WithCancel(rctx)
		defer stop()
		group.Go(func() error {
			s.pace.run(pacing)
			return nil
		})
		for range opts.Workers {
			readers.Go(func() error { return s.read(rctx) })
		}
		err := readers.Wait()
		if err == nil {
			s.sorter.finish()
		}
		return err
	})
	err = group.Wait()
	s.stats.Workers = s.pace.peak
	for _, r := range s.sorter.runs {
		s.stats.Runs++
		s.stats.RunBytes += r.size
	}
	slices.Sort(s.stats.Locks)
	if err == nil {
		err = context.Cause(ctx)
	}
	var sorted *Sorted
	if err == nil {
		sorted, err = s.sorter.sorted(ctx)
	}
	if err != nil {
		err = cause(ctx, err)
		if rerr := s.sorter.remove(); rerr != nil {
			err = errors.Join(err, rerr)
		}
		return nil, s.stats, err
	}
	return sorted, s.stats, nil
}

type scan struct {
	src    Source
	opts   ScanOptions
	queue  *queue
	pace   *pace
	sorter *sorter

	mu    sync.Mutex
	stats ScanStats
}

// read is one worker: it takes segments from the queue until none is left.
func (s *scan) read(ctx context.Context) error {
	var page, mapped Batch
	for {
		seg, ok := s.queue.take()
		if !ok {
			return context.Cause(ctx)
		}
		for {
			page.Reset()
			if !s.pace.enter() {
				return context.Cause(ctx)
			}
			if page.arena == nil {
				page.arena = make([]byte, 0, pageArena)
			}
			info, err := s.src.ReadPage(ctx, seg, &page)
			s.pace.leave(info)
			if err != nil {
				return err
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
			if out.Len() > 0 {
				if err := s.sorter.add(ctx, out); err != nil {
					return err
				}
			}
			s.count(&page, out, info)
			if len(info.Next) == 0 {
				break
			}
			seg = info.Next[0]
			s.queue.put(info.Next[1:])
		}
		s.queue.done()
	}
}

func (s *scan) count(read, taken *Batch, p Page) {
	s.mu.Lock()
	s.stats.Entries += int64(read.Len())
	s.stats.Bytes += read.Bytes()
	s.stats.LeftOut += int64(read.Len() - taken.Len())
	s.stats.Markers += p.Markers
	s.stats.Locks = append(s.stats.Locks, p.Locks...)
	s.stats.Pages++
	s.stats.WireBytes += p.WireBytes
	s.stats.Units += p.Units
	s.stats.Retries += p.Retries
	s.stats.Throttles += p.Throttles
	s.mu.Unlock()
	s.opts.Events(PageRead{
		Entries:     int64(read.Len()),
		Bytes:       read.Bytes(),
		Units:       p.Units,
		SegmentDone: len(p.Next) == 0,
		Split:       max(len(p.Next)-1, 0),
	})
}

// A queue holds the segments that nobody reads yet.
type queue struct {
	mu      sync.Mutex
	changed sync.Cond
	waiting []Segment
	open    int // segments waiting or being read
	stopped bool
}

func newQueue(segs []Segment) *queue {
	q := &queue{waiting: slices.Clone(segs), open: len(segs)}
	slices.Reverse(q.waiting) // taken from the end
	q.changed.L = &q.mu
	return q
}

// take waits for a segment and returns false when all are read, or when the
// queue was stopped.
func (q *queue) take() (Segment, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.waiting) == 0 && q.open > 0 && !q.stopped {
		q.changed.Wait()
	}
	if len(q.waiting) == 0 || q.stopped {
		return Segment{}, false
	}
	last := len(q.waiting) - 1
	seg := q.waiting[last]
	q.waiting = q.waiting[:last]
	return seg, true
}

// put adds segments that a page was split into.
func (q *queue) put(segs []Segment) {
	if len(segs) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, segs...)
	q.open += len(segs)
	q.changed.Broadcast()
}

// done says that a segment that was taken is read to its end.
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
