package copier

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/copier/memory"
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

// A sorter collects entries in bounded memory, and, with a journal, saves them
// from time to time.
//
// Buffers are numbered in the order in which they are filled. A page's entries
// go into the buffer of the page before it, or into a later one; so when a
// checkpoint holds all buffers up to some number it holds no page without the
// pages that led to it.
type sorter struct {
	limit       int64 // of one buffer, in bytes
	hold        int   // how many full buffers stay in memory
	mergeMemory int64 // for reading runs, in bytes
	fanIn       int   // how many runs are read at the same time
	events      func(Event)
	create      func() (runFile, error)
	toDisk      func(path string)      // lets the disk begin with a run
	twice       func(key []byte) error // as Sorted has it
	journal     *journal               // nil if nothing is saved

	mu    sync.Mutex // guards cur, added and cuts, and orders the callers of add
	cur   *buffer
	added int64 // entries
	cuts  int   // buffers that went to full

	free chan *buffer
	full chan *buffer

	out     sync.Mutex // guards what follows
	changed sync.Cond
	held    []*buffer
	runs    []sortedRun  // without those of held buffers
	fresh   []freshRun   // written and in no checkpoint yet
	working map[int]bool // numbers of full buffers that are neither held nor written yet
	saving  bool         // every full buffer is written, whether it is held or not
	early   bool         // runs start to go to disk as soon as they are written

	saves sync.Mutex // one save at a time
}

// A buffer is entries that were read, and what they were read from.
type buffer struct {
	Batch
	number int
	coverage
	written bool // it is in the work directory too
}

// A freshRun is a run with the number of its buffer.
type freshRun struct {
	sortedRun
	number int
}

func newSorter(dir string, budget int64, j *journal, events func(Event)) *sorter {
	s := &sorter{
		limit:       budget / sortBuffers,
		hold:        sortHeld,
		mergeMemory: budget / sortBuffers * mergeBuffers,
		fanIn:       maxFanIn,
		events:      events,
		create:      func() (runFile, error) { return os.CreateTemp(dir, "run-*") },
		toDisk:      toDisk,
		journal:     j,
		free:        make(chan *buffer, sortBuffers),
		full:        make(chan *buffer, sortBuffers),
		working:     map[int]bool{},
	}
	if j != nil {
		s.create = j.createRun
	}
	s.changed.L = &s.out
	for range sortBuffers {
		s.free <- nil // allocated when it is first needed
	}
	return s
}

// resume begins with what a journal has.
func (s *sorter) resume(r *restored) error {
	for _, run := range r.runs {
		s.added += run.Entries
		s.runs = append(s.runs, sortedRun{path: filepath.Join(s.journal.work, run.File), size: run.Size, entries: run.Entries,
			block: run.Block, coverage: run.coverage})
	}
	s.saving = len(r.runs) > 0
	return nil
}

// add takes over the entries of b, which come from a page; it waits while all
// buffers are in use. It is safe for concurrent use.
func (s *sorter) add(ctx context.Context, b *Batch, from coverage) error {
	if err := b.checkSize(); err != nil {
		return err
	}
	b.find()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cur != nil && s.cur.Len() > 0 && s.cur.memory()+b.memory() > s.limit {
		s.cut()
	}
	if s.cur == nil {
		select {
		case buf := <-s.free:
			if buf == nil {
				// Of fresh memory the system hands out only what is touched. There
				// will be about so many entries, if those to come are like these.
				likely := max(s.limit/max(b.memory(), 1), 1) * int64(b.Len())
				buf = &buffer{Batch: Batch{arena: memory.Make(int(s.limit)), refs: make([]ref, 0, likely)}}
			}
			s.cur = buf
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	s.cur.appendBatch(b)
	if s.journal != nil {
		s.cur.coverage.add(from)
	}
	s.added += int64(b.Len())
	return nil
}

// cut ends the current buffer. The caller holds s.mu.
func (s *sorter) cut() {
	s.cuts++
	s.cur.number = s.cuts
	s.out.Lock()
	s.working[s.cuts] = true
	s.out.Unlock()
	s.full <- s.cur // has room for every buffer there is
	s.cur = nil
}

// work sorts full buffers, and writes them to the work directory once enough
// are held in memory, or once they are to be saved. It returns when finish was
// called.
func (s *sorter) work(ctx context.Context) error {
	var sorting batchSorter
	for {
		var b *buffer
		var ok bool
		select {
		case b, ok = <-s.full:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if !ok {
			return nil
		}
		sorting.sort(&b.Batch)
		s.out.Lock()
		hold, save := len(s.held) < s.hold && b.Len() > 0, s.saving
		if hold {
			s.held = append(s.held, b)
		}
		s.out.Unlock()
		if !hold || save {
			if err := s.write(ctx, b, hold); err != nil {
				return err
			}
		}
		s.out.Lock()
		delete(s.working, b.number)
		s.changed.Broadcast()
		s.out.Unlock()
		if hold {
			continue
		}
		b.Reset()
		b.coverage, b.written = coverage{}, false
		if int64(cap(b.arena)) > s.limit {
			b = nil // it had to take a page larger than itself
		}
		s.free <- b
	}
}

// write writes a sorted buffer to the work directory.
func (s *sorter) write(ctx context.Context, b *buffer, held bool) error {
	run, err := writeRun(ctx, s.create, &batchStream{b: &b.Batch})
	if err != nil {
		return err
	}
	run.coverage = b.coverage
	s.out.Lock()
	if held {
		b.written = true
	} else {
		s.runs = append(s.runs, run)
	}
	if s.journal != nil {
		s.fresh = append(s.fresh, freshRun{run, b.number})
	}
	early := s.early || s.saving
	s.out.Unlock()
	if early {
		s.toDisk(run.path)
	}
	s.events(RunWritten{Entries: run.entries, Bytes: run.size})
	return nil
}

// startWriteback lets the disk begin with what a checkpoint will sync, with what
// was written so far and with each run that will be, so that the sync has little
// left to wait for.
func (s *sorter) startWriteback() {
	s.out.Lock()
	s.early = true
	written := slices.Clone(s.fresh)
	s.out.Unlock()
	for _, r := range written {
		s.toDisk(r.path)
	}
}

func toDisk(path string) {
	f, err := os.Open(path)
	if err != nil {
		return // the sync will tell
	}
	durable.StartWriteback(f, 0, 0)
	_ = f.Close()
}

// save makes everything that was added before durable, as far as ctx and a
// failed disk allow, and writes a checkpoint of it.
func (s *sorter) save(ctx context.Context) error {
	s.saves.Lock()
	defer s.saves.Unlock()
	s.mu.Lock()
	if s.cur != nil && len(s.cur.Pages) > 0 {
		s.cut()
	}
	upTo := s.cuts
	s.mu.Unlock()
	s.settle(ctx, upTo)

	// Until now buffers that are held were not written.
	s.out.Lock()
	s.saving = true
	var unwritten []*buffer
	for _, b := range s.held {
		if !b.written && !s.working[b.number] {
			unwritten = append(unwritten, b)
		}
	}
	s.out.Unlock()
	var failed error
	for _, b := range unwritten {
		if failed = s.write(ctx, b, true); failed != nil {
			break
		}
	}
	return errors.Join(failed, s.record(ctx))
}

// isSaving reports whether there was a checkpoint.
func (s *sorter) isSaving() bool {
	s.out.Lock()
	defer s.out.Unlock()
	return s.saving
}

// settle waits until the buffers up to a number are held or written.
func (s *sorter) settle(ctx context.Context, upTo int) {
	stop := context.AfterFunc(ctx, func() {
		s.out.Lock()
		defer s.out.Unlock()
		s.changed.Broadcast()
	})
	defer stop()
	s.out.Lock()
	defer s.out.Unlock()
	for ctx.Err() == nil && s.leastWorking() <= upTo {
		s.changed.Wait()
	}
}

// leastWorking is the least number of a buffer that is neither held nor
// written. The caller holds s.out.
func (s *sorter) leastWorking() int {
	least := math.MaxInt
	for n := range s.working {
		least = min(least, n)
	}
	return least
}

// record syncs the runs that are in no checkpoint yet, and writes one of them.
// It leaves out what follows on a buffer that is not written, and stops early
// when ctx ends.
func (s *sorter) record(ctx context.Context) error {
	s.out.Lock()
	least := s.leastWorking()
	for _, b := range s.held {
		if !b.written {
			least = min(least, b.number)
		}
	}
	slices.SortFunc(s.fresh, func(a, b freshRun) int { return cmp.Compare(a.number, b.number) })
	todo := slices.Clone(s.fresh)
	s.out.Unlock()

	var c checkpoint
	var failed error
	for _, r := range todo {
		if r.number >= least || ctx.Err() != nil {
			break
		}
		if failed = s.journal.disk.Sync(r.path); failed != nil {
			failed = workError("sync work file", failed)
			break
		}
		c.Runs = append(c.Runs, r.record())
	}
	if len(c.Runs) == 0 {
		return failed
	}
	if err := s.journal.write(c); err != nil {
		return errors.Join(failed, err)
	}
	s.out.Lock()
	// Nobody else takes runs out, and new ones have greater numbers or follow
	// on one that has.
	s.fresh = slices.DeleteFunc(s.fresh, func(r freshRun) bool {
		return slices.ContainsFunc(c.Runs, func(done runRecord) bool { return done.File == filepath.Base(r.path) })
	})
	s.out.Unlock()
	e := Checkpointed{Time: time.Now()}
	for _, r := range c.Runs {
		e.Entries += r.Entries
		e.Bytes += r.Size
	}
	s.events(e)
	return failed
}

// finish says that nothing will be added any more.
func (s *sorter) finish() { close(s.full) }

// sorted returns everything that was added as one stream. It is called once,
// after all calls of work have returned.
func (s *sorter) sorted(ctx context.Context) (*Sorted, error) {
	s.free = nil // their memory is for reading runs now
	if s.cur != nil {
		new(batchSorter).sort(&s.cur.Batch)
		s.held = append(s.held, s.cur)
		s.cur = nil
	}
	if err := s.reduce(ctx); err != nil {
		return nil, err
	}
	held := make([]*Batch, len(s.held))
	for i, b := range s.held {
		held[i] = &b.Batch
	}
	out, err := merge(held, s.runs, s.saving)
	if err != nil {
		return nil, err
	}
	out.want = s.added
	out.twice = s.twice
	out.keep = s.journal != nil
	return out, nil
}

// reduce merges runs into larger ones, the smallest first, until all can be
// read at the same time.
func (s *sorter) reduce(ctx context.Context) error {
	for {
		slices.SortFunc(s.runs, func(a, b sortedRun) int { return cmp.Compare(a.size, b.size) })
		n, size := 0, int64(0)
		for n < len(s.runs) && n < s.fanIn && (n < 2 || size+s.runs[n].block <= s.mergeMemory) {
			size += s.runs[n].block
			n++
		}
		if n == len(s.runs) {
			return nil
		}
		// No more than what makes the rest fit: those n become one.
		n = max(min(n, len(s.runs)-n+1), 2)
		in, err := merge(nil, s.runs[:n], s.saving)
		if err != nil {
			return err
		}
		in.keep, in.both = true, s.twice != nil // Sorted tells of them
		run, err := writeRun(ctx, s.create, in)
		if err != nil {
			return errors.Join(err, in.Close())
		}
		if err := in.Close(); err != nil {
			return workError("close merged work files", err)
		}
		old := slices.Clone(s.runs[:n])
		for _, r := range old {
			run.add(r.coverage)
		}
		// The new run is listed before the old ones go, so that an error
		// leaves no file that nobody removes.
		s.runs = append(slices.Delete(s.runs, 0, n), run)
		if err := s.replace(old, run); err != nil {
			return err
		}
	}
}

// replace removes runs whose entries are in a new one.
func (s *sorter) replace(old []sortedRun, run sortedRun) error {
	if s.journal != nil && s.saving {
		if err := s.journal.disk.Sync(run.path); err != nil {
			return workError("sync work file", err)
		}
		c := checkpoint{Runs: []runRecord{run.record()}}
		for _, r := range old {
			c.Dropped = append(c.Dropped, filepath.Base(r.path))
		}
		if err := s.journal.write(c); err != nil {
			return err
		}
	}
	for _, r := range old {
		if err := s.disk().RemoveFile(r.path); err != nil {
			return workError("remove merged work file", err)
		}
	}
	return nil
}

// disk is what runs are removed through.
func (s *sorter) disk() *durable.Disk {
	if s.journal == nil {
		return nil
	}
	return s.journal.disk
}

// remove removes the files of all runs, where no journal keeps them.
func (s *sorter) remove() error {
	if s.journal != nil {
		return nil
	}
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
//
// A heap of streams, and not the loser tree of github.com/bboreham/go-loser (2023, no
// release): by BenchmarkMerge, in processor time, that takes 1.16 of a heap's time with
// 6 streams, 1.13 with 40 and 0.95 with 300. It has no errors, takes keys as strings,
// and needs a key that is greater than any.
type Sorted struct {
	heads   []head // a binary heap by key, once started
	started bool
	prev    []byte // the last key, where got is not 0
	got     int64  // entries returned
	want    int64  // entries that went in
	err     error  // what ended the stream
	runs    []sortedRun
	keep    bool // the files of runs stay when it is closed
	closers []io.Closer
	// twice, where set, is told of a key that comes twice. All but one of its entries
	// are left out then.
	twice func(key []byte) error
	both  bool // all of its entries are returned
}

var _ Stream = (*Sorted)(nil)

type head struct {
	in Stream
	e  Entry
}

// merge makes one stream of sorted batches and runs. The runs' files are
// removed when it is closed, unless it is told to keep them, and left as they
// are when merge fails. Where they are synced the kernel is told that it needs
// not keep what was read of them; of others it would begin to write it to disk.
func merge(batches []*Batch, runs []sortedRun, synced bool) (*Sorted, error) {
	out := &Sorted{runs: slices.Clone(runs)}
	for _, b := range batches {
		out.heads = append(out.heads, head{in: &batchStream{b: b}})
		out.want += int64(b.Len())
	}
	for _, r := range runs {
		in, err := openRun(r.path, synced)
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
	for {
		e, err := s.step()
		if err != nil || e.Key != nil || s.twice == nil {
			return e, err
		}
		if err := s.twice(s.prev); err != nil {
			return Entry{}, err
		}
	}
}

// step returns the next entry, or an empty one in place of one whose key came already,
// where that is no error.
func (s *Sorted) step() (Entry, error) {
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
		case order == 0 && s.both:
		case order == 0 && s.twice != nil:
			s.got++
			return Entry{}, nil
		case order == 0:
			return Entry{}, &Error{
				Kind: ErrSource,
				Op:   fmt.Sprintf("sort entries: key %q", e.Key),
				Code: SourceWritten,
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
		if s.keep {
			break
		}
		// Somebody may have removed the whole work directory.
		if err := os.Remove(r.path); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	s.runs = nil
	return errors.Join(errs...)
}
