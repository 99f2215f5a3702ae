package copier

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
)

const (
	// The budget is split into sortBuffers buffers. sortHeld of them stay in
	// memory when they are full and sorted, so that a table that fits never
	// touches the disk; the others are being filled, sorted or written.
	sortBuffers = 8
	sortHeld    = 5
	// sortWorkers sort and write buffers at the same time.
	sortWorkers = 2
	// mergeBuffers is how many buffers' memory is left for reading runs when
	// all is sorted: one of those not held has the last entries.
	mergeBuffers = sortBuffers - sortHeld - 1
	// maxFanIn bounds how many runs are open at the same time. Some systems
	// allow a process no more than 1,024 files.
	maxFanIn = 512
)

// A sorter collects entries in bounded memory.
type sorter struct {
	limit       int64 // of one buffer, in bytes
	hold        int   // how many full buffers stay in memory
	mergeMemory int64 // for reading runs, in bytes
	fanIn       int   // how many runs are read at the same time
	events      func(Event)
	create      func() (runFile, error)

	mu    sync.Mutex // guards cur and added, and orders the callers of add
	cur   *Batch
	added int64 // entries

	free chan *Batch
	full chan *Batch

	out  sync.Mutex // guards held and runs
	held []*Batch
	runs []sortedRun
}

func newSorter(dir string, memory int64, events func(Event)) *sorter {
	s := &sorter{
		limit:       memory / sortBuffers,
		hold:        sortHeld,
		mergeMemory: memory / sortBuffers * mergeBuffers,
		fanIn:       maxFanIn,
		events:      events,
		create:      func() (runFile, error) { return createRun(dir) },
		free:        make(chan *Batch, sortBuffers),
		full:        make(chan *Batch, sortBuffers),
	}
	for range sortBuffers {
		s.free <- nil // allocated when it is first needed
	}
	return s
}

// add takes over the entries of b; it waits while all buffers are in use. It
// is safe for concurrent use.
func (s *sorter) add(ctx context.Context, b *Batch) error {
	if err := b.checkSize(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cur != nil && s.cur.Len() > 0 && s.cur.memory()+b.memory() > s.limit {
		s.full <- s.cur // has room for every buffer there is
		s.cur = nil
	}
	if s.cur == nil {
		select {
		case buf := <-s.free:
			if buf == nil {
				// Of fresh memory the system hands out only what is touched.
				buf = &Batch{arena: make([]byte, 0, s.limit)}
			}
			s.cur = buf
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	s.cur.appendBatch(b)
	s.added += int64(b.Len())
	return nil
}

// work sorts full buffers, and writes them to the work directory once enough
// are held in memory. It returns when finish was called.
func (s *sorter) work(ctx context.Context) error {
	for {
		var b *Batch
		var ok bool
		select {
		case b, ok = <-s.full:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if !ok {
			return nil
		}
		b.sort()
		s.out.Lock()
		hold := len(s.held) < s.hold
		if hold {
			s.held = append(s.held, b)
		}
		s.out.Unlock()
		if hold {
			continue
		}
		run, err := writeRun(ctx, s.create, &batchStream{b: b})
		if err != nil {
			return err
		}
		s.out.Lock()
		s.runs = append(s.runs, run)
		s.out.Unlock()
		s.events(RunWritten{Entries: run.entries, Bytes: run.size})
		b.Reset()
		if int64(cap(b.arena)) > s.limit {
			b = nil // it had to take a page larger than itself
		}
		s.free <- b
	}
}

// finish says that nothing will be added any more.
func (s *sorter) finish() { close(s.full) }

// sorted returns everything that was added as one stream. It is called once,
// after all calls of work have returned.
func (s *sorter) sorted(ctx context.Context) (*Sorted, error) {
	s.free = nil // their memory is for reading runs now
	if s.cur != nil {
		s.cur.sort()
		s.held = append(s.held, s.cur)
		s.cur = nil
	}
	if err := s.reduce(ctx); err != nil {
		return nil, err
	}
	out, err := merge(s.held, s.runs)
	if err != nil {
		return nil, err
	}
	out.want = s.added
	return out, nil
}

// reduce merges runs into larger ones, the smallest first, until all can be
// read at the same time.
func (s *sorter) reduce(ctx context.Context) error {
	for {
		slices.SortFunc(s.runs, func(a, b sortedRun) int { return cmp.Compare(a.size, b.size) })
		n, memory := 0, int64(0)
		for n < len(s.runs) && n < s.fanIn && (n < 2 || memory+s.runs[n].block <= s.mergeMemory) {
			memory += s.runs[n].block
			n++
		}
		if n == len(s.runs) {
			return nil
		}
		// No more than what makes the rest fit: those n become one.
		n = max(min(n, len(s.runs)-n+1), 2)
		in, err := merge(nil, s.runs[:n])
		if err != nil {
			return err
		}
		run, err := writeRun(ctx, s.create, in)
		if err != nil {
			return errors.Join(err, in.closeFiles())
		}
		// The new run is listed before the old ones go, so that an error
		// leaves no file that nobody removes.
		s.runs = append(s.runs, run)
		if err := in.Close(); err != nil {
			return workError("remove merged work files", err)
		}
		s.runs = slices.Delete(s.runs, 0, n)
	}
}

// remove removes the files of all runs.
func (s *sorter) remove() error {
	var errs []error
	for _, r := range s.runs {
		if err := os.Remove(r.path); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

type batchStream struct {
	b *Batch
	i int
}

func (s *batchStream) Next() (Entry, error) {
	if s.i == s.b.Len() {
		return Entry{}, io.EOF
	}
	s.i++
	return s.b.Entry(s.i - 1), nil
}

// A Sorted is all entries of a source in ascending key order.
type Sorted struct {
	heads   []head // a binary heap by key, once started
	started bool
	prev    []byte // the last key, where got is not 0
	got     int64  // entries returned
	want    int64  // entries that went in
	err     error  // what ended the stream
	runs    []sortedRun
	closers []io.Closer
}

var _ Stream = (*Sorted)(nil)

type head struct {
	in Stream
	e  Entry
}

// merge makes one stream of sorted batches and runs. The runs' files are
// removed when it is closed, and left as they are when merge fails.
func merge(batches []*Batch, runs []sortedRun) (*Sorted, error) {
	out := &Sorted{runs: slices.Clone(runs)}
	for _, b := range batches {
		out.heads = append(out.heads, head{in: &batchStream{b: b}})
		out.want += int64(b.Len())
	}
	for _, r := range runs {
		in, err := openRun(r.path)
		if err != nil {
			return nil, errors.Join(err, out.closeFiles())
		}
		out.closers = append(out.closers, in)
		out.heads = append(out.heads, head{in: in})
		out.want += r.entries
	}
	return out, nil
}

// Next implements [Stream]. It returns an error that wraps [ErrDuplicateKey]
// and [ErrSource] when a key comes twice, and one that wraps [ErrDestination]
// when a work file can't be read back, or holds anything else than what was
// written to it.
func (s *Sorted) Next() (Entry, error) {
	if s.err != nil {
		return Entry{}, s.err
	}
	e, err := s.next()
	if err != nil {
		s.err = err
		return Entry{}, err
	}
	return e, nil
}

func (s *Sorted) next() (Entry, error) {
	if !s.started {
		if err := s.start(); err != nil {
			return Entry{}, err
		}
	} else if len(s.heads) > 0 {
		if err := s.advance(0); err != nil {
			return Entry{}, err
		}
		s.down(0)
	}
	if len(s.heads) == 0 {
		if s.got != s.want {
			return Entry{}, &Error{Kind: ErrDestination, Op: "merge entries",
				Err: fmt.Errorf("%d entries were sorted and %d came out: this is a defect of dyn2raft", s.want, s.got)}
		}
		return Entry{}, io.EOF
	}
	e := s.heads[0].e
	if s.got > 0 {
		switch order := bytes.Compare(e.Key, s.prev); {
		case order == 0:
			return Entry{}, &Error{
				Kind: ErrSource,
				Op:   fmt.Sprintf("sort entries: key %q", e.Key),
				Hint: "somebody wrote to the source during the copy: stop every Vault that uses it, then start again",
				Err:  ErrDuplicateKey,
			}
		case order < 0:
			return Entry{}, &Error{Kind: ErrDestination, Op: "merge entries",
				Err: fmt.Errorf("key %q came after %q: %w", e.Key, s.prev, errRunDamaged)}
		}
	}
	s.got++
	s.prev = append(s.prev[:0], e.Key...)
	return e, nil
}

func (s *Sorted) start() error {
	s.started = true
	for i := len(s.heads) - 1; i >= 0; i-- {
		if err := s.advance(i); err != nil {
			return err
		}
	}
	for i := len(s.heads)/2 - 1; i >= 0; i-- {
		s.down(i)
	}
	return nil
}

// advance reads the next entry of a head, and drops the head, putting the
// last in its place, when it has no more.
func (s *Sorted) advance(i int) error {
	e, err := s.heads[i].in.Next()
	switch {
	case err == nil:
		s.heads[i].e = e
	case err == io.EOF:
		last := len(s.heads) - 1
		s.heads[i] = s.heads[last]
		s.heads[last] = head{} // lets go of its memory
		s.heads = s.heads[:last]
	default:
		return err
	}
	return nil
}

// down restores the heap below index i.
func (s *Sorted) down(i int) {
	for {
		least, l := i, 2*i+1
		for c := l; c < l+2 && c < len(s.heads); c++ {
			if bytes.Compare(s.heads[c].e.Key, s.heads[least].e.Key) < 0 {
				least = c
			}
		}
		if least == i {
			return
		}
		s.heads[i], s.heads[least] = s.heads[least], s.heads[i]
		i = least
	}
}

func (s *Sorted) closeFiles() error {
	var errs []error
	for _, c := range s.closers {
		errs = append(errs, c.Close())
	}
	s.heads, s.closers = nil, nil
	s.err = &Error{Kind: ErrDestination, Op: "merge entries", Err: os.ErrClosed}
	return errors.Join(errs...)
}

// Close removes the work files. Next returns an error that wraps
// [os.ErrClosed] from then on. A second call does nothing.
func (s *Sorted) Close() error {
	errs := []error{s.closeFiles()}
	for _, r := range s.runs {
		// A sink's commit may have removed the whole work directory.
		if err := os.Remove(r.path); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	s.runs = nil
	return errors.Join(errs...)
}
