package copiertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/dyn2raft/dyn2raft/copier"
)

// A Source is a source in memory. It has a lock, and is its own storage: whoever
// uses the same one is another process. Its fields are set before it is used; it
// is safe for concurrent use then.
type Source struct {
	// Info is what Open returns, or Unfit, where that is set. A name and an id
	// are added where there are none.
	Info  copier.Info
	Unfit error
	// Len is the number of entries, and At returns one. Entry i is in span i % n
	// of n.
	Len int
	At  func(i int) copier.Entry
	// PageEntries is how many a page has; 0 means 100.
	PageEntries int
	// Halve has what is left behind a page split in two, where it is long enough.
	Halve bool
	// Before, where set, is asked before a page is read.
	Before func(ctx context.Context) error

	pages atomic.Int64
	locks
}

// locks are what holds a source.
type locks struct {
	mu     sync.Mutex
	holder string
	lost   func(error)
}

var (
	_ copier.Source = (*Source)(nil)
	_ copier.Locker = (*Source)(nil)
)

// NewSource returns a source with the given entries.
func NewSource(entries ...copier.Entry) *Source {
	return &Source{Len: len(entries), At: func(i int) copier.Entry { return entries[i] }}
}

// Pages is how many pages were read.
func (s *Source) Pages() int64 { return s.pages.Load() }

// Open implements [copier.Source].
func (s *Source) Open(context.Context) (copier.Info, error) {
	info := s.Info
	if info.ID == "" {
		info.Name, info.ID = "memory", "memory:1"
	}
	return info, s.Unfit
}

// Close implements [copier.Source].
func (s *Source) Close() error { return nil }

// Split returns n spans, or four.
func (s *Source) Split(_ context.Context, n int) ([]copier.Span, error) {
	if n == 0 {
		n = 4
	}
	out := make([]copier.Span, n)
	for i := range out {
		out[i] = copier.Span{Index: i, From: part{i, s.Len, n}.token()}
	}
	return out, nil
}

// A part is what a token says: the entries from one up to another, in steps.
type part struct{ from, to, step int }

func (p part) token() []byte { return fmt.Appendf(nil, "%d:%d:%d", p.from, p.to, p.step) }

// len is the number of entries.
func (p part) len() int { return max(p.to-p.from+p.step-1, 0) / p.step }

// parse reads a token.
func parse(token []byte) (p part, err error) {
	_, err = fmt.Sscanf(string(token), "%d:%d:%d", &p.from, &p.to, &p.step)
	if err == nil && p.step < 1 {
		err = errors.New("it has no step")
	}
	if err != nil {
		err = &copier.Error{Kind: copier.ErrSource, Op: fmt.Sprintf("read token %q", token), Err: err}
	}
	return p, err
}

// Read implements [copier.Source].
func (s *Source) Read(ctx context.Context, span copier.Span, b *copier.Batch) (copier.Page, error) {
	if ctx.Err() != nil {
		return copier.Page{}, context.Cause(ctx)
	}
	if s.Before != nil {
		if err := s.Before(ctx); err != nil {
			return copier.Page{}, err
		}
	}
	left, err := parse(span.From)
	if err != nil {
		return copier.Page{}, err
	}
	if len(span.Until) > 0 {
		until, err := parse(span.Until)
		if err != nil {
			return copier.Page{}, err
		}
		left.to = until.from
	}
	size := s.PageEntries
	if size == 0 {
		size = 100
	}
	s.pages.Add(1)
	var page copier.Page
	for ; size > 0 && left.len() > 0; size-- {
		e := s.At(left.from)
		b.Append(e.Key, e.Value)
		page.WireBytes += int64(len(e.Key) + len(e.Value))
		left.from += left.step
	}
	next := func(p part) {
		page.Next = append(page.Next, copier.Span{Index: span.Index, From: p.token(), Until: span.Until})
	}
	switch n := left.len(); {
	case n == 0:
	case s.Halve && n > 1 && span.Until == nil:
		middle := left.from + n/2*left.step
		next(part{left.from, middle, left.step})
		next(part{middle, left.to, left.step})
	default:
		next(left)
	}
	return page, nil
}

// Lock implements [copier.Locker].
func (s *locks) Lock(_ context.Context, runID string, held bool, lost func(error)) (copier.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if held && s.holder != runID {
		return nil, s.moved()
	}
	if s.holder != "" && s.holder != runID {
		return nil, &copier.Error{Kind: copier.ErrLocked, Op: "lock", Err: fmt.Errorf("run %q holds it", s.holder)}
	}
	s.holder, s.lost = runID, lost
	return &lease{s, runID}, nil
}

func (s *locks) moved() error {
	return &copier.Error{Kind: copier.ErrLocked, Op: "lock", Err: fmt.Errorf("%w: run %q holds it", copier.ErrMoved, s.holder)}
}

// Holder is the run that holds the source, "" where none does.
func (s *locks) Holder() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.holder
}

// Unlock implements [copier.Locker].
func (s *locks) Unlock(_ context.Context, runID string, _ copier.End) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holder == runID {
		s.holder = ""
		s.lost(s.moved())
	}
	return nil
}

type lease struct {
	s   *locks
	run string
}

func (l *lease) Check(context.Context) error {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if l.s.holder != l.run {
		return l.s.moved()
	}
	return nil
}

func (l *lease) Release(ctx context.Context, end copier.End) error {
	if err := l.Check(ctx); err != nil || end == copier.EndUnfinished {
		return err
	}
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.s.holder = ""
	return nil
}

// A Store is a destination in memory, but for the engine's work files. It outlives
// the sinks that are opened of it, as a disk does processes.
type Store struct {
	dir string

	mu      sync.Mutex
	held    *Sink
	inPlace bool
	entries []copier.Entry
	record  *copier.Record    // of the run that has put them there, and has not cleaned up
	put     map[string][]byte // what an unordered stage was given
	marked  *marked           // what a stage has that outlives its process
}

// NewStore returns an empty store. Work files are in a directory below dir.
func NewStore(dir string) *Store { return &Store{dir: dir} }

// Open returns a sink for the store.
func (s *Store) Open() *Sink { return &Sink{store: s} }

// OpenUnordered returns a sink whose stages are [copier.Unordered].
func (s *Store) OpenUnordered() *UnorderedSink { return &UnorderedSink{s.Open()} }

// Read returns what is in place, and whether anything is.
func (s *Store) Read() ([]copier.Entry, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.entries, s.inPlace, nil
}

// A Sink copies to a [Store].
type Sink struct{ store *Store }

var (
	_ copier.Sink      = (*Sink)(nil)
	_ copier.WorkDirer = (*Sink)(nil)
)

// Identity implements [copier.Sink].
func (s *Sink) Identity() copier.Identity { return copier.Identity{"store": s.store.dir} }

// Open implements [copier.Sink].
func (s *Sink) Open(ctx context.Context) (found copier.State, err error) {
	if ctx.Err() != nil {
		return found, context.Cause(ctx)
	}
	d := s.store
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.held != nil:
		return found, &copier.Error{Kind: copier.ErrLocked, Op: "open", Err: errors.New("another copy holds it")}
	case d.inPlace && d.record == nil:
		return found, &copier.Error{Kind: copier.ErrDestination, Op: "open", Err: errors.New("it holds data")}
	}
	d.held = s
	if err := os.MkdirAll(s.WorkDir(), 0o700); err != nil {
		return found, &copier.Error{Kind: copier.ErrDestination, Op: "open", Err: err}
	}
	if d.inPlace {
		found.Record = d.record
	}
	return found, nil
}

// WorkDir implements [copier.WorkDirer].
func (s *Sink) WorkDir() string { return filepath.Join(s.store.dir, "work") }

// Stage implements [copier.Sink].
func (s *Sink) Stage(_ context.Context, runID string) (copier.Stage, error) {
	out := &stage{sink: s, run: runID}
	d := s.store
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.marked != nil && d.marked.run == runID {
		out.loaded, out.mark = d.marked.entries, d.marked.mark
	} else {
		d.marked = nil
	}
	return out, nil
}

// Close implements [copier.Sink].
func (s *Sink) Close() error {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	if s.store.held == s {
		s.store.held = nil
		_ = os.Remove(s.WorkDir()) // where nothing was kept
	}
	return nil
}

// A stage is what one run copies. What is loaded is in order, and a slice that nobody
// changes: an Apply makes another one.
type stage struct {
	sink   *Sink
	run    string
	loaded []copier.Entry
	record *copier.Record
	mark   []byte
	pinned []copier.Entry
	pin    bool
}

// marked is what a run has loaded and marked.
type marked struct {
	run     string
	entries []copier.Entry
	mark    []byte
}

var (
	_ copier.Loader  = (*stage)(nil)
	_ copier.Applier = (*stage)(nil)
)

// Load implements [copier.Loader].
func (s *stage) Load(ctx context.Context, entries copier.Stream) (copier.LoadStats, error) {
	var stats copier.LoadStats
	s.loaded, s.mark = nil, nil
	s.keep(nil)
	for {
		if ctx.Err() != nil {
			return stats, context.Cause(ctx)
		}
		e, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return stats, nil
		}
		if err != nil {
			return stats, err
		}
		s.loaded = append(s.loaded, copier.Entry{Key: bytes.Clone(e.Key), Value: bytes.Clone(e.Value)})
		stats.Entries++
		stats.Bytes += int64(len(e.Key) + len(e.Value))
	}
}

// Reader implements [copier.Stage].
func (s *stage) Reader(context.Context) (copier.Source, error) {
	d := s.sink.store
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inPlace {
		return NewSource(d.entries...), nil
	}
	return NewSource(s.loaded...), nil
}

// Prepare implements [copier.Stage].
func (s *stage) Prepare(_ context.Context, r copier.Record) error {
	s.record = &r
	return nil
}

// Commit implements [copier.Stage].
func (s *stage) Commit(context.Context) error {
	s.set(true, s.loaded, s.record)
	s.keep(nil)
	return nil
}

func (s *stage) set(inPlace bool, entries []copier.Entry, r *copier.Record) {
	d := s.sink.store
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inPlace, d.entries, d.record = inPlace, entries, r
}

// Amend implements [copier.Stage].
func (s *stage) Amend(r copier.Record) error {
	s.sink.store.mu.Lock()
	defer s.sink.store.mu.Unlock()
	s.sink.store.record = &r
	return nil
}

// Rollback implements [copier.Stage].
func (s *stage) Rollback() error {
	s.set(false, nil, nil)
	return nil
}

// Close implements [copier.Stage].
func (s *stage) Close(keep bool) error {
	if keep {
		return nil
	}
	d := s.sink.store
	d.mu.Lock()
	defer d.mu.Unlock()
	d.record, d.marked = nil, nil
	return os.RemoveAll(s.sink.WorkDir())
}

// Apply implements [copier.Applier].
func (s *stage) Apply(ctx context.Context, changes []copier.Change, update func([]copier.Entry) ([]byte, error)) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	changes = slices.SortedFunc(slices.Values(changes), func(a, b copier.Change) int { return bytes.Compare(a.Key, b.Key) })
	var old, now []copier.Entry
	left := s.loaded
	for _, c := range changes {
		at, found := slices.BinarySearchFunc(left, c.Key, func(e copier.Entry, key []byte) int { return bytes.Compare(e.Key, key) })
		now, left = append(now, left[:at]...), left[at:]
		if found {
			old, left = append(old, left[0]), left[1:]
		}
		if !c.Gone {
			now = append(now, clone(c.Entry))
		}
	}
	mark, err := update(old)
	if err != nil {
		return err
	}
	s.loaded, s.mark = append(now, left...), bytes.Clone(mark)
	s.keep(&marked{s.run, s.loaded, s.mark})
	return nil
}

// keep has something outlive the process.
func (s *stage) keep(m *marked) {
	d := s.sink.store
	d.mu.Lock()
	defer d.mu.Unlock()
	d.marked = m
}

// List implements [copier.Applier].
func (s *stage) List(_ context.Context, folder, after []byte, b *copier.Batch) ([]byte, error) {
	return list(s.loaded, folder, after, b), nil
}

// Mark implements [copier.Applier].
func (s *stage) Mark(context.Context) ([]byte, error) { return s.mark, nil }

// Pin implements [copier.Applier].
func (s *stage) Pin(context.Context) error {
	s.pinned, s.pin = s.loaded, true
	return nil
}

// Pinned implements [copier.Applier].
func (s *stage) Pinned() bool { return s.pin }

// Delta implements [copier.Applier].
func (s *stage) Delta(_ context.Context, gone, there func(copier.Entry) error) error {
	was, is := s.pinned, s.loaded
	for len(was)+len(is) > 0 {
		order := 1
		switch {
		case len(is) == 0:
			order = -1
		case len(was) > 0:
			order = bytes.Compare(was[0].Key, is[0].Key)
		}
		same := order == 0 && bytes.Equal(was[0].Value, is[0].Value)
		if order <= 0 {
			if !same {
				if err := gone(was[0]); err != nil {
					return err
				}
			}
			was = was[1:]
		}
		if order >= 0 {
			if !same {
				if err := there(is[0]); err != nil {
					return err
				}
			}
			is = is[1:]
		}
	}
	return nil
}

// Finish implements [copier.Applier]: the mark lies apart from the entries anyway.
func (s *stage) Finish(context.Context) error { return nil }

// An UnorderedSink copies to a [Store] in any order. What was put stays in the store
// when a process ends.
type UnorderedSink struct{ *Sink }

var _ copier.Sink = (*UnorderedSink)(nil)

// Stage implements [copier.Sink].
func (s *UnorderedSink) Stage(context.Context, string) (copier.Stage, error) {
	return &unorderedStage{stage{sink: s.Sink}}, nil
}

// An unorderedStage has what was put as what is loaded.
type unorderedStage struct{ stage stage }

var _ copier.Unordered = (*unorderedStage)(nil)

// Vet refuses keys with a zero byte.
func (s *unorderedStage) Vet(entries *copier.Batch) (refused []error) {
	for i := range entries.Len() {
		if key := entries.Entry(i).Key; bytes.IndexByte(key, 0) >= 0 {
			refused = append(refused, &copier.Error{Kind: copier.ErrDestination, Op: fmt.Sprintf("key %q", key), Err: errors.New("it has a zero byte")})
		}
	}
	return refused
}

// Clear implements [copier.Unordered].
func (s *unorderedStage) Clear(context.Context) error {
	s.clear()
	return nil
}

func (s *unorderedStage) clear() {
	d := s.stage.sink.store
	d.mu.Lock()
	defer d.mu.Unlock()
	d.put = nil
}

// Put implements [copier.Unordered].
func (s *unorderedStage) Put(ctx context.Context, entries *copier.Batch) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	d := s.stage.sink.store
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.put == nil {
		d.put = map[string][]byte{}
	}
	for i := range entries.Len() {
		e := entries.Entry(i)
		d.put[string(e.Key)] = bytes.Clone(e.Value)
	}
	return nil
}

// load has what was put as what is loaded.
func (s *unorderedStage) load() *stage {
	d := s.stage.sink.store
	d.mu.Lock()
	defer d.mu.Unlock()
	s.stage.loaded = nil
	for _, key := range slices.Sorted(maps.Keys(d.put)) {
		s.stage.loaded = append(s.stage.loaded, copier.Entry{Key: []byte(key), Value: d.put[key]})
	}
	return &s.stage
}

// Reader implements [copier.Stage].
func (s *unorderedStage) Reader(ctx context.Context) (copier.Source, error) {
	return s.load().Reader(ctx)
}

// Prepare implements [copier.Stage].
func (s *unorderedStage) Prepare(ctx context.Context, r copier.Record) error {
	return s.stage.Prepare(ctx, r)
}

// Commit implements [copier.Stage].
func (s *unorderedStage) Commit(ctx context.Context) error { return s.load().Commit(ctx) }

// Amend implements [copier.Stage].
func (s *unorderedStage) Amend(r copier.Record) error { return s.stage.Amend(r) }

// Rollback implements [copier.Stage].
func (s *unorderedStage) Rollback() error { return s.stage.Rollback() }

// Close implements [copier.Stage].
func (s *unorderedStage) Close(keep bool) error {
	if !keep {
		s.clear()
	}
	return s.stage.Close(keep)
}
