package copiertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/dyn2raft/dyn2raft/copier"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// some returns n entries, not in order.
func some(n int) (out []copier.Entry) {
	for i := range n {
		out = append(out, copier.Entry{Key: fmt.Appendf(nil, "sys/%03d/key", i*37%n), Value: make([]byte, i%7)})
	}
	return out
}

func TestMemory(t *testing.T) {
	for name, src := range map[string]*Source{
		"lines": {PageEntries: 7},
		"split": {PageEntries: 7, Halve: true},
		"large": {},
	} {
		t.Run(name, func(t *testing.T) {
			entries := some(300)
			src.Len, src.At = 300, func(i int) copier.Entry { return entries[i] }
			TestSource(t, func() copier.Source { return src }, entries)
			if h := src.Holder(); h != "" {
				t.Errorf("run %q holds it", h)
			}
		})
	}
	t.Run("empty", func(t *testing.T) {
		src := NewSource()
		TestSource(t, func() copier.Source { return src }, nil)
	})
	t.Run("sink", func(t *testing.T) { TestSink(t, storeOf(t, func(s *Sink) copier.Sink { return s })) })
	t.Run("unordered sink", func(t *testing.T) {
		TestSink(t, storeOf(t, func(s *Sink) copier.Sink { return &UnorderedSink{s} }))
	})
}

func storeOf(t *testing.T, sink func(*Sink) copier.Sink) func() Destination {
	return func() Destination {
		store := NewStore(t.TempDir())
		return Destination{Open: func() copier.Sink { return sink(store.Open()) }, Read: store.Read}
	}
}

// A brokenSource does what its functions make of a good source's answers.
type brokenSource struct {
	*Source
	info    func(*copier.Info)
	split   func([]copier.Span) []copier.Span
	asked   func() error // before it reads
	read    func(seg copier.Span, b *copier.Batch, p *copier.Page) error
	ignores bool // that a context has ended
	lock    func(runID string, held bool) error
	unlock  func(runID string) string // whom it unlocks instead
	lease   func(copier.Lease) copier.Lease
	close   func() error
}

func (s *brokenSource) Close() error {
	if s.close != nil {
		return s.close()
	}
	return s.Source.Close()
}

func (s *brokenSource) Open(ctx context.Context) (copier.Info, error) {
	info, err := s.Source.Open(ctx)
	if s.info != nil {
		s.info(&info)
	}
	return info, err
}

func (s *brokenSource) Split(ctx context.Context, n int) ([]copier.Span, error) {
	segs, err := s.Source.Split(ctx, n)
	if s.split != nil {
		segs = s.split(segs)
	}
	return segs, err
}

func (s *brokenSource) Read(ctx context.Context, seg copier.Span, b *copier.Batch) (copier.Page, error) {
	if s.ignores {
		ctx = context.WithoutCancel(ctx)
	}
	if s.asked != nil {
		if err := s.asked(); err != nil {
			return copier.Page{}, err
		}
	}
	p, err := s.Source.Read(ctx, seg, b)
	if err == nil && s.read != nil {
		err = s.read(seg, b, &p)
	}
	return p, err
}

func (s *brokenSource) Lock(ctx context.Context, runID string, held bool, lost func(error)) (copier.Lease, error) {
	if s.lock != nil {
		if err := s.lock(runID, held); err != nil {
			return nil, err
		}
	}
	l, err := s.Source.Lock(ctx, runID, held, lost)
	if err == nil && s.lease != nil {
		l = s.lease(l)
	}
	return l, err
}

func (s *brokenSource) Unlock(ctx context.Context, runID string, end copier.End) error {
	if s.unlock != nil {
		runID = s.unlock(runID)
	}
	return s.Source.Unlock(ctx, runID, end)
}

// A blindLease does not know that it was lost.
type blindLease struct{ copier.Lease }

func (blindLease) Check(context.Context) error { return nil }

// An openLease is given back whatever the end is.
type openLease struct{ copier.Lease }

func (l openLease) Release(ctx context.Context, _ copier.End) error {
	return l.Lease.Release(ctx, copier.EndComplete)
}

// TestSourceCanFail has sources that break one rule each.
func TestSourceCanFail(t *testing.T) {
	calls, opened, divided := 0, 0, 0
	var kept []byte
	closed := false
	for want, s := range map[string]*brokenSource{
		"without a name or an id": {info: func(i *copier.Info) { i.ID = "" }},
		"is another one":          {info: func(i *copier.Info) { calls++; i.Incarnation = fmt.Sprint(calls) }},
		"there are no spans":      {split: func([]copier.Span) []copier.Span { return nil }},
		"the span at 4 of 5 is ":  {split: func(s []copier.Span) []copier.Span { return append(s, s[0]) }},
		" to \"9:9:9\"":           {split: func(s []copier.Span) []copier.Span { s[0].Until = []byte("9:9:9"); return s }},
		"only who has split it knows": {
			info:  func(*copier.Info) { opened++ },
			split: func(s []copier.Span) []copier.Span { divided = opened; return s },
			asked: func() error {
				if divided != opened {
					return errors.New("only who has split it knows")
				}
				return nil
			},
		},
		"is missing, or has another value": {read: func(_ copier.Span, b *copier.Batch, p *copier.Page) error {
			if p.Next == nil {
				b.Truncate(b.Len() - 1)
			}
			return nil
		}},
		"is there once too often": {read: func(seg copier.Span, b *copier.Batch, p *copier.Page) error {
			if p.Next == nil {
				b.Append([]byte("sys/001/key"), nil)
			}
			return nil
		}},
		"is no key": {read: func(_ copier.Span, b *copier.Batch, _ *copier.Page) error {
			b.Append([]byte("sys/"), nil)
			return nil
		}},
		"is not what is left of it": {read: func(_ copier.Span, _ *copier.Batch, p *copier.Page) error {
			for i := range p.Next {
				p.Next[i].Index++
			}
			return nil
		}},
		"is not what is left of": {read: func(_ copier.Span, _ *copier.Batch, p *copier.Page) error {
			for i := range p.Next { // it forgets where a part ends
				p.Next[i].Until = nil
			}
			return nil
		}},
		"spans do not end": {read: func(seg copier.Span, _ *copier.Batch, p *copier.Page) error {
			if p.Next != nil {
				p.Next[0] = seg
			}
			return nil
		}},
		"what was in the batch before": {read: func(_ copier.Span, b *copier.Batch, _ *copier.Page) error { b.Reset(); return nil }},
		"tokens have changed since": {read: func(_ copier.Span, _ *copier.Batch, p *copier.Page) error {
			if p.Next != nil { // one piece of memory for all tokens
				kept = append(kept[:0], p.Next[0].From...)
				p.Next[0].From = kept
			}
			return nil
		}},
		"a later process, span ": {read: func(seg copier.Span, b *copier.Batch, _ *copier.Page) error {
			if seg.Until != nil { // it reads a page again, and makes less of it
				b.Truncate(1)
			}
			return nil
		}},
		"a context that has ended": {ignores: true},
		"is it, refused": {read: func(_ copier.Span, _ *copier.Batch, p *copier.Page) error {
			p.Refused = []error{errors.New("is it, refused")}
			return nil
		}},
		"Close: it is not open": {close: func() error { return errors.New("it is not open") }},
		"nothing is there any more": {
			close: func() error { closed = true; return nil },
			asked: func() error {
				if closed {
					return errors.New("nothing is there any more")
				}
				return nil
			},
		},
		"Lock of what another run holds":        {},
		"Check of a lost lease":                 {lease: func(l copier.Lease) copier.Lease { return blindLease{l} }},
		"Lock of what an unfinished copy holds": {lease: func(l copier.Lease) copier.Lease { return openLease{l} }},
		"Lock of a copy that is resumed":        {unlock: func(string) string { return "run-1" }},
		"Lock of what was unlocked":             {unlock: func(string) string { return "" }},
	} {
		t.Run(want, func(t *testing.T) {
			entries := some(100)
			s.Source = NewSource(entries...)
			s.PageEntries = 7
			if strings.HasPrefix(want, "Lock of what another") { // its lock lets all in
				s.lock = func(string, bool) error { s.mu.Lock(); defer s.mu.Unlock(); s.holder = ""; return nil }
			}
			refusedWith(t, checkSource(t.Context(), t.TempDir(), func() copier.Source { return s }, entries), want)
		})
	}
}

// refusedWith fails a test unless one of the errors says what is wrong.
func refusedWith(t *testing.T, errs []error, want string) {
	t.Helper()
	if len(errs) == 0 {
		t.Fatal("it was found to be good")
	}
	if err := errors.Join(errs...); !strings.Contains(err.Error(), want) {
		t.Errorf("it was refused for something else: %v", err)
	}
}

// A brokenSink does what its functions do, where they are set, after or in place
// of what a good one does.
type brokenSink struct {
	*Sink
	identity func() copier.Identity
	open     func(copier.State, error) (copier.State, error)
	load     func(copier.Stream) copier.Stream
	stats    func(*copier.LoadStats)
	loadErr  func(error) error
	reader   func(*stage) copier.Source
	early    bool // commits too soon
	commit   func() error
	rollback func() error
	closing  func(keep bool) bool
	closed   func(*stage)
	gone     func()
	amend    func(copier.Record) copier.Record
}

type brokenStage struct {
	*stage
	*brokenSink
}

func (s *brokenSink) Identity() copier.Identity {
	if s.identity != nil {
		return s.identity()
	}
	return s.Sink.Identity()
}

func (s *brokenSink) Open(ctx context.Context) (copier.State, error) {
	found, err := s.Sink.Open(ctx)
	if s.open != nil {
		found, err = s.open(found, err)
	}
	return found, err
}

func (s *brokenSink) Stage(ctx context.Context, runID string) (copier.Stage, error) {
	good, err := s.Sink.Stage(ctx, runID)
	return brokenStage{good.(*stage), s}, err //nolint:errcheck // it is
}

func (s *brokenSink) Close() error {
	if s.gone != nil {
		s.gone()
	}
	return s.Sink.Close()
}

func (s brokenStage) Load(ctx context.Context, in copier.Stream) (copier.LoadStats, error) {
	if s.load != nil {
		in = s.load(in)
	}
	stats, err := s.stage.Load(ctx, in)
	if s.stats != nil {
		s.stats(&stats)
	}
	if s.loadErr != nil {
		err = s.loadErr(err)
	}
	return stats, err
}

func (s brokenStage) Reader(ctx context.Context) (copier.Source, error) {
	if s.reader != nil {
		return s.reader(s.stage), nil
	}
	return s.stage.Reader(ctx)
}

func (s brokenStage) Prepare(ctx context.Context, r copier.Record) error {
	err := s.stage.Prepare(ctx, r)
	if s.early {
		err = s.Commit(ctx)
	}
	return err
}

func (s brokenStage) Commit(ctx context.Context) error {
	if s.commit != nil {
		return s.commit()
	}
	return s.stage.Commit(ctx)
}

func (s brokenStage) Amend(r copier.Record) error {
	if s.amend != nil {
		r = s.amend(r)
	}
	return s.stage.Amend(r)
}

func (s brokenStage) Rollback() error {
	if s.rollback != nil {
		return s.rollback()
	}
	return s.stage.Rollback()
}

func (s brokenStage) Close(keep bool) error {
	if s.closing != nil {
		keep = s.closing(keep)
	}
	err := s.stage.Close(keep)
	if s.closed != nil {
		s.closed(s.stage)
	}
	return err
}

// A lossyStream leaves one entry out.
type lossyStream struct {
	copier.Stream
	n int
}

func (s *lossyStream) Next() (copier.Entry, error) {
	if s.n++; s.n == 5 {
		_, _ = s.Stream.Next()
	}
	return s.Stream.Next()
}

// TestSinkCanFail has sinks that break one rule each.
func TestSinkCanFail(t *testing.T) {
	for want, breaks := range map[string]func(*brokenSink){
		"Identity": func(s *brokenSink) { s.identity = func() copier.Identity { return nil } },
		"WorkDir: ": func(s *brokenSink) {
			s.open = func(found copier.State, err error) (copier.State, error) {
				_ = os.Remove(s.WorkDir())
				return found, err
			}
		},
		"Load: it says that": func(s *brokenSink) { s.stats = func(l *copier.LoadStats) { l.Bytes++ } },
		"behind Commit: \"logical/": func(s *brokenSink) { // it counts what it loses
			s.load = func(in copier.Stream) copier.Stream { return &lossyStream{Stream: in} }
			s.stats = func(l *copier.LoadStats) { l.Entries, l.Bytes = 700, 496706 }
		},
		"behind Load, read back: \"logical/": func(s *brokenSink) { // it counts what it loses
			s.load = func(in copier.Stream) copier.Stream { return &lossyStream{Stream: in} }
			s.stats = func(l *copier.LoadStats) { l.Entries, l.Bytes = 700, 496706 }
		},
		"behind Commit, read back: ": func(s *brokenSink) { // what is staged, which is gone
			s.reader = func(stage *stage) copier.Source {
				if s.store.inPlace {
					return NewSource()
				}
				return NewSource(stage.loaded...)
			}
		},
		"found in place, read back: ": func(s *brokenSink) { // what it was told itself
			s.reader = func(stage *stage) copier.Source { return NewSource(stage.loaded...) }
		},
		"a stream that fails: Load of a stream": func(s *brokenSink) { s.loadErr = func(error) error { return nil } },
		"behind Prepare: there is":              func(s *brokenSink) { s.early = true },
		"behind Commit: there is":               func(s *brokenSink) { s.commit = func() error { return nil } },
		"behind Rollback: there is":             func(s *brokenSink) { s.rollback = func() error { return nil } },
		"Open of what holds data": func(s *brokenSink) {
			s.open = func(found copier.State, err error) (copier.State, error) {
				if errors.Is(err, copier.ErrDestination) {
					err = nil
				}
				return found, err
			}
		},
		"what another process holds": func(s *brokenSink) {
			s.open = func(found copier.State, err error) (copier.State, error) {
				if errors.Is(err, copier.ErrLocked) {
					err = nil
				}
				return found, err
			}
		},
		"and must find {\"run_id\":\"run-1\",\"state\":\"unconfirmed\"": func(s *brokenSink) {
			s.open = func(_ copier.State, err error) (copier.State, error) { return copier.State{}, err }
		},
		"and must find {\"run_id\":\"run-1\",\"state\":\"confirmed\"": func(s *brokenSink) {
			s.amend = func(r copier.Record) copier.Record { r.State = copier.Unconfirmed; return r }
		},
		"backup of confirmed": func(s *brokenSink) { // not all of it is kept
			s.amend = func(r copier.Record) copier.Record {
				if r.State == copier.Confirmed {
					r.Backup = ""
				}
				return r
			}
		},
		"Close(false): ":     func(s *brokenSink) { s.closing = func(bool) bool { return true } },
		"in WorkDir is gone": func(s *brokenSink) { s.closing = func(bool) bool { return false } },
		"behind Close of one that was refused": func(s *brokenSink) {
			s.gone = func() {
				if s.store.held != s.Sink { // what it has not put there
					(&stage{sink: s.Sink}).set(false, nil, nil)
				}
			}
		},
		"has not come to it": func(s *brokenSink) { // its record stays
			s.closed = func(stage *stage) { s.store.record = stage.record }
		},
	} {
		t.Run(want, func(t *testing.T) {
			errs := checkSink(t.Context(), storeOf(t, func(s *Sink) copier.Sink {
				b := &brokenSink{Sink: s}
				breaks(b)
				return b
			}))
			refusedWith(t, errs, want)
		})
	}
}

// A stream that keeps to its contract spoils what a sink has kept of it.
type lazySink struct{ *Sink }

func (s lazySink) Stage(context.Context, string) (copier.Stage, error) {
	return lazyStage{&stage{sink: s.Sink}}, nil
}

type lazyStage struct{ *stage }

func (s lazyStage) Load(_ context.Context, in copier.Stream) (copier.LoadStats, error) {
	var stats copier.LoadStats
	for {
		e, err := in.Next()
		if err != nil {
			return stats, nil
		}
		s.loaded = append(s.loaded, e)
		stats.Entries++
		stats.Bytes += int64(len(e.Key) + len(e.Value))
	}
}

func TestSinkThatKeepsEntries(t *testing.T) {
	refusedWith(t, checkSink(t.Context(), storeOf(t, func(s *Sink) copier.Sink { return lazySink{s} })), "behind Commit: \"")
}

// A brokenPutter does what its functions do, where they are set, in place of what a good
// stage does.
type brokenPutter struct {
	*unorderedStage
	put   func(good *unorderedStage, ctx context.Context, b *copier.Batch) error
	vet   func(*copier.Batch) []error
	clear func() error
}

func (s brokenPutter) Put(ctx context.Context, b *copier.Batch) error {
	if s.put != nil {
		return s.put(s.unorderedStage, ctx, b)
	}
	return s.unorderedStage.Put(ctx, b)
}

func (s brokenPutter) Vet(b *copier.Batch) []error {
	if s.vet != nil {
		return s.vet(b)
	}
	return s.unorderedStage.Vet(b)
}

func (s brokenPutter) Clear(ctx context.Context) error {
	if s.clear != nil {
		return s.clear()
	}
	return s.unorderedStage.Clear(ctx)
}

type brokenPutterSink struct {
	*UnorderedSink
	brokenPutter
	gone bool // what was put goes with the process
}

func (s brokenPutterSink) Stage(ctx context.Context, runID string) (copier.Stage, error) {
	stage, err := s.UnorderedSink.Stage(ctx, runID)
	broken := s.brokenPutter
	broken.unorderedStage = stage.(*unorderedStage) //nolint:errcheck // it is one
	return broken, err
}

func (s brokenPutterSink) Close() error {
	if s.gone {
		s.store.put = nil
	}
	return s.UnorderedSink.Close()
}

// without returns a batch without its first entry.
func without(b *copier.Batch) *copier.Batch {
	var out copier.Batch
	for i := 1; i < b.Len(); i++ {
		out.Append(b.Entry(i).Key, b.Entry(i).Value)
	}
	return &out
}

// TestUnorderedSinkCanFail has stages that break one rule of [copier.Unordered] each.
func TestUnorderedSinkCanFail(t *testing.T) {
	for want, broken := range map[string]brokenPutterSink{
		"behind Load, read back: \"logical/": {brokenPutter: brokenPutter{put: func(good *unorderedStage, ctx context.Context, b *copier.Batch) error {
			return good.Put(ctx, without(b))
		}}},
		"behind Load, read back: \"sys/of-an-earlier": {brokenPutter: brokenPutter{clear: func() error { return nil }}},
		"Put: ":                           {brokenPutter: brokenPutter{vet: func(*copier.Batch) []error { return []error{errors.New("refused")} }}},
		"by a later process, read back: ": {gone: true},
		"with a context that has ended": {brokenPutter: brokenPutter{put: func(good *unorderedStage, _ context.Context, b *copier.Batch) error {
			return good.Put(context.Background(), b)
		}}},
	} {
		t.Run(want, func(t *testing.T) {
			errs := checkSink(t.Context(), storeOf(t, func(s *Sink) copier.Sink {
				broken.UnorderedSink = &UnorderedSink{s}
				return broken
			}))
			refusedWith(t, errs, want)
		})
	}
}

// A copy to a stage that takes entries in any order is refused before anything is
// written where the stage can't have some of them, and what the stage has lost, or the
// source has twice, is noticed: then nothing is kept, since it would not be put again.
func TestUnorderedCopy(t *testing.T) {
	lossy := brokenPutter{put: func(good *unorderedStage, ctx context.Context, b *copier.Batch) error {
		return good.Put(ctx, without(b))
	}}
	never := brokenPutter{put: func(*unorderedStage, context.Context, *copier.Batch) error { return errors.New("something was put") },
		clear: func() error { return errors.New("something was cleared") }}
	twice := append(some(300), some(300)[7])
	zero := append(some(300), copier.Entry{Key: []byte("a\x00")}, copier.Entry{Key: []byte("b\x00")})
	for name, test := range map[string]struct {
		entries []copier.Entry
		stage   brokenPutter
		want    error
		refused int
	}{
		"good":        {entries: some(300)},
		"lost":        {some(300), lossy, copier.ErrReadBack, 0},
		"found twice": {twice, brokenPutter{}, copier.ErrReadBack, 0},
		"refused":     {zero, never, copier.ErrDestination, 2},
	} {
		t.Run(name, func(t *testing.T) {
			store, src := NewStore(t.TempDir()), NewSource(test.entries...)
			src.PageEntries, src.Halve = 10, true
			refused := 0
			res, err := copier.Copy(t.Context(), src, brokenPutterSink{UnorderedSink: store.OpenUnordered(), brokenPutter: test.stage},
				copier.Options{Memory: copier.MinMemory, CheckpointInterval: 1, Events: func(e copier.Event) {
					if _, ok := e.(copier.ItemRefused); ok {
						refused++
					}
				}})
			got, there, _ := store.Read()
			if !errors.Is(err, test.want) || refused != test.refused || res.Resumable {
				t.Errorf("%d refused, resumable %v: %v", refused, res.Resumable, err)
			}
			if there != (test.want == nil) || there && (len(got) != 300 || res.Load.Entries != 300 || res.Proof == nil) {
				t.Errorf("in place: %v, %d entries, %+v", there, len(got), res)
			}
			if len(store.put) > 0 || src.Holder() != "" {
				t.Errorf("%d entries are left aside, and run %q holds the source", len(store.put), src.Holder())
			}
		})
	}
}

// A placeless sink has no place for the engine's files.
type placeless struct{ copier.Sink }

// Where the sink has no place for them, all of the engine's files are in the directory
// that it is given, from which a copy is resumed and in which nothing is left.
func TestSinkWithoutWorkDir(t *testing.T) {
	store, src := NewStore(t.TempDir()), NewSource(some(300)...)
	opts := copier.Options{Memory: copier.MinMemory, Workers: 1, CheckpointInterval: 1, Uninitialized: true}
	if _, err := copier.Copy(t.Context(), src, placeless{store.Open()}, opts); !errors.Is(err, copier.ErrConfig) {
		t.Fatalf("without a directory: %v", err)
	}
	opts.WorkDir = t.TempDir()
	broken := errors.New("broken")
	src.PageEntries = 10
	src.Before = func(context.Context) error {
		if src.Pages() == 20 {
			return broken
		}
		return nil
	}
	res, err := copier.Copy(t.Context(), src, placeless{store.Open()}, opts)
	if !errors.Is(err, broken) || !res.Resumable {
		t.Fatalf("resumable %v: %v", res.Resumable, err)
	}
	if _, err := copier.Copy(t.Context(), src, placeless{store.Open()}, opts); !errors.Is(err, copier.ErrUnfinished) {
		t.Errorf("without Resume: %v", err)
	}
	src.Before, opts.Resume = nil, true
	if res, err = copier.Copy(t.Context(), src, placeless{store.Open()}, opts); err != nil || res.Resumed != 1 || res.Scan.Entries != 300 {
		t.Errorf("resumed %d times, %d entries: %v", res.Resumed, res.Scan.Entries, err)
	}
	if list, err := os.ReadDir(opts.WorkDir); err != nil || len(list) > 0 {
		t.Errorf("left in the work directory: %v, %v", list, err)
	}
}
