package copier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watch ends the process with all stacks when what follows takes too long: a
// deadlock must not wait for the test binary's own limit.
func watch(t testing.TB) {
	t.Helper()
	t.Cleanup(watched(t.Name()))
}

// watched is watch for a part of a test, which ends with the returned function.
func watched(name string) (end func()) {
	timer := time.AfterFunc(5*time.Minute, func() {
		debug.SetTraceback("all")
		panic(name + ": deadlock")
	})
	return func() { timer.Stop() }
}

// randomEntries returns n entries with different keys, in no order. Many keys
// are prefixes of others, one may be empty, and values may be empty.
func randomEntries(rnd *rand.Rand, n int) []Entry {
	out := make([]Entry, 0, n)
	seen := map[string]bool{}
	for len(out) < n {
		key := make([]byte, rnd.IntN(4+rnd.IntN(12)))
		for i := range key {
			key[i] = "ab/\x00\xff_"[rnd.IntN(6)]
		}
		if rnd.IntN(2) == 0 {
			key = strconv.AppendInt(key, rnd.Int64(), 36)
		}
		if seen[string(key)] {
			continue
		}
		seen[string(key)] = true
		value := make([]byte, rnd.IntN(1+rnd.IntN(60)))
		for i := range value {
			value[i] = byte(rnd.Uint32())
		}
		out = append(out, Entry{Key: key, Value: value})
	}
	return out
}

func sortedCopy(entries []Entry) []Entry {
	out := slices.Clone(entries)
	slices.SortFunc(out, func(a, b Entry) int { return bytes.Compare(a.Key, b.Key) })
	return out
}

func batchOf(entries ...Entry) *Batch {
	var b Batch
	for _, e := range entries {
		b.Append(e.Key, e.Value)
	}
	return &b
}

// drain reads a stream to its end and copies what it yields.
func drain(s Stream) ([]Entry, error) {
	var out []Entry
	for {
		e, err := s.Next()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		out = append(out, Entry{Key: bytes.Clone(e.Key), Value: bytes.Clone(e.Value)})
	}
}

// differ describes the first difference of two lists of entries.
func differ(got, want []Entry) string {
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			return fmt.Sprintf("entry %d of %d is missing: %q", i, len(want), want[i].Key)
		case i >= len(want):
			return fmt.Sprintf("%d entries too many, the first is %q", len(got)-i, got[i].Key)
		case !bytes.Equal(got[i].Key, want[i].Key) || !bytes.Equal(got[i].Value, want[i].Value):
			return fmt.Sprintf("entry %d is %q = %x, want %q = %x", i, got[i].Key, got[i].Value, want[i].Key, want[i].Value)
		}
	}
	return ""
}

func TestDifferCanFail(t *testing.T) {
	a, b := Entry{Key: []byte("a"), Value: []byte("1")}, Entry{Key: []byte("b"), Value: []byte("2")}
	if d := differ([]Entry{a, b}, []Entry{a, b}); d != "" {
		t.Errorf("equal lists: %s", d)
	}
	for _, other := range [][]Entry{nil, {a}, {b, a}, {a, b, b}, {a, {Key: b.Key}}, {a, {Key: []byte("c"), Value: b.Value}}} {
		if differ(other, []Entry{a, b}) == "" {
			t.Errorf("%q: not noticed", other)
		}
	}
}

// filesIn lists what is in a directory.
// entrySource is a source of one page.
type entrySource []Entry

func (s entrySource) Open(context.Context) (Info, error) {
	return Info{Name: "entries", ID: "entries"}, nil
}

func (s entrySource) Close() error { return nil }

func (s entrySource) Split(context.Context, int) ([]Span, error) { return make([]Span, 1), nil }

func (s entrySource) Read(_ context.Context, _ Span, b *Batch) (Page, error) {
	for _, e := range s {
		b.Append(e.Key, e.Value)
	}
	return Page{}, nil
}

func filesIn(t testing.TB, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range list {
		out = append(out, f.Name())
	}
	return out
}

// A fakePage is one answer of a fakeSource. Its id is the resume token.
type fakePage struct {
	entries []Entry
	markers int64
	locks   []string
	next    []int
}

// A fakeSource serves pages that form trees: a page leads to none, to one, or
// to several others.
type fakeSource struct {
	roots []int
	pages []fakePage
	// before, where set, is asked before a page is served.
	before      func(ctx context.Context, id int) error
	segmentsErr error
	prepareErr  error
	hides       int64 // items that it reports and does not have
	closeErr    error
	exact       bool // that count is said to be exact

	mu    sync.Mutex
	reads map[int]int
	log   func(string)
}

var errFake = &Error{Kind: ErrSource, Op: "read page", Err: errors.New("fake failure")}

func (s *fakeSource) call(name string) {
	if s.log != nil {
		s.log(name)
	}
}

func (s *fakeSource) Open(context.Context) (Info, error) {
	s.call("src.Prepare")
	if s.prepareErr != nil {
		return Info{}, s.prepareErr
	}
	info := Info{Name: "fake", ID: "fake:1", Items: s.hides, Bytes: 8, Exact: s.exact}
	for _, p := range s.pages {
		info.Items += int64(len(p.entries)+len(p.locks)) + p.markers
	}
	return info, nil
}

func (s *fakeSource) Close() error {
	s.call("src.Close")
	return s.closeErr
}

func (s *fakeSource) Split(context.Context, int) ([]Span, error) {
	s.call("src.Segments")
	if s.segmentsErr != nil {
		return nil, s.segmentsErr
	}
	out := []Span{}
	for i, id := range s.roots {
		out = append(out, Span{Index: i, From: []byte(strconv.Itoa(id))})
	}
	return out, nil
}

func (s *fakeSource) Read(ctx context.Context, seg Span, b *Batch) (Page, error) {
	if err := ctx.Err(); err != nil {
		return Page{}, err
	}
	id, err := strconv.Atoi(string(seg.From))
	if err != nil {
		return Page{}, err
	}
	p := s.pages[id]
	for i, e := range p.entries {
		if i == len(p.entries)/2 && s.before != nil {
			if err := s.before(ctx, id); err != nil {
				return Page{}, err // with half a page in the batch: the engine must not take it
			}
		}
		b.Append(e.Key, e.Value)
	}
	if len(p.entries) == 0 && s.before != nil {
		if err := s.before(ctx, id); err != nil {
			return Page{}, err
		}
	}
	s.mu.Lock()
	if s.reads == nil {
		s.reads = map[int]int{}
	}
	s.reads[id]++
	s.mu.Unlock()
	out := Page{Markers: p.markers, Locks: p.locks, WireBytes: 10, Counts: Counts{"units": 0.5}}
	for _, n := range p.next {
		out.Next = append(out.Next, Span{Index: seg.Index, From: []byte(strconv.Itoa(n))})
	}
	return out, nil
}

// newFakeSource spreads entries over pages that form random trees.
func newFakeSource(rnd *rand.Rand, entries []Entry, pages, roots int) *fakeSource {
	s := &fakeSource{pages: make([]fakePage, pages)}
	for _, e := range entries {
		p := &s.pages[rnd.IntN(pages)]
		p.entries = append(p.entries, e)
	}
	for id := range s.pages {
		s.pages[id].markers = int64(rnd.IntN(3))
		if rnd.IntN(8) == 0 {
			s.pages[id].locks = []string{fmt.Sprintf("core/lock%d", id)}
		}
		if id < roots || id == 0 {
			s.roots = append(s.roots, id)
			continue
		}
		parent := id - 1 // long chains
		if rnd.IntN(2) == 0 {
			parent = rnd.IntN(id)
		}
		s.pages[parent].next = append(s.pages[parent].next, id)
	}
	return s
}
