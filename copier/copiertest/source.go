// Package copiertest tests the adapters of package copier: [TestSource] and
// [TestSink] state what copier/contract.go demands, as far as it can be seen from
// outside. [Source] and [Store] are a pair in memory, for tests and as examples.
//
// What they can't see: whether what was written is synced (package durabletest
// can), whether a request is retried, and writers that do not keep to a lock.
package copiertest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
)

// TestSource fails a test unless sources that open returns keep their contract.
// All are of the same storage, as in processes one after the other. It holds the
// entries of want, in any order, and nobody writes to it meanwhile. Where the
// pages are so many that each segment has several, more is tested.
//
// The powers that a source has are tested too: it is locked several times, and
// not in the end.
func TestSource(t testing.TB, open func() copier.Source, want []copier.Entry) {
	t.Helper()
	for _, err := range checkSource(t.Context(), t.TempDir(), open, want) {
		t.Error(err)
	}
}

// A suite collects what is wrong.
type suite struct {
	ctx  context.Context
	errs []error
}

func (s *suite) fail(format string, a ...any) { s.errs = append(s.errs, fmt.Errorf(format, a...)) }

// ok notes an error of a call that must not fail, and reports whether there is none.
func (s *suite) ok(call string, err error) bool {
	if err != nil {
		s.fail("%s: %w", call, err)
	}
	return err == nil
}

// refused notes a call that must fail with an error that wraps all kinds.
func (s *suite) refused(call string, err error, kinds ...error) {
	for _, kind := range kinds {
		if !errors.Is(err, kind) {
			s.fail("%s: the error is %v, and must wrap %q", call, err, kind)
		}
	}
}

type sourceSuite struct {
	suite
	open   func() copier.Source
	want   []copier.Entry
	opened []copier.Source
}

func checkSource(ctx context.Context, dir string, open func() copier.Source, want []copier.Entry) []error {
	s := &sourceSuite{suite: suite{ctx: ctx}, open: open, want: want}
	src, info := s.prepared()
	if src == nil {
		return s.errs
	}
	if info.Name == "" || info.ID == "" {
		s.fail("Prepare: a source without a name or an id can't be told from another: %+v", info)
	}
	if _, again := s.prepared(); again.Name != info.Name || again.ID != info.ID || again.Incarnation != info.Incarnation {
		s.fail("Prepare: the source of another process is another one: %+v, and was %+v", again, info)
	}
	var spans []copier.Span
	for _, n := range []int{0, 1, 5, 3} {
		spans = s.split(src, n)
	}
	if len(s.errs) > 0 {
		return s.errs
	}
	pages := s.walk(src, spans)
	if len(s.errs) > 0 {
		return s.errs
	}
	s.same("all spans", entriesOf(pages), want)
	for _, p := range pages {
		for _, e := range p.entries {
			if len(e.Key) == 0 || bytes.HasSuffix(e.Key, []byte("/")) {
				s.fail("Read: %q is no key", e.Key)
			}
		}
		if !slices.EqualFunc(p.entries, entriesIn(p.batch), equal) {
			s.fail("Read: what it has put into a batch has changed since")
		}
		if kept, err := json.Marshal(p.next); err != nil || !bytes.Equal(kept, p.kept) {
			s.fail("Read: tokens have changed since they were returned: %s, and were %s", kept, p.kept)
		}
	}
	s.again(pages)
	s.cancelled(src, spans)
	if len(s.errs) > 0 {
		return s.errs // a Scan of such a source may not end
	}
	s.scan(src, dir)
	s.powers(src)
	s.close()
	if src, _ = s.prepared(); src != nil {
		s.same("a later process, behind Close", entriesOf(s.walk(src, []copier.Span{s.later(spans[0])})), s.rest(pages, spans[0]))
		s.close()
	}
	return s.errs
}

// close closes all that was opened.
func (s *sourceSuite) close() {
	for _, src := range s.opened {
		s.ok("Close", src.Close())
	}
	s.opened = nil
}

// prepared is the source of another process.
func (s *sourceSuite) prepared() (copier.Source, copier.Info) {
	src := s.open()
	info, err := src.Open(s.ctx)
	if !s.ok("Prepare", err) {
		return nil, info
	}
	s.opened = append(s.opened, src)
	return src, info
}

// split splits a source.
func (s *sourceSuite) split(src copier.Source, n int) []copier.Span {
	call := fmt.Sprintf("Split(%d)", n)
	spans, err := src.Split(s.ctx, n)
	if !s.ok(call, err) {
		return nil
	}
	if len(spans) == 0 {
		s.fail("%s: there are no spans", call)
	}
	for i, span := range spans {
		if span.Index != i || span.Until != nil {
			s.fail("%s: the span at %d of %d is %s", call, i, len(spans), key(span))
		}
	}
	return spans
}

// key identifies a span.
func key(span copier.Span) string {
	return fmt.Sprintf("span %d from %q to %q", span.Index, span.From, span.Until)
}

// A page is one that was read.
type page struct {
	from    copier.Span
	next    []copier.Span
	entries []copier.Entry
	batch   *copier.Batch // which they were read into
	kept    []byte        // next, as it was returned
}

func entriesOf(pages []page) (out []copier.Entry) {
	for _, p := range pages {
		out = append(out, p.entries...)
	}
	return out
}

// before is an entry that a batch has before a page is read into it.
var before = copier.Entry{Key: []byte("before"), Value: []byte("the page")}

// entriesIn copies what was read into a batch.
func entriesIn(b *copier.Batch) []copier.Entry {
	out := make([]copier.Entry, 0, b.Len())
	for i := 1; i < b.Len(); i++ {
		out = append(out, clone(b.Entry(i)))
	}
	return out
}

// walk reads spans to their ends.
func (s *sourceSuite) walk(src copier.Source, spans []copier.Span) (out []page) {
	most := 1000 + 10*(len(spans)+len(s.want))
	seen := map[string]bool{}
	for left := slices.Clone(spans); len(left) > 0; {
		p := page{from: left[len(left)-1], batch: new(copier.Batch)}
		left = left[:len(left)-1]
		call := "Read of " + key(p.from)
		if seen[key(p.from)] || len(seen) > most {
			s.fail("%s: a source whose spans do not end", call)
			return out
		}
		seen[key(p.from)] = true
		p.batch.Append(before.Key, before.Value)
		read, err := src.Read(s.ctx, p.from, p.batch)
		if !s.ok(call, err) {
			return out
		}
		if len(read.Refused) > 0 {
			s.fail("%s: refuses %w", call, errors.Join(read.Refused...))
		}
		if p.batch.Len() < 1 || !equal(p.batch.Entry(0), before) {
			s.fail("%s: what was in the batch before is not there any more", call)
			return out
		}
		for i, n := range read.Next {
			if n.Index != p.from.Index || !bytes.Equal(n.Until, p.from.Until) || i == 0 && len(n.From) == 0 {
				s.fail("%s: %s is not what is left of it", call, key(n))
				return out
			}
		}
		p.next, p.entries = read.Next, entriesIn(p.batch)
		p.kept, err = json.Marshal(read.Next)
		s.ok(call, err)
		out = append(out, p)
		left = append(left, read.Next...)
	}
	return out
}

func byKey(pages []page) map[string]page {
	at := map[string]page{}
	for _, p := range pages {
		at[key(p.from)] = p
	}
	return at
}

// rest is what was read of a span, up to its end.
func (s *sourceSuite) rest(pages []page, of copier.Span) (out []copier.Entry) {
	at := byKey(pages)
	for left := []copier.Span{of}; len(left) > 0; left = left[1:] {
		p := at[key(left[0])]
		out, left = append(out, p.entries...), append(left, p.next...)
	}
	return out
}

// again reads what is left behind some pages, and those pages alone, with what a
// later process has of their spans: that has not split the source.
func (s *sourceSuite) again(pages []page) {
	src, _ := s.prepared()
	if src == nil {
		return
	}
	at := byKey(pages)
	const some = 16
	for i := 0; i < len(pages); i += 1 + len(pages)/some {
		p := pages[i]
		s.same("a later process, what is left in "+key(p.from), entriesOf(s.walk(src, []copier.Span{s.later(p.from)})), s.rest(pages, p.from))
		// A page, and then two, are a part that ends where the next one begins.
		for part := p.entries; len(p.next) > 0; {
			span := pages[i].from
			span.Until = p.next[0].From
			s.same("a later process, "+key(span), entriesOf(s.walk(src, []copier.Span{s.later(span)})), part)
			if key(p.from) != key(pages[i].from) {
				break
			}
			p = at[key(p.next[0])]
			part = slices.Concat(part, p.entries)
		}
	}
}

// later is what a later process has of a segment.
func (s *sourceSuite) later(seg copier.Span) (out copier.Span) {
	data, err := json.Marshal(seg)
	s.ok("keep a segment", errors.Join(err, json.Unmarshal(data, &out)))
	return out
}

// cancelled reads a page with a context that has ended.
func (s *sourceSuite) cancelled(src copier.Source, spans []copier.Span) {
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	var b copier.Batch
	b.Append(before.Key, before.Value)
	_, err := src.Read(ctx, spans[0], &b)
	s.refused("Read with a context that has ended", err, context.Canceled)
	if b.Len() != 1 || !equal(b.Entry(0), before) {
		s.fail("Read: it has failed, and the batch has %d entries, of 1", b.Len())
	}
}

// scan reads all with many goroutines.
func (s *sourceSuite) scan(src copier.Source, dir string) {
	sorted, stats, err := copier.Scan(s.ctx, src, copier.ScanOptions{WorkDir: dir, Memory: copier.MinMemory})
	if !s.ok("Scan", err) {
		return
	}
	var got []copier.Entry
	for {
		e, err := sorted.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if !s.ok("Scan", err) {
			break
		}
		got = append(got, clone(e))
	}
	s.ok("Scan", sorted.Close())
	s.same(fmt.Sprintf("a Scan with %d workers", stats.Workers), got, s.want)
}

// same notes the first difference of two lists of entries, in any order.
func (s *suite) same(what string, got, want []copier.Entry) {
	byKey := func(a, b copier.Entry) int {
		return cmp.Or(bytes.Compare(a.Key, b.Key), bytes.Compare(a.Value, b.Value))
	}
	got, want = slices.SortedFunc(slices.Values(got), byKey), slices.SortedFunc(slices.Values(want), byKey)
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got) || i < len(want) && byKey(got[i], want[i]) > 0:
			s.fail("%s: %q is missing, or has another value, among %d entries of %d", what, want[i].Key, len(got), len(want))
		case i >= len(want) || byKey(got[i], want[i]) < 0:
			s.fail("%s: %q is there once too often, or with another value, among %d entries of %d", what, got[i].Key, len(got), len(want))
		default:
			continue
		}
		return
	}
}

func equal(a, b copier.Entry) bool {
	return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value)
}

func clone(e copier.Entry) copier.Entry {
	return copier.Entry{Key: bytes.Clone(e.Key), Value: bytes.Clone(e.Value)}
}

// powers tests what a source can do beyond what it must.
func (s *sourceSuite) powers(src copier.Source) {
	if r, ok := src.(copier.Rechecker); ok {
		s.ok("Recheck", r.Recheck(s.ctx))
	}
	if g, ok := src.(copier.Getter); ok {
		for _, e := range s.want[:min(len(s.want), 3)] {
			value, there, err := g.Value(s.ctx, string(e.Key))
			if s.ok("Value", err) && (!there || !bytes.Equal(value, e.Value)) {
				s.fail("Value(%q): %d bytes, there %v, and not what is stored under it", e.Key, len(value), there)
			}
		}
		if _, there, err := g.Value(s.ctx, "copiertest/none"); s.ok("Value", err) && there {
			s.fail("Value: a key that nobody has written is there")
		}
	}
	if t, ok := src.(copier.Throttled); ok {
		if first := t.Waited(); first < 0 || t.Waited() < first {
			s.fail("Waited: %v, and then %v", first, t.Waited())
		}
	}
	if b, ok := src.(copier.Snapshotter); ok {
		first, err := b.Snapshot(s.ctx, "copiertest-1")
		if s.ok("Snapshot", err) {
			second, err := b.Snapshot(s.ctx, "copiertest-2")
			if s.ok("Snapshot, again", err) && (first == "" || first == second) {
				s.fail("Snapshot: two backups are found by %q and %q", first, second)
			}
		}
	}
	if _, ok := src.(copier.Locker); ok {
		s.locks()
	}
}

// lock takes the source as another process, and lets that look at it.
func (s *sourceSuite) lock(run string, held bool) (copier.Lease, error) {
	src, _ := s.prepared()
	if src == nil {
		return nil, errors.New("not prepared")
	}
	return src.(copier.Locker).Lock(s.ctx, run, held, func(error) {})
}

func (s *sourceSuite) release(l copier.Lease, end copier.End) error {
	ctx, cancel := context.WithTimeout(s.ctx, 15*time.Second)
	defer cancel()
	return l.Release(ctx, end)
}

func (s *sourceSuite) locks() {
	unlock := func(run string) error {
		src, _ := s.prepared()
		if src == nil {
			return nil
		}
		return src.(copier.Locker).Unlock(s.ctx, run, copier.EndFailed)
	}
	// One is locked out by another, which lives, and then waits to be resumed.
	lease, err := s.lock("run-1", false)
	if !s.ok("Lock", err) {
		return
	}
	other, err := s.lock("run-2", false)
	s.refused("Lock of what another run holds", err, copier.ErrLocked)
	if other != nil {
		return // whose it is now nobody knows
	}
	s.ok("Check", lease.Check(s.ctx))
	s.ok("Check, again", lease.Check(s.ctx))
	s.ok("Release of an unfinished copy", s.release(lease, copier.EndUnfinished))
	s.close()
	other, err = s.lock("run-2", false)
	s.refused("Lock of what an unfinished copy holds", err, copier.ErrLocked)
	if other != nil {
		return
	}
	s.ok("Unlock of a run that holds nothing", unlock("run-2"))
	// It is resumed, and fails.
	if lease, err = s.lock("run-1", true); !s.ok("Lock of a copy that is resumed", err) {
		return
	}
	s.ok("Check", lease.Check(s.ctx))
	s.ok("Release of a copy that has failed", s.release(lease, copier.EndFailed))
	lease, err = s.lock("run-1", true)
	s.refused("Lock of a copy whose locks are gone", err, copier.ErrLocked, copier.ErrMoved)
	if lease != nil {
		return
	}
	// Another is killed and given up.
	if lease, err = s.lock("run-2", false); !s.ok("Lock of what is free again", err) {
		return
	}
	s.ok("Release of an unfinished copy", s.release(lease, copier.EndUnfinished))
	s.ok("Unlock", unlock("run-2"))
	s.ok("Unlock, again", unlock("run-2"))
	// A third is unlocked while it lives.
	if lease, err = s.lock("run-3", false); !s.ok("Lock of what was unlocked", err) {
		return
	}
	s.ok("Unlock", unlock("run-3"))
	s.refused("Check of a lost lease", lease.Check(s.ctx), copier.ErrLocked, copier.ErrMoved)
	s.refused("Release of a lost lease", s.release(lease, copier.EndFailed), copier.ErrMoved)
}
