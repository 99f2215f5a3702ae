package copiertest

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
)

// servedTable is a table as the suite needs it, with the source that open makes of it.
func servedTable(seed uint64, open func(*Table) copier.Source) func() Served {
	rnd := rand.New(rand.NewPCG(seed, 1))
	return func() Served {
		t := NewTable(some(50)...)
		t.Late = func() time.Duration { return time.Duration(rnd.IntN(int(20 * time.Millisecond))) } // under the table's lock
		_ = t.Serve("vault-1")
		return Served{
			Open:     func() copier.Source { return open(t) },
			Serve:    func() error { return t.Serve("vault-1") },
			StepDown: func() error { t.StepDown(); return nil },
			Put:      t.Put, Delete: t.Delete,
			Replace: func() error { t.Replace(); return nil },
			Hide:    func(folder string) error { t.Hide(folder); return nil },
		}
	}
}

func TestTable(t *testing.T) {
	t.Run("source", func(t *testing.T) {
		table := NewTable(some(300)...)
		table.PageEntries = 7
		TestSource(t, func() copier.Source { return table }, some(300))
	})
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			TestFeed(t, servedTable(seed, func(t *Table) copier.Source { return t }))
		})
	}
}

// A brokenTable does what its functions make of a good table's answers.
type brokenTable struct {
	*Table
	brokenFeed
}

type brokenFeed struct {
	hints  func(*copier.Hints)
	reread func(keys [][]byte, b *copier.Batch)
	list   func(b *copier.Batch)
	poll   func(h copier.Hints, err error) (copier.Hints, error)
	follow func(f copier.Following, err error) (copier.Following, error)
	undo   func() bool
	take   func(waiting func(copier.Turn))
}

type brokenFollowing struct {
	copier.Following
	broken brokenFeed
}

func (t brokenTable) Follow(ctx context.Context, runID string, from copier.Position) (copier.Following, error) {
	f, err := t.Table.Follow(ctx, runID, from)
	if t.follow != nil {
		f, err = t.follow(f, err)
	}
	return brokenFollowing{f, t.brokenFeed}, err
}

func (t brokenTable) Unfollow(ctx context.Context, runID string, last copier.Position) error {
	if t.undo != nil && t.undo() {
		return nil
	}
	return t.Table.Unfollow(ctx, runID, last)
}

func (t brokenTable) Take(ctx context.Context, runID string, waiting func(copier.Turn), lost func(error)) (copier.Lease, error) {
	if t.take != nil {
		t.take(waiting)
		t.mu.Lock()
		t.holder, t.vault = "", false
		t.mu.Unlock()
	}
	return t.Table.Take(ctx, runID, waiting, lost)
}

func (f brokenFollowing) Next(ctx context.Context) (copier.Hints, error) {
	h, err := f.Following.Next(ctx)
	if f.broken.hints != nil {
		f.broken.hints(&h)
	}
	return h, err
}

func (f brokenFollowing) Poll(ctx context.Context) (copier.Hints, error) {
	h, err := f.Following.Poll(ctx)
	if f.broken.poll != nil {
		return f.broken.poll(h, err)
	}
	return h, err
}

func (f brokenFollowing) Reread(ctx context.Context, keys [][]byte, b *copier.Batch) error {
	if f.broken.reread != nil {
		f.broken.reread(keys, b)
		return nil
	}
	return f.Following.Reread(ctx, keys, b)
}

func (f brokenFollowing) List(ctx context.Context, folder, after []byte, b *copier.Batch) ([]byte, error) {
	next, err := f.Following.List(ctx, folder, after, b)
	if f.broken.list != nil {
		f.broken.list(b)
	}
	return next, err
}

// TestFeedCanFail has feeds that break one rule each.
func TestFeedCanFail(t *testing.T) {
	for want, broken := range map[string]func(*Table) brokenFeed{
		"it takes too long": func(*Table) brokenFeed { // it loses a hint
			return brokenFeed{hints: func(h *copier.Hints) {
				h.Keys = slices.DeleteFunc(h.Keys, func(key []byte) bool { return bytes.HasSuffix(key, []byte("/0")) })
			}}
		},
		"it has drained, and": func(t *Table) brokenFeed { // its positions lead
			return brokenFeed{hints: func(h *copier.Hints) {
				if h.Position == nil {
					return
				}
				f := &following{t: t}
				t.mu.Lock()
				f.place = place{Stream: t.stream, At: make([]int, len(t.shards))}
				for i, s := range t.shards {
					f.place.At[i] = len(s)
				}
				t.mu.Unlock()
				h.Position = f.place.position()
			}}
		},
		"drain 1 has passed, and": func(*Table) brokenFeed {
			return brokenFeed{hints: func(h *copier.Hints) { h.Drained = 1 }}
		},
		"drains have passed, of": func(*Table) brokenFeed {
			return brokenFeed{hints: func(h *copier.Hints) { h.Drained++ }}
		},
		"Reread: \"copiertest/reread/": func(t *Table) brokenFeed { // it returns what was there before
			stale := map[string][]byte{}
			return brokenFeed{reread: func(keys [][]byte, b *copier.Batch) {
				t.mu.Lock()
				defer t.mu.Unlock()
				for _, key := range keys {
					if value, ok := stale[string(key)]; ok {
						b.Append(key, value)
					}
					stale[string(key)] = t.entries[string(key)]
				}
			}}
		},
		"what was in the batch before": func(*Table) brokenFeed {
			return brokenFeed{reread: func(_ [][]byte, b *copier.Batch) { b.Reset() }}
		},
		"the first one has no position": func(*Table) brokenFeed {
			return brokenFeed{hints: func(h *copier.Hints) {
				if len(h.Keys) == 0 {
					h.Position = nil
				}
			}}
		},
		"Poll of what was replaced": func(*Table) brokenFeed {
			return brokenFeed{poll: func(h copier.Hints, _ error) (copier.Hints, error) { return h, nil }}
		},
		"Poll: \"copiertest/drained": func(*Table) brokenFeed {
			return brokenFeed{poll: func(h copier.Hints, err error) (copier.Hints, error) {
				h.Keys = [][]byte{[]byte("copiertest/drained1/1")}
				return h, err
			}}
		},
		"Follow of what was replaced": func(*Table) brokenFeed {
			return brokenFeed{follow: func(f copier.Following, _ error) (copier.Following, error) { return f, nil }}
		},
		"and unsure are []": func(*Table) brokenFeed {
			return brokenFeed{hints: func(h *copier.Hints) { h.Unsure = nil }}
		},
		"List: \"copiertest/unsure": func(*Table) brokenFeed { // it has old values
			return brokenFeed{list: func(b *copier.Batch) {
				if n := b.Len(); n > 0 {
					b.Truncate(n - 1)
				}
			}}
		},
		"it did not wait": func(*Table) brokenFeed { return brokenFeed{take: func(func(copier.Turn)) {}} },
	} {
		t.Run(want, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				refusedWith(t, checkFeed(t.Context(), servedTable(7, func(t *Table) copier.Source { return brokenTable{t, broken(t)} })), want)
			})
		})
	}
}

// A brokenApplier does what its functions make of a good stage.
type brokenApplier struct {
	*stage
	apply  func(good *stage, changes []copier.Change) []copier.Change
	old    func([]copier.Entry) []copier.Entry
	fails  bool // changes stay whose mark could not be made
	torn   bool // the last changes are lost with the process, and their mark is not
	gone   bool // what is marked is lost with the process
	kept   bool // what was marked stays when it is thrown away
	keeps  bool // Load leaves the mark that was there
	finish bool // the mark goes
	delta  func(e copier.Entry) bool
}

type brokenApplierSink struct {
	*Sink
	broken brokenApplier
}

func (s brokenApplierSink) Stage(ctx context.Context, runID string) (copier.Stage, error) {
	good, err := s.Sink.Stage(ctx, runID)
	broken := s.broken
	broken.stage = good.(*stage) //nolint:errcheck // it is one
	return &broken, err
}

func (s *brokenApplier) Apply(ctx context.Context, changes []copier.Change, update func([]copier.Entry) ([]byte, error)) error {
	before := s.loaded
	if s.apply != nil {
		changes = s.apply(s.stage, changes)
	}
	err := s.stage.Apply(ctx, changes, func(old []copier.Entry) ([]byte, error) {
		if s.old != nil {
			old = s.old(old)
		}
		mark, err := update(old)
		if s.fails {
			err = nil
		}
		return mark, err
	})
	if m := s.sink.store.marked; s.torn && m != nil {
		m.entries = before
	}
	if s.gone {
		s.keep(nil)
	}
	return err
}

func (s *brokenApplier) Finish(ctx context.Context) error {
	if s.finish {
		s.keep(nil)
	}
	return s.stage.Finish(ctx)
}

func (s *brokenApplier) Load(ctx context.Context, in copier.Stream) (copier.LoadStats, error) {
	mark := s.mark
	stats, err := s.stage.Load(ctx, in)
	if s.keeps {
		s.mark = mark
	}
	return stats, err
}

func (s *brokenApplier) Delta(ctx context.Context, gone, there func(copier.Entry) error) error {
	if s.delta == nil {
		return s.stage.Delta(ctx, gone, there)
	}
	return s.stage.Delta(ctx, gone, func(e copier.Entry) error {
		if !s.delta(e) {
			return nil
		}
		return there(e)
	})
}

func (s *brokenApplier) Close(keep bool) error {
	m := s.sink.store.marked
	err := s.stage.Close(keep)
	if s.kept {
		s.keep(m)
	}
	return err
}

// TestApplierCanFail has stages that break one rule of [copier.Applier] each.
func TestApplierCanFail(t *testing.T) {
	some := 0
	for want, broken := range map[string]brokenApplier{
		"behind Commit: \"logical/":                   {apply: func(_ *stage, c []copier.Change) []copier.Change { return c[:max(len(c)-1, 0)] }},
		"Apply: what was there before: \"logical/":    {old: func(e []copier.Entry) []copier.Entry { return e[:max(len(e)-1, 0)] }},
		"Apply whose mark can't be made":              {fails: true},
		"by a later process, read back: \"logical":    {torn: true},
		"Mark: it is \"\", and must be \"mark 1\"":    {gone: true},
		"Mark: it is \"mark 3\", and must be \"\"":    {kept: true},
		"Mark: it is \"\", and must be \"mark 3\"":    {finish: true},
		"changes, and killed: Mark: it is \"mark 4\"": {keeps: true},
		"Delta: \"logical/":                           {delta: func(copier.Entry) bool { some++; return some%50 > 0 }},
	} {
		t.Run(want, func(t *testing.T) {
			errs := checkSink(t.Context(), storeOf(t, func(s *Sink) copier.Sink { return brokenApplierSink{s, broken} }))
			refusedWith(t, errs, want)
		})
	}
}

// A run's mark does not outlive it, nor is it another run's.
func TestMarkOfAnotherRun(t *testing.T) {
	store := NewStore(t.TempDir())
	open := func(run string) (*Sink, *stage) {
		sink := store.Open()
		if _, err := sink.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		s, err := sink.Stage(t.Context(), run)
		if err != nil {
			t.Fatal(err)
		}
		return sink, s.(*stage) //nolint:errcheck // it is one
	}
	sink, s := open("run-1")
	put := []copier.Change{{Entry: copier.Entry{Key: []byte("a"), Value: []byte("1")}}}
	if err := s.Apply(t.Context(), put, func([]copier.Entry) ([]byte, error) { return []byte("m"), nil }); err != nil {
		t.Fatal(err)
	}
	for _, run := range []string{"run-1", "run-2", "run-1"} {
		if err := errors.Join(s.Close(true), sink.Close()); err != nil {
			t.Fatal(err)
		}
		sink, s = open(run)
		mark, err := s.Mark(t.Context())
		if want := run == "run-1" && slices.Equal(mark, []byte("m")); err != nil || (len(mark) > 0) != want {
			t.Errorf("%s: %q, %v", run, mark, err)
		}
		if run == "run-2" {
			break
		}
	}
}
